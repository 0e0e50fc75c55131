"""Tests for `effd0.metrics.coverage`: no image is missing, foreign, repeated or another's."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from effd0.data.coco import Dataset, load_coco
from effd0.detection.postprocess import Detections
from effd0.errors import EvaluationError
from effd0.metrics.coverage import DISTINCT_SCORES, check_complete, check_repeats
from tests.helpers import SMALL, write_coco
from tests.helpers.results import Found, drawn_scenes


@pytest.mark.parametrize(
    ("image_ids", "message"),
    [
        pytest.param(
            [1, 3],
            r"cover 2 images, but the dataset has 3: 1 are missing \[2\], 0 are foreign \[\]",
            id="missing",
        ),
        pytest.param(
            [1, 2, 3, 5],
            r"cover 4 images, but the dataset has 3: 0 are missing \[\], 1 are foreign \[5\]",
            id="foreign",
        ),
        pytest.param(
            [1, 2, 3, 2], r"of 1 images came more than once \[2\], but each counts", id="repeated"
        ),
    ],
)
def test_images_that_are_not_those_of_the_dataset_are_refused(
    image_ids: list[int], message: str
) -> None:
    """A run that lost images, is of other images, or has one twice, gets no score."""
    with pytest.raises(EvaluationError, match=message):
        check_complete(drawn_scenes(0, 3), image_ids)


def detections(seed: int, count: int = 20) -> Detections:
    """Return what a network might find: no two scores alike."""
    rng = np.random.default_rng(seed)
    scores = np.sort(rng.random(count, np.float32))[::-1]
    return Detections(rng.random((count, 4), np.float32), scores, rng.integers(1, 90, count))


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Three pictures that differ, with ids 10, 20 and 30."""
    return load_coco(write_coco(tmp_path))


def _one_bit_apart(one: Detections) -> Detections:
    scores = one.scores.copy()
    scores[3] = np.nextafter(scores[3], np.float32(0))
    return replace(one, scores=scores)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(detections(0), _one_bit_apart, id="one-bit-apart"),
        # Nothing found, or full marks for all, identifies no image.
        pytest.param(detections(0, DISTINCT_SCORES - 1), lambda one: one, id="few-scores"),
        pytest.param(
            replace(detections(0), scores=np.ones(20, np.float32)), lambda one: one, id="all-one"
        ),
    ],
)
def test_images_with_results_of_their_own_pass(
    one: Detections, other: Callable[[Detections], Detections], dataset: Dataset
) -> None:
    """A few scores may agree by chance, and many differ in one last bit."""
    check_repeats(dataset, {10: one, 20: detections(1), 30: other(one)}, SMALL)


def test_the_results_of_another_image_are_refused(dataset: Dataset) -> None:
    """Both images are named; boxes may have been scaled to another size."""
    one = detections(0, DISTINCT_SCORES)
    found: Found = {10: one, 20: detections(1), 30: replace(one, boxes=2 * one.boxes)}
    message = r"images 10 \(1\.png\) and 30 \(3\.png\) differ, but their detections have the same"
    with pytest.raises(EvaluationError, match=message):
        check_repeats(dataset, found, SMALL)


def test_a_picture_that_is_stored_twice_may_have_the_same_results(dataset: Dataset) -> None:
    """The same picture rightly shows the same."""
    shutil.copy(dataset.samples[0].path, dataset.samples[2].path)
    check_repeats(dataset, {10: detections(0), 20: detections(1), 30: detections(0)}, SMALL)
