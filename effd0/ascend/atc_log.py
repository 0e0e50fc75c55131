"""
What ATC printed -> what to do next.

Codes are those of the GE error code manual; the texts are what users met in the field.
"""

from __future__ import annotations

import re
import signal
from collections import deque
from collections.abc import Iterable

SUCCESS = "ATC run success"
TAIL_LINES = 12
#: More coded lines than this repeat themselves.
CODED_LINES = 5

_CODE = re.compile(r"\b(E\d{5}|E[A-Z]\d{4})\b")
#: With --log debug there are thousands of these, and their figures may look like codes.
_CHATTER = re.compile(r"\s*\[(DEBUG|INFO|EVENT|TRACE|WARNING)\]")

_SET_ENV = (
    "run: source /usr/local/Ascend/ascend-toolkit/set_env.sh "
    "(from CANN 8.5: source /usr/local/Ascend/cann/set_env.sh)"
)
NOT_FOUND = f"atc is not on the PATH, but it compiles; {_SET_ENV}"

#: What a text means and what to do.
_TEXTS: dict[str, str] = {
    r"No supported Ops kernel": "CANN holds no kernel for this operator, dtype and chip: check "
    "--soc-version; from CANN 8.5 install the ops/kernels package of that chip; 310-class chips "
    "convolve in float16 only, so take a mixed mode instead of an original or float32 one",
    r"error while loading shared libraries": f"CANN's libraries are not found; {_SET_ENV}",
    r"ModuleNotFoundError|No module named|ImportError": "ATC's Python lacks a module that CANN's "
    "operators need: install it for that Python (3.10 or older, numpy below 2); where it is "
    f"CANN's own (te, tbe), {_SET_ENV}",
    r"ASCEND_(OPP_PATH|HOME_PATH|TOOLKIT_HOME)": f"CANN's environment is not set; {_SET_ENV}",
    r"[Ff]ailed to allocate memory|std::bad_alloc|Cannot allocate memory": "memory ran out: take "
    "a smaller batch or fewer gears, or set TE_PARALLEL_COMPILER=1",
    r"No space left on device": "the disk is full: point TMPDIR to a place with room",
}
_OTHER = "it is another file than the command was made for"
#: What a code means and what to do; a key may be the beginning of several codes.
_CODES: dict[str, str] = {
    "E10001": "an option has a value that this CANN does not take: the reason stands beside it; "
    "for --soc_version compare with 'npu-smi info'",
    "E10002": "the input shape is not written as name:n,c,h,w: look at the input with "
    "'effd0 compile --dry-run'",
    "E10011": "a side of the input is free: give --batch-size or --dynamic-batch-size",
    "E10012": "gears need an ONNX file with a free batch: export it with --dynamic-batch",
    "E10016": f"the ONNX file has no such input: {_OTHER}",
    "E10032": "the JSON file of --modify-mixlist is broken: correct it, or leave the option out "
    "to have it made",
    **dict.fromkeys(
        ("E10035", "E10036", "E10039"), "give 2 to 100 different sizes to --dynamic-batch-size"
    ),
    "E10041": "ATC cannot read the ONNX file: make it again with 'effd0 export', and keep "
    "its .data file beside it",
    "E10047": "two options exclude each other: give one of them",
    "E10049": f"the input has another number of sides: {_OTHER}",
    "E10052": "the AIPP file is not taken: the reason stands beside it; --aipp makes one",
    **dict.fromkeys(("E10007", "E10054"), "an option is missing: leave it to 'effd0 compile'"),
    "E10055": "this CANN or this chip does not do that: leave the option out, or take another "
    "value of it",
    "E10410": "a file that an option names does not exist: check its path",
    "E10501": "an operator has no definition in this CANN: run 'effd0 modify', or update CANN",
    "E1300": "ATC cannot open or write a file: check that paths exist and hold only letters, "
    "digits, '_', '-' and '.'",
    "E16": "the ONNX graph is not valid for ATC: run 'effd0 simplify' and 'effd0 modify' first",
    "E19010": "ATC's parser does not know this operator at this opset: export again with "
    "--opset 11, or at most 17, then 'effd0 simplify'",
    "E19999": "an inner error of ATC: the lines around it say where; try --opset 11 and "
    "'effd0 simplify', then --log debug and the files in ~/ascend/log",
    "EZ9999": "an operator could not be compiled: the lines around it name it; take another "
    "--precision-mode, or look into ~/ascend/log",
}
#: Codes that say less than the texts around them.
_VAGUE = frozenset({"E19999", "EZ9999"})
UNKNOWN = "look into ~/ascend/log, where ATC writes with --log debug"
_KILLED = (
    "most likely the host ran out of memory: set TE_PARALLEL_COMPILER=1, "
    "take a smaller batch or fewer gears, or compile on a larger host"
)


def failure(exit_code: int, lines: Iterable[str]) -> str | None:
    """
    What failed, what that means and what to do, with ATC's own last *lines*; None if it succeeded.

    Of its output, however long, lines with an error code, known texts and the end are kept.
    """
    coded: list[str] = []
    known: set[str] = set()
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    succeeded = False
    for raw in lines:
        line = raw.rstrip()
        if not line:
            continue
        tail.append(line)
        if _CHATTER.match(line):
            continue
        succeeded = succeeded or SUCCESS in line
        known.update(text for text in _TEXTS if re.search(text, line))
        if _CODE.search(line) and len(coded) < CODED_LINES:
            coded.append(line.strip())
    if exit_code == 0 and succeeded:
        return None
    # A process that a signal ended, or a shell's child.
    number = -exit_code if exit_code < 0 else exit_code - 128
    if number in set(signal.Signals):
        what = f"it was ended by signal {number} ({signal.Signals(number).name})"
    elif coded:
        what = coded[0]
    elif succeeded:
        what = f"it said success, but ended with exit code {exit_code}"
    else:
        what = f"it ended with exit code {exit_code}, and did not say success"
    codes = [code for line in coded for code in _CODE.findall(line)]
    clear = [code for code in codes if code not in _VAGUE]
    # A clear code says more than the texts around it, and those more than a vague one.
    advice = [_CODES[key] for code in clear for key in _CODES if code.startswith(key)]
    advice += [remedy for text, remedy in _TEXTS.items() if text in known]
    advice += [_CODES[code] for code in codes if code in _VAGUE]
    remedy = _KILLED if number == signal.SIGKILL else next(iter(advice), UNKNOWN)
    said = "\n".join(f"  {line}" for line in tail) or "  (nothing)"
    return f"ATC failed: {what}\n{remedy}\nATC's last lines:\n{said}"
