"""Tests for `effd0.io`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from effd0.errors import OutputError
from effd0.io import check_writable, folder_sha256, sha256, written_whole

from .helpers import names_in


def test_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    """Folders are made, nothing has the name before the end, and nothing else is left after."""
    path = tmp_path / "new" / "folder" / "out.txt"
    with written_whole(path) as temporary:
        temporary.write_text("whole")
        assert temporary.name == "out.txt"
        assert not path.exists()
    assert path.read_text() == "whole"
    assert names_in(path.parent) == ["out.txt"]


def test_earlier_file_stays_until_it_is_replaced(tmp_path: Path) -> None:
    """A reader sees the old content during the block and the new one after it."""
    path = tmp_path / "out.txt"
    path.write_text("old")
    with written_whole(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def _crash_while_writing(path: Path, crash: BaseException) -> None:
    with written_whole(path) as temporary:
        temporary.write_text("half")
        temporary.with_suffix(".data").write_text("half")
        raise crash


@pytest.mark.parametrize(
    "crash", [ValueError("boom"), KeyboardInterrupt()], ids=["error", "interrupt"]
)
def test_crash_leaves_the_old_file_and_no_litter(crash: BaseException, tmp_path: Path) -> None:
    """Whatever ends the block early, half a file is never seen and the crash comes out."""
    path = tmp_path / "out.txt"
    path.write_text("old")
    with pytest.raises(type(crash)):
        _crash_while_writing(path, crash)
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["out.txt"]


def test_data_file_beside_it_is_moved_too(tmp_path: Path) -> None:
    """What is written next to the file, as ONNX writes large weights, arrives with it."""
    with written_whole(tmp_path / "model.onnx") as temporary:
        temporary.write_text("graph")
        (temporary.parent / "model.onnx.data").write_text("weights")
    assert (tmp_path / "model.onnx").read_text() == "graph"
    assert (tmp_path / "model.onnx.data").read_text() == "weights"
    assert names_in(tmp_path) == ["model.onnx", "model.onnx.data"]


def test_file_may_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    """The file's rights are those of any new file, not those of a private temporary one."""
    with written_whole(tmp_path / "out.txt") as temporary:
        temporary.write_text("whole")
    (tmp_path / "plain.txt").write_text("plain")
    assert (tmp_path / "out.txt").stat().st_mode == (tmp_path / "plain.txt").stat().st_mode


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        pytest.param("file/out.txt", "File exists|Not a directory", id="below-a-file"),
        pytest.param("folder", "directory", id="name-of-a-folder"),
    ],
)
def test_place_that_cannot_be_written_is_named(name: str, reason: str, tmp_path: Path) -> None:
    """The message shows the path and the system's reason, and what was there is left alone."""
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "folder").mkdir()
    path = tmp_path / name
    with (
        pytest.raises(OutputError, match=f"{re.escape(str(path))} cannot be written: .*({reason})"),
        written_whole(path) as temporary,
    ):
        temporary.write_text("whole")
    assert names_in(tmp_path) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "not a folder"


def test_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    """A promise of a file that was not kept does not pass as success."""
    with (
        pytest.raises(OutputError, match=r"out\.txt cannot be written: .*choose another place"),
        written_whole(tmp_path / "out.txt"),
    ):
        pass
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "digest"),
    [
        (b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    ],
    ids=["empty", "abc"],
)
def test_fingerprint_is_the_published_one(content: bytes, digest: str, tmp_path: Path) -> None:
    """The digests of FIPS 180-2's own examples come out."""
    path = tmp_path / "file"
    path.write_bytes(content)
    assert sha256(path) == digest


def grow(path: Path) -> None:
    """Add to a file without a trace in its times."""
    path.write_bytes(path.read_bytes() + b"more")
    os.utime(path, ns=(0, 0))


@pytest.mark.parametrize(
    ("change", "same"),
    [
        pytest.param(lambda _: None, True, id="nothing"),
        pytest.param(grow, False, id="size"),
        pytest.param(lambda path: os.utime(path, ns=(0, 1)), False, id="time"),
        pytest.param(lambda path: path.rename(path.with_name("other")), False, id="name"),
        pytest.param(lambda path: path.with_name("more").touch(), False, id="another-file"),
    ],
)
def test_a_folder_is_known_by_its_files(
    change: Callable[[Path], object], same: bool, tmp_path: Path
) -> None:
    """Names, sizes and times are all that is looked at, each of them, in folders below too."""
    path = tmp_path / "device0" / "1_0.bin"
    path.parent.mkdir()
    path.write_bytes(b"heads")
    os.utime(path, ns=(0, 0))
    before = folder_sha256(tmp_path)
    change(path)
    assert (folder_sha256(tmp_path) == before) is same


def test_place_that_can_be_written_is_left_as_it_is(tmp_path: Path) -> None:
    """Asking leaves no trace but the folders that writing would make."""
    check_writable(tmp_path / "new" / "out.json")
    assert names_in(tmp_path) == ["new"]
    assert names_in(tmp_path / "new") == []


@pytest.mark.parametrize(
    ("place", "message"),
    [
        pytest.param("file/out.json", "out.json cannot be written: .*; choose another", id="file"),
        pytest.param("folder", "folder is a folder, but a file is to be written", id="folder"),
    ],
)
def test_place_that_cannot_be_written_is_said_before_the_work(
    place: str, message: str, tmp_path: Path
) -> None:
    """The error comes before hours of work, not in place of their result."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match=message):
        check_writable(tmp_path / place)
