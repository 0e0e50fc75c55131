"""Tests for `effd0.postprocess`: what is looked at only in part gives what all of it gives."""

from __future__ import annotations

import re
from dataclasses import replace

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from effd0.detection import postprocess as module
from effd0.detection.anchors import anchor_boxes
from effd0.detection.boxes import clip_boxes, decode_boxes, nms
from effd0.detection.heads import HeadOutputs, split_heads
from effd0.detection.postprocess import Detections, gather_codes, postprocess, select_topk, sigmoid
from effd0.errors import HeadError
from effd0.spec import D0, ModelSpec
from effd0.types import Tensors

from .helpers import SMALL, TINY, synthetic_heads

SIZE, SCALE = (256, 200), 2.0


def _at_once(heads: HeadOutputs, spec: ModelSpec) -> Detections:
    """Return what all candidates give, selected, decoded and suppressed in one go."""
    candidates = select_topk(heads.classes, spec)
    codes = gather_codes(heads.boxes, candidates.anchors, spec)
    boxes = decode_boxes(codes, anchor_boxes(spec)[candidates.anchors])
    boxes = clip_boxes(boxes, SIZE, np.float32(SCALE))
    keep = nms(boxes, candidates.classes, spec.nms_iou, spec.max_detections)
    scores = sigmoid(candidates.logits[keep])
    return Detections(boxes[keep] * np.float32(SCALE), scores, candidates.classes[keep] + 1)


def _assert_same(heads: HeadOutputs, spec: ModelSpec) -> None:
    """Compare to the last bit."""
    __tracebackhide__ = True
    found, wanted = postprocess(heads, SCALE, SIZE, spec), _at_once(heads, spec)
    assert np.array_equal(found.boxes, wanted.boxes)
    assert np.array_equal(found.scores, wanted.scores)
    assert np.array_equal(found.classes, wanted.classes)


@given(
    levels=st.tuples(
        *[
            # Few values: many logits tie, and many boxes are equal or nearly so.
            hnp.arrays(np.float32, shape, elements=st.integers(-2, 2))
            for shape in TINY.head_shapes.values()
        ]
    ),
    most=st.integers(1, 12),
    candidates=st.integers(1, 140),
)
def test_detections_are_those_of_all_candidates(
    levels: tuple[np.ndarray, ...], most: int, candidates: int
) -> None:
    """Among ties too, and whether the first candidates are enough or more are asked for."""
    spec = replace(TINY, max_detections=most, max_candidates=candidates)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_FIRST_ANCHORS", 1)
        _assert_same(HeadOutputs(levels[:2], levels[2:]), spec)


def test_trained_heads_give_what_all_candidates_give(torch_heads: Tensors, spec: ModelSpec) -> None:
    """The law holds for what the network says, however few anchors are looked into first."""
    for heads in split_heads(torch_heads, spec)[:2]:
        for first in (1, 10):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(module, "_FIRST_ANCHORS", first)
                _assert_same(heads, spec)


def test_the_first_candidates_are_enough_as_a_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work is for the boxes that are kept: the 5,000 are selected only where they must be."""
    asked: list[int] = []
    right = module._from_anchors

    def noted(*given: object) -> object:
        asked.append(given[2])  # type: ignore[arg-type]  # the number of anchors
        return right(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_from_anchors", noted)
    heads = synthetic_heads(0)
    postprocess(heads, SCALE, SIZE, D0)
    assert asked == [1000]
    asked.clear()
    # Below any IoU, so that one box of each class is kept, of classes that are too few.
    postprocess(heads, SCALE, (1024, 1024), replace(D0, nms_iou=-1.0))
    assert len(asked) > 2
    assert asked == sorted(set(asked))
    assert asked[-1] == 5000


@given(
    level=st.integers(0, 4),
    anchor=st.integers(0, 8),
    kind=st.sampled_from(["class", "box"]),
    value=st.sampled_from([np.nan, np.inf, -np.inf]),
    cache=st.sampled_from([1, 2000, 2**20]),
)
def test_no_value_goes_by_unseen(
    level: int, anchor: int, kind: str, value: float, cache: int
) -> None:
    """Wherever it is, and however much is read at a time, it is refused with its head's name."""
    heads = synthetic_heads(0, SMALL)
    levels = list(heads.classes if kind == "class" else heads.boxes)
    levels[level] = levels[level].copy()
    levels[level][anchor * len(levels[level]) // 9, -1, -1] = value
    rest = (heads.classes, tuple(levels)) if kind == "box" else (tuple(levels), heads.boxes)
    message = re.escape(f"{kind}_p{3 + level} holds 1 values that are not finite")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CACHE", cache)
        with pytest.raises(HeadError, match=message):
            postprocess(HeadOutputs(*rest), SCALE, SIZE, SMALL)
