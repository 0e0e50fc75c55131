"""effd0.data.download: COCO's archives, of which only the wanted members are unpacked."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from effd0.data import download as fetch
from effd0.data.download import Source, unpack
from effd0.errors import FetchError

from .fakes.server import FakeHost, serving

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
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHost]:
    """A running host with two small archives under COCO's paths, and their checksums."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    images, annotations = zipped(IMAGES), zipped(ANNOTATIONS)
    files = {"/zips/val2017.zip": images, "/annotations/trainval.zip": annotations}
    for name, (path, body) in zip(("COCO_IMAGES", "COCO_ANNOTATIONS"), files.items(), strict=True):
        source = Source(f"http://example.org{path}", "md5", hashlib.md5(body).hexdigest())  # noqa: S324  # COCO publishes MD5
        monkeypatch.setattr(fetch, name, source)
    with serving(FakeHost(files)) as running:
        yield running


def silent(done: int, total: int | None) -> None:
    """Show no progress."""


def everything(root: Path) -> dict[str, bytes]:
    """Return all files below *root* by their path."""
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def test_coco_has_images_and_their_instances_alone(host: FakeHost, tmp_path: Path) -> None:
    """The folder holds COCO's layout, and neither archives nor the other annotations."""
    assert fetch.fetch_coco(tmp_path, silent, host.url) == tmp_path
    wanted = "annotations/instances_val2017.json"
    assert everything(tmp_path) == IMAGES | {wanted: ANNOTATIONS[wanted]}


def test_coco_that_is_there_is_not_fetched(host: FakeHost, tmp_path: Path) -> None:
    """Only the half that is missing is asked for, and the other is left as it is."""
    (tmp_path / "val2017").mkdir()
    fetch.fetch_coco(tmp_path, silent, host.url)
    assert [path for path, _ in host.requests] == ["/annotations/trainval.zip"]
    assert list((tmp_path / "val2017").iterdir()) == []


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An archive of a folder with two pictures."""
    path = tmp_path / "images.zip"
    path.write_bytes(zipped({name: body * 1000 for name, body in IMAGES.items()}))
    return path


def test_a_folder_is_unpacked_without_what_lies_beside_it(archive: Path, tmp_path: Path) -> None:
    """The target holds the members, and no scratch folder is left."""
    with zipfile.ZipFile(archive, "a") as more:
        more.writestr("train2017/000000000009.jpg", b"not wanted")
    unpack(archive, "val2017/", tmp_path / "root" / "val2017")
    assert sorted(everything(tmp_path / "root")) == sorted(IMAGES)


def test_a_target_appears_whole_or_not_at_all(archive: Path, tmp_path: Path) -> None:
    """An archive that breaks in its second member leaves neither the first nor a scratch folder."""
    damaged = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as content:
        second = content.infolist()[1].header_offset
    damaged[second + 60 : second + 70] = bytes(10)
    archive.write_bytes(damaged)
    with pytest.raises(FetchError, match=r"images\.zip is a broken zip file: .*; remove it"):
        unpack(archive, "val2017/", tmp_path / "root" / "val2017")
    assert list((tmp_path / "root").iterdir()) == []


@pytest.mark.parametrize("keep", [0, 20, -30], ids=["empty", "beginning", "without-its-end"])
def test_a_cut_archive_is_broken(archive: Path, keep: int, tmp_path: Path) -> None:
    """A zip file without its directory is none."""
    archive.write_bytes(archive.read_bytes()[:keep])
    with pytest.raises(FetchError, match=r"images\.zip is a broken zip file"):
        unpack(archive, "val2017/", tmp_path / "val2017")
    assert not (tmp_path / "val2017").exists()


def test_an_archive_without_the_member_is_refused(archive: Path, tmp_path: Path) -> None:
    """The message names what was looked for."""
    with pytest.raises(FetchError, match=r"images\.zip has no test2017/; remove it"):
        unpack(archive, "test2017/", tmp_path / "test2017")
    assert not (tmp_path / "test2017").exists()
