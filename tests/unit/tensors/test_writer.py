"""Tests for `effd0.tensors.writer`: a result folder is whole, or it is not there."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from effd0.errors import OutputError
from effd0.tensors.writer import check_free, results_whole
from effd0.types import Tensors
from tests.helpers import names_in

HEADS: Tensors = {"a": np.zeros((1, 2), np.float16), "b": np.ones((1, 3), np.float32)}


def write(
    folder: Path,
    stem: str = "x",
    *,
    overwrite: bool = False,
    meanwhile: Callable[[], object] = lambda: None,
) -> None:
    """Write results of one image, `HEADS`; do *meanwhile* before they are whole."""
    with results_whole(folder, "BIN", overwrite=overwrite) as writer:
        writer.name(stem, len(HEADS), Path("bins") / f"{stem}.bin")
        writer.save(stem, HEADS, list(HEADS))
        meanwhile()
        writer.close({"pid": 7}, None)


def test_results_and_summary_lie_side_by_side(tmp_path: Path) -> None:
    """The folder holds results alone, as float32 whatever the model gave; files are listed."""
    write(tmp_path / "out" / "result")
    assert names_in(tmp_path / "out") == ["result", "result_summary.json"]
    assert names_in(tmp_path / "out" / "result") == ["x_0.bin", "x_1.bin"]
    assert (tmp_path / "out" / "result" / "x_0.bin").read_bytes() == bytes(8)
    outfiles = [str(tmp_path / "out" / "result" / f"x_{i}.bin") for i in range(2)]
    assert json.loads((tmp_path / "out" / "result_summary.json").read_text()) == {
        "filesinfo": {"0": {"infiles": ["bins/x.bin"], "outfiles": outfiles}},
        "pid": 7,
    }


def test_an_existing_folder_is_refused(tmp_path: Path) -> None:
    """The message names the two ways on; nothing of the old run is touched."""
    write(tmp_path / "result")
    message = f"{tmp_path / 'result'} exists, but .* another --output-dirname, or --overwrite"
    with pytest.raises(OutputError, match=message):
        write(tmp_path / "result", "y")
    assert names_in(tmp_path / "result") == ["x_0.bin", "x_1.bin"]


def test_an_existing_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """With --overwrite nothing of the old run is left, its manifest neither."""
    write(tmp_path / "result")
    (tmp_path / "result_manifest.json").write_text("of the old run")
    write(tmp_path / "result", "y", overwrite=True)
    assert names_in(tmp_path) == ["result", "result_summary.json"]
    assert names_in(tmp_path / "result") == ["y_0.bin", "y_1.bin"]
    assert "y.bin" in (tmp_path / "result_summary.json").read_text()


def test_a_run_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    """The old results stay whole until the new ones are."""
    folder = tmp_path / "result"
    write(folder)
    with pytest.raises(ZeroDivisionError):
        write(folder, "y", overwrite=True, meanwhile=lambda: 1 // 0)
    assert names_in(tmp_path) == ["result", "result_summary.json"]
    assert names_in(tmp_path / "result") == ["x_0.bin", "x_1.bin"]


def test_a_folder_that_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    """Of two runs into one place, the second to end is refused."""
    folder = tmp_path / "result"
    with pytest.raises(OutputError, match="results of two runs must not mix"):
        write(folder, "y", meanwhile=lambda: write(folder))
    assert names_in(tmp_path / "result") == ["x_0.bin", "x_1.bin"]


@pytest.mark.parametrize("overwrite", [True, False], ids=["overwrite", "refuse"])
def test_a_file_in_the_way_is_refused(overwrite: bool, tmp_path: Path) -> None:
    """A file is never replaced by a folder."""
    (tmp_path / "result").write_text("notes")
    with pytest.raises(OutputError, match="is a file, but a folder of results is to be written"):
        check_free(tmp_path / "result", overwrite=overwrite)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """Where a file stands for a folder, the message names what was asked for."""
    (tmp_path / "file").write_text("in the way")
    folder = tmp_path / "file" / "result"
    with pytest.raises(OutputError, match=f"{re.escape(str(folder))} cannot be written"):
        write(folder)


def test_a_file_of_results_is_whole_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is stopped in the middle of a file that another has written leaves the other's."""

    def half(path: Path, _tensor: object) -> None:
        path.write_bytes(b"half")
        raise OSError("stopped")

    folder = tmp_path / "result"
    with results_whole(folder, "NPY", overwrite=False) as writer:
        writer.save("x", HEADS, list(HEADS))
        whole = writer.path("x", 0).read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(np, "save", half)
            with pytest.raises(OutputError, match="stopped"):
                writer.save("x", HEADS, list(HEADS))
        assert writer.path("x", 0).read_bytes() == whole
        writer.close({}, None)
    assert names_in(folder) == ["x_0.npy", "x_1.npy"]
    assert names_in(tmp_path) == ["result", "result_summary.json"]


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from effd0.tensors.writer import results_whole

with results_whole(Path(sys.argv[1]), "BIN", overwrite=True) as writer:
    writer.save("y", {"a": np.zeros((1, 2))}, ["a"])
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("before", [False, True], ids=["new", "over-old"])
def test_a_run_that_is_killed_leaves_no_result(before: bool, tmp_path: Path) -> None:
    """Nothing half-written has the name of a result; the next run is not disturbed by it."""
    folder = tmp_path / "result"
    if before:
        write(folder)
    ended = subprocess.run([sys.executable, "-c", KILLED, str(folder)], check=False)
    assert ended.returncode == -signal.SIGKILL
    visible = [name for name in names_in(tmp_path) if not name.startswith(".")]
    assert visible == (["result", "result_summary.json"] if before else [])
    if before:
        assert names_in(folder) == ["x_0.bin", "x_1.bin"]
    write(folder, "z", overwrite=before)
    assert names_in(folder) == ["z_0.bin", "z_1.bin"]
