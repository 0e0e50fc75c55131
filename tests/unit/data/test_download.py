"""effd0.data.download: downloads from a local host that fails in the ways of real ones."""

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from effd0.data import download as fetch
from effd0.data.download import Source, download, unzip
from effd0.errors import FetchError, OutputError
from effd0.spec import SPECS, ModelSpec
from tests.helpers import FakeHost, serving

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


def test_a_file_that_is_there_is_checked_and_not_fetched(
    source: Source, host: FakeHost, tmp_path: Path
) -> None:
    """A file of that name which is something else is the user's to remove."""
    out = tmp_path / "d0.pth"
    out.write_bytes(BODY)
    assert download(source, out, silent) == out
    out.write_bytes(b"mine")
    with pytest.raises(FetchError, match=r"d0\.pth has sha256 .*; remove it and try again"):
        download(source, out, silent)
    assert out.read_bytes() == b"mine"
    assert host.requests == []


def test_checkpoint_comes_from_the_mirror(
    host: FakeHost, spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mirror stands for the official host: the path stays, and so does the checksum."""
    official = Source("https://example.org/v0/d0.pth", "sha256", DIGEST[:8])
    monkeypatch.setitem(fetch.CHECKPOINTS, spec.arch, official)
    out = fetch.fetch_checkpoint(spec, tmp_path / "new" / "d0.pth", silent, f"{host.url}/")
    assert out.read_bytes() == BODY
    assert list(out.parent.iterdir()) == [out]
    assert host.requests == [("/v0/d0.pth", None)]


def test_every_published_checkpoint_has_its_address_and_checksum() -> None:
    """The 32 files of effdet's release are called by the beginnings of their checksums."""
    assert len(fetch.CHECKPOINTS) == 32
    for source in fetch.CHECKPOINTS.values():
        assert re.fullmatch(r"https://github\.com/\S+/v0\.1/\w+-[0-9a-f]{8}\.pth", source.url)
        assert source.url.endswith(f"-{source.digest}.pth")
    d1 = fetch.CHECKPOINTS["tf_efficientdet_d1"]
    assert (d1.url.rpartition("/")[2], d1.digest) == (
        "tf_efficientdet_d1_40-a30f94af.pth", "a30f94af",
    )  # fmt: skip


def test_weights_that_nobody_publishes_are_not_asked_for(tmp_path: Path) -> None:
    """Effdet configures more architectures than it has trained."""
    d2s = r"no weights of efficientdet_d2, but of tf_efficientdet_d2, tf_efficientdet_d2_ap; name"
    with pytest.raises(FetchError, match=d2s):
        fetch.fetch_checkpoint(SPECS["efficientdet_d2"], tmp_path / "d2.pth", silent)
    with pytest.raises(FetchError, match=r"but of cspdarkdet53m, .* and 22 more; name"):
        fetch.fetch_checkpoint(SPECS["mixdet_m"], tmp_path / "m.pth", silent)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("out", ["file/d0.pth", "."], ids=["below-a-file", "a-folder"])
def test_a_place_that_cannot_be_written_is_named(
    host: FakeHost, spec: ModelSpec, out: str, tmp_path: Path
) -> None:
    """A path that is taken by something else is the user's to change, not a traceback."""
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot be written: .*; choose another place"):
        fetch.fetch_checkpoint(spec, tmp_path / out, silent, host.url)


IMAGES = {"val2017/000000000139.jpg": b"a picture", "val2017/000000000285.jpg": b"another"}
ANNOTATIONS = {
    "annotations/instances_val2017.json": json.dumps({"images": []}).encode(),
    "annotations/instances_train2017.json": b"not wanted",
    "annotations/captions_val2017.json": b"not wanted",
}


def zipped(members: Mapping[str, bytes]) -> bytes:
    """Return a zip file of *members*."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture
def coco_host(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHost]:
    """A running host with two small archives under COCO's paths, and their checksums."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    images, annotations = zipped(IMAGES), zipped(ANNOTATIONS)
    files = {"/zips/val2017.zip": images, "/annotations/trainval.zip": annotations}
    for name, (path, body) in zip(("COCO_IMAGES", "COCO_ANNOTATIONS"), files.items(), strict=True):
        source = Source(f"http://example.org{path}", "md5", hashlib.md5(body).hexdigest())  # noqa: S324  # COCO publishes MD5
        monkeypatch.setattr(fetch, name, source)
    with serving(FakeHost(files)) as running:
        yield running


def test_coco_has_images_and_their_instances_alone(coco_host: FakeHost, tmp_path: Path) -> None:
    """The folder holds COCO's layout, and neither archives nor the other annotations."""
    assert fetch.fetch_coco(tmp_path, silent, coco_host.url) == tmp_path
    wanted = "annotations/instances_val2017.json"
    files = {str(p.relative_to(tmp_path)): p for p in tmp_path.rglob("*") if p.is_file()}
    held = {name: path.read_bytes() for name, path in files.items()}
    assert held == IMAGES | {wanted: ANNOTATIONS[wanted]}


def test_coco_that_is_there_is_not_fetched(coco_host: FakeHost, tmp_path: Path) -> None:
    """Only the half that is missing is asked for, and the other is left as it is."""
    (tmp_path / "val2017").mkdir()
    fetch.fetch_coco(tmp_path, silent, coco_host.url)
    assert [path for path, _ in coco_host.requests] == ["/annotations/trainval.zip"]
    assert list((tmp_path / "val2017").iterdir()) == []


@pytest.mark.parametrize(
    ("zeroed", "keep", "member", "message"),
    [
        pytest.param(60, None, "val2017/", "is a broken zip file: .*; remove it", id="damaged"),
        pytest.param(0, 20, "val2017/", "is a broken zip file", id="beginning"),
        pytest.param(0, None, "test2017/", "has no test2017/; remove it", id="without-the-member"),
    ],
)
def test_a_target_appears_whole_or_not_at_all(
    zeroed: int, keep: int | None, member: str, message: str, tmp_path: Path
) -> None:
    """Of an archive that breaks in its second member, or before, nothing is left."""
    archive = tmp_path / "images.zip"
    archive.write_bytes(zipped({name: body * 1000 for name, body in IMAGES.items()}))
    data = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as content:
        second = content.infolist()[1].header_offset
    if zeroed:
        data[second + zeroed : second + zeroed + 10] = bytes(10)
    archive.write_bytes(data[:keep])
    with pytest.raises(FetchError, match=rf"images\.zip {message}"):
        unzip(archive, member, tmp_path / "root" / "val2017")
    assert list((tmp_path / "root").iterdir()) == []


@pytest.mark.parametrize(
    ("kept", "ranges"),
    [(CUT, True), (CUT, False), (len(BODY), True)],
    ids=["part", "host-without-ranges", "complete-part"],
)
def test_a_part_of_an_earlier_run_is_gone_on_from(
    source: Source, host: FakeHost, kept: int, ranges: bool, tmp_path: Path
) -> None:
    """What is there is not asked for again; where the whole file comes, it is not appended."""
    host.ranges, out = ranges, tmp_path / "d0.pth"
    part_of(out).write_bytes(BODY[:kept])
    download(source, out, silent)
    assert host.asked() == [f"bytes={kept}-"]
    assert out.read_bytes() == BODY
    assert not part_of(out).exists()
