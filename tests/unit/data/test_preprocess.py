"""Tests for `effd0.data.preprocess`: bit for bit what effdet feeds the network."""

import contextlib
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from effd0.data import preprocess as module
from effd0.data.coco import Dataset
from effd0.data.preprocess import (
    letterbox,
    normalize,
    preprocess,
    probe_image,
    read_image,
    resizes_as_pillow,
)
from effd0.errors import ImageError
from effd0.spec import D0, SPECS, ModelSpec
from tests.helpers import OBLONG, encoded, noise
from tests.suite.reference import effdet_input

SIZE = (90, 61)
PHOTO = Image.fromarray(noise(SIZE))
Make = Callable[[], Image.Image]


def _with(image: Image.Image, alpha: object) -> Image.Image:
    """The same picture with transparency."""
    image.info["transparency"] = alpha
    return image


def _with_alpha(mode: str) -> Image.Image:
    image = PHOTO.convert(mode)
    image.putalpha(Image.fromarray(noise(SIZE, 1, seed=1)[:, :, 0]))
    return image


def _sixteen_bit() -> Image.Image:
    levels = np.random.default_rng(2).integers(0, 2**16, SIZE[::-1])
    return Image.fromarray(levels.astype(np.uint16))


def _assert_as_effdet(path: Path, spec: ModelSpec = D0) -> None:
    __tracebackhide__ = True
    tensor, scale = effdet_input(path, spec)
    # Memory that was used before: what is not written would show.
    ours = preprocess(path, spec, out=np.full(spec.input_shape, np.nan, np.float32))
    assert ours.tensor.dtype == np.float32
    assert np.array_equal(ours.tensor, tensor)
    assert ours.image_scale == scale
    canvas, image_scale = letterbox(read_image(path), spec)
    assert np.array_equal(normalize(canvas, spec), tensor)
    assert image_scale == scale


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        pytest.param(lambda: PHOTO, "PNG", id="rgb-png"),
        pytest.param(lambda: PHOTO, "JPEG", id="rgb-jpeg"),
        pytest.param(lambda: PHOTO.convert("L"), "PNG", id="grey-png"),
        pytest.param(lambda: PHOTO.convert("L"), "JPEG", id="grey-jpeg"),
        pytest.param(lambda: PHOTO.convert("1"), "PNG", id="black-and-white"),
        pytest.param(lambda: PHOTO.convert("CMYK"), "JPEG", id="cmyk-jpeg"),
        pytest.param(lambda: PHOTO.quantize(64), "PNG", id="palette"),
        pytest.param(lambda: _with(PHOTO.quantize(64), alpha=3), "PNG", id="palette-entry"),
        pytest.param(
            lambda: _with(PHOTO.quantize(64), alpha=bytes(range(64))),
            "PNG",
            id="palette-transparent-bytes",
        ),
        pytest.param(lambda: _with_alpha("RGB"), "PNG", id="rgba"),
        pytest.param(lambda: _with_alpha("L"), "PNG", id="grey-alpha"),
        pytest.param(lambda: _with(PHOTO.copy(), alpha=(1, 2, 3)), "PNG", id="rgb-colour"),
        pytest.param(lambda: _with(PHOTO.convert("L"), alpha=7), "PNG", id="grey-level"),
        pytest.param(_sixteen_bit, "PNG", id="grey-16-bit"),
    ],
)
def test_every_kind_of_picture_is_read_as_effdet_reads_it(
    make: Make, kind: str, tmp_path: Path
) -> None:
    """Whatever the mode of the file, no bit of tensor or scale differs from the reference."""
    path = tmp_path / "image"
    path.write_bytes(encoded(make(), kind))
    _assert_as_effdet(path)


#: One architecture of each way to feed a network: size, mean, deviation and fill.
FED_ALIKE = {(s.image_size, s.mean, s.std, s.fill): s for s in (*SPECS.values(), OBLONG, D0)}


@pytest.mark.parametrize(
    "spec", FED_ALIKE.values(), ids=lambda s: f"{s.arch}-{'x'.join(map(str, s.image_size))}"
)
def test_every_architecture_is_fed_as_effdet_feeds_it(spec: ModelSpec, tmp_path: Path) -> None:
    """Size, mean, deviation and fill of each architecture are applied as effdet applies them."""
    path = tmp_path / "image.png"
    for size in (SIZE, SIZE[::-1]):
        Image.fromarray(noise(size)).save(path)
        _assert_as_effdet(path, spec)


@pytest.mark.parametrize(
    "size",
    [
        (1, 1),
        (1, 37),
        (37, 1),
        (1, 512),
        (512, 1),
        (511, 513),
        (512, 512),
        (513, 333),
        (6000, 4000),
    ],
    ids="{0[0]}x{0[1]}".format,
)
def test_every_size_is_scaled_as_effdet_scales_it(size: tuple[int, int], tmp_path: Path) -> None:
    """From one pixel wide to 24 megapixels, decoded whole and not by quicker halving."""
    path = tmp_path / "image.jpg"
    small = Image.fromarray(noise((min(size[0], 999), min(size[1], 999))))
    small.resize(size, Image.Resampling.NEAREST).save(path)
    _assert_as_effdet(path)


SIDE = st.integers(1, 700)


@given(size=st.tuples(SIDE, SIDE), scaled=st.tuples(st.integers(1, 600), st.integers(1, 600)))
def test_any_size_is_resized_as_pillow_resizes_it(
    size: tuple[int, int], scaled: tuple[int, int]
) -> None:
    """No bit differs from columns and then rows, up or down; pixels beyond are not touched."""
    image = Image.fromarray(noise(size))
    out = np.full((3, 600, 600), np.nan, np.float32)
    zeros, ones = np.zeros(3, np.float32), np.ones(3, np.float32)
    module._write_resized(image, scaled, zeros, ones, out)
    columns = image.resize((scaled[0], size[1]), Image.Resampling.BILINEAR)
    wanted = np.asarray(columns.resize(scaled, Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.array_equal(out[:, : scaled[1], : scaled[0]], wanted)
    assert np.isfinite(out).sum() == wanted.size


# Which pass Pillow 13 makes first changes at about twice as tall as wide.
@given(height=SIDE, share=st.one_of(st.floats(0.1, 3), st.floats(0.45, 0.55)))
def test_picture_of_any_size_is_what_pillow_makes_of_it(
    height: int, share: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whether the kernel resizes it or Pillow, the input is the same to the bit."""
    path = tmp_path_factory.getbasetemp() / "any-size.bmp"
    image = Image.fromarray(noise((max(1, round(share * height)), height)))
    image.save(path)
    assert np.array_equal(preprocess(path, D0).tensor, normalize(letterbox(image, D0)[0], D0))


def test_another_pillow_resizes_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Pillow whose bits are others is found out, and is what resizes."""
    PHOTO.save(tmp_path / "image.png")
    ours, resize = preprocess(tmp_path / "image.png", D0), Image.Image.resize
    monkeypatch.setattr(module, "resizes_as_pillow", lambda: False)
    assert np.array_equal(preprocess(tmp_path / "image.png", D0).tensor, ours.tensor)
    box = Image.Resampling.BOX
    monkeypatch.setattr(Image.Image, "resize", lambda image, size, _: resize(image, size, box))
    assert not resizes_as_pillow.__wrapped__()
    assert not np.array_equal(preprocess(tmp_path / "image.png", D0).tensor, ours.tensor)


def test_embedded_images_are_read_as_effdet_reads_them(embedded_dataset: Dataset) -> None:
    """The law holds for every image that the suite itself is scored on."""
    for sample in embedded_dataset.samples:
        _assert_as_effdet(sample.path)


def test_orientation_is_ignored(tmp_path: Path) -> None:
    """COCO's boxes lie on the pixels as stored, so that EXIF must not turn them."""
    exif = Image.Exif()
    exif[0x0112] = 6  # the orientation "rotate by 90 degrees"
    plain, turned = tmp_path / "plain.jpg", tmp_path / "turned.jpg"
    plain.write_bytes(encoded(PHOTO, "JPEG"))
    turned.write_bytes(encoded(PHOTO, "JPEG", exif=exif))
    _assert_as_effdet(turned)
    assert preprocess(turned, D0).image_size == SIZE
    assert np.array_equal(preprocess(turned, D0).tensor, preprocess(plain, D0).tensor)


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
@pytest.mark.parametrize("size", [(1, 1), (8, 500), (641, 479)], ids="{0[0]}x{0[1]}".format)
def test_probe_tells_the_size_of_the_file(size: tuple[int, int], kind: str, tmp_path: Path) -> None:
    """The quick look gives the width and height as stored, not those that it decoded at."""
    path = tmp_path / "image"
    path.write_bytes(encoded(Image.fromarray(noise(size)), kind))
    assert probe_image(path) == size


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@given(share=st.floats(0, 1))
def test_any_cut_file_is_an_image_error_or_a_picture(
    kind: str, share: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Wherever a download broke off, no failure but `ImageError` comes out."""
    path, whole = tmp_path_factory.getbasetemp() / "cut", encoded(PHOTO, kind)
    path.write_bytes(whole[: int(share * len(whole))])
    with contextlib.suppress(ImageError):
        assert read_image(path).size == PHOTO.size


EVERY_READER = pytest.mark.parametrize(
    "read", [lambda path: preprocess(path, D0), probe_image], ids=["preprocess", "probe"]
)
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n"


@EVERY_READER
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(None, "does not exist; check the path or the dataset's root", id="missing"),
        pytest.param("folder", "is not a readable image: .* Is a directory", id="folder"),
        pytest.param(b"", "the file is empty; copy or download it again", id="empty"),
        pytest.param(b"id,name\n1,a", r"\(it begins with b'id,name\\n'\)$", id="text"),
        pytest.param(POINTER, "it is a Git LFS pointer, .*'git lfs pull'", id="lfs-pointer"),
        pytest.param(encoded(PHOTO, "JPEG")[:-900], "truncated.*; copy or download", id="cut-jpeg"),
    ],
)
def test_unreadable_file_is_named(
    content: bytes | str | None, reason: str, read: Callable[[Path], object], tmp_path: Path
) -> None:
    """The message names the file, what is wrong in it, and what to do."""
    path = tmp_path / "image.jpg"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        path.mkdir()
    with pytest.raises(ImageError, match=f"^{re.escape(str(path))} .*{reason}"):
        read(path)


@EVERY_READER
def test_bomb_is_refused(
    read: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture that would fill the memory is an error of that image, not a crash."""
    PHOTO.save(tmp_path / "image.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match="exceeds limit of 2000 pixels; scale it"):
        read(tmp_path / "image.png")
