"""Tests for `effd0.postprocess`: heads become the detections that effdet makes of them."""

from __future__ import annotations

import contextlib
import re
from dataclasses import astuple, replace
from pathlib import Path

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from effd0.data.coco import Dataset, Sample
from effd0.detection import postprocess as module
from effd0.detection.boxes import anchor_boxes, clip_boxes, decode_boxes, nms
from effd0.detection.heads import HeadOutputs, split_heads
from effd0.detection.postprocess import gather_codes, postprocess, select_topk, sigmoid
from effd0.errors import HeadError
from effd0.results.check import Broken
from effd0.spec import D0, ModelSpec
from effd0.tolerances import BOXES, SCORES
from effd0.types import Tensors
from tests.helpers import SMALL, TINY, synthetic_heads
from tests.suite import test_own_stages
from tests.suite.reference import Geometry, effdet_detections


def _assert_as_effdet(heads: HeadOutputs, image: Geometry, spec: ModelSpec) -> int:
    """Compare all detections of *heads*; return how many there are."""
    __tracebackhide__ = True
    wanted = effdet_detections(heads, image, spec)
    found = postprocess(heads, image.scale, image.size, spec)
    assert len(found) == len(wanted)
    assert found.classes.tolist() == wanted[:, 5].tolist()
    assert np.abs(found.scores - wanted[:, 4]).max() <= SCORES.limit
    assert np.abs(found.boxes - wanted[:, :4]).max() <= BOXES.limit * max(image.size)
    return len(found)


@pytest.mark.parametrize(
    "size", [(640, 480), (333, 517), (32, 20), (6000, 4000), (512, 512)], ids="{0[0]}x{0[1]}".format
)
def test_synthetic_heads_give_what_effdet_gives(size: tuple[int, int]) -> None:
    """Number, order, classes, boxes and scores are the reference's, whatever the image's size."""
    assert _assert_as_effdet(synthetic_heads(0), Geometry.of(size, D0), D0) == 100


def test_trained_heads_give_what_effdet_gives(
    torch_heads: Tensors, embedded_dataset: Dataset, spec: ModelSpec
) -> None:
    """The law holds for what the network really says of images with many near-equal boxes."""
    images = split_heads(torch_heads, spec)
    for sample, heads in zip(embedded_dataset.samples, images, strict=False):
        _assert_as_effdet(heads, Geometry.of(sample.size, spec), spec)


@pytest.mark.parametrize("seed", range(4), ids="seed={}".format)
def test_fewer_than_a_hundred_are_not_filled_up(seed: int) -> None:
    """Fifty candidates leave what effdet leaves of them, without its rows of zeros."""
    count = _assert_as_effdet(synthetic_heads(seed, SMALL), Geometry.of((640, 480), SMALL), SMALL)
    assert 0 < count <= SMALL.max_candidates


def test_equal_logits_come_by_index() -> None:
    """Where logits tie, the smaller anchor and then the smaller class comes first."""
    spec = replace(SMALL, max_candidates=3)
    classes = [np.full(spec.head_shapes[name], -20, np.float32) for name in spec.class_names]
    boxes = [np.zeros(spec.head_shapes[name], np.float32) for name in spec.box_names]
    classes[2][[4 * spec.num_classes + label for label in (4, 0, 2)], 1, 2] = 1
    found = postprocess(HeadOutputs(tuple(classes), tuple(boxes)), 1.0, (128, 128), spec)
    assert found.classes.tolist() == [1, 3, 5]


SIZE, SCALE = (256, 200), 2.0


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
        found = postprocess(HeadOutputs(levels[:2], levels[2:]), SCALE, SIZE, spec)
    logits, anchors, classes = select_topk(levels[:2], spec)
    boxes = decode_boxes(gather_codes(levels[2:], anchors, spec), anchor_boxes(spec)[anchors])
    boxes = clip_boxes(boxes, SIZE, np.float32(SCALE))
    keep = nms(boxes, classes, spec.nms_iou, spec.max_detections)
    assert np.array_equal(found.boxes, boxes[keep] * np.float32(SCALE))
    assert np.array_equal(found.scores, sigmoid(logits[keep]))
    assert np.array_equal(found.classes, classes[keep] + 1)


@given(
    level=st.integers(0, 4),
    anchor=st.integers(0, 8),
    kind=st.sampled_from(["class", "box"]),
    value=st.sampled_from([np.nan, np.inf, -np.inf]),
)
def test_no_value_goes_by_unseen(level: int, anchor: int, kind: str, value: float) -> None:
    """Wherever a value is that is not finite, it is refused with its head's name."""
    heads = synthetic_heads(0, SMALL)
    levels = list(heads.classes if kind == "class" else heads.boxes)
    levels[level] = levels[level].copy()
    levels[level][anchor * len(levels[level]) // 9, -1, -1] = value
    rest = (heads.classes, tuple(levels)) if kind == "box" else (tuple(levels), heads.boxes)
    message = re.escape(f"{kind}_p{3 + level} holds 1 values that are not finite")
    with pytest.raises(HeadError, match=message):
        postprocess(HeadOutputs(*rest), SCALE, SIZE, SMALL)


def test_heads_may_lie_in_any_order_in_memory() -> None:
    """Heads that are no contiguous rows, such as those of channels last, give the same."""
    heads = synthetic_heads(0, SMALL)
    turned = HeadOutputs(
        *(tuple(map(np.asfortranarray, of)) for of in (heads.classes, heads.boxes))
    )
    wanted, found = (postprocess(of, SCALE, SIZE, SMALL) for of in (heads, turned))
    for ours, theirs in zip(astuple(found), astuple(wanted), strict=True):
        assert np.array_equal(ours, theirs)


@given(
    levels=st.tuples(
        *[
            # Signed zeros tie too.
            hnp.arrays(
                np.float32, shape, elements=st.sampled_from([-3e38, -2.5, -1e-9, -0.0, 0.0, 1.5])
            )
            for shape in list(TINY.head_shapes.values())[:2]
        ]
    ),
    candidates=st.integers(1, 140),
)
def test_candidates_are_the_beginning_of_a_full_sort(
    levels: tuple[np.ndarray, ...], candidates: int
) -> None:
    """By falling logit, of either sign, and where logits tie by rising index."""
    rows = [head.transpose(1, 2, 0).reshape(-1, TINY.num_classes) for head in levels]
    logits = np.concatenate(rows).ravel()
    wanted = np.argsort(-logits, kind="stable")[:candidates]
    found, anchors, classes = select_topk(levels, replace(TINY, max_candidates=candidates))
    assert np.array_equal(anchors * TINY.num_classes + classes, wanted)
    assert np.array_equal(found, logits[wanted])


def test_candidates_of_d0_are_the_beginning_of_a_full_sort() -> None:
    """The short cut over anchors loses none of the 5,000 highest of 4.4 million logits."""
    heads = synthetic_heads(0).classes
    # As effdet lays out heads: one row an anchor, a number each class.
    rows = [head.transpose(1, 2, 0).reshape(-1, D0.num_classes) for head in heads]
    logits = np.concatenate(rows).ravel()
    # Sorting the part from the 5,000th up is sorting all, in a tenth of the time.
    part = np.flatnonzero(logits >= np.partition(logits, -D0.max_candidates)[-D0.max_candidates])
    wanted = part[np.argsort(-logits[part], kind="stable")][: D0.max_candidates]
    found, anchors, classes = select_topk(heads, D0)
    assert np.array_equal(anchors * D0.num_classes + classes, wanted)
    assert np.array_equal(found, logits[wanted])


@pytest.mark.parametrize(
    ("second", "named"), [(0.5, ""), (0.4, "2 of 2 detections")], ids=["one-score", "two-scores"]
)
def test_either_order_is_effdets_where_scores_tie(second: float, named: str) -> None:
    """The suite takes two detections of one score in either order, and no others."""
    boxes = np.array([[0, 0, 9, 9], [20, 20, 40, 40]], np.float32)
    scores, classes = np.array([0.5, second], np.float32), np.array([1, 2])
    wanted = np.column_stack([boxes, scores, classes])
    found = module.Detections(boxes[::-1], scores, classes[::-1])
    sample = Sample(1, Path("scene.jpg"), (64, 64))
    expected = pytest.raises(Broken, match=named) if named else contextlib.nullcontext()
    with expected:
        test_own_stages._compare(found, wanted, sample, "", lambda *_: None)
