"""
ONNX -> OM by ATC: its options, a command that can be read, copied and run by hand; what it printed.

Defaults are the recipe's: mixed precision with ReduceMeanD kept in float32, the only mode with a
published accuracy of this network on an Ascend chip (33.4 mAP on a 310P3).  ATC's own default,
float16 throughout, overflowed at some batch sizes.  Mixed modes have ruined another feature
pyramid (Ascend/pytorch, issue 125), so the accuracy of any choice has to be measured.

What ATC's error codes mean is in errors.toml.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
import tomllib
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import AtcError, refuse
from ..graph.onnx_info import check_support, load_graph, model_input
from ..io import check_writable, write_text, written_whole
from ..spec import ModelSpec
from ..types import check_choices, option
from .aipp import aipp_file
from .npu_smi import find_soc

PRECISION_MODES = (
    "allow_mix_precision", "allow_mix_precision_fp16", "allow_mix_precision_bf16", "force_fp16",
    "force_fp32", "cube_fp16in_fp32out", "allow_fp32_to_fp16", "allow_fp32_to_bf16",
    "must_keep_origin_dtype",
)  # fmt: skip
PRECISION_MODES_V2 = (
    "mixed_float16", "mixed_bfloat16", "mixed_hif8", "fp16", "origin", "cube_fp16in_fp32out",
    "cube_hif8",
)  # fmt: skip
MIN_GEARS, MAX_GEARS = 2, 100
#: Pairs of options of which one may be given; with AIPP the input is uint8, never float16.
EXCLUSIVE = (
    ("--precision-mode", "--precision-mode-v2"),
    ("--batch-size", "--dynamic-batch-size"),
    ("--aipp", "--insert-op-conf"),
    ("--aipp", "--input-fp16"),
    ("--insert-op-conf", "--input-fp16"),
)
MIXLIST_NAME = "ops_info.json"
#: The recipe's: in float16 this reduction overflows at some batch sizes.
MIXLIST = json.dumps({"black-list": {"to-add": ["ReduceMeanD"]}}) + "\n"

SUCCESS = "ATC run success"
TAIL_LINES = 12
#: More coded lines than this repeat themselves.
CODED_LINES = 5

_CODE = re.compile(r"\b(E\d{5}|E[A-Z]\d{4})\b")
#: With --log debug there are thousands of these, and their figures may look like codes.
_CHATTER = re.compile(r"\s*\[(DEBUG|INFO|EVENT|TRACE|WARNING)\]")

_FILE = tomllib.loads(Path(__file__).with_name("errors.toml").read_text())
NOT_FOUND = "atc is not on the PATH, but it compiles; {set_env}".format(**_FILE["advice"])
#: A text, and a code or what several begin with -> what it means and what to do.
_TEXTS, _CODES = (
    {key: said.format(**_FILE["advice"]) for key, said in _FILE[table].items()}
    for table in ("atc_texts", "atc_codes")
)
#: Codes that say less than the texts around them.
_VAGUE = frozenset({"E19999", "EZ9999"})
UNKNOWN = "look into ~/ascend/log, where ATC writes with --log debug"
_KILLED = (
    "most likely the host ran out of memory: set TE_PARALLEL_COMPILER=1, "
    "take a smaller batch or fewer gears, or compile on a larger host"
)


@dataclass(frozen=True)
class AtcOptions:
    """
    Options of a compilation, checked when made; None is "not given".

    *soc_version* is the chip, by default that of this host.  *gears* are the batch sizes of one
    model, rising.  *aipp* folds the normalisation in, by a file of our own; *insert_op_conf* is
    another such file.  *input_fp16* and *output_type* are the dtypes of the .om's tensors.
    Raises `AtcError` for values that ATC does not know and options that exclude each other.
    """

    soc_version: str | None = option(
        "Target chip: Ascend310P3, ...", "NAME", shown="this host's, by npu-smi"
    )
    batch_size: int | None = option("Fixed batch size.", shown="the model's")
    precision_mode: str | None = option(
        f"{', '.join(PRECISION_MODES)}.",
        "MODE",
        shown=f"{PRECISION_MODES[0]}, as the recipe",
        choices=PRECISION_MODES,
    )
    precision_mode_v2: str | None = option(
        f"In place of --precision-mode: {', '.join(PRECISION_MODES_V2)}.",
        "MODE",
        choices=PRECISION_MODES_V2,
    )
    modify_mixlist: Path | None = option(
        "List of operators with a precision of their own in mixed modes.",
        shown="ops_info.json beside the output: ReduceMeanD in float32",
    )
    aipp: bool = option("Include the normalisation; the input is uint8 pixels.", default=False)
    insert_op_conf: Path | None = option("Your own AIPP file.")
    input_fp16: bool = option("Take float16 input.", default=False)
    output_type: str | None = option("Type of the outputs.", shown="FP32", choices=("FP32", "FP16"))
    log: str = option(
        "ATC's log level.", default="debug", choices=("debug", "info", "warning", "error", "null")
    )
    gears: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_choices(self, AtcError)
        soc, gears, (name, mode) = self.soc_version, self.gears, self.precision
        rising = all(a < b for a, b in zip((0, *gears), gears, strict=False))
        files = {"--modify-mixlist": self.modify_mixlist, "--insert-op-conf": self.insert_op_conf}
        given = {f"--{key.replace('_', '-')}": value for key, value in vars(self).items()}
        given["--dynamic-batch-size"] = gears
        refuse({
            f"--dynamic-batch-size is {','.join(map(str, gears))}, but {MIN_GEARS} to {MAX_GEARS} "
            "positive sizes, each larger than the one before, are wanted; write them as 1,4,8":
                gears and not (rising and MIN_GEARS <= len(gears) <= MAX_GEARS),
            f"--soc-version is {soc!r}, but 'Ascend' and the Name that 'npu-smi info' shows is "
            "wanted; write it as Ascend310P3":
                soc is not None and not re.fullmatch(r"Ascend\w[\w-]*", soc, re.ASCII),
            f"--batch-size is {self.batch_size}, but at least 1 is wanted; give 1":
                self.batch_size is not None and self.batch_size < 1,
            **{f"{flag} is {file}, which is not a file; check the path": not file.is_file()
               for flag, file in files.items() if file is not None},
            **{f"{one} and {other} are both given, but exclude each other; give one":
                given[one] and given[other] for one, other in EXCLUSIVE},
            f"--modify-mixlist is given, but --{name.replace('_', '-')} {mode} does not read it; "
            "leave it out, or take --precision-mode allow_mix_precision":
                self.modify_mixlist and not self.mixed,
        }, AtcError)  # fmt: skip

    @property
    def precision(self) -> tuple[str, str]:
        """The option that sets the precision, and its value."""
        if self.precision_mode_v2 is not None:
            return "precision_mode_v2", self.precision_mode_v2
        mode = self.precision_mode
        return "precision_mode", PRECISION_MODES[0] if mode is None else mode

    @property
    def mixed(self) -> bool:
        """Whether ATC chooses the precision operator by operator, and so reads a list."""
        return self.precision[1].startswith(("allow_mix", "mixed"))


def parse_gears(text: str) -> tuple[int, ...]:
    """Read batch sizes written as ``1,4,8``; raise `AtcError` if that is not what *text* is."""
    if not re.fullmatch(r"\s*\d{1,6}\s*(,\s*\d{1,6}\s*)*", text, re.ASCII):
        raise AtcError(
            f"--dynamic-batch-size is {text!r}, but batch sizes are wanted; write them as 1,4,8"
        )
    return tuple(int(word) for word in text.split(","))


def compiled_shape(model: Path, dims: Sequence[int | None], options: AtcOptions) -> tuple[int, ...]:
    """
    The input's shape for ATC; a batch of -1 is set by the gears.

    *dims* are the sides that the ONNX file *model* declares, None for a free one.  Raises
    `AtcError` where they and *options* do not agree.
    """
    batch, *rest = dims
    sides = tuple(side for side in rest if side is not None)
    asked = options.batch_size
    fixed = f"the batch of {model} is fixed to {batch}, but"
    refuse({
        f"the input of {model} is {list(dims)}, but only its batch may be free; export it again "
        "with 'effd0 export'": len(sides) != len(rest),
        f"{fixed} --dynamic-batch-size wants it free; export it with --dynamic-batch":
            options.gears and batch is not None,
        f"the batch of {model} is free, but ATC has to know it; give --batch-size 1, or "
        "--dynamic-batch-size 1,4,8": (batch, asked, options.gears) == (None, None, ()),
        f"{fixed} --batch-size is {asked}; leave that out, or export with --batch-size {asked} or "
        "--dynamic-batch": batch is not None and asked not in (None, batch),
    }, AtcError)  # fmt: skip
    given = batch if asked is None else asked
    return (-1 if given is None else given, *sides)


@dataclass(frozen=True)
class AtcCommand:
    """
    A call of ATC.  *output* lacks the suffix that ATC adds; a batch of -1 is set by the gears.

    *generated* are files that the call reads and that effd0 writes, with their content;
    *warnings* name what some versions of ATC do not take.
    """

    model: Path
    output: Path
    soc_version: str
    input_name: str
    input_shape: tuple[int, ...]
    options: AtcOptions
    mixlist: Path | None = None
    aipp: Path | None = None
    generated: tuple[tuple[Path, str], ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def om(self) -> Path:
        """The file that ATC is to make."""
        return self.output.with_name(f"{self.output.name}.om")

    def argv(self) -> list[str]:
        """The words of the command, in the recipe's order."""
        values: dict[str, object] = {
            "framework": 5,  # ONNX
            "model": self.model,
            "output": self.output,
            "input_format": "NCHW",
            "input_shape": f"{self.input_name}:{','.join(map(str, self.input_shape))}",
            "dynamic_batch_size": ",".join(map(str, self.options.gears)) or None,
            "log": self.options.log,
            "soc_version": self.soc_version,
            self.options.precision[0]: self.options.precision[1],
            "modify_mixlist": self.mixlist,
            "insert_op_conf": self.aipp,
            "output_type": self.options.output_type,
            "input_fp16_nodes": self.input_name if self.options.input_fp16 else None,
        }
        return ["atc", *(f"--{key}={value}" for key, value in values.items() if value is not None)]

    def __str__(self) -> str:
        return shlex.join(self.argv())


def atc_command(model: Path, output: Path, spec: ModelSpec, options: AtcOptions) -> AtcCommand:
    """
    The call of ATC that compiles the ONNX file *model* to *output*, with or without ``.om``.

    Raises `AtcError` where *options* do not fit the model, where ATC is known to refuse part of
    the model, or where the chip is not known; `GraphError` for a file that is no ONNX.
    """
    graph = load_graph(model)
    problems = check_support(graph)
    if fatal := [problem for problem, stops in problems if stops]:
        raise AtcError("\n  ".join([f"ATC does not take {model} as it is:", *fatal]))
    name, dims, _ = model_input(graph)
    shape = compiled_shape(model, dims, options)
    if options.aipp and shape[1:] != spec.input_shape:
        raise AtcError(
            f"the input of {model} is {shape}, but --aipp normalises (N, "
            f"{', '.join(map(str, spec.input_shape))}); give a file of your own: --insert-op-conf"
        )
    output = output.with_suffix("") if output.suffix == ".om" else output
    generated = []
    mixlist, aipp = options.modify_mixlist, options.insert_op_conf
    if options.mixed and mixlist is None:
        generated.append((mixlist := output.parent / MIXLIST_NAME, MIXLIST))
    if options.aipp:
        generated.append((aipp := output.parent / f"aipp_{spec.arch}.cfg", aipp_file(spec)))
    soc = find_soc() if options.soc_version is None else options.soc_version
    warnings = tuple(problem for problem, _ in problems)
    files = (mixlist, aipp, tuple(generated))
    return AtcCommand(model, output, soc, name, shape, options, *files, warnings)


def write_generated(command: AtcCommand) -> list[Path]:
    """
    Write the files that *command* reads and that are missing; return their paths.

    Raises `AtcError` where one of that name has another content, which may still be wanted.
    """
    there = {path: path.read_text("utf-8", "replace") if path.is_file() else ""
             for path, _ in command.generated if path.exists()}  # fmt: skip
    missing = {path: content for path, content in command.generated if path not in there}
    for path, content in command.generated:
        # White space has no meaning in these files.
        if path in there and "".join(there[path].split()) != "".join(content.split()):
            option = "--modify-mixlist" if path == command.mixlist else "--insert-op-conf"
            raise AtcError(
                f"{path} holds something else than effd0 would write there; "
                f"use it with {option} {path}, or move it away"
            )
    for path, content in missing.items():
        write_text(content, path)
    return list(missing)


def run_atc(command: AtcCommand) -> float:
    """
    Run ATC away from the working directory, which it would litter; return the seconds it took.

    Its result gets its name, ``command.om``, at the end.
    Success is its exit code, its own word and the file together.  Raises `AtcError` with what to
    do and ATC's last lines; after that or an interrupt only *generated* is left, and no process.
    """
    tool = shutil.which("atc")
    if tool is None:
        raise AtcError(NOT_FOUND)
    check_writable(command.om)
    write_generated(command)
    with tempfile.TemporaryDirectory(prefix="effd0-atc-", ignore_cleanup_errors=True) as folder:
        out, work, log_path = (Path(folder) / name for name in ("out", "work", "log"))
        out.mkdir()
        work.mkdir()
        read = {name: getattr(command, name) for name in ("model", "mixlist", "aipp")}
        moved = replace(command, output=out / command.output.name, **{
            name: path and path.absolute() for name, path in read.items()})  # fmt: skip
        words = [str(Path(tool).absolute()), *moved.argv()[1:]]
        start = time.perf_counter()
        # A file, not a pipe: compilers that outlive an ATC that was killed would keep a pipe open.
        with log_path.open("wb") as sink:
            try:
                process = subprocess.Popen(
                    words, cwd=work, process_group=0, stdin=subprocess.DEVNULL, stdout=sink,
                    stderr=subprocess.STDOUT,
                )  # fmt: skip
            except OSError as error:
                said = f"{words[0]} cannot be started: {error}; install CANN again"
                raise AtcError(said) from error
            try:
                exit_code = process.wait()
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise
        seconds = time.perf_counter() - start
        with log_path.open(errors="replace") as lines:
            failed = failure(exit_code, lines)
        if failed is not None:
            raise AtcError(failed)
        # ATC adds the host's system to the name of some models: d0_linux_aarch64.om.
        made = sorted(out.glob("*.om"))
        if len(made) != 1 or made[0].stat().st_size == 0:
            left = ", ".join(f"{path.name} with {path.stat().st_size} bytes" for path in made)
            raise AtcError(
                f"ATC said success, but left {left or 'no file'} where one .om was wanted; "
                "is there room in TMPDIR? Run the command by hand to see"
            )
        with written_whole(command.om) as temporary:
            shutil.move(made[0], temporary)
    return seconds


def failure(exit_code: int, lines: Iterable[str]) -> str | None:
    """
    What failed, what that means and what to do, with ATC's own last *lines*; None if it succeeded.

    Of its output, however long, lines with an error code, known texts and the end are kept.
    """
    coded: list[str] = []
    known: set[str] = set()
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    succeeded = False
    for line in filter(None, map(str.rstrip, lines)):
        tail.append(line)
        if not _CHATTER.match(line):
            succeeded = succeeded or SUCCESS in line
            known.update(text for text in _TEXTS if re.search(text, line))
            if _CODE.search(line) and len(coded) < CODED_LINES:
                coded.append(line.strip())
    if exit_code == 0 and succeeded:
        return None
    # A process that a signal ended, or a shell's child.
    number = -exit_code if exit_code < 0 else exit_code - 128
    what = f"it ended with exit code {exit_code}, and did not say success"
    if number in set(signal.Signals):
        what = f"it was ended by signal {number} ({signal.Signals(number).name})"
    elif coded or succeeded:
        what = [*coded, f"it said success, but ended with exit code {exit_code}"][0]
    codes = [code for line in coded for code in _CODE.findall(line)]
    # A clear code says more than the texts around it, and those more than a vague one.
    advice = [_KILLED] if number == signal.SIGKILL else []
    advice += [remedy for code in codes if code not in _VAGUE
               for key, remedy in _CODES.items() if code.startswith(key)]  # fmt: skip
    advice += [remedy for text, remedy in _TEXTS.items() if text in known]
    remedy = [*advice, *(_CODES[code] for code in codes if code in _VAGUE), UNKNOWN][0]
    said = "\n".join(f"  {line}" for line in tail) or "  (nothing)"
    return f"ATC failed: {what}\n{remedy}\nATC's last lines:\n{said}"
