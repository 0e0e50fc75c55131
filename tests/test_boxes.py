"""Tests for `effd0.detection.boxes`: regression and clipping (`test_nms` has the rest)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from effdet.anchors import clip_boxes_xyxy, decode_box_outputs
from hypothesis import given
from hypothesis import strategies as st

from effd0.detection.anchors import anchor_boxes
from effd0.detection.boxes import clip_boxes, decode_boxes, encode_boxes
from effd0.spec import D0
from effd0.types import Floats

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


@given(seed=SEEDS)
def test_decoding_undoes_encoding(seed: int) -> None:
    """Any box with an area comes back from the codes that lead to it, whatever the anchor."""
    rng = np.random.default_rng(seed)
    corner, size = rng.uniform(0, 500, (500, 2)), rng.uniform(1, 300, (500, 2))
    boxes = np.concatenate([corner, corner + size], 1).astype(np.float32)
    anchors = _anchors(rng)
    back = decode_boxes(encode_boxes(boxes, anchors), anchors)
    # In pixels, with anchors of up to 1,138; measured 2026-11-23 over 10^6 boxes: 1.2e-4.
    assert np.allclose(back, boxes, rtol=0, atol=1e-3)


GEOMETRIES = st.tuples(st.tuples(st.integers(1, 6000), st.integers(1, 6000)), SEEDS)


@given(geometry=GEOMETRIES)
def test_clipping_is_that_of_effdet(geometry: tuple[tuple[int, int], int]) -> None:
    """The border is where the picture ends in the input, to the reference's last bit."""
    size, seed = geometry
    scale = max(size) / 512
    boxes = np.random.default_rng(seed).uniform(-700, 1400, (200, 4)).astype(np.float32)
    wanted = clip_boxes_xyxy(torch.tensor(boxes), torch.tensor(size) / torch.tensor(scale))
    assert np.array_equal(clip_boxes(boxes, size, np.float32(scale)), wanted.numpy())


@given(geometry=GEOMETRIES)
def test_clipping_keeps_what_is_inside(geometry: tuple[tuple[int, int], int]) -> None:
    """Clipped boxes lie in the picture, those that did already are untouched, twice is once."""
    size, seed = geometry
    scale = np.float32(max(size) / 512)
    boxes = np.random.default_rng(seed).uniform(-700, 1400, (200, 4)).astype(np.float32)
    clipped = clip_boxes(boxes, size, scale)
    border = np.array(size * 2, np.float32) / scale
    inside = (boxes >= 0) & (boxes <= border)
    assert ((clipped >= 0) & (clipped <= border)).all()
    assert np.array_equal(clipped[inside], boxes[inside])
    assert np.array_equal(clip_boxes(clipped, size, scale), clipped)


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


def test_box_that_overflows_is_the_whole_picture() -> None:
    """A side whose ``exp`` is infinite ends at both borders, without a warning."""
    codes = np.array([(0, 0, 1000, 1000)], np.float32)
    decoded = decode_boxes(codes, anchor_boxes(D0)[:1])
    assert clip_boxes(decoded, (640, 480), np.float32(1.25)).tolist() == [[0, 0, 512, 384]]
