"""Tests for `effd0.detection.boxes`: anchors, regression, clipping and suppression."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from effdet.anchors import clip_boxes_xyxy, decode_box_outputs
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import batched_nms

from effd0.detection.boxes import anchor_boxes, clip_boxes, decode_boxes, nms
from effd0.spec import D0, SPECS, ModelSpec
from effd0.types import Boxes, Indices
from tests.helpers import OBLONG, SMALL, TINY
from tests.suite.reference import effdet_anchors

SEEDS = st.integers(0, 2**32 - 1)


@given(seed=SEEDS)
def test_decoding_is_that_of_effdet(seed: int) -> None:
    """Every corner is the reference's but for the last bits of ``exp``."""
    rng = np.random.default_rng(seed)
    codes = rng.uniform(-2, 2, (500, 4)).astype(np.float32)
    anchors = anchor_boxes(D0)[rng.integers(0, D0.num_anchors, 500)]
    wanted = decode_box_outputs(torch.tensor(codes), torch.tensor(anchors), output_xyxy=True)
    difference = np.abs(decode_boxes(codes, anchors) - wanted.numpy())
    # numpy and torch differ in the last bit of exp(), so that corners differ by parts of the
    # box's reach; measured 2026-11-23 over 10^6 boxes: 2.6e-7 of it.
    assert (difference <= 2e-6 * np.abs(wanted.numpy()).max(axis=1, keepdims=True)).all()


@given(size=st.tuples(st.integers(1, 6000), st.integers(1, 6000)), seed=SEEDS)
def test_clipping_is_that_of_effdet(size: tuple[int, int], seed: int) -> None:
    """The border is where the picture ends in the input, to the reference's last bit."""
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


@st.composite
def candidates(draw: st.DrawFn) -> tuple[Boxes, Indices]:
    """Boxes on a coarse grid: many overlap, some exactly at the threshold, some have no area."""
    side = st.integers(0, 6)
    rows = draw(st.lists(st.tuples(side, side, side, side, st.integers(0, 2)), max_size=24))
    table = np.array(rows).reshape(-1, 5)
    corners = table[:, :4].astype(np.float32)
    corners[:, 2:] += corners[:, :2]
    return corners, table[:, 4].astype(np.int64)


# Fractions of two, so that float32 and float64 agree on whether a grid's IoU is above them.
@given(found=candidates(), threshold=st.sampled_from([0.25, 0.5, 0.75]))
def test_suppression_is_that_of_torchvision(found: tuple[Boxes, Indices], threshold: float) -> None:
    """The kept indices and their order are those of ``batched_nms``, the reference's own."""
    scores = torch.arange(len(found[0]), 0, -1, dtype=torch.float32)
    wanted = batched_nms(torch.tensor(found[0]), scores, torch.tensor(found[1]), threshold)
    assert nms(*found, threshold, 100).tolist() == wanted.tolist()


@pytest.mark.parametrize(
    "spec",
    [*SPECS.values(), OBLONG, SMALL, TINY],
    ids=[*SPECS, "oblong", "small", "tiny"],
)
def test_anchors_are_those_of_effdet(spec: ModelSpec) -> None:
    """Every corner of every anchor is effdet's, to the last bit and in its order."""
    boxes = anchor_boxes(spec)
    assert boxes.dtype == np.float32
    assert boxes.shape == (spec.num_anchors, 4)
    assert np.array_equal(boxes, effdet_anchors(spec).boxes.numpy())
