"""Tests for `effd0.postprocess`: heads become the detections that effdet makes of them."""

from __future__ import annotations

import re
from dataclasses import replace

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from effd0.data.coco import Dataset
from effd0.detection import postprocess as module
from effd0.detection.anchors import anchor_boxes
from effd0.detection.boxes import clip_boxes, decode_boxes, nms
from effd0.detection.heads import HeadOutputs, split_heads
from effd0.detection.postprocess import Detections, gather_codes, postprocess, select_topk, sigmoid
from effd0.errors import HeadError
from effd0.spec import D0, ModelSpec
from effd0.tolerances import BOXES, SCORES
from effd0.types import Floats, Tensors
from tests.helpers import SMALL, TINY, synthetic_heads
from tests.helpers.reference import Geometry, effdet_detections


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
    "size",
    [(640, 480), (333, 517), (32, 20), (6000, 4000), (512, 512)],
    ids="{0[0]}x{0[1]}".format,
)
@pytest.mark.parametrize("seed", range(2), ids="seed={}".format)
def test_synthetic_heads_give_what_effdet_gives(size: tuple[int, int], seed: int) -> None:
    """Number, order, classes, boxes and scores are the reference's, whatever the image's size."""
    assert _assert_as_effdet(synthetic_heads(seed), Geometry.of(size, D0), D0) == 100


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


def _one_place(spec: ModelSpec, logits: dict[int, float], code: float = 0.0) -> HeadOutputs:
    """Return heads that are silent but at level 5, row 1, column 2, anchor 4: *logits* by class."""
    classes = [np.full(spec.head_shapes[name], -20, np.float32) for name in spec.class_names]
    boxes = [np.full(spec.head_shapes[name], code, np.float32) for name in spec.box_names]
    for label, logit in logits.items():
        classes[2][4 * spec.num_classes + label, 1, 2] = logit
    return HeadOutputs(tuple(classes), tuple(boxes))


def test_one_sure_anchor_is_one_box() -> None:
    """A logit at one place gives that place's anchor in image pixels, and the next category id."""
    # Level 5 has stride 32, so that row 1, column 2 is centred on y = 48, x = 80; anchor 4 is of
    # the second octave scale and aspect 1.4:0.7.
    side = 4 * 32 * 2 ** (1 / 3)
    x, y, half_width, half_height = 80, 48, 1.4 * side / 2, 0.7 * side / 2
    image = Geometry.of((256, 256), SMALL)
    spec = replace(SMALL, max_candidates=1)
    found = postprocess(_one_place(spec, {3: 2.0}), image.scale, image.size, spec)
    wanted = [2 * max(0, x - half_width), 2 * max(0, y - half_height), 256, 2 * (y + half_height)]
    assert found.classes.tolist() == [4]
    assert found.scores[0] == pytest.approx(0.880797, abs=1e-6)  # 1 / (1 + exp(-2))
    # float32 corners below 256, whose last bit is 1.5e-5; measured 2026-11-23: 1.0e-5.
    assert found.boxes[0] == pytest.approx(wanted, abs=6e-5)


def test_equal_logits_come_by_index() -> None:
    """Where logits tie, the smaller anchor and then the smaller class comes first."""
    spec = replace(SMALL, max_candidates=3)
    found = postprocess(_one_place(spec, {4: 1.0, 0: 1.0, 2: 1.0}), 1.0, (128, 128), spec)
    assert found.classes.tolist() == [1, 3, 5]


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


ANCHORS, LOGITS = TINY.num_anchors, TINY.num_anchors * TINY.num_classes


def _rows(heads: tuple[Floats, ...], width: int) -> Floats:
    """Lay out heads as effdet does: one row an anchor, *width* numbers each."""
    return np.concatenate([head.transpose(1, 2, 0).reshape(-1, width) for head in heads])


def test_candidates_of_d0_are_the_beginning_of_a_full_sort() -> None:
    """The short cut over anchors loses none of the 5,000 highest of 4.4 million logits."""
    heads = synthetic_heads(0).classes
    logits = _rows(heads, D0.num_classes).ravel()
    # Sorting the part from the 5,000th up is sorting all, in a tenth of the time.
    part = np.flatnonzero(logits >= np.partition(logits, -D0.max_candidates)[-D0.max_candidates])
    wanted = part[np.argsort(-logits[part], kind="stable")][: D0.max_candidates]
    found = select_topk(heads, D0)
    assert np.array_equal(found.anchors * D0.num_classes + found.classes, wanted)
    assert np.array_equal(found.logits, logits[wanted])
