"""Tests for `effd0.suspicions.inputs`: mistakes made by other code than that which names them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from effd0.data.coco import Dataset
from effd0.data.preprocess import preprocess
from effd0.errors import ResultError
from effd0.spec import D0, SPECS, ModelSpec
from effd0.suspicions.inputs import suspect_input
from effd0.suspicions.mistakes import mistakes_for
from effd0.types import Floats

from .helpers import SMALL, noise

Values = npt.NDArray[np.float64]
Sized = Callable[[Values, int], Values]
MEAN, STD = np.array(D0.mean), np.array(D0.std)


def decoded(path: Path) -> Values:
    """Return the pixels of *path* as stored, (height, width, 3), from 0 to 255."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), np.float64)


def rounded(values: Values) -> Values:
    """Round to whole grey levels, halves up, as image libraries do."""
    return np.floor(values + 0.5).clip(0, 255)


def resized(pixels: Values, size: tuple[int, int], one_side: Sized | None) -> Values:
    """Resize *pixels* to *size* (width, height) side by side, or rightly without *one_side*."""
    if one_side is None:
        image = Image.fromarray(pixels.astype(np.uint8))
        return np.asarray(image.resize(size, Image.Resampling.BILINEAR), np.float64)
    wide = one_side(pixels.transpose(1, 0, 2), size[0]).transpose(1, 0, 2)
    # PIL's filters round in between.
    return rounded(one_side(wide if one_side in OF_OTHERS else rounded(wide), size[1]))


def smoothed(kernel: Callable[[Values], Values], reach: float) -> Sized:
    """Return a resampling with *kernel*, zero beyond *reach*, widened as the picture shrinks."""

    def one_side(values: Values, wanted: int) -> Values:
        step = len(values) / wanted
        width = max(step, 1.0)
        offsets = np.arange(len(values)) + 0.5 - (np.arange(wanted)[:, None] + 0.5) * step
        weights = kernel(offsets / width) * (np.abs(offsets / width) < reach)
        mixed: Values = np.tensordot(weights / weights.sum(1, keepdims=True), values, 1)
        return mixed

    return one_side


def cubic(x: Values) -> Values:
    """Keys' cubic with a = -0.5."""
    x = np.abs(x)
    return np.where(x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2)


def windowed_sinc(x: Values) -> Values:
    """Lanczos' kernel of three lobes."""
    values: Values = np.sinc(x) * np.sinc(x / 3)
    return values


def four_neighbours(values: Values, wanted: int) -> Values:
    """Linear interpolation between pixel centres."""
    places = (np.arange(wanted) + 0.5) * len(values) / wanted - 0.5
    flat = values.reshape(len(values), -1).T
    columns = [np.interp(places, np.arange(len(values)), column) for column in flat]
    return np.array(columns).T.reshape(wanted, *values.shape[1:])


def mean_of_area(values: Values, wanted: int) -> Values:
    """Differences of the running sum at the edges of the new pixels."""
    edges = np.arange(wanted + 1) * len(values) / wanted
    flat = values.reshape(len(values), -1)
    sums = np.vstack([np.zeros(flat.shape[1]), flat.cumsum(0)])
    at = np.array([np.interp(edges, np.arange(len(sums)), column) for column in sums.T]).T
    means: Values = np.diff(at, axis=0) * wanted / len(values)
    return means.reshape(wanted, *values.shape[1:])


def picked(half: float) -> Sized:
    """Return nearest resampling, from pixel centres with a *half* of 0.5, from corners with 0."""
    return lambda values, n: values[((np.arange(n) + half) * len(values) // n).astype(int)]


#: What is not PIL's keeps fractions until both sides are done.
OF_OTHERS = (four_neighbours, mean_of_area)


def boxed(
    pixels: Values,
    side: int,
    *,
    by: Sized | None = None,
    fill: tuple[int, int, int] = D0.fill,
    place: float = 0.0,
    turn: Callable[[Values], Values] = lambda small: small,
) -> Values:
    """Return *pixels* in the square of *side*; *place* is the share of fill before them."""
    height, width = pixels.shape[:2]
    scale = min(side / height, side / width)
    small = turn(resized(pixels, (int(width * scale), int(height * scale)), by))
    height, width = small.shape[:2]
    top, left = int((side - height) * place), int((side - width) * place)
    square = np.full((side, side, 3), fill, np.float64)
    square[top : top + height, left : left + width] = small
    return square


def normal(square: Values) -> Values:
    """Return *square*, divided by 255, less the mean, over the deviation."""
    values: Values = (square / 255 - MEAN) / STD
    return values


def zero_fill(path: Path, side: int) -> Values:
    """Return the input of *path*, padded with zeros after it was normalised."""
    inside = boxed(np.ones_like(decoded(path)), side, fill=(0, 0, 0))
    return normal(boxed(decoded(path), side)) * inside


def upright(path: Path, side: int) -> Values:
    """Return the input of *path*, turned as its orientation (6: clockwise) demands."""
    with Image.open(path) as image:
        assert image.getexif()[0x0112] == 6
    return normal(boxed(np.rot90(decoded(path), -1), side))


def halved(path: Path, side: int) -> Values:
    """Return the input of *path*, decoded at half its size."""
    with Image.open(path) as image:
        size = image.size
        image.draft("RGB", (size[0] // 2, size[1] // 2))
        small = np.asarray(image, np.float64)
    scale = side / max(size)
    square = np.full((side, side, 3), D0.fill, np.float64)
    width, height = int(size[0] * scale), int(size[1] * scale)
    square[:height, :width] = resized(small, (width, height), None)
    return normal(square)


def plain(**options: object) -> Callable[[Path, int], Values]:
    """Return a plant that is right but for the *options* of `boxed`."""
    return lambda path, side: normal(boxed(decoded(path), side, **options))  # type: ignore[arg-type]


def valued(change: Callable[[Values], Values]) -> Callable[[Path, int], Values]:
    """Return a plant that makes of the square what *change* does."""
    return lambda path, side: change(boxed(decoded(path), side))


#: Mistake -> the input of a file with it, (side, side, 3).
PLANTS: dict[str, Callable[[Path, int], Values]] = {
    "RGB/BGR swapped": valued(lambda x: normal(x)[..., ::-1]),
    "RGB/BGR swapped before normalising": valued(lambda x: normal(x[..., ::-1])),
    "RGB/BGR swapped in the picture, not in the fill": plain(turn=lambda x: x[..., ::-1]),
    "not normalised (0..255)": valued(lambda x: x),
    "divided by 255 only": valued(lambda x: x / 255),
    "not divided by 255": valued(lambda x: (x - MEAN) / STD),
    "not divided by the deviation": valued(lambda x: x / 255 - MEAN),
    "normalised twice": valued(lambda x: (normal(x) - MEAN) / STD),
    "mean (0.5, 0.5, 0.5) and deviation (0.5, 0.5, 0.5) of another architecture": valued(
        lambda x: x / 127.5 - 1
    ),
    "NHWC read as NCHW": valued(lambda x: normal(x).reshape(3, *x.shape[:2]).transpose(1, 2, 0)),
    "rows and columns transposed": valued(lambda x: normal(x).transpose(1, 0, 2)),
    "black fill": plain(fill=(0, 0, 0)),
    "grey fill of 114": plain(fill=(114, 114, 114)),
    "grey fill of 128": plain(fill=(128, 128, 128)),
    "white fill": plain(fill=(255, 255, 255)),
    "fill with the ImageNet mean cut off, not rounded": plain(fill=(123, 116, 103)),
    "fill with red and blue swapped": plain(fill=(104, 116, 124)),
    "zero fill after normalising": zero_fill,
    "centred letterbox": plain(place=0.5),
    "padded on the other side": plain(place=1.0),
    "mirrored": plain(turn=lambda small: small[:, ::-1]),
    "upside down": plain(turn=lambda small: small[::-1]),
    "stretched": lambda path, side: normal(resized(decoded(path), (side, side), None)),
    "EXIF orientation applied": upright,
    "JPEG decoded at reduced size": halved,
    "nearest resampling": plain(by=picked(0.5)),
    "nearest resampling from the corner": plain(by=picked(0)),
    "bilinear resampling without antialias": plain(by=four_neighbours),
    "area resampling": plain(by=mean_of_area),
    "box resampling": plain(by=smoothed(lambda x: ((x > -0.5) & (x <= 0.5)).astype(np.float64), 1)),
    "bicubic resampling": plain(by=smoothed(cubic, 2)),
    "Lanczos resampling": plain(by=smoothed(windowed_sinc, 3)),
}
#: What only a file with an orientation, or a JPEG of twice the input, can suffer.
OF_SOME_FILES = {"EXIF orientation applied", "JPEG decoded at reduced size"}


def planted(name: str, path: Path, spec: ModelSpec = SMALL) -> Floats:
    """Return the input of *path* with the mistake *name*, (3, side, side) float32."""
    square = PLANTS[name](path, spec.image_size)
    return np.ascontiguousarray(square.transpose(2, 0, 1), np.float32)


def photo(folder: Path, size: tuple[int, int]) -> Path:
    """Write a JPEG of noise of *size* that is to be turned; return its path."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = folder / f"{size[0]}x{size[1]}.jpg"
    Image.fromarray(noise(size)).save(path, exif=exif)
    return path


@pytest.mark.parametrize("size", [(300, 220), (219, 301)], ids=["landscape", "portrait"])
@pytest.mark.parametrize("name", PLANTS)
def test_each_mistake_is_named(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    """A mistake that others make with an image comes out by its name."""
    path = photo(tmp_path, size)
    found = suspect_input(path, planted(name, path), SMALL)
    assert found is not None
    assert found.name == name


@pytest.mark.slow
@pytest.mark.parametrize("image", [0, 4, 6], ids=["640x480", "427x640", "800x533"])
@pytest.mark.parametrize("name", sorted(PLANTS.keys() - OF_SOME_FILES))
def test_each_mistake_is_named_on_a_scene(name: str, image: int, embedded_dataset: Dataset) -> None:
    """The law holds for pictures of things, and in half precision."""
    path = embedded_dataset.samples[image].path
    found = suspect_input(path, planted(name, path, D0).astype(np.float16), D0)
    assert found is not None
    assert found.name == name


def test_every_mistake_that_is_known_is_planted() -> None:
    """No name is in the table that the tests do not see come out."""
    assert {mistake.name for mistake in mistakes_for(D0)} == PLANTS.keys()


def test_the_fill_of_the_sibling_is_named(tmp_path: Path) -> None:
    """The model fed from -1 to 1 on black names the recipe's fill as the mistake it is there."""
    path, spec = (
        photo(tmp_path, (300, 220)),
        replace(SPECS["tf_efficientdet_d0_ap"], image_size=128),
    )
    tensor = (boxed(decoded(path), 128) / 127.5 - 1).transpose(2, 0, 1).astype(np.float32)
    found = suspect_input(path, tensor, spec)
    assert found is not None
    assert found.name == "fill with the ImageNet mean"


@given(width=st.integers(20, 300), height=st.integers(20, 300), half=st.booleans())
def test_what_is_right_is_not_suspected(
    width: int, height: int, half: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A right input bears no mistake, in half precision and by other arithmetic too."""
    path = tmp_path_factory.mktemp("photo") / "image.png"
    Image.fromarray(noise((width, height))).save(path)
    pixels = preprocess(path, SMALL, normalized=False).tensor
    own = normal(pixels.astype(np.float64)).transpose(2, 0, 1)
    assert suspect_input(path, own.astype(np.float16 if half else np.float32), SMALL) is None


def _noise(_: Floats) -> Floats:
    return np.random.default_rng(0).standard_normal(SMALL.input_shape, np.float32)


def _one_level_off(own: Floats) -> Floats:
    steps = np.random.default_rng(0).integers(-1, 2, own.shape)
    return (own + steps / np.float32(255 * 0.225)).astype(np.float32)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(_noise, id="noise"),
        pytest.param(np.zeros_like, id="zeros"),
        pytest.param(_one_level_off, id="one-level-off"),
        pytest.param(lambda own: np.where(own > 2, np.nan, own), id="nan"),
        pytest.param(lambda own: np.where(own > 2, np.inf, own), id="infinite"),
        pytest.param(lambda own: np.roll(own, 3, 1), id="three-rows-down"),
    ],
)
def test_what_fits_no_mistake_has_no_name(make: Callable[[Floats], Floats], tmp_path: Path) -> None:
    """A suspicion is tested, not guessed: where no mistake takes the error away, there is none."""
    path = photo(tmp_path, (300, 220))
    assert (
        suspect_input(path, make(preprocess(path, SMALL).tensor.astype(np.float32)), SMALL) is None
    )


def test_an_input_of_another_shape_is_refused(tmp_path: Path) -> None:
    """Shapes are not guessed at either."""
    with pytest.raises(ResultError, match=r"is \(128, 128, 3\), but \(3, 128, 128\) was wanted"):
        suspect_input(photo(tmp_path, (9, 9)), np.zeros((128, 128, 3), np.float32), SMALL)
