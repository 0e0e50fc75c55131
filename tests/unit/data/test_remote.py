"""Tests for `effd0.data.remote`: a COCO folder behind a URL is the one that lies on a disk."""

import errno
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from effd0.data import remote
from effd0.data.coco import Dataset, load_coco
from effd0.data.remote import RemoteFiles, localized, url_of
from effd0.errors import DatasetError, Effd0Error, ImageError, MissingExtra, OutputError
from tests.helpers import coco_content, names_in, write_annotations, write_coco

SPLIT = "val2017"


@pytest.fixture
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Yield the URL of a COCO folder of three images; the same folder is ``disk``."""
    disk = write_coco(tmp_path / "disk")
    if getattr(request, "param", "memory") == "file":
        yield Path(f"file://{disk}")
        return
    memory = MemoryFileSystem()
    for path in disk.glob("*/*"):
        memory.pipe(f"/bucket/coco/{path.relative_to(disk)}", path.read_bytes())
    yield Path("memory://bucket/coco")
    memory.rm("/bucket", recursive=True)


BOTH = pytest.mark.parametrize("root", ["memory", "file"], indirect=True)


def load(root: Path, tmp_path: Path, limit: int | None = None) -> Dataset:
    """Return the dataset at *root*."""
    return load_coco(root, SPLIT, limit, RemoteFiles(tmp_path / "cache"))


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/coco",
        "hdfs://host:9000/coco",
        "http://127.0.0.1:8000/val2017/1.png",
        "file:///data/coco",
    ],
    ids=lambda url: url.partition(":")[0],
)
def test_a_path_gives_back_its_url(url: str) -> None:
    """The slashes that a path folds are there again, below it too."""
    assert url_of(Path(url)) == url
    assert url_of(Path(url) / "annotations" / "x.json") == f"{url}/annotations/x.json"


@pytest.mark.parametrize(
    "path",
    ["/data/coco", "C:/data", "run:1/coco", "nothing://bucket/coco", "/mnt/s3://bucket", "."],
    ids=["absolute", "drive", "colon", "unknown-scheme", "scheme-further-on", "here"],
)
def test_a_local_path_has_no_url(path: str) -> None:
    """What fsspec knows no scheme of stays a local path."""
    assert url_of(Path(path)) is None


@BOTH
def test_a_remote_folder_is_read_as_a_local_one(root: Path, tmp_path: Path) -> None:
    """But for the places of its files, all that a dataset says is the same."""
    here, there = load_coco(tmp_path / "disk", SPLIT, 2), load(root, tmp_path, 2)
    assert there.annotation_file == tmp_path / "cache" / here.annotation_file.name
    assert there.annotation_file.read_bytes() == here.annotation_file.read_bytes()
    samples = [replace(s, path=root / SPLIT / s.path.name) for s in here.samples]
    assert there == replace(here, annotation_file=there.annotation_file, samples=tuple(samples))


def test_images_in_folders_below_are_found(tmp_path: Path) -> None:
    """A file's name may be a path, and two files in two folders may have one name."""
    content = coco_content(2)
    for n, image in enumerate(content["images"]):
        image["file_name"] = f"{n}/same.png"
        place = tmp_path / "disk" / SPLIT / str(n)
        place.mkdir(parents=True)
        (place / "same.png").write_bytes(b"%d" % n)
    write_annotations(tmp_path / "disk", content)
    dataset = load(Path(f"file://{tmp_path / 'disk'}"), tmp_path)
    with localized(dataset.samples, tmp_path / "scratch") as samples:
        assert [sample.path.read_bytes() for sample in samples] == [b"0", b"1"]


@BOTH
def test_files_are_local_within_the_block_only(root: Path, tmp_path: Path) -> None:
    """The bytes are those of the remote files; afterwards nothing is left of them."""
    dataset, scratch = load(root, tmp_path), tmp_path / "scratch"
    with localized(dataset.samples, scratch) as samples:
        for sample, origin in zip(samples, dataset.samples, strict=True):
            assert replace(sample, path=origin.path) == origin
            original = tmp_path / "disk" / SPLIT / origin.path.name
            assert sample.path.name == origin.path.name
            assert sample.path.read_bytes() == original.read_bytes()
            assert sample.path.is_relative_to(scratch)
    assert names_in(scratch) == []


def test_local_files_stay_where_they_are(root: Path, tmp_path: Path) -> None:
    """Of a mixture, only what is not here is copied."""
    here, far = load_coco(tmp_path / "disk").samples, load(root, tmp_path).samples
    with localized([here[0], far[1], here[2]], tmp_path / "scratch") as samples:
        assert [s.path == h.path for s, h in zip(samples, here, strict=True)] == [True, False, True]
        assert samples[1].path.read_bytes() == here[1].path.read_bytes()


def remove(root: Path, name: str) -> None:
    """Remove the file or the folder *name* of the folder *root* in memory."""
    MemoryFileSystem().rm(f"{url_of(root)}/{name}", recursive=True)


@pytest.mark.parametrize("listed", [True, False], ids=["listed", "asked-for"])
def test_missing_images_are_counted_and_shown(
    listed: bool, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a listing or each file says so, what is missing is known before the run."""
    if not listed:
        monkeypatch.setattr(remote, "_UNLISTED", {"memory"})
    assert len(load(root, tmp_path).samples) == 3
    remove(root, f"{SPLIT}/2.png")
    assert len(load(root, tmp_path, 1).samples) == 1
    with pytest.raises(ImageError) as caught:
        load(root, tmp_path)
    assert str(caught.value) == (
        "1 of the images in memory://bucket/coco/val2017 cannot be used:\n  2.png is missing\n"
        "copy or download them again, or correct the annotation file"
    )


@BOTH
def test_an_image_that_has_gone_is_named(root: Path, tmp_path: Path) -> None:
    """It is an error of that image, and nothing is left of the others."""
    samples = load(root, tmp_path).samples
    url = f"{url_of(root)}/{SPLIT}/2.png"
    fsspec.core.url_to_fs(url)[0].rm(url)
    with (
        pytest.raises(ImageError, match=f"^{url} is missing; copy it there again"),
        localized(samples, tmp_path / "scratch"),
    ):
        pass
    assert names_in(tmp_path / "scratch") == []


class _OddError(Exception):
    """What a package that knows no OSError raises."""


@pytest.mark.parametrize(
    ("call", "fault", "kind", "message"),
    [
        ("get_file", _OddError("reset"), DatasetError, "_OddError: reset; see that"),
        ("get_file", FileNotFoundError("?"), DatasetError, "FileNotFoundError: "),
        ("get_file", OSError(errno.ENOSPC, "full"), OutputError, "cannot be kept: .*full"),
        ("cat_file", OSError("reset"), DatasetError, "coco/anno.* cannot be read: .*reset; see"),
        ("find", _OddError("reset"), DatasetError, "coco/val2017 cannot be read: .*reset; see"),
    ],
    ids=["own-kind", "came-back", "full-disk", "annotations", "listing"],
)
def test_a_connection_that_fails_is_an_error_of_its_kind(
    call: str,
    fault: Exception,
    kind: type[Effd0Error],
    message: str,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever the package raises, one error says what may be tried; no image is at fault."""

    def fail(*_: object, **__: object) -> None:
        raise fault

    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(MemoryFileSystem, call, fail)
    with (
        pytest.raises(kind, match=message) as caught,
        localized(load(root, tmp_path).samples, tmp_path / "scratch"),
    ):
        pytest.fail("nothing can be copied")
    assert caught.type is kind
    assert names_in(tmp_path / "scratch") == []


def test_a_missing_package_comes_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That fsspec knows the scheme is not enough: the scheme's own package is wanted."""
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingExtra, match=r"^s3://bucket/coco/.*pip install s3fs$"):
        load(Path("s3://bucket/coco"), tmp_path)


def test_without_fsspec_only_what_looks_like_a_url_needs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A local evaluation on a host with the base install goes on as it did."""
    monkeypatch.setitem(sys.modules, "fsspec", None)
    assert url_of(Path("data/coco")) is None
    with pytest.raises(MissingExtra, match=r"fsspec is not installed.*pip install 'effd0\[ray\]'"):
        url_of(Path("s3://bucket/coco"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (f"annotations/instances_{SPLIT}.json", None, "json does not exist; give"),
        (f"annotations/instances_{SPLIT}.json", b"{", "json is not a COCO file: "),
        (SPLIT, None, f"{SPLIT} is not a folder with images; those of"),
    ],
    ids=["no-file", "broken-file", "no-folder"],
)
def test_root_that_cannot_be_loaded_is_refused(
    name: str, content: bytes | None, message: str, root: Path, tmp_path: Path
) -> None:
    """The message is that of a local folder, with the URL and not with the copy's place."""
    remove(root, name)
    if content is not None:
        MemoryFileSystem().pipe(f"{url_of(root)}/{name}", content)
    with pytest.raises(DatasetError, match=f"^memory://bucket/coco/.*{message}"):
        load(root, tmp_path)
