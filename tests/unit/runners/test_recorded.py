"""Results made elsewhere, asked as any runner is."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from effd0.data.coco import Dataset
from effd0.data.preprocess import preprocess
from effd0.errors import RunnerError
from effd0.runners.recorded import RecordedRunner, digest_of
from effd0.types import Tensor
from tests.helpers import SMALL
from tests.helpers.results import coco_of, heads_of, write_bins, write_results, write_summary

STEMS = ("1", "2", "3")


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Three images of noise."""
    return coco_of(tmp_path / "coco", [f"{stem}.png" for stem in STEMS])


@pytest.fixture
def bins(dataset: Dataset, tmp_path: Path) -> Path:
    """The inputs of `dataset`."""
    return write_bins(tmp_path / "bins", dataset)


@pytest.fixture
def folder(bins: Path, tmp_path: Path) -> Path:  # noqa: ARG001  # results are younger than inputs
    """Synthetic results of the three inputs."""
    return write_results(tmp_path / "result", STEMS, "input-n")


@pytest.fixture
def images(dataset: Dataset) -> Tensor:
    """The three inputs as one batch."""
    return np.stack(
        [preprocess(sample.path, SMALL).tensor.astype(np.float32) for sample in dataset.samples]
    )


@pytest.mark.parametrize("rows", [[0], [2, 0], [1, 1, 2, 0]], ids=str)
def test_rows_have_the_heads_of_their_input(
    rows: list[int], folder: Path, bins: Path, images: Tensor
) -> None:
    """In any order, any number and more than once: an input is known by its fingerprint."""
    with RecordedRunner(folder, SMALL, bins=bins) as runner:
        heads = runner.infer({SMALL.input_name: images[rows]})
    assert list(heads) == list(SMALL.output_names)
    for name, head in heads.items():
        wanted = np.concatenate([heads_of(row)[name] for row in rows])
        assert np.array_equal(head, wanted), name


def test_inputs_of_pixels_are_known_too(dataset: Dataset, tmp_path: Path) -> None:
    """Of a model that normalises by itself, the recorded input is uint8, and so is the feed."""
    bins = write_bins(tmp_path / "pixels", dataset, dtype="uint8")
    folder = write_results(tmp_path / "result", STEMS, "input-n")
    pixels = preprocess(dataset.samples[1].path, SMALL, normalized=False).tensor
    with RecordedRunner(folder, SMALL, bins=bins) as runner:
        assert runner.inputs[0].shape == (None, 128, 128, 3)
        heads = runner.infer({SMALL.input_name: pixels[None]})
    assert np.array_equal(heads["box_p3"], heads_of(1)["box_p3"])


def test_inputs_of_rows_and_columns_are_known_too(dataset: Dataset, tmp_path: Path) -> None:
    """Of another number of classes, with no square for an input, each row has its own heads."""
    spec = replace(SMALL, image_size=(128, 256), num_classes=4)
    bins = write_bins(tmp_path / "oblong", dataset, spec)
    folder = write_results(tmp_path / "result", STEMS, "whole-stem", order=range(10), spec=spec)
    images = [preprocess(dataset.samples[n].path, spec).tensor for n in (2, 0)]
    with RecordedRunner(folder, spec, bins=bins) as runner:
        assert runner.inputs[0].shape == (None, 3, 128, 256)
        heads = runner.infer({spec.input_name: np.stack(images)})
    for name, head in heads.items():
        wanted = np.concatenate([heads_of(n, spec)[name] for n in (2, 0)])
        assert np.array_equal(head, wanted), name


def test_unknown_rows_are_refused(folder: Path, bins: Path, images: Tensor) -> None:
    """The message says which row, and whose inputs the folder knows."""
    images[1, 0, 0, 0] += 1
    message = rf"row 1 \(sha256 \w{{12}}\) is none of the 3 inputs that {folder} has results of"
    with (
        RecordedRunner(folder, SMALL, bins=bins) as runner,
        pytest.raises(RunnerError, match=message),
    ):
        runner.infer({SMALL.input_name: images})


def test_the_copy_beside_the_results_serves(folder: Path, bins: Path, images: Tensor) -> None:
    """Results of 'effd0 infer' carry their manifest; the inputs need not be at hand."""
    shutil.copy(bins / "manifest.json", folder.parent / "result_manifest.json")
    shutil.rmtree(bins)
    samples = [[f"bins/{stem}.bin"] for stem in STEMS]
    path = folder.parent / "result_summary.json"
    write_summary(path, samples, effd0={"runner": "ACL, 310P3"})
    with RecordedRunner(folder, SMALL) as runner:
        assert runner.description == f"results in {folder}, by ACL, 310P3"
        heads = runner.infer({SMALL.input_name: images[:1]})
    assert np.array_equal(heads["class_p7"], heads_of(0)["class_p7"])


def test_without_a_manifest_nothing_is_known(folder: Path) -> None:
    """The message says which option would help."""
    with pytest.raises(RunnerError, match=r"has no manifest of its inputs beside it; .* --bins"):
        RecordedRunner(folder, SMALL).__enter__()


def test_results_of_another_tool_are_known_by_digests(images: Tensor, tmp_path: Path) -> None:
    """Without any manifest, fingerprints that the caller took say whose row is whose."""
    folder = write_results(tmp_path / "result", STEMS, "whole-stem")
    digests = {stem: digest_of(image) for stem, image in zip(STEMS, images, strict=True)}
    with RecordedRunner(folder, SMALL, digests=digests) as runner:
        assert runner.inputs[0].dtype == np.float32
        heads = runner.infer({SMALL.input_name: images[[2, 0]]})
    for name, head in heads.items():
        assert np.array_equal(head, np.concatenate([heads_of(n)[name] for n in (2, 0)])), name
