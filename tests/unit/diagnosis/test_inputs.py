"""Faults of network inputs, planted by other code than that which names them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from effd0.data import fixture
from effd0.data.coco import Dataset, load_coco
from effd0.data.preprocess import preprocess
from effd0.diagnosis.inputs import (
    FIRST,
    Picture,
    diagnose_input,
    diagnose_input_of,
    diagnose_order,
    faults_of_inputs,
    input_hypotheses,
    thumbnail,
)
from effd0.errors import ResultError
from effd0.spec import D0, SPECS, ModelSpec
from effd0.tensors.inputs import MANIFEST
from effd0.types import Floats, Tensor, Tensors
from tests.helpers import SMALL, TINY, coco_content, noise, write_coco
from tests.helpers.results import write_bins

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
    """Return the input of *path* with the fault *name*, (3, side, side) float32."""
    square = PLANTS[name](path, spec.image_size)
    return np.ascontiguousarray(square.transpose(2, 0, 1), np.float32)


def photo(folder: Path, size: tuple[int, int] = (300, 220)) -> Path:
    """Write a JPEG of noise of *size* that is to be turned; return its path."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = folder / f"{size[0]}x{size[1]}.jpg"
    Image.fromarray(noise(size)).save(path, exif=exif)
    return path


@pytest.mark.parametrize("name", PLANTS)
def test_each_fault_is_named(name: str, tmp_path: Path) -> None:
    """A fault that others make with an image comes out by its name, wide or high."""
    for size in ((300, 220), (219, 301)):
        path = photo(tmp_path, size)
        found = diagnose_input(path, planted(name, path), SMALL)
        assert found is not None
        assert found.name == name


@pytest.mark.slow
@pytest.mark.parametrize("image", [0, 4, 6], ids=["640x480", "427x640", "800x533"])
@pytest.mark.parametrize("name", sorted(PLANTS.keys() - OF_SOME_FILES))
def test_each_fault_is_named_on_a_scene(name: str, image: int, embedded_dataset: Dataset) -> None:
    """The law is kept by pictures of things, and in half precision."""
    path = embedded_dataset.samples[image].path
    found = diagnose_input(path, planted(name, path, D0).astype(np.float16), D0)
    assert found is not None
    assert found.name == name


def test_every_fault_in_the_catalogue_is_planted() -> None:
    """No name is in the table that the tests do not see come out."""
    assert {hypothesis.name for hypothesis in input_hypotheses(D0)} == PLANTS.keys()


def test_the_fill_of_the_sibling_is_named(tmp_path: Path) -> None:
    """The model fed from -1 to 1 on black names the recipe's fill as the fault it is there."""
    path, spec = photo(tmp_path), replace(SPECS["tf_efficientdet_d0_ap"], image_size=128)
    tensor = (boxed(decoded(path), 128) / 127.5 - 1).transpose(2, 0, 1).astype(np.float32)
    found = diagnose_input(path, tensor, spec)
    assert found is not None
    assert found.name == "fill with the ImageNet mean"


@given(width=st.integers(20, 300), height=st.integers(20, 300), half=st.booleans())
def test_what_is_right_has_no_diagnosis(
    width: int, height: int, half: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A right input has no fault, in half precision and by other arithmetic too."""
    path = tmp_path_factory.mktemp("photo") / "image.png"
    Image.fromarray(noise((width, height))).save(path)
    pixels = preprocess(path, SMALL, normalized=False).tensor
    own = normal(pixels.astype(np.float64)).transpose(2, 0, 1)
    assert diagnose_input(path, own.astype(np.float16 if half else np.float32), SMALL) is None


def _one_level_off(own: Floats) -> Floats:
    steps = np.random.default_rng(0).integers(-1, 2, own.shape)
    return (own + steps / np.float32(255 * 0.225)).astype(np.float32)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(
            lambda own: np.random.default_rng(0).standard_normal(own.shape, np.float32), id="noise"
        ),
        pytest.param(np.zeros_like, id="zeros"),
        pytest.param(_one_level_off, id="one-level-off"),
        pytest.param(lambda own: np.where(own > 2, np.nan, own), id="nan"),
        pytest.param(lambda own: np.where(own > 2, np.inf, own), id="infinite"),
        pytest.param(lambda own: np.roll(own, 3, 1), id="three-rows-down"),
    ],
)
def test_what_fits_no_fault_has_no_name(make: Callable[[Floats], Floats], tmp_path: Path) -> None:
    """A diagnosis is tested, not guessed: where no fault takes the error away, there is none."""
    path = photo(tmp_path)
    own = preprocess(path, SMALL).tensor.astype(np.float32)
    assert diagnose_input(path, make(own), SMALL) is None


def test_an_input_of_another_shape_is_refused(tmp_path: Path) -> None:
    """Shapes are not guessed at either."""
    with pytest.raises(ResultError, match=r"is \(128, 128, 3\), but \(3, 128, 128\) was wanted"):
        diagnose_input(photo(tmp_path, (9, 9)), np.zeros((128, 128, 3), np.float32), SMALL)


# Of an input of which only the heads are known.


def infer(tensor: Tensor) -> Tensors:
    """Heads of `TINY` that hang linearly on the input: sums of values here and there, weighted."""
    rng = np.random.default_rng(5)
    flat, heads = tensor.reshape(len(tensor), -1), {}
    for name, shape in TINY.head_shapes.items():
        places = rng.integers(0, flat.shape[1], (200, *shape))
        weights = rng.standard_normal((200, *shape)).astype(np.float32)
        heads[name] = (flat[:, places] * weights).sum(axis=1)
    return heads


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Picture:
    """A wide picture of noise, larger than the input, so that it is resized and filled up."""
    path = tmp_path_factory.mktemp("photo") / "image.png"
    Image.fromarray(noise((300, 220))).save(path)
    return Picture(path, TINY)


@pytest.mark.parametrize(
    "name",
    [
        "not normalised (0..255)",
        "divided by 255 only",
        "RGB/BGR swapped",
        "RGB/BGR swapped before normalising",
        "RGB/BGR swapped in the picture, not in the fill",
        "NHWC read as NCHW",
        "grey fill of 114",
        "centred letterbox",
        "nearest resampling",
        "bilinear resampling without antialias",
    ],
)
def test_the_fault_before_the_model_is_named(name: str, picture: Picture) -> None:
    """The one fault of the input that gives these heads, also where they are rounded."""
    (hypothesis,) = [h for h in input_hypotheses(TINY) if h.name == name]
    heads = infer(np.ascontiguousarray(hypothesis.apply(picture), np.float32)[None])
    half = {head: value.astype(np.float16).astype(np.float32) for head, value in heads.items()}
    for given_, left in ((heads, 0), (half, 2e-3)):
        found = diagnose_input_of(picture.path, given_, infer, TINY)
        assert found is not None
        assert (found.name, found.explanation) == (f"input {name}", hypothesis.inverse)
        assert found.error_after <= left < 1e-2 < found.error_before


def test_other_heads_are_no_fault_of_the_input(picture: Picture) -> None:
    """Right heads, heads that no fault explains, and one wrong or right head among others."""
    right, swapped = infer(picture.tensor[None]), infer(picture.tensor[None, ::-1])
    rng = np.random.default_rng(1)
    other = {
        n: (h.std() * rng.standard_normal(h.shape)).astype(np.float32) for n, h in right.items()
    }
    runs: list[int] = []

    def counted(tensor: Tensor) -> Tensors:
        runs.append(len(tensor))
        return infer(tensor)

    for heads, tried in (
        (right, 1),
        ({name: head.astype(np.float16).astype(np.float32) for name, head in right.items()}, None),
        ({name: np.where(head > 0, np.nan, head) for name, head in right.items()}, 1),
        (other, None),
        ({**right, "class_p6": swapped["class_p6"]}, None),
        ({**other, "class_p6": swapped["class_p6"]}, None),
    ):
        runs.clear()
        assert diagnose_input_of(picture.path, heads, counted, TINY) is None
        # No fault is tried where nothing is wrong, or where heads overflowed.
        assert tried is None or len(runs) == tried


# Of a folder of inputs.


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Four images of noise."""
    return load_coco(write_coco(tmp_path / "coco", coco_content(images=4)))


@pytest.fixture
def bins(dataset: Dataset, tmp_path: Path) -> Path:
    """Their inputs, right, as a tool without manifests writes them."""
    folder = write_bins(tmp_path / "bins", dataset)
    (folder / MANIFEST).unlink()
    return folder


def said(dataset: Dataset, folder: Path) -> list[tuple[str, str]]:
    """Evidence and diagnosis of each fault."""
    return [(fault.evidence, fault.diagnosis) for fault in faults_of_inputs(dataset, folder, SMALL)]


def _change(files: Iterable[Path], change: Callable[[Floats], Floats]) -> None:
    for file in files:
        change(np.fromfile(file, "<f4").reshape(SMALL.input_shape)).astype("<f4").tofile(file)


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_right_inputs_have_no_fault(dtype: str, dataset: Dataset, tmp_path: Path) -> None:
    """What effd0 itself writes passes, and so it does without its manifest."""
    folder = write_bins(tmp_path / "bins", dataset, dtype=dtype)
    assert said(dataset, folder) == []
    (folder / MANIFEST).unlink()
    assert said(dataset, folder) == []


def test_other_arithmetic_is_no_fault(dataset: Dataset, bins: Path) -> None:
    """Dividing by 255 first, as most libraries do, is right too."""
    for sample in dataset.samples:
        pixels = preprocess(sample.path, SMALL, normalized=False).tensor
        values = normal(pixels.astype(np.float64)).transpose(2, 0, 1)
        values.astype("<f4").tofile(bins / f"{sample.path.stem}.bin")
    assert said(dataset, bins) == []


def test_a_fault_names_image_values_and_cause(dataset: Dataset, bins: Path) -> None:
    """Which image, how far off, and what explains it; a NaN has no name and is a fault."""
    _change([bins / "2.bin"], lambda tensor: tensor[::-1])
    _change([bins / "3.bin"], lambda tensor: np.where(np.arange(128) == 3, np.nan, tensor))
    (swapped, cause), (nan, none) = said(dataset, bins)
    assert swapped.startswith("2.png: the largest difference is ")
    assert cause.startswith("RGB/BGR swapped: the error falls from ")
    assert nan.startswith("3.png: the largest difference is nan at (0, 0, 3), nan where ")
    assert nan.endswith("(allowed: 1e-05)")
    assert none == ""


def test_pixels_are_diagnosed_too(dataset: Dataset, tmp_path: Path) -> None:
    """Inputs for a model that normalises by itself have the same faults."""
    folder = write_bins(tmp_path / "bins", dataset, dtype="uint8")
    (folder / MANIFEST).unlink()
    for file in folder.iterdir():
        np.fromfile(file, np.uint8).reshape(-1, 3)[:, ::-1].tofile(file)
    assert ["RGB/BGR swapped" in cause for _, cause in said(dataset, folder)] == [True] * 4


def test_missing_and_foreign_inputs_are_faults(dataset: Dataset, bins: Path) -> None:
    """Every image has its input, and every input its image, unless the run is limited."""
    limited = load_coco(dataset.annotation_file.parents[1], image_limit=2)
    assert said(limited, bins) == []
    (bins / "2.bin").rename(bins / "cat.bin")
    assert said(dataset, bins) == [
        ("1 of 4 images have no input: 2", ""), ("1 of 4 inputs are of no image: cat", "")
    ]  # fmt: skip


def test_shifted_inputs_come_first(dataset: Dataset, bins: Path) -> None:
    """Where each file holds the next image, the first fault says so."""
    contents = [(bins / f"{n}.bin").read_bytes() for n in (1, 2, 3, 4)]
    for n, content in zip((1, 2, 3, 4), [*contents[1:], contents[0]], strict=True):
        (bins / f"{n}.bin").write_bytes(content)
    first, *others = said(dataset, bins)
    assert first[1].startswith("images shifted by one (each holds the next)")
    assert len(others) == 4


def test_stale_inputs_are_found_beside_their_manifest(dataset: Dataset, tmp_path: Path) -> None:
    """Inputs of a picture that has changed since are wrong, though their manifest is whole."""
    folder = write_bins(tmp_path / "bins", dataset)
    Image.fromarray(noise((40, 30), seed=99)).save(dataset.samples[0].path)
    ((text, _),) = said(dataset, folder)
    assert text.startswith("1.png: the largest difference is ")
    assert text.endswith("(allowed: 0)")


def test_of_many_images_the_first_and_some_are_compared(tmp_path: Path) -> None:
    """A fault in every input comes out once for each image looked at: 20, and the 21st."""
    dataset = load_coco(write_coco(tmp_path / "coco", coco_content(images=30)))
    folder = write_bins(tmp_path / "bins", dataset)
    (folder / MANIFEST).unlink()
    _change(folder.iterdir(), lambda tensor: tensor * 2)
    images = [text.partition(".")[0] for text, _ in said(dataset, folder)]
    assert images == [str(n + 1) for n in range(FIRST + 1)]


@pytest.mark.parametrize(
    ("order", "name"),
    [
        pytest.param([1, 2, 3, None], "shifted by one (each holds the next)", id="next"),
        pytest.param([1, 2, 3, 0], "shifted by one (each holds the next)", id="next-around"),
        pytest.param([None, 0, 1, 2], "shifted by one (each holds the one before)", id="before"),
        pytest.param([3, 2, 1, 0], "in reversed order", id="reversed"),
        pytest.param([0, 0, 0, 0], "all images are 1.png", id="first-repeated"),
        pytest.param([3, 3, 3, 3], "all images are 4.png", id="last-repeated"),
        pytest.param([0, 1, 2, 3], "", id="right"),
        pytest.param([None, None, None, None], "", id="foreign"),
    ],
)
def test_a_wrong_order_is_named(order: list[int | None], name: str, dataset: Dataset) -> None:
    """Inputs of other images of the set are told from inputs of none, in half precision too."""
    own = [
        preprocess(sample.path, SMALL).tensor.astype(np.float16).astype(np.float32)
        for sample in dataset.samples
    ]
    foreign = np.random.default_rng(1).standard_normal(SMALL.input_shape, np.float32)
    thumbnails = [thumbnail(foreign if i is None else own[i]) for i in order]
    found = diagnose_order(dataset.samples, thumbnails, SMALL)
    assert ("" if found is None else found.name).endswith(name)
    assert (found is None) == (name == "")


def test_thumbnails_of_scenes_differ() -> None:
    """No two embedded images share a thumbnail, or an order could not be seen."""
    thumbnails = np.stack([thumbnail(tensor) for tensor in fixture.sample_inputs(6, D0)])
    apart = np.linalg.norm((thumbnails[:, None] - thumbnails).reshape(6, 6, -1), axis=2)
    assert (apart[~np.eye(6, dtype=bool)] > 1).all()
