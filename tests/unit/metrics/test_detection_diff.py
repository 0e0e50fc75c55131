"""Tests for `effd0.metrics.detection_diff`: detections of two runs, paired."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from effd0.data.coco import Dataset, load_coco
from effd0.detection.postprocess import Detections
from effd0.errors import EvaluationError
from effd0.metrics.detection_diff import (
    DISTINCT_SCORES,
    check_repeats,
    detection_parity,
    match_detections,
)
from tests.helpers import SMALL, write_coco
from tests.suite.truth import NOTHING, made

SQUARE = (0, 0, 10, 10)
#: SQUARE shifted by 1, 2 and 4 pixels: IoU 9/11, 8/12, 6/14.
BY_1, BY_2, BY_4 = ((n, 0, 10 + n, 10) for n in (1, 2, 4))


def drawn(rng: np.random.Generator, count: int) -> Detections:
    """Return detections on a coarse grid, so that many IoUs and scores tie."""
    corner, size = rng.integers(0, 3, (count, 2)) * 4, rng.integers(0, 3, (count, 2)) * 6 + 4
    scores = rng.integers(1, 4, count) / 4
    return made([(*c, *(c + s), p, k) for c, s, p, k in zip(
        corner, size, scores, rng.integers(1, 3, count), strict=True
    )])  # fmt: skip


def test_the_highest_iou_goes_first() -> None:
    """A detection goes to the nearest box, not to the one of the highest score."""
    reference = made([(*SQUARE, 0.9, 1)])
    matched = match_detections(reference, made([(*BY_2, 0.95, 1), (*BY_1, 0.5, 1)]))
    assert (matched.reference.tolist(), matched.candidate.tolist()) == ([0], [1])
    assert matched.ious == pytest.approx([9 / 11])
    # Scores are float32, with half a unit of 6e-8 near 0.5.
    assert matched.score_differences == pytest.approx([-0.4], abs=1e-7)
    assert matched.extra == pytest.approx([0.95])


@pytest.mark.parametrize(
    "other",
    [(*SQUARE, 0.9, 2), (*BY_4, 0.9, 1), (5, 5, 5, 5, 0.9, 1)],
    ids=["other-class", "too-little-overlap", "no-area"],
)
def test_what_shows_something_else_is_not_matched(other: tuple[float, ...]) -> None:
    """Both are listed, each on its side, and the higher score is at stake."""
    matched = match_detections(made([(*SQUARE, 0.25, 1)]), made([other]))
    assert matched.ious.size == 0
    assert (matched.missing.tolist(), matched.extra.tolist()) == ([0.25], [np.float32(0.9)])
    assert matched.worst == np.float32(0.9)


@given(st.integers(0, 10**6), st.integers(0, 12), st.integers(0, 12))
def test_swapping_the_sides_swaps_the_result(seed: int, left: int, right: int) -> None:
    """Whatever ties, neither side is preferred; each detection is in one pair or left over."""
    rng = np.random.default_rng(seed)
    one, other = drawn(rng, left), drawn(rng, right)
    there, back = match_detections(one, other), match_detections(other, one)
    assert set(zip(there.reference.tolist(), there.candidate.tolist(), strict=True)) == set(
        zip(back.candidate.tolist(), back.reference.tolist(), strict=True)
    )
    assert there.missing.tolist() == back.extra.tolist()
    assert len(set(there.reference.tolist())) + there.missing.size == left
    assert len(set(there.candidate.tolist())) + there.extra.size == right
    assert (one.classes[there.reference] == other.classes[there.candidate]).all()


def test_the_summary_counts_and_names_the_worst_images() -> None:
    """Counts are over all images, the worst image comes first, the same ones are left out."""
    reference = {n: made([(*SQUARE, 0.5, 1)]) for n in (3, 1, 7, 8)}
    candidate = reference | {
        1: made([(*BY_1, 0.75, 1)]),
        7: NOTHING,
        8: made([(*SQUARE, 0.5, 1), (*SQUARE, 0.125, 2)]),
    }
    parity = detection_parity(reference, candidate)
    assert (parity.images, parity.matched, parity.missing, parity.extra) == (4, 3, 1, 1)
    assert parity.worst == ((7, 0.5), (1, 0.25), (8, 0.125))
    assert parity.score_difference is not None
    assert parity.iou is not None
    assert (parity.score_difference[0], parity.score_difference[2]) == (0, 0.25)
    assert parity.iou[0] == 1
    assert parity.iou[2] == pytest.approx(9 / 11, abs=1e-7)  # float32
    assert str(parity) == (
        "3 detections of 4 images matched, 1 missing, 1 extra; scores differ by 0 in the median "
        "and 0.25 at most, IoU is 1.0000 in the median and 0.8182 at least; "
        "worst images: 7 (0.5), 1 (0.25), 8 (0.12)"
    )


def test_other_images_are_refused() -> None:
    """Detections are compared image by image, so both sides need the same."""
    with pytest.raises(EvaluationError, match=r"has 2 images, but the reference 1; 1 .* \[2\]"):
        detection_parity({1: NOTHING}, {1: NOTHING, 2: NOTHING})


def detections(seed: int, count: int = 20) -> Detections:
    """Return what a network might find: no two scores alike."""
    rng = np.random.default_rng(seed)
    scores = np.sort(rng.random(count, np.float32))[::-1]
    return Detections(rng.random((count, 4), np.float32), scores, rng.integers(1, 90, count))


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Three pictures that differ, with ids 10, 20 and 30."""
    return load_coco(write_coco(tmp_path))


def test_images_with_results_of_their_own_pass(dataset: Dataset) -> None:
    """A few scores may agree by chance, and many differ in one last bit."""
    one, few = detections(0), detections(0, DISTINCT_SCORES - 1)
    scores = one.scores.copy()
    scores[3] = np.nextafter(scores[3], np.float32(0))
    full = replace(one, scores=np.ones(20, np.float32))
    for first, third in ((one, replace(one, scores=scores)), (few, few), (full, full)):
        check_repeats(dataset, {10: first, 20: detections(1), 30: third}, SMALL)


def test_the_results_of_another_image_are_refused(dataset: Dataset) -> None:
    """Both images are named, also of other boxes; one picture stored twice shows the same."""
    one = detections(0, DISTINCT_SCORES)
    found = {10: one, 20: detections(1), 30: replace(one, boxes=2 * one.boxes)}
    message = r"images 10 \(1\.png\) and 30 \(3\.png\) differ, but their detections have the same"
    with pytest.raises(EvaluationError, match=message):
        check_repeats(dataset, found, SMALL)
    shutil.copy(dataset.samples[0].path, dataset.samples[2].path)
    check_repeats(dataset, found, SMALL)
