"""effd0.data.download: downloads from a local host that fails in the ways of real ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from effd0.data import download as fetch
from effd0.data.download import Source, download
from effd0.errors import FetchError, OutputError
from effd0.spec import SPECS, ModelSpec

from .fakes.server import FakeHost, serving

BODY = bytes(range(256)) * 1000
DIGEST = hashlib.sha256(BODY).hexdigest()
#: More than a chunk, less than the file.
CUT = 100_000


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHost]:
    """A running host that has one file."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(FakeHost({"/v0/d0.pth": BODY})) as running:
        yield running


@pytest.fixture
def source(host: FakeHost) -> Source:
    """The host's file with its right checksum, abbreviated as torch abbreviates it."""
    return Source(f"{host.url}/v0/d0.pth", "sha256", DIGEST[:8])


def silent(done: int, total: int | None) -> None:
    """Show no progress."""


def part_of(out: Path) -> Path:
    """Where the unfinished download of *out* lies."""
    return out.with_name(f"{out.name}.part")


def test_a_file_comes_whole(source: Source, tmp_path: Path) -> None:
    """The file appears in a new folder, equal to the host's, and nothing else is left."""
    out = tmp_path / "new" / "d0.pth"
    assert download(source, out, silent) == out
    assert out.read_bytes() == BODY
    assert list(out.parent.iterdir()) == [out]


def test_progress_never_exceeds_the_file(source: Source, host: FakeHost, tmp_path: Path) -> None:
    """Bytes reported rise to the file's size, also where the connection broke once."""
    host.break_after = [CUT]
    seen: list[tuple[int, int | None]] = []
    download(source, tmp_path / "d0.pth", lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (len(BODY), len(BODY))
    assert {total for _, total in seen} == {len(BODY)}


def test_a_broken_connection_is_resumed(source: Source, host: FakeHost, tmp_path: Path) -> None:
    """Each new request asks for what is missing, and the pieces make the file."""
    host.break_after = [CUT, CUT]
    download(source, tmp_path / "d0.pth", silent)
    assert (tmp_path / "d0.pth").read_bytes() == BODY
    first, *later = host.asked()
    starts = [int(str(wanted).removeprefix("bytes=").removesuffix("-")) for wanted in later]
    assert first is None
    # What a break takes with it is less than a chunk.
    assert CUT - fetch.CHUNK < starts[0] <= CUT
    assert starts[0] < starts[1] < len(BODY)


def test_an_earlier_part_is_resumed(source: Source, host: FakeHost, tmp_path: Path) -> None:
    """What an earlier run left is not fetched again."""
    out = tmp_path / "d0.pth"
    part_of(out).write_bytes(BODY[:CUT])
    download(source, out, silent)
    assert host.asked() == [f"bytes={CUT}-"]
    assert out.read_bytes() == BODY
    assert not part_of(out).exists()


def test_a_host_without_ranges_starts_again(source: Source, host: FakeHost, tmp_path: Path) -> None:
    """A whole answer to a request for the rest replaces the part, and is not appended to it."""
    host.ranges = False
    out = tmp_path / "d0.pth"
    part_of(out).write_bytes(BODY[:CUT])
    download(source, out, silent)
    assert host.asked() == [f"bytes={CUT}-"]
    assert out.read_bytes() == BODY


def test_a_complete_part_is_taken_as_it_is(source: Source, host: FakeHost, tmp_path: Path) -> None:
    """A part that lacks nothing (the host answers 416) is checked and gets its name."""
    out = tmp_path / "d0.pth"
    part_of(out).write_bytes(BODY)
    download(source, out, silent)
    assert host.asked() == [f"bytes={len(BODY)}-"]
    assert out.read_bytes() == BODY


def test_five_breaks_are_the_end(source: Source, host: FakeHost, tmp_path: Path) -> None:
    """The command gives up, says how to go on, and keeps what came."""
    host.break_after = [CUT // 3] * 5
    out = tmp_path / "d0.pth"
    with pytest.raises(FetchError, match=r"broke off 5 times: .*it goes on from .*d0\.pth\.part"):
        download(source, out, silent)
    assert len(host.requests) == 5
    assert not out.exists()
    kept = part_of(out).read_bytes()
    assert kept
    assert BODY.startswith(kept)


def test_an_unreachable_host_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that has gone away is one that breaks off; the message names the URL."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(FakeHost({})) as gone:
        source = Source(f"{gone.url}/d0.pth", "sha256", DIGEST)
    with pytest.raises(FetchError, match=r"http://127\.0\.0\.1:\d+/d0\.pth broke off 5 times"):
        download(source, tmp_path / "d0.pth", silent)


def test_a_file_that_is_not_there_is_not_asked_for_twice(
    source: Source, host: FakeHost, tmp_path: Path
) -> None:
    """404 is an answer, not a broken connection."""
    gone = replace(source, url=f"{host.url}/gone.pth")
    with pytest.raises(FetchError, match=r"/gone\.pth cannot be had: 404"):
        download(gone, tmp_path / "d0.pth", silent)
    assert len(host.requests) == 1


@pytest.mark.parametrize("kept", [0, CUT, len(BODY) + 1], ids=["fresh", "resumed", "too-long"])
def test_a_wrong_checksum_leaves_nothing(
    source: Source, host: FakeHost, kept: int, tmp_path: Path
) -> None:
    """Neither the file nor a part to go on from stays: both could only be wrong again."""
    host.files["/v0/d0.pth"] = BODY[::-1]
    out = tmp_path / "d0.pth"
    part_of(out).write_bytes((BODY + b"!")[:kept])
    with pytest.raises(FetchError, match=rf"has sha256 [0-9a-f]{{64}}, but {DIGEST[:8]} was pub"):
        download(source, out, silent)
    assert list(tmp_path.iterdir()) == []


def test_a_right_file_is_not_fetched_again(source: Source, host: FakeHost, tmp_path: Path) -> None:
    """The checksum of what is there decides; the host is not asked."""
    out = tmp_path / "d0.pth"
    out.write_bytes(BODY)
    assert download(source, out, silent) == out
    assert host.requests == []


def test_a_wrong_file_is_not_replaced(source: Source, host: FakeHost, tmp_path: Path) -> None:
    """A file of that name which is something else is the user's to remove."""
    out = tmp_path / "d0.pth"
    out.write_bytes(b"mine")
    with pytest.raises(FetchError, match=r"d0\.pth has sha256 .*; remove it and try again"):
        download(source, out, silent)
    assert out.read_bytes() == b"mine"
    assert host.requests == []


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_every_architecture_has_a_published_checkpoint(spec: ModelSpec) -> None:
    """A source's digest is the one that its file name ends in, as torch's convention has it."""
    source = fetch.CHECKPOINTS[spec.arch]
    assert source.algorithm == "sha256"
    assert source.name.removesuffix(".pth").endswith(f"-{source.digest}")


def test_checkpoint_comes_from_the_mirror(
    host: FakeHost, spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mirror stands for the official host: the path stays, and so does the checksum."""
    official = Source("https://example.org/v0/d0.pth", "sha256", DIGEST[:8])
    monkeypatch.setitem(fetch.CHECKPOINTS, spec.arch, official)
    out = fetch.fetch_checkpoint(spec, tmp_path / "d0.pth", silent, f"{host.url}/")
    assert out.read_bytes() == BODY
    assert host.requests == [("/v0/d0.pth", None)]


def test_without_a_mirror_the_source_is_the_official_one() -> None:
    """The mirror is an option, never a default."""
    source = Source("https://example.org/v0/d0.pth", "sha256", DIGEST)
    assert source.at(None) is source


@pytest.mark.parametrize("out", ["file/d0.pth", "."], ids=["below-a-file", "a-folder"])
def test_a_place_that_cannot_be_written_is_named(
    host: FakeHost, spec: ModelSpec, out: str, tmp_path: Path
) -> None:
    """A path that is taken by something else is the user's to change, not a traceback."""
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot be written: .*; choose another place"):
        fetch.fetch_checkpoint(spec, tmp_path / out, silent, host.url)
