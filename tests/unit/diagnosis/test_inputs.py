"""Faults of network inputs, planted by other code than that which names them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from effd0.data.coco import Dataset, load_coco
from effd0.data.preprocess import preprocess
from effd0.diagnosis import inputs
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
        found = inputs.diagnose_input(path, planted(name, path, SMALL.image_size), SMALL)
        assert found is not None
        assert found.name == name


def test_every_fault_in_the_catalogue_is_planted() -> None:
    """No name is in the table that the tests do not see come out."""
    assert {hypothesis.name for hypothesis in inputs.input_hypotheses(D0)} == MISTAKES.keys()


def test_the_fill_of_the_sibling_is_named(tmp_path: Path) -> None:
    """The model fed from -1 to 1 on black names the recipe's fill as the fault it is there."""
    path, spec = photo(tmp_path), replace(SPECS["tf_efficientdet_d0_ap"], image_size=128)
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
    assert images == [str(n + 1) for n in range(inputs.FIRST + 1)]


@pytest.mark.parametrize(
    ("order", "name"),
    [
        pytest.param([1, 2, 3, None], "shifted by one (each holds the next)", id="next"),
        pytest.param([None, 0, 1, 2], "shifted by one (each holds the one before)", id="before"),
        pytest.param([3, 2, 1, 0], "in reversed order", id="reversed"),
        pytest.param([0, 0, 0, 0], "all images are 1.png", id="first-repeated"),
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
    thumbnails = [inputs.block_means(foreign if i is None else own[i]) for i in order]
    found = inputs.diagnose_order(dataset.samples, thumbnails, SMALL)
    assert ("" if found is None else found.name).endswith(name)
    assert (found is None) == (name == "")
