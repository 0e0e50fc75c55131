"""Tests for `effd0.suspicions.folder`: the images behind the inputs, and their order."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effd0.data import fixture as embedded
from effd0.data.coco import Dataset, load_coco
from effd0.data.preprocess import preprocess
from effd0.errors import ResultError
from effd0.spec import D0, ModelSpec
from effd0.suspicions.folder import FIRST, faults_of_inputs
from effd0.suspicions.inputs import suspect_order, thumbnail
from effd0.tensors.inputs import write_inputs
from effd0.tensors.manifest import MANIFEST
from effd0.types import Floats

from .helpers import SMALL, coco_content, noise, write_coco
from .recordings import write_bins

CLONE = Path(__file__).parents[1]


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


def told(dataset: Dataset, folder: Path, spec: ModelSpec) -> list[str]:
    """The faults as a message shows them."""
    return [str(fault) for fault in faults_of_inputs(dataset, folder, spec)]


def _change(file: Path, change: Callable[[Floats], Floats]) -> None:
    change(np.fromfile(file, "<f4").reshape(SMALL.input_shape)).astype("<f4").tofile(file)


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
@pytest.mark.parametrize("with_manifest", [True, False], ids=["effd0", "another-tool"])
def test_right_inputs_have_no_fault(
    dtype: str, with_manifest: bool, dataset: Dataset, tmp_path: Path
) -> None:
    """What effd0 itself writes passes, whatever it holds, and whoever lost its manifest."""
    folder = write_bins(tmp_path / "bins", dataset, dtype=dtype)
    if not with_manifest:
        (folder / MANIFEST).unlink()
    assert told(dataset, folder, SMALL) == []


def test_other_arithmetic_is_no_fault(dataset: Dataset, bins: Path) -> None:
    """Dividing by 255 first, as most libraries do, is right too."""
    mean, std = (np.array(three)[:, None, None] for three in (SMALL.mean, SMALL.std))
    for sample in dataset.samples:
        pixels = preprocess(sample.path, SMALL, normalized=False).tensor.transpose(2, 0, 1)
        _change(bins / f"{sample.path.stem}.bin", lambda _, p=pixels: (p / 255 - mean) / std)  # type: ignore[misc]
    assert told(dataset, bins, SMALL) == []


def test_a_fault_names_image_values_and_mistake(dataset: Dataset, bins: Path) -> None:
    """One line tells which image, how far off, and what explains it."""
    _change(bins / "2.bin", lambda tensor: tensor[::-1])
    (fault,) = told(dataset, bins, SMALL)
    assert fault.startswith("2.png: the largest difference is ")
    assert "RGB/BGR swapped" in fault
    assert "red and blue are exchanged" in fault


def test_a_fault_without_a_name_is_still_a_fault(dataset: Dataset, bins: Path) -> None:
    """One element that is not a number fails its image, though no mistake explains it."""

    def spoil(tensor: Floats) -> Floats:
        tensor[1, 2, 3] = np.nan
        return tensor

    _change(bins / "3.bin", spoil)
    (fault,) = told(dataset, bins, SMALL)
    assert fault.startswith("3.png: the largest difference is nan at (1, 2, 3), nan where ")
    assert fault.endswith("(allowed: 1e-05)")


def test_pixels_are_suspected_too(dataset: Dataset, tmp_path: Path) -> None:
    """Inputs for a model that normalises by itself bear the same mistakes."""
    folder = write_bins(tmp_path / "bins", dataset, dtype="uint8")
    (folder / MANIFEST).unlink()
    for file in folder.iterdir():
        np.fromfile(file, np.uint8).reshape(-1, 3)[:, ::-1].tofile(file)
    faults = told(dataset, folder, SMALL)
    assert len(faults) == 4
    assert all("RGB/BGR swapped" in fault for fault in faults)


def test_missing_and_foreign_inputs_are_faults(dataset: Dataset, bins: Path) -> None:
    """Every image has its input, and every input its image."""
    (bins / "2.bin").rename(bins / "cat.bin")
    missing, foreign = told(dataset, bins, SMALL)
    assert missing == "1 of 4 images have no input: 2"
    assert foreign == "1 of 4 inputs are of no image: cat"


def test_inputs_beyond_the_limit_are_not_foreign(dataset: Dataset, bins: Path) -> None:
    """A limited run does not know the other images, and does not accuse their inputs."""
    limited = load_coco(dataset.annotation_file.parents[1], image_limit=2)
    assert told(limited, bins, SMALL) == []


def test_shifted_inputs_are_told_first(dataset: Dataset, bins: Path) -> None:
    """Where each file holds the next image, the first line says so."""
    contents = [(bins / f"{n}.bin").read_bytes() for n in (1, 2, 3, 4)]
    for n, content in zip((1, 2, 3, 4), [*contents[1:], contents[0]], strict=True):
        (bins / f"{n}.bin").write_bytes(content)
    faults = told(dataset, bins, SMALL)
    assert "images; images shifted by one (each holds the next)" in faults[0]
    assert len(faults) == 5


def test_stale_inputs_are_found_beside_their_manifest(dataset: Dataset, tmp_path: Path) -> None:
    """Inputs of a picture that has changed since are wrong, though their manifest is whole."""
    folder = write_bins(tmp_path / "bins", dataset)
    Image.fromarray(noise((40, 30), seed=99)).save(dataset.samples[0].path)
    (fault,) = told(dataset, folder, SMALL)
    assert fault.startswith("1.png: the largest difference is ")
    assert fault.endswith("(allowed: 0)")


def test_of_many_images_the_first_and_some_are_compared(tmp_path: Path) -> None:
    """A fault in every input comes out once for each image looked at: 20, and the 21st."""
    dataset = load_coco(write_coco(tmp_path / "coco", coco_content(images=30)))
    folder = write_bins(tmp_path / "bins", dataset)
    (folder / MANIFEST).unlink()
    for file in folder.iterdir():
        _change(file, lambda tensor: tensor * 2)
    faults = told(dataset, folder, SMALL)
    assert [fault.partition(".")[0] for fault in faults] == [str(n + 1) for n in range(FIRST + 1)]


def test_a_folder_without_inputs_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    """Nothing to compare is no agreement."""
    with pytest.raises(ResultError, match=r"holds no \.bin or \.npy"):
        told(dataset, tmp_path, SMALL)


@pytest.mark.parametrize(
    ("order", "name"),
    [
        pytest.param([1, 2, 3, None], "shifted by one (each holds the next)", id="next"),
        pytest.param([1, 2, 3, 0], "shifted by one (each holds the next)", id="next-around"),
        pytest.param([None, 0, 1, 2], "shifted by one (each holds the one before)", id="before"),
        pytest.param([3, 2, 1, 0], "in reversed order", id="reversed"),
        pytest.param([0, 0, 0, 0], "all images are 1.png", id="first-repeated"),
        pytest.param([3, 3, 3, 3], "all images are 4.png", id="last-repeated"),
        pytest.param([0, 1, 2, 3], None, id="right"),
        pytest.param([None, None, None, None], None, id="foreign"),
    ],
)
def test_a_wrong_order_is_named(
    order: list[int | None], name: str | None, dataset: Dataset
) -> None:
    """Inputs of other images of the set are told from inputs of none, in half precision too."""
    samples = dataset.samples
    rng = np.random.default_rng(1)
    own = [preprocess(sample.path, SMALL).tensor.astype(np.float16) for sample in samples]
    foreign = rng.standard_normal(SMALL.input_shape, np.float32)
    digests = [thumbnail(foreign if i is None else own[i].astype(np.float32)) for i in order]
    found = suspect_order(samples, digests, SMALL)
    assert (found is None) == (name is None)
    if found is not None and name is not None:
        assert name in found.name


def test_thumbnails_of_scenes_differ() -> None:
    """No two embedded images share a thumbnail, or an order could not be seen."""
    tensors = embedded.sample_inputs(6, D0)
    thumbnails = np.stack([thumbnail(tensor) for tensor in tensors])
    apart = np.linalg.norm((thumbnails[:, None] - thumbnails).reshape(6, 6, -1), axis=2)
    assert (apart[~np.eye(6, dtype=bool)] > 1).all()


@pytest.mark.slow
def test_the_suite_names_the_stage_and_the_mistake(dataset: Dataset, tmp_path: Path) -> None:
    """With --bins alone, right inputs pass, and wrong ones break the stage of preprocessing."""
    folder = tmp_path / "bins"
    list(write_inputs(dataset, folder, D0))
    (folder / MANIFEST).unlink()
    root = dataset.annotation_file.parents[1]
    given = (f"--bins={folder}", f"--coco={root}", f"--checkpoint={embedded.checkpoint()}")
    command = [sys.executable, "-m", "pytest", "-q", *given, "tests/artefact/test_inputs.py"]

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=CLONE, capture_output=True, text=True, check=False)

    right = run()
    assert right.returncode == 0, right.stdout
    file = folder / "1.bin"
    np.fromfile(file, "<f4").reshape(D0.input_shape)[::-1].tofile(file)
    wrong = run()
    assert wrong.returncode == pytest.ExitCode.TESTS_FAILED
    assert "FAIL  the first broken stage is preprocess" in wrong.stdout
    assert "evidence  1.png: the largest difference is" in wrong.stdout
    assert "RGB/BGR swapped: the error falls from" in wrong.stdout
