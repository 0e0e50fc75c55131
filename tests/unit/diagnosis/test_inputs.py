"""Faults of network inputs, planted by other code than that which names them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from effd0.data.coco import Dataset, load_coco
from effd0.data.preprocess import preprocess
from effd0.diagnosis import images, inputs
from effd0.errors import ResultError
from effd0.spec import D0, SPECS
from effd0.tensors.inputs import MANIFEST
from effd0.types import Floats, Tensor, Tensors
from tests.faults.inputs import MISTAKES, boxed, decoded, normal, planted
from tests.helpers import SMALL, TINY, coco_content, noise, write_coco
from tests.helpers.results import write_bins


def photo(folder: Path, size: tuple[int, int] = (300, 220)) -> Path:
    """Write a JPEG of noise of *size* that is to be turned; return its path."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = folder / f"{size[0]}x{size[1]}.jpg"
    Image.fromarray(noise(size)).save(path, exif=exif)
    return path


@pytest.mark.parametrize("name", MISTAKES)
def test_each_fault_is_named(name: str, tmp_path: Path) -> None:
    """A fault that others make with an image comes out by its name, wide or high."""
    for size in ((300, 220), (219, 301)):
        path = photo(tmp_path, size)
        found = inputs.diagnose_input(path, planted(name, path, SMALL.image_size[0]), SMALL)
        assert found is not None
        assert found.name == name


def test_every_fault_in_the_catalogue_is_planted() -> None:
    """No name is in the table that the tests do not see come out."""
    assert {hypothesis.name for hypothesis in inputs.input_hypotheses(D0)} == MISTAKES.keys()


def test_the_fill_of_the_sibling_is_named(tmp_path: Path) -> None:
    """The model fed from -1 to 1 on black names the recipe's fill as the fault it is there."""
    path, spec = photo(tmp_path), replace(SPECS["tf_efficientdet_d0_ap"], image_size=(128, 128))
    tensor = (boxed(decoded(path), 128) / 127.5 - 1).transpose(2, 0, 1).astype(np.float32)
    found = inputs.diagnose_input(path, tensor, spec)
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
    assert (
        inputs.diagnose_input(path, own.astype(np.float16 if half else np.float32), SMALL) is None
    )


def _one_level_off(own: Floats) -> Floats:
    steps = np.random.default_rng(0).integers(-1, 2, own.shape)
    return (own + steps / np.float32(255 * 0.225)).astype(np.float32)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(
            lambda own: np.random.default_rng(0).standard_normal(own.shape, "f4"), id="noise"
        ),
        pytest.param(_one_level_off, id="one-level-off"),
        pytest.param(lambda own: np.where(own > 2, np.nan, own), id="nan"),
        pytest.param(lambda own: np.roll(own, 3, 1), id="three-rows-down"),
    ],
)
def test_what_fits_no_fault_has_no_name(make: Callable[[Floats], Floats], tmp_path: Path) -> None:
    """A diagnosis is tested, not guessed: where no fault takes the error away, there is none."""
    path = photo(tmp_path)
    own = preprocess(path, SMALL).tensor.astype(np.float32)
    assert inputs.diagnose_input(path, make(own), SMALL) is None


def test_an_input_of_another_shape_is_refused(tmp_path: Path) -> None:
    """Shapes are not guessed at either."""
    with pytest.raises(ResultError, match=r"is \(128, 128, 3\), but \(3, 128, 128\) was wanted"):
        inputs.diagnose_input(photo(tmp_path, (9, 9)), np.zeros((128, 128, 3), np.float32), SMALL)


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
def picture(tmp_path_factory: pytest.TempPathFactory) -> inputs.ImageFile:
    """A wide picture of noise, larger than the input, so that it is resized and filled up."""
    path = tmp_path_factory.mktemp("photo") / "image.png"
    Image.fromarray(noise((300, 220))).save(path)
    return inputs.ImageFile(path, TINY)


@pytest.mark.parametrize(
    "name",
    [
        "not normalised (0..255)",
        "RGB/BGR swapped",
        "RGB/BGR swapped in the picture, not in the fill",
        "centred letterbox",
        "bilinear resampling without antialias",
    ],
)
def test_the_fault_before_the_model_is_named(name: str, picture: inputs.ImageFile) -> None:
    """The one fault of the input that gives these heads, also where they are rounded."""
    (hypothesis,) = [h for h in inputs.input_hypotheses(TINY) if h.name == name]
    heads = infer(np.ascontiguousarray(hypothesis.apply(picture), np.float32)[None])
    half = {head: value.astype(np.float16).astype(np.float32) for head, value in heads.items()}
    for given_, left in ((heads, 0), (half, 2e-3)):
        found = inputs.diagnose_input_of(picture.path, given_, infer, TINY)
        assert found is not None
        assert (found.name, found.explanation) == (f"input {name}", hypothesis.inverse)
        assert found.error_after <= left < 1e-2 < found.error_before


def test_what_a_model_expects_is_of_a_fault_that_is_known() -> None:
    """Each fault that is named from the model's side is in the catalogue under that name."""
    assert inputs.EXPECTED.keys() <= {one.name for one in inputs.input_hypotheses(D0)}


def test_other_heads_are_no_fault_of_the_input(picture: inputs.ImageFile) -> None:
    """Right heads, heads that no fault explains, and one wrong head among right ones."""
    right, swapped = infer(picture.tensor[None]), infer(picture.tensor[None, ::-1])
    rng = np.random.default_rng(1)
    other = {
        n: (h.std() * rng.standard_normal(h.shape)).astype(np.float32) for n, h in right.items()
    }
    nan = {name: np.where(head > 0, np.nan, head) for name, head in right.items()}
    runs: list[int] = []

    def counted(tensor: Tensor) -> Tensors:
        runs.append(len(tensor))
        return infer(tensor)

    for heads in (right, nan, other, {**right, "class_p6": swapped["class_p6"]}):
        runs.clear()
        assert inputs.diagnose_input_of(picture.path, heads, counted, TINY) is None
        # No fault is tried where nothing is wrong, or where heads overflowed.
        assert (len(runs) == 1) == (heads is right or heads is nan)


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
    return [
        (fault.evidence, fault.diagnosis)
        for fault in inputs.faults_of_inputs(dataset, folder, SMALL)
    ]


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


def test_a_fault_names_images_values_and_cause(dataset: Dataset, bins: Path) -> None:
    """Which images, how far off, and what explains it; a NaN has no name and is a fault."""
    _change([bins / "2.bin"], lambda tensor: tensor[::-1])
    _change([bins / "3.bin"], lambda tensor: np.where(np.arange(128) == 3, np.nan, tensor))
    (fault,) = inputs.faults_of_inputs(dataset, bins, SMALL)
    assert fault.evidence.startswith(
        "inputs of 2 of 4 images differ (2.png, 3.png): neighbours in file order, 2.png to 3.png; "
        "2.png: the largest difference is "
    )
    assert fault.diagnosis.startswith("RGB/BGR swapped: the error falls from ")
    swapped, nan = fault.details
    assert "; RGB/BGR swapped: the error falls from " in swapped
    assert nan.startswith("3.png: the largest difference is nan at (0, 0, 3), nan where ")
    assert nan.endswith("(allowed: 1e-05); 0.8% of the values are not finite")


def test_pixels_are_diagnosed_too(dataset: Dataset, tmp_path: Path) -> None:
    """Inputs for a model that normalises by itself have the same faults."""
    folder = write_bins(tmp_path / "bins", dataset, dtype="uint8")
    (folder / MANIFEST).unlink()
    for file in folder.iterdir():
        np.fromfile(file, np.uint8).reshape(-1, 3)[:, ::-1].tofile(file)
    (fault,) = inputs.faults_of_inputs(dataset, folder, SMALL)
    assert ["; RGB/BGR swapped" in line for line in fault.details] == [True] * 4


def test_missing_and_foreign_inputs_are_faults(dataset: Dataset, bins: Path) -> None:
    """Every image has its input, and every input its image, unless the run is limited."""
    limited = load_coco(dataset.annotation_file.parents[1], image_limit=2)
    assert said(limited, bins) == []
    (bins / "2.bin").rename(bins / "cat.bin")
    assert said(dataset, bins) == [
        ("1 of 4 images have no input: 2", ""), ("1 of 4 inputs are of no image: cat", "")
    ]  # fmt: skip


def test_stale_inputs_are_found_beside_their_manifest(dataset: Dataset, tmp_path: Path) -> None:
    """Inputs of a picture that has changed since are wrong, though their manifest is whole."""
    folder = write_bins(tmp_path / "bins", dataset)
    Image.fromarray(noise((40, 30), seed=99)).save(dataset.samples[0].path)
    ((text, _),) = said(dataset, folder)
    assert text.startswith("inputs of 1 of 4 images differ (1.png); 1.png: the largest difference ")
    assert "(allowed: 0)" in text


def test_every_image_is_compared(tmp_path: Path) -> None:
    """One wrong input among thirty is found, wherever it is, with the progress of all."""
    dataset = load_coco(write_coco(tmp_path / "coco", coco_content(images=30)))
    folder = write_bins(tmp_path / "bins", dataset)
    (folder / MANIFEST).unlink()
    _change([folder / "23.bin"], lambda tensor: tensor * 2)
    done: list[int] = []

    @contextlib.contextmanager
    def counted(_what: str, total: int) -> Iterator[Callable[[int], None]]:
        yield done.append
        assert sum(done) == total == len(dataset.samples)

    (fault,) = inputs.faults_of_inputs(dataset, folder, SMALL, counted)
    assert fault.evidence.startswith("inputs of 1 of 30 images differ (23.png); 23.png: ")


#: Places of images that inputs hold -> the name of that order; None is an image of no data set.
ORDERS = {
    "next": ([1, 2, 3, None], "images shifted by one (each holds the next)"),
    "before": ([None, 0, 1, 2], "images shifted by one (each holds the one before)"),
    "next-round": ([1, 2, 3, 0], "images shifted by one (each holds the next)"),
    "reversed": ([3, 2, 1, 0], "images in reversed order"),
    "first-repeated": ([0, 0, 0, 0], "all images are 1.png"),
    "two-exchanged": ([0, 3, 2, 1], "images exchanged"),
    "rotated": ([0, 2, 3, 1], "images rotated within a batch of 3"),
    "mixed-up": ([2, 3, 1, 0], "images mixed up"),
    "foreign": ([None, None, None, None], ""),
}


@pytest.mark.parametrize(("order", "name"), ORDERS.values(), ids=ORDERS)
def test_a_wrong_order_is_named(
    order: list[int | None], name: str, dataset: Dataset, bins: Path
) -> None:
    """Inputs of other images of the set are told from inputs of none."""
    contents = [(bins / f"{n}.bin").read_bytes() for n in (1, 2, 3, 4)]
    foreign = np.random.default_rng(1).standard_normal(SMALL.input_shape, np.float32).tobytes()
    for n, place in enumerate(order, 1):
        (bins / f"{n}.bin").write_bytes(foreign if place is None else contents[place])
    ((_, cause),) = said(dataset, bins)
    assert cause.partition(": ")[0] == name


@pytest.mark.parametrize(
    ("write", "name"),
    [
        pytest.param(lambda own: own.astype(">f4"), "big-endian values", id="big-endian"),
        pytest.param(
            lambda own: np.stack([own, own]).astype("<f2"), "float16 values", id="two-in-float16"
        ),
    ],
)
def test_bytes_of_another_type_are_named(
    write: Callable[[Floats], Floats], name: str, dataset: Dataset, bins: Path
) -> None:
    """What was written in another order of bytes or type is right once it is read so."""
    file = bins / "2.bin"
    write(np.fromfile(file, "<f4").reshape(SMALL.input_shape)).tofile(file)
    ((_, cause),) = said(dataset, bins)
    assert cause.startswith(f"{name}: the error falls from ")


def _stretched(own: Floats) -> Floats:
    """The picture, grown by one part in fifty from the corner at the top left."""
    places = (np.arange(own.shape[1]) / 1.02).astype(int)
    return own[:, places][:, :, places]


PATTERNS: dict[str, tuple[Callable[[Floats], Floats], str]] = {
    "zeros": (np.zeros_like, "every value is 0"),
    "offset": (lambda own: own + np.float32(0.5), "in all channels, a constant offset of 0.5, "),
    "one-channel": (
        lambda own: own + np.array([[[0]], [[0.1]], [[0]]], np.float32),
        "in G only, a constant offset of 0.1",
    ),
    "noise": (
        lambda own: own + noise((128, 128)).transpose(2, 0, 1) * np.float32(0.001),
        "in all channels, everywhere",
    ),
    "fill": (
        lambda own: np.where(np.arange(128)[:, None] >= 96, own + np.float32(1), own),
        "in all channels, outside the picture only",
    ),
    "stretched": (_stretched, "growing down and to the right (a scale)"),
    "blurred": (
        lambda own: (own + np.roll(own, 1, 2)) / np.float32(2), "in all channels, at edges"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "said"), PATTERNS.values(), ids=PATTERNS)
def test_the_pattern_of_an_unnamed_fault_is_said(
    change: Callable[[Floats], Floats], said: str, tmp_path: Path
) -> None:
    """Channels, places and growth of the difference are those of what was done to the picture."""
    rows, columns = np.mgrid[:300, :400]
    waves = 128 + 60 * np.sin(rows / 19) + 60 * np.sin(columns / 23)
    squares = np.where((rows // 50 + columns // 50) % 2, waves, 30).astype(np.uint8)
    path = tmp_path / "image.png"
    picture = squares if said.endswith("at edges") else waves.astype(np.uint8)
    Image.fromarray(np.repeat(picture[..., None], 3, axis=2)).save(path)
    own = preprocess(path, SMALL).tensor.astype(np.float32)
    assert said in inputs.pattern(path, change(own), SMALL)


# What the wrong images have in common.


PORTRAIT, GRAY = {2, 7}, {4, 9}


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Forty images: the third and eighth are portraits, the fifth and tenth grayscale."""
    content = coco_content(40)
    for n in PORTRAIT:
        content["images"][n].update(width=30, height=40)
    dataset = load_coco(write_coco(tmp_path_factory.mktemp("album"), content))
    for n in GRAY:
        with Image.open(dataset.samples[n].path) as image:
            image.convert("L").save(dataset.samples[n].path)
    return dataset


@pytest.mark.parametrize(
    ("wrong", "shared"),
    [
        pytest.param({11, 12, 13}, "neighbours in file order, 12.png to 14.png", id="neighbours"),
        pytest.param(
            {*range(32, 40)}, "neighbours in file order, 33.png to 40.png, the last of all",
            id="the-last-batch",
        ),
        pytest.param(PORTRAIT, "all are portrait", id="portrait"),
        pytest.param(GRAY, "all are grayscale", id="grayscale"),
        pytest.param(GRAY | {30}, "", id="gray-and-another"),
        pytest.param({*range(3, 38, 3)} - {9}, "", id="nothing"),
        pytest.param({17}, "", id="one-image"),
        pytest.param({*range(40)}, "", id="all-images"),
    ],
)  # fmt: skip
def test_what_wrong_images_share_is_said(wrong: set[int], shared: str, album: Dataset) -> None:
    """It is said where all wrong images have it and few others."""
    bad = [album.samples[n] for n in sorted(wrong)]
    assert images.in_common(bad, album.samples, {}) == shared


def test_files_of_another_run_or_device_are_said(album: Dataset, tmp_path: Path) -> None:
    """Files that a later run wrote, or one device of several, are what their images share."""
    files, wrong = {}, [album.samples[n] for n in (3, 10, 30)]
    for n, sample in enumerate(album.samples):
        late = sample in wrong
        path = tmp_path / f"device{int(late)}" / f"{sample.path.stem}_0.bin"
        path.parent.mkdir(exist_ok=True)
        path.touch()
        os.utime(path, (n, 7200 + n if late else n))
        files[sample.path.stem] = path
    assert images.in_common(wrong, album.samples, files) == (
        "all are in device1; their files were written 7164 s after those of all others"
    )
