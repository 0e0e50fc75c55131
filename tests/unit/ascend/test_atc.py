"""Tests for `effd0.ascend.atc`: the command, running it, and the next step after a failure."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effd0.ascend.atc import (
    MIXLIST,
    TAIL_LINES,
    AtcCommand,
    AtcOptions,
    atc_command,
    failure,
    run_atc,
    write_generated,
)
from effd0.errors import AtcError, GraphError, OutputError
from effd0.spec import D0

from ...emulator.om import read_om
from ...emulator.tools import tiny_onnx, use_emulated_tools, use_tool
from ...helpers import names_in

#: The ATC command of the recipe's guide.
RECIPE = r"""
atc --framework=5 \
    --model=d0_bs${bs}_m.onnx \
    --output=d0_bs${bs} \
    --input_format=NCHW \
    --input_shape="x.1:${bs},3,512,512" \
    --log=debug \
    --soc_version=Ascend${chip_name} \
    --precision_mode=allow_mix_precision \
    --modify_mixlist=ops_info.json
"""
SMALL = replace(D0, image_size=(8, 8))
SET_ENV = r".*ascend-toolkit/set_env.sh .*/usr/local/Ascend/cann/set_env.sh"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's working directory; scratch directories lie beside it, in ``tmp``."""
    for name in ("here", "tmp"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.delenv("EFFD0_FAKE_ATC", raising=False)
    return tmp_path / "here"


def command_here(
    output: str = "d0", shape: tuple[int | str, ...] = (1, 3, 8, 8), **options: Any
) -> AtcCommand:
    """Return a command in the user's words: a tiny model of *shape* beside him, for a 310P3."""
    model = tiny_onnx(Path("m.onnx"), shape=shape)
    asked = AtcOptions(**{"soc_version": "Ascend310P3", **options})
    return atc_command(model, Path(output), SMALL, asked)


# The command


def meaning(words: list[str]) -> dict[str, str]:
    """Return option -> value of a command's *words*."""
    pairs = dict(word.removeprefix("--").split("=", 1) for word in words[1:])
    assert len(pairs) == len(words) - 1
    return {"": words[0], **pairs}


@pytest.mark.parametrize("batch", ["1", "16"], ids="batch={}".format)
def test_the_command_and_its_list_are_the_recipes(batch: str) -> None:
    """For the recipe's files and chip each option has the recipe's value, in its order."""
    model = tiny_onnx(Path(f"d0_bs{batch}_m.onnx"), shape=(int(batch), 3, 512, 512))
    asked = AtcOptions(soc_version="Ascend310P3")
    command = atc_command(model, Path(f"d0_bs{batch}"), D0, asked)
    joined = RECIPE.replace("\\\n", " ")  # as a shell joins continued lines
    set_ = joined.replace("${bs}", batch).replace("${chip_name}", "310P3")
    assert command.argv() == shlex.split(str(command)) == shlex.split(set_)
    assert write_generated(command) == [Path("ops_info.json")]
    wanted = {"black-list": {"to-add": ["ReduceMeanD"]}}
    assert json.loads(Path("ops_info.json").read_text()) == wanted


FREE = ("N", 3, 8, 8)


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ({"log": "error"}, {"log": "error"}),
        (
            {"shape": FREE, "gears": (1, 4, 8)},
            {"input_shape": "x.1:-1,3,8,8", "dynamic_batch_size": "1,4,8"},
        ),
        ({"shape": FREE, "batch_size": 7}, {"input_shape": "x.1:7,3,8,8"}),
        (
            {"precision_mode": "force_fp16"},
            {"precision_mode": "force_fp16", "modify_mixlist": None},
        ),
        (
            {"precision_mode_v2": "mixed_float16"},
            {"precision_mode": None, "precision_mode_v2": "mixed_float16"},
        ),
        (
            {"precision_mode_v2": "origin"},
            {"precision_mode": None, "precision_mode_v2": "origin", "modify_mixlist": None},
        ),
        ({"modify_mixlist": Path(__file__)}, {"modify_mixlist": __file__}),
        ({"insert_op_conf": Path(__file__)}, {"insert_op_conf": __file__}),
        ({"aipp": True}, {"insert_op_conf": "aipp_tf_efficientdet_d0.cfg"}),
        ({"output_type": "FP16"}, {"output_type": "FP16"}),
        ({"input_fp16": True}, {"input_fp16_nodes": "x.1"}),
        ({"soc_version": "Ascend910_9391"}, {"soc_version": "Ascend910_9391"}),
        ({"soc_version": None}, {}),
    ],
    ids="-".join,
)
def test_an_option_changes_its_own_words_only(
    options: dict[str, Any], changes: dict[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each option sets what it names (None: takes it away); the chip, if absent, is the host's."""
    use_emulated_tools(monkeypatch)
    wanted: dict[str, str | None] = {**meaning(command_here().argv()), **changes}
    got = meaning(command_here(**options).argv())
    assert got == {key: value for key, value in wanted.items() if value is not None}


@pytest.mark.parametrize(
    ("given", "om"),
    [
        ("d0", "d0.om"),
        ("d0.om", "d0.om"),
        ("d0.v1", "d0.v1.om"),
        ("a $HOME's/d0", "a $HOME's/d0.om"),
    ],
    ids=["bare", "with-suffix", "other-dot", "odd-folder"],
)
def test_the_suffix_is_atcs_and_the_command_can_be_copied(given: str, om: str) -> None:
    """ATC adds .om, so the command never holds it; a shell reads back each word as it is."""
    command = command_here(given)
    assert command.om == Path(om)
    assert meaning(shlex.split(str(command)))["output"] == om.removesuffix(".om")


@pytest.mark.parametrize(
    ("content", "taken"),
    [
        (MIXLIST.replace("{", "{\n ").replace("\n", "\r\n"), True),
        ('{"white-list": {"to-add": ["ReduceMeanD"]}}', False),
        (None, False),
    ],
    ids=["spaced", "other", "folder"],
)
def test_a_list_that_is_there_is_never_replaced(content: str | None, taken: bool) -> None:
    """The same list is used as it is; another one may be wanted, so the user decides."""
    path = Path("ops_info.json")
    path.mkdir() if content is None else path.write_text(content)
    if taken:
        assert write_generated(command_here()) == []
    else:
        wanted = r"ops_info.json holds something else .*--modify-mixlist ops_info.json, or move"
        with pytest.raises(AtcError, match=wanted):
            write_generated(command_here())
    assert content is None or path.read_bytes() == content.encode()


def test_models_that_atc_refuses_never_reach_it(here: Path) -> None:
    """Each fault is listed with its remedy; what only some versions refuse is a warning."""
    tiny_onnx(Path("m.onnx"), opset=18, shape=(1, 3, "H", 8))
    asked = AtcOptions(soc_version="Ascend310P3")
    with pytest.raises(AtcError, match=r"does not take m\.onnx as it is") as error:
        atc_command(Path("m.onnx"), Path("d0"), D0, asked)
    faults = "\n".join(sorted(str(error.value).splitlines()[1:]))
    assert re.search(r"(?s)is 18, but.*export.*x\.1.*free|x\.1.*free.*is 18, but.*export", faults)
    with pytest.raises(AtcError, match=r"is \(1, 3, 6, 8\), but --aipp .* \(N, 3, 8, 8\); give"):
        command_here(shape=(1, 3, 6, 8), aipp=True)
    tiny_onnx(Path("m.onnx"), operators=["Acosh"])
    (warning,) = atc_command(Path("m.onnx"), Path("d0"), D0, asked).warnings
    assert "Acosh" in warning
    Path("m.onnx").write_text("no model")
    with pytest.raises(GraphError, match=r"m\.onnx is not an ONNX"):
        atc_command(Path("m.onnx"), Path("d0"), D0, asked)
    assert names_in(here) == ["m.onnx"]


# Running it


@pytest.mark.parametrize("odd", ["", "suffix-linux"], ids=["plain", "longer-name"])
def test_a_compiled_model_is_named_at_the_end(
    odd: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One whole .om lies beside its list, made by the shown command elsewhere; no litter."""
    use_emulated_tools(monkeypatch)
    monkeypatch.setenv("EFFD0_FAKE_ATC", odd)
    command = command_here("deep/d0")
    assert run_atc(command) > 0
    assert (names_in(here), names_in(here / "deep")) == (
        ["deep", "m.onnx"],
        ["d0.om", "ops_info.json"],
    )
    assert names_in(here.parent / "tmp") == []
    shown, ran = command.argv(), read_om(Path("deep/d0.om")).command
    different = {a: b for a, b in zip(shown, ran, strict=True) if a != b}
    assert different.pop("--output=deep/d0").endswith("/out/d0")
    assert different == {
        "--model=m.onnx": f"--model={here}/m.onnx",
        "--modify_mixlist=deep/ops_info.json": f"--modify_mixlist={here}/deep/ops_info.json",
    }


#: The beginning of scripts: where the .om is to lie, and what ATC says.
SCRIPT = """
for word in "$@"; do case $word in --output=*) om=${word#*=}.om;; esac; done
mkdir kernel_meta; touch fusion_result.json
success="ATC run success, welcome to the next use."
"""


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo om > $om", "exit code 0, and did not say success"),
        ("echo $success", "said success, but left no file"),
        ("touch $om; echo $success", "but left d0.om with 0 bytes where"),
        (
            "echo om > $om; echo om > ${om%.om}_x.om; echo $success",
            "left d0.om with 3 bytes, d0_x.om with 3 bytes where one",
        ),
        ("echo om > $om; echo $success; exit 1", "success, but ended with exit code 1"),
        ("echo om > $om; kill -9 $$", r"signal 9 \(SIGKILL\)\nmost likely .* memory"),
        ("seq 9999; echo E10501: Add; exit 255", "E10501: Add\nan operator has no"),
        # A process that ATC leaves behind keeps its output open, and delays nothing.
        ("sleep 5 & echo E10001: Value; exit 255", "E10001: Value"),
    ],
    ids=[
        "no-success-line", "no-file", "empty", "two-files", "code", "killed", "coded",
        "left-behind",
    ],
)  # fmt: skip
def test_nothing_but_success_makes_a_file(
    script: str, message: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code, word and file must agree; else the earlier .om stays, and no half of a new one."""
    use_tool("atc", SCRIPT + script, here.parent / "bin", monkeypatch)
    Path("d0.om").write_text("earlier")
    start = time.monotonic()
    with pytest.raises(AtcError, match=message) as error:
        run_atc(command_here())
    assert time.monotonic() - start < 4  # the sleeper has five seconds
    assert len(str(error.value).splitlines()) <= 3 + TAIL_LINES
    assert Path("d0.om").read_text() == "earlier"
    assert names_in(here) == ["d0.om", "m.onnx", "ops_info.json"]
    assert names_in(here.parent / "tmp") == []


def test_an_interrupt_ends_atc_and_its_compilers(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After Ctrl-C no process goes on and no file is left."""
    pids = here.parent / "pids"
    script = f"sleep 60 & echo $$ $! > {pids}.new; mv {pids}.new {pids}; touch half.om; wait"
    use_tool("atc", script, here.parent / "bin", monkeypatch)
    command = command_here()

    def interrupt() -> None:
        deadline = time.monotonic() + 20
        while not pids.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    # A shell starts what runs in the background with interrupts ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            run_atc(command)
    finally:
        thread.join()
        signal.signal(signal.SIGINT, before)
    assert [pid for pid in pids.read_text().split() if runs(int(pid))] == []
    assert names_in(here) == ["m.onnx", "ops_info.json"]
    assert names_in(here.parent / "tmp") == []


def runs(pid: int) -> bool:
    """Whether the process *pid* still does something, given a second to die."""
    for _ in range(100):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state not in "ZX":  # dead, and only its parent has not looked yet
                time.sleep(0.01)
                continue
        return False
    return True


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("no-atc", f"atc is not on the PATH, {SET_ENV}"),
        ("no-program", r"/atc cannot be started: .*install CANN again"),
        ("no-place", r"m\.onnx/d0\.om cannot be written"),
    ],
    ids=["no-atc", "no-program", "no-place"],
)
def test_a_host_that_cannot_compile_says_why(
    host: str, message: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An absent or broken atc and an output that cannot be written are errors with a next step."""
    folder = use_tool("atc", "touch $HOME/ran", here.parent / "bin", monkeypatch)
    monkeypatch.setenv("HOME", str(here))
    command = command_here(precision_mode="force_fp16")
    if host == "no-atc":
        monkeypatch.setenv("PATH", str(here))
    elif host == "no-program":
        (folder / "atc").write_bytes(b"\x7fELF of another machine")
    else:
        command = replace(command, output=Path("m.onnx") / "d0")
    with pytest.raises((AtcError, OutputError), match=message):
        run_atc(command)
    assert names_in(here) == ["m.onnx"]


# What it printed

FAILED = "ATC run failed, Please check the detail log, Try 'atc --help' for more information"


@pytest.mark.parametrize(
    ("line", "exit_code", "first", "advice"),
    [
        ("E19010: No parser is registered for Op [Resize_5]", 255, "E19010: No", "--opset 11"),
        ("E10001: Value Ascend310P9 is invalid", 255, "E10001: Value", "with 'npu-smi info'"),
        ("[PID: 12] Invalid_Argument(E10016): Op name", 255, "[PID: 12] Inv", "no such input"),
        ("E16002: Node Conv_0 is not valid", 255, "E16002: Node", "effd0 simplify"),
        ("E19999: Inner Error!", 255, "E19999: Inner", "an inner error of ATC"),
        # A text says more than a vague code beside it, a clear code more than texts around it.
        ("No supported Ops kernel\nEZ9999: Inner!", 255, "EZ9999: Inner", "no kernel .* ops/kern"),
        ("ImportError: part\nE19010: Op\nEZ9999: Inner", 255, "E19010: Op", "parser does not know"),
        # Later codes are what the first one led to.
        ("E10016: Op name y\nE10001: Value", 255, "E10016: Op name y", "has no such input"),
        ("atc.bin: error while loading shared libraries", 127, "exit code 127", SET_ENV),
        ("ModuleNotFoundError: No module named 'x'", 255, "exit code 255", "numpy below 2"),
        ("write: No space left on device", 255, "it ended with exit", "TMPDIR"),
        ("", -9, "it was ended by signal 9 (SIGKILL)", "out of memory"),
        ("", 137, "signal 9 (SIGKILL)", "TE_PARALLEL_COMPILER=1"),
        ("E99999: news", 255, "E99999: news", "~/ascend/log"),
        ("", 0, "exit code 0, and did not say success", "ascend/log"),
        ("ATC run success", 1, "it said success, but ended with exit code 1", "log"),
    ],
    ids=lambda value: re.sub(r"\W+", "-", value)[:20] if isinstance(value, str) else str(value),
)
def test_each_failure_is_translated(line: str, exit_code: int, first: str, advice: str) -> None:
    """What ATC said comes first, then what it means and the next step, then its last lines."""
    lines = [*line.splitlines(), FAILED]
    what, then, heading, *tail = str(failure(exit_code, lines)).splitlines()
    assert what.startswith("ATC failed: ")
    assert first in what
    assert re.search(advice, then), then
    assert heading == "ATC's last lines:"
    assert [said.strip() for said in tail] == [said for said in lines if said]


@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r")), max_size=40),
    st.integers(-64, 255),
)
def test_no_output_breaks_the_explanation(lines: list[str], exit_code: int) -> None:
    """Whatever is printed, the message has an advice and no more than the last lines."""
    text = str(failure(exit_code, lines))
    assert text.startswith("ATC failed: ")
    assert "ATC's last lines:\n" in text
    assert len(text.split("\n")) <= 3 + TAIL_LINES


def test_a_debug_log_is_cut_to_its_end() -> None:
    """Of a million lines only the end is kept; figures of chatter are no codes of errors."""
    chatter = [f"[DEBUG] GE(1,atc): tensor E{10000 + n % 9} of {n}" for n in range(50_000)]
    lines = [*chatter, "[INFO] ATC run success?", FAILED, *["E10016: again"] * 9]
    what, then, _, *tail = str(failure(0, lines)).splitlines()
    assert what == "ATC failed: E10016: again"
    assert "has no such input" in then
    assert len(tail) == TAIL_LINES


def test_success_is_atcs_own_word() -> None:
    """With exit code 0 and that word nothing failed, whatever warnings were printed."""
    assert failure(0, ["ATC run success, welcome to the next use.", "W11001: slow"]) is None
