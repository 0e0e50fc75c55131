"""Tests for `effd0.ascend.atc.run_atc`, on the emulated ATC and on scripts that fail as it does."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from effd0.ascend.atc import AtcCommand, atc_command, run_atc
from effd0.ascend.atc_log import TAIL_LINES
from effd0.ascend.atc_options import AtcOptions
from effd0.errors import AtcError, OutputError
from effd0.io import sha256
from effd0.spec import D0

from .ascend_host import tiny_onnx, use_emulated_tools, use_tool
from .fakes.ascend.om import read_om
from .helpers import names_in


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's working directory; scratch directories lie beside it, in ``tmp``."""
    for name in ("here", "tmp"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.delenv("EFFD0_FAKE_ATC", raising=False)
    return tmp_path / "here"


def command_here(output: str = "d0", **options: Any) -> AtcCommand:
    """Return a command in the user's words: a tiny model beside him, for a 310P3."""
    model = tiny_onnx(Path("m.onnx"))
    asked = AtcOptions(**{"soc_version": "Ascend310P3", **options})
    return atc_command(model, Path(output), D0, asked)


def test_what_is_compiled_is_named_at_the_end(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One whole .om is left beside the list it was made with; ATC's litter is gone."""
    use_emulated_tools(monkeypatch)
    made = run_atc(command_here("deep/d0"))
    assert made.path == Path("deep/d0.om")
    assert (made.size_bytes, made.sha256) == (made.path.stat().st_size, sha256(made.path))
    assert made.seconds > 0
    assert names_in(here) == ["deep", "m.onnx"]
    assert names_in(here / "deep") == ["d0.om", "ops_info.json"]
    assert names_in(here.parent / "tmp") == []


def test_atc_runs_elsewhere_on_the_same_files(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command that runs is the one that is shown, but for absolute paths and its output."""
    use_emulated_tools(monkeypatch)
    command = command_here()
    shown, ran = command.argv(), read_om(run_atc(command).path).command
    differences = {a: b for a, b in zip(shown, ran, strict=True) if a != b}
    assert differences.pop("--model=m.onnx") == f"--model={here}/m.onnx"
    assert differences.pop("--modify_mixlist=ops_info.json") == (
        f"--modify_mixlist={here}/ops_info.json"
    )
    assert differences.pop("--output=d0").endswith("/out/d0")
    assert differences == {}


def test_a_longer_name_is_put_right(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ATC adds system and processor, the file still gets the name that was asked for."""
    use_emulated_tools(monkeypatch)
    monkeypatch.setenv("EFFD0_FAKE_ATC", "suffix-linux")
    run_atc(command_here("d0.om"))
    assert names_in(here) == ["d0.om", "m.onnx", "ops_info.json"]


#: The beginning of scripts: where the .om is to lie, and what ATC says.
SCRIPT = """
for word in "$@"; do case $word in --output=*) om=${word#*=}.om;; esac; done
mkdir kernel_meta; touch fusion_result.json
success="ATC run success, welcome to the next use."
"""


@pytest.mark.parametrize(
    ("script", "message"),
    [
        pytest.param("echo om > $om", "exit code 0, and did not say success", id="no-success-line"),
        pytest.param("echo $success", "said success, but left no file", id="no-file"),
        pytest.param(
            "touch $om; echo $success", "but left d0.om with 0 bytes where one", id="empty-file"
        ),
        pytest.param(
            "echo om > $om; echo om > ${om%.om}_x.om; echo $success",
            "left d0.om with 3 bytes, d0_x.om with 3 bytes where one",
            id="two-files",
        ),
        pytest.param(
            "echo om > $om; echo $success; exit 1",
            "said success, but ended with exit code 1",
            id="code",
        ),
        pytest.param(
            "echo om > $om; kill -9 $$", r"signal 9 \(SIGKILL\)\nmost likely .* memory", id="killed"
        ),
        pytest.param(
            "seq 9999; echo E10501: Add; exit 255", "E10501: Add\nan operator has no", id="coded"
        ),
    ],
)
def test_nothing_but_success_makes_a_file(
    script: str, message: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code, word and file must agree; else the earlier .om stays, and no half of a new one."""
    use_tool("atc", SCRIPT + script, here.parent / "bin", monkeypatch)
    Path("d0.om").write_text("earlier")
    with pytest.raises(AtcError, match=message) as error:
        run_atc(command_here())
    assert len(str(error.value).splitlines()) <= 3 + TAIL_LINES
    assert Path("d0.om").read_text() == "earlier"
    assert names_in(here) == ["d0.om", "m.onnx", "ops_info.json"]
    assert names_in(here.parent / "tmp") == []


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        pytest.param("killed", r"signal 9 \(SIGKILL\)", id="killed-in-mid-write"),
        pytest.param("noisy,kernel-missing", "EZ9999.*\nCANN holds no kernel", id="kernel"),
    ],
)
@pytest.mark.slow
def test_the_emulated_failures_leave_nothing(
    odd: str, message: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The emulated ATC fails as scripts do, from half a file to pages of log."""
    use_emulated_tools(monkeypatch)
    monkeypatch.setenv("EFFD0_FAKE_ATC", odd)
    with pytest.raises(AtcError, match=message):
        run_atc(command_here())
    assert names_in(here) == ["m.onnx", "ops_info.json"]
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
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run_atc(command)
    thread.join()
    assert [pid for pid in pids.read_text().split() if _runs(int(pid))] == []
    assert names_in(here) == ["m.onnx", "ops_info.json"]
    assert names_in(here.parent / "tmp") == []


@pytest.mark.slow
def test_ctrl_c_leaves_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command itself, stopped while half of the .om is written: it ends, and so does ATC."""
    use_emulated_tools(monkeypatch)
    monkeypatch.setenv("EFFD0_FAKE_ATC", "hang")
    monkeypatch.setenv("TMPDIR", str(here.parent / "tmp"))
    tiny_onnx(Path("m.onnx"))
    words = ["compile", "--model", "m.onnx", "--output", "d0", "--soc-version", "Ascend310P3"]
    code = "from effd0.cli.main import main; main()"
    command = [sys.executable, "-c", code, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while not (halves := list(here.parent.glob("tmp/*/out/d0.om"))):
            assert time.monotonic() < deadline, "no half of a file in a minute"
            time.sleep(0.02)
        scratch = halves[0].parents[1]
        (atc,) = [p for p in _processes() if str(scratch) in p[1]]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode not in (0, -signal.SIGKILL)
    assert b"Traceback" not in err
    assert not _runs(atc[0])
    assert names_in(here) == ["m.onnx", "ops_info.json"]
    assert names_in(here.parent / "tmp") == []


def _processes() -> list[tuple[int, str]]:
    """Number and command line of each process that can be looked at."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append((int(path.parent.name), path.read_bytes().decode(errors="replace")))
    return found


def _runs(pid: int) -> bool:
    """Whether the process *pid* still does something, given a second to die."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return False
        if state in "ZX":  # dead, and only its parent has not looked yet
            return False
        time.sleep(0.01)
    return True


def test_a_compiler_that_outlives_atc_is_not_waited_for(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that ATC leaves behind holds its output open, and holds nothing up."""
    script = "sleep 5 & echo $! > left; mv left $HOME; echo E10001: Value; exit 255"
    monkeypatch.setenv("HOME", str(here.parent))
    use_tool("atc", script, here.parent / "bin", monkeypatch)
    start = time.monotonic()
    with pytest.raises(AtcError, match="E10001: Value"):
        run_atc(command_here())
    assert time.monotonic() - start < 4  # the sleeper has five seconds
    os.kill(int((here.parent / "left").read_text()), signal.SIGKILL)


def test_a_host_without_atc_says_where_it_is(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both places of set_env.sh are shown, since they depend on CANN's version."""
    monkeypatch.setenv("PATH", str(here))
    wanted = (
        "atc is not on the PATH, .*source /usr/local/Ascend/ascend-toolkit/set_env.sh .*"
        "source /usr/local/Ascend/cann/set_env.sh"
    )
    with pytest.raises(AtcError, match=wanted):
        run_atc(command_here())


def test_an_atc_that_cannot_be_started_is_said(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of that name that is no program is no crash of ours."""
    folder = use_tool("atc", "", here.parent / "bin", monkeypatch)
    (folder / "atc").write_bytes(b"\x7fELF of another machine")
    with pytest.raises(AtcError, match=re.escape(f"{folder}/atc cannot be started: ")):
        run_atc(command_here())


def test_a_place_that_cannot_be_written_is_said_first(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Minutes of compiling are not spent on a file that cannot be written."""
    use_tool("atc", "touch $HOME/ran", here.parent / "bin", monkeypatch)
    monkeypatch.setenv("HOME", str(here.parent))
    command = replace(command_here(precision_mode="force_fp16"), output=Path("m.onnx") / "d0")
    with pytest.raises(OutputError, match=r"m.onnx/d0.om cannot be written"):
        run_atc(command)
    assert not (here.parent / "ran").exists()
