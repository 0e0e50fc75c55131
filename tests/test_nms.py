"""effd0.detection.boxes.nms: the laws of greedy suppression, and torchvision's answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import batched_nms

from effd0.detection.boxes import nms
from effd0.types import Boxes, Indices


@dataclass(frozen=True)
class Candidates:
    """Boxes by falling score, as `nms` takes them."""

    boxes: Boxes
    classes: Indices

    def iou(self, one: int, other: int) -> float:
        """Return the overlap of two boxes as the textbook has it; 0 where there is no area."""
        (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = self.boxes[[one, other]].tolist()
        width = max(0.0, min(ax2, bx2) - max(ax1, bx1))
        height = max(0.0, min(ay2, by2) - max(ay1, by1))
        union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - width * height
        return width * height / union if union else 0.0


@st.composite
def candidates(draw: st.DrawFn) -> Candidates:
    """Boxes on a coarse grid: many overlap, some exactly at the threshold, some have no area."""
    side = st.integers(0, 6)
    count = draw(st.integers(0, 24))
    rows = draw(st.lists(st.tuples(side, side, side, side), min_size=count, max_size=count))
    labels = draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    corners = np.array(rows, np.float32).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    return Candidates(corners, np.array(labels, np.int64))


# Fractions of two, so that float32 and float64 agree on whether a grid's IoU is above them.
THRESHOLDS = st.sampled_from([0.25, 0.5, 0.75])


@given(found=candidates(), threshold=THRESHOLDS)
def test_answer_is_that_of_torchvision(found: Candidates, threshold: float) -> None:
    """The kept indices and their order are those of ``batched_nms``, the reference's own."""
    scores = torch.arange(len(found.boxes), 0, -1, dtype=torch.float32)
    wanted = batched_nms(
        torch.from_numpy(found.boxes), scores, torch.from_numpy(found.classes), threshold
    )
    assert nms(found.boxes, found.classes, threshold, 100).tolist() == wanted.tolist()


@given(found=candidates(), threshold=THRESHOLDS)
def test_kept_boxes_of_a_class_do_not_overlap(found: Candidates, threshold: float) -> None:
    """No two survivors of a class are above the threshold; those of two classes may be."""
    kept = nms(found.boxes, found.classes, threshold, 100)
    for one in kept:
        for other in kept[kept > one]:
            same = found.classes[one] == found.classes[other]
            assert not same or found.iou(one, other) <= threshold


@given(found=candidates(), threshold=THRESHOLDS)
def test_whatever_goes_overlaps_a_better_kept_one(found: Candidates, threshold: float) -> None:
    """A box is removed only by a kept box of its class with a higher score."""
    kept = set(nms(found.boxes, found.classes, threshold, 100).tolist())
    for gone in set(range(len(found.boxes))) - kept:
        assert any(
            found.classes[one] == found.classes[gone] and found.iou(one, gone) > threshold
            for one in kept
            if one < gone
        )


@given(found=candidates(), limit=st.integers(1, 30))
def test_limit_takes_the_best(found: Candidates, limit: int) -> None:
    """A limited answer is the beginning of the unlimited one."""
    everything = nms(found.boxes, found.classes, 0.5, 100)
    assert nms(found.boxes, found.classes, 0.5, limit).tolist() == everything[:limit].tolist()


@given(found=candidates())
def test_highest_score_is_always_kept(found: Candidates) -> None:
    """Nothing can remove the first box; of nothing, nothing is kept."""
    kept = nms(found.boxes, found.classes, 0.5, 100)
    assert kept[:1].tolist() == list(range(len(found.boxes)))[:1]
    assert kept.dtype == np.int64


@pytest.mark.parametrize(
    ("second", "kept"),
    [
        pytest.param((0, 0, 2, 1), [0, 1], id="iou=1/2"),
        pytest.param((0, 0, 2, 1.001), [0], id="iou-just-above-1/2"),
        pytest.param((0, 0, 2, 2), [0], id="same-box"),
        pytest.param((2, 0, 4, 2), [0, 1], id="common-edge"),
        pytest.param((1, 1, 1, 1), [0, 1], id="point-inside"),
    ],
)
def test_threshold_itself_is_not_above_it(second: tuple[float, ...], kept: list[int]) -> None:
    """A box goes if its IoU is above the threshold, not if it is the threshold."""
    boxes = np.array([(0, 0, 2, 2), second], np.float32)
    assert nms(boxes, np.zeros(2, np.int64), 0.5, 100).tolist() == kept


def test_boxes_without_area_stay() -> None:
    """Two equal boxes of no area have no IoU, so that neither removes the other."""
    boxes = np.array([(3, 3, 3, 8)] * 2, np.float32)
    assert nms(boxes, np.zeros(2, np.int64), 0.5, 100).tolist() == [0, 1]


def test_same_box_of_two_classes_stays_twice() -> None:
    """Suppression ends at the border of a class."""
    boxes = np.array([(0, 0, 2, 2)] * 4, np.float32)
    assert nms(boxes, np.array([1, 0, 1, 0]), 0.5, 100).tolist() == [0, 1]
