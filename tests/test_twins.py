"""Tests for `effd0.twins`: no image passes with the detections of another."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from effd0.data.coco import Sample, load_coco
from effd0.detection.postprocess import Detections
from effd0.errors import EvaluationError
from effd0.twins import DISTINCT, check_twins, twin_key

from .helpers import SMALL, write_coco
from .scored import Found


@pytest.fixture
def samples(tmp_path: Path) -> tuple[Sample, ...]:
    """Three pictures that differ."""
    return load_coco(write_coco(tmp_path)).samples


def detections(seed: int, count: int = 20) -> Detections:
    """Return what a network might find: no two scores alike."""
    rng = np.random.default_rng(seed)
    scores = np.sort(rng.random(count, np.float32))[::-1]
    return Detections(rng.random((count, 4), np.float32), scores, rng.integers(1, 90, count))


def found_of(samples: tuple[Sample, ...]) -> Found:
    """Return detections of each of *samples*, all different."""
    return {sample.image_id: detections(n) for n, sample in enumerate(samples)}


def keys_of(found: Found) -> dict[int, bytes]:
    """Return the keys by image id."""
    return {id_: twin_key(one) for id_, one in found.items()}


def test_images_with_results_of_their_own_are_taken(samples: tuple[Sample, ...]) -> None:
    """Scores that differ in one last bit are not the same."""
    found = found_of(samples)
    scores = found[10].scores.copy()
    scores[3] = np.nextafter(scores[3], np.float32(0))
    found[30] = Detections(found[10].boxes, scores, found[10].classes)
    check_twins(samples, keys_of(found), SMALL)


def test_the_results_of_another_image_are_refused(samples: tuple[Sample, ...]) -> None:
    """Both images are named; boxes may have been scaled to another size."""
    found = found_of(samples)
    found[30] = Detections(2 * found[10].boxes, found[10].scores, found[10].classes)
    message = r"images 10 \(1\.png\) and 30 \(3\.png\) differ, but their detections have the same"
    with pytest.raises(EvaluationError, match=message):
        check_twins(samples, keys_of(found), SMALL)


def test_a_picture_that_is_there_twice_may_have_twins(samples: tuple[Sample, ...]) -> None:
    """The same picture rightly shows the same."""
    shutil.copy(samples[0].path, samples[2].path)
    found = found_of(samples)
    found[30] = found[10]
    check_twins(samples, keys_of(found), SMALL)


def test_a_few_scores_may_agree_by_chance(samples: tuple[Sample, ...]) -> None:
    """Nothing found, or full marks for all, is no fingerprint."""
    few = detections(0, DISTINCT - 1)
    ones = Detections(np.zeros((50, 4), np.float32), np.ones(50, np.float32), np.ones(50, int))
    for alike in (few, ones, detections(0, 0)):
        check_twins(samples, dict.fromkeys((10, 20, 30), twin_key(alike)), SMALL)
    with pytest.raises(EvaluationError):
        check_twins(samples, dict.fromkeys((10, 20, 30), twin_key(detections(0, DISTINCT))), SMALL)
