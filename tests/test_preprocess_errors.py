"""Tests for `effd0.preprocess`: what happens to files that are not pictures."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from effd0.data.preprocess import preprocess, probe_image, read_image
from effd0.errors import ImageError
from effd0.spec import D0

from .helpers import encoded, noise

Read = Callable[[Path], object]
EVERY_READER = pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda path: preprocess(path, D0), id="preprocess"),
        pytest.param(probe_image, id="probe"),
    ],
)
PHOTO = Image.fromarray(noise((90, 61)))
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n"


@EVERY_READER
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"", "the file is empty; copy or download it again", id="empty"),
        pytest.param(b"id,name\n1,a", r"\(it begins with b'id,name\\n'\)$", id="text"),
        pytest.param(POINTER, "it is a Git LFS pointer, .*'git lfs pull'", id="lfs-pointer"),
        pytest.param(
            encoded(PHOTO, "JPEG")[:-900], "truncated.*; copy or download it again", id="cut-jpeg"
        ),
        pytest.param(
            encoded(PHOTO, "PNG")[:-900], "truncated.*; copy or download it again", id="cut-png"
        ),
    ],
)
def test_unreadable_content_is_named(
    content: bytes, reason: str, read: Read, tmp_path: Path
) -> None:
    """The message names the file, what is wrong in it, and what to do."""
    path = tmp_path / "image.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=f"{re.escape(str(path))} is not a readable image: .*"):
        read(path)
    with pytest.raises(ImageError, match=reason):
        read(path)


@EVERY_READER
def test_missing_file_is_named(read: Read, tmp_path: Path) -> None:
    """The message names the path and where to look."""
    with pytest.raises(ImageError, match=r"nowhere\.jpg does not exist; check the path or the dat"):
        read(tmp_path / "nowhere.jpg")


@EVERY_READER
def test_folder_is_not_an_image(read: Read, tmp_path: Path) -> None:
    """A folder in an image's place is said to be one."""
    with pytest.raises(ImageError, match="is not a readable image: it is a directory"):
        read(tmp_path)


@EVERY_READER
@pytest.mark.parametrize("name", ["file/image.jpg", "x" * 300], ids=["below-a-file", "long-name"])
def test_path_that_cannot_be_opened_is_an_image_error(
    name: str, read: Read, tmp_path: Path
) -> None:
    """Where not even the first bytes can be read, the system's own reason is given."""
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ImageError, match=r"Not a directory|too long"):
        read(tmp_path / name)


@EVERY_READER
def test_bomb_is_refused(read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture that would fill the memory is an error of that image, not a crash."""
    path = tmp_path / "image.png"
    PHOTO.save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match="exceeds limit of 2000 pixels"):
        read(path)


@pytest.mark.parametrize(
    ("size", "scaled"), [((1, 2000), "0x512"), ((2000, 1), "512x0")], ids=["thin", "flat"]
)
def test_image_without_a_short_side_is_refused(
    size: tuple[int, int], scaled: str, tmp_path: Path
) -> None:
    """An aspect of which no pixel would be left is an error that says the limit."""
    path = tmp_path / "image.png"
    Image.new("RGB", size).save(path)
    message = (
        f"{path}: image is {size[0]}x{size[1]}, which would shrink to {scaled} pixels, "
        "but every side must keep one; the aspect may be at most 512:1"
    )
    with pytest.raises(ImageError, match=re.escape(message)):
        preprocess(path, D0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("size", [(1, 1), (7, 7), (8, 500), (641, 479)], ids="{0[0]}x{0[1]}".format)
def test_probe_tells_the_size_of_the_file(size: tuple[int, int], kind: str, tmp_path: Path) -> None:
    """The quick look gives the width and height as stored, not those that it decoded at."""
    path = tmp_path / "image"
    path.write_bytes(encoded(Image.fromarray(noise(size)), kind))
    assert probe_image(path) == size


@functools.cache
def _photo_bytes(kind: str) -> bytes:
    return encoded(PHOTO, kind)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one path that every example overwrites."""
    return tmp_path_factory.mktemp("damaged") / "image"


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@given(data=st.data())
def test_any_cut_file_is_an_image_error_or_a_picture(
    kind: str, data: st.DataObject, damaged: Path
) -> None:
    """Wherever a download broke off, no failure but `ImageError` comes out."""
    whole = _photo_bytes(kind)
    damaged.write_bytes(whole[: data.draw(st.integers(0, len(whole)), label="length")])
    try:
        image = read_image(damaged)
    except ImageError:
        return
    assert image.size == PHOTO.size
