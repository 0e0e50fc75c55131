"""Tests for `effd0.detection.boxes`: regression and clipping (`test_nms` has the rest)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from effdet.anchors import clip_boxes_xyxy, decode_box_outputs
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import batched_nms

from effd0.detection.anchors import anchor_boxes
from effd0.detection.boxes import clip_boxes, decode_boxes, encode_boxes, nms
from effd0.spec import D0, ModelSpec
from effd0.types import Boxes, Floats, Indices
from tests.helpers import SMALL, TINY
from tests.helpers.reference import effdet_anchors

SEEDS = st.integers(0, 2**32 - 1)


def _anchors(rng: np.random.Generator, count: int = 500) -> Floats:
    anchors: Floats = anchor_boxes(D0)[rng.integers(0, D0.num_anchors, count)]
    return anchors


def _codes(rng: np.random.Generator, reach: float, count: int = 500) -> Floats:
    return rng.uniform(-reach, reach, (count, 4)).astype(np.float32)


@pytest.mark.parametrize(
    ("code", "box"),
    [
        pytest.param((0, 0, 0, 0), (20, 10, 60, 30), id="anchor-itself"),
        pytest.param((0.5, 0, 0, 0), (20, 20, 60, 40), id="down-by-half-its-height"),
        pytest.param((0, -0.25, 0, 0), (10, 10, 50, 30), id="left-by-a-quarter-of-its-width"),
        pytest.param((0, 0, np.log(2), 0), (20, 0, 60, 40), id="twice-as-high"),
        pytest.param((0, 0, 0, np.log(0.5)), (30, 10, 50, 30), id="half-as-wide"),
    ],
)
def test_code_moves_its_anchor(code: tuple[float, ...], box: tuple[float, ...]) -> None:
    """Each of ty, tx, th, tw does its own work on a yxyx anchor, and xyxy comes out."""
    anchor = np.array([(10, 20, 30, 60)], np.float32)
    decoded = decode_boxes(np.array([code], np.float32), anchor)
    # exp(log(2)) may be 2 but for its last bit, 4e-6 on corners below 64; measured 2026-11-23: 0.
    assert np.allclose(decoded, [box], rtol=0, atol=1e-5)


@given(seed=SEEDS)
def test_decoding_is_that_of_effdet(seed: int) -> None:
    """Every corner is the reference's but for the last bits of ``exp``."""
    rng = np.random.default_rng(seed)
    codes, anchors = _codes(rng, 2), _anchors(rng)
    wanted = decode_box_outputs(torch.tensor(codes), torch.tensor(anchors), output_xyxy=True)
    difference = np.abs(decode_boxes(codes, anchors) - wanted.numpy())
    # numpy and torch differ in the last bit of exp(), so that corners differ by parts of the
    # box's reach; measured 2026-11-23 over 10^6 boxes: 2.6e-7 of it.
    assert (difference <= 2e-6 * np.abs(wanted.numpy()).max(axis=1, keepdims=True)).all()


@given(seed=SEEDS)
def test_encoding_undoes_decoding(seed: int) -> None:
    """Codes come back from the boxes that they were decoded to."""
    rng = np.random.default_rng(seed)
    codes, anchors = _codes(rng, 2), _anchors(rng)
    back = encode_boxes(decode_boxes(codes, anchors), anchors)
    # A small box far from the origin loses digits; measured 2026-11-23 over 10^6: 1.9e-5.
    assert np.allclose(back, codes, rtol=0, atol=1e-4)


GEOMETRIES = st.tuples(st.tuples(st.integers(1, 6000), st.integers(1, 6000)), SEEDS)


@given(geometry=GEOMETRIES)
def test_clipping_is_that_of_effdet(geometry: tuple[tuple[int, int], int]) -> None:
    """The border is where the picture ends in the input, to the reference's last bit."""
    size, seed = geometry
    scale = max(size) / 512
    boxes = np.random.default_rng(seed).uniform(-700, 1400, (200, 4)).astype(np.float32)
    wanted = clip_boxes_xyxy(torch.tensor(boxes), torch.tensor(size) / torch.tensor(scale))
    assert np.array_equal(clip_boxes(boxes, size, np.float32(scale)), wanted.numpy())


@given(
    code=st.tuples(*[st.floats(-65504, 65504, width=32)] * 4),
    anchor=st.integers(0, D0.num_anchors - 1),
)
def test_wild_code_gives_a_box_in_the_picture(code: tuple[float, ...], anchor: int) -> None:
    """Whatever float16 can hold decodes, after clipping, to a box with ordered finite corners."""
    codes = np.array([code], np.float32)
    decoded = decode_boxes(codes, anchor_boxes(D0)[[anchor]])
    x1, y1, x2, y2 = clip_boxes(decoded, (640, 480), np.float32(1.25))[0]
    assert 0 <= x1 <= x2 <= 512
    assert 0 <= y1 <= y2 <= 384


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


@pytest.mark.parametrize(
    "spec",
    [pytest.param(D0, id="d0"), pytest.param(SMALL, id="small"), pytest.param(TINY, id="tiny")],
)
def test_anchors_are_those_of_effdet(spec: ModelSpec) -> None:
    """Every corner of every anchor is effdet's, to the last bit and in its order."""
    boxes = anchor_boxes(spec)
    assert boxes.dtype == np.float32
    assert boxes.shape == (spec.num_anchors, 4)
    assert np.array_equal(boxes, effdet_anchors(spec).boxes.numpy())
