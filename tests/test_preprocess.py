"""Tests for `effd0.preprocess`: bit for bit what effdet feeds the network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from effd0.data.coco import Dataset
from effd0.data.preprocess import letterbox, preprocess
from effd0.spec import D0, SPECS, ModelSpec

from .helpers import encoded, noise
from .reference import effdet_input

SIZE = (90, 61)
PHOTO = Image.fromarray(noise(SIZE))
Make = Callable[[], Image.Image]


def _palette(transparency: int | bytes | None) -> Image.Image:
    image = PHOTO.quantize(64)
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


def _transparent(mode: str, colour: object) -> Image.Image:
    image = PHOTO.convert(mode)
    image.info["transparency"] = colour
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


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        pytest.param(lambda: PHOTO, "PNG", id="rgb-png"),
        pytest.param(lambda: PHOTO, "JPEG", id="rgb-jpeg"),
        pytest.param(lambda: PHOTO.convert("L"), "PNG", id="grey-png"),
        pytest.param(lambda: PHOTO.convert("L"), "JPEG", id="grey-jpeg"),
        pytest.param(lambda: PHOTO.convert("1"), "PNG", id="black-and-white"),
        pytest.param(lambda: PHOTO.convert("CMYK"), "JPEG", id="cmyk-jpeg"),
        pytest.param(lambda: _palette(None), "PNG", id="palette"),
        pytest.param(lambda: _palette(3), "PNG", id="palette-transparent-entry"),
        pytest.param(lambda: _palette(bytes(range(64))), "PNG", id="palette-transparent-bytes"),
        pytest.param(lambda: _with_alpha("RGB"), "PNG", id="rgba"),
        pytest.param(lambda: _with_alpha("L"), "PNG", id="grey-alpha"),
        pytest.param(lambda: _transparent("RGB", (1, 2, 3)), "PNG", id="rgb-transparent-colour"),
        pytest.param(lambda: _transparent("L", 7), "PNG", id="grey-transparent-level"),
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


@pytest.mark.parametrize("spec", SPECS.values(), ids=[f"arch={name}" for name in SPECS])
@pytest.mark.parametrize("size", [(90, 61), (61, 90)], ids=["landscape", "portrait"])
def test_every_architecture_is_fed_as_effdet_feeds_it(
    size: tuple[int, int], spec: ModelSpec, tmp_path: Path
) -> None:
    """Mean, deviation and fill colour of each architecture are applied as effdet applies them."""
    path = tmp_path / "image.png"
    Image.fromarray(noise(size)).save(path)
    _assert_as_effdet(path, spec)


@pytest.mark.parametrize(
    "size",
    [(1, 1), (1, 37), (37, 1), (1, 512), (512, 1), (511, 513), (512, 512), (513, 333), (1024, 999)],
    ids="{0[0]}x{0[1]}".format,
)
def test_every_size_is_scaled_as_effdet_scales_it(size: tuple[int, int], tmp_path: Path) -> None:
    """One pixel wide or twice the input: sides, pixels and scale are the reference's."""
    path = tmp_path / "image.png"
    Image.fromarray(noise(size)).save(path)
    _assert_as_effdet(path)


def test_large_photograph_is_scaled_as_effdet_scales_it(tmp_path: Path) -> None:
    """24 megapixels of JPEG are decoded whole, not by the decoder's quicker halving."""
    path = tmp_path / "image.jpg"
    Image.fromarray(noise((750, 500))).resize((6000, 4000), Image.Resampling.NEAREST).save(path)
    _assert_as_effdet(path)


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


# At most 512:1, the thinnest image that keeps a pixel of its short side.
SIDES = st.integers(1, 900).flatmap(
    lambda short: st.tuples(st.just(short), st.integers(short, min(4000, short * 512)))
)


@given(sides=SIDES, portrait=st.booleans())
def test_letterbox_fits_the_picture_into_the_corner(sides: tuple[int, int], portrait: bool) -> None:
    """The long side fills the input, the short one is cut by ``int()``, the rest is fill."""
    size = sides if portrait else sides[::-1]
    red = tuple(255 - value for value in D0.fill)
    canvas, image_scale = letterbox(Image.new("RGB", size, red), D0)
    scale = min(512 / size[1], 512 / size[0])
    width, height = int(size[0] * scale), int(size[1] * scale)
    assert image_scale == 1 / scale
    assert canvas.shape == (512, 512, 3)
    assert (canvas[:height, :width] == red).all()
    assert (canvas[height:] == D0.fill).all()
    assert (canvas[:, width:] == D0.fill).all()


@given(sides=SIDES, portrait=st.booleans())
def test_image_scale_leads_back_to_the_corner(sides: tuple[int, int], portrait: bool) -> None:
    """The picture's far corner in the input, times the scale, is at most one pixel short."""
    size = sides if portrait else sides[::-1]
    canvas, image_scale = letterbox(Image.new("RGB", size, (255, 0, 255)), D0)
    picture = (canvas == (255, 0, 255)).all(axis=2)
    corner = (picture.any(axis=0).sum(), picture.any(axis=1).sum())
    for side, there in zip(size, corner, strict=True):
        # int() takes up to one pixel of the input: 1583 * (512 / 1583) is cut to 511.  Sides are
        # below 4,001, so that float64 errs by less than 1e-12; measured 2026-11-23: 4.6e-13.
        assert -1e-12 < side - there * image_scale < image_scale + 1e-12
