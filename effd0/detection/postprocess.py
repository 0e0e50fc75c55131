"""
Head outputs -> detections: exact top-k, decode, clip, sigmoid, per-class NMS.

Gives what effdet's ``DetBenchPredict`` with hard NMS gives.  Where logits tie, the smaller flat
index (anchor * num_classes + class) comes first; the reference leaves that order open.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..spec import ModelSpec
from ..types import Boxes, Floats, Indices
from .boxes import anchor_boxes, clip_boxes, decode_boxes, nms
from .heads import HeadOutputs, check_head

#: Anchors looked into at first for each detection wanted.  Measured 2026-11-25 on trained heads
#: of 24 images: 100 detections took the candidates of 219 to 1,074 anchors.
_FIRST_ANCHORS = 10
#: By how much more than in proportion is looked into where these gave too few detections: the
#: 87 and the 92 detections that two of these images gave at first became 100 so.
_MORE = 1.2


@dataclass(frozen=True)
class Detections:
    """
    What was found in one image, by falling score.

    *boxes* is (n, 4) float32 xyxy in pixels of the original image, *scores* (n,) float32,
    *classes* (n,) int64 category ids.
    """

    boxes: Boxes
    scores: Floats
    classes: Indices

    def __len__(self) -> int:
        return len(self.scores)


def postprocess(
    heads: HeadOutputs, image_scale: float, image_size: tuple[int, int], spec: ModelSpec
) -> Detections:
    """
    Turn the *heads* of one image into at most ``spec.max_detections`` detections.

    *image_scale* and *image_size* (width, height) come from `ModelInput`.  Raises `HeadError`
    naming the head that holds a value which is not finite.
    """
    maxima = _finite_maxima(heads, spec)
    scale = np.float32(image_scale)
    enough = _FIRST_ANCHORS * spec.max_detections
    while True:
        logits, anchors, classes = select_topk(heads.classes, spec, maxima, enough)
        boxes = decode_boxes(gather_codes(heads.boxes, anchors, spec), anchor_boxes(spec)[anchors])
        boxes = clip_boxes(boxes, image_size, scale)
        keep = nms(boxes, classes, spec.nms_iou, spec.max_detections)
        # Greedy NMS goes down the candidates and ends at the last box wanted, mostly among the
        # first: what it keeps of a beginning of them is the beginning of what it keeps of all.
        if keep.size == spec.max_detections or enough >= spec.max_candidates:
            return Detections(
                boxes[keep] * scale, sigmoid(logits[keep]), category_ids(classes[keep], spec)
            )
        enough = int(_MORE * enough * spec.max_detections / keep.size)


def category_ids(classes: Indices, spec: ModelSpec) -> Indices:
    """The category ids of *classes*, which run from 0, int64."""
    ids = spec.category_ids
    return classes + 1 if ids is None else np.array(ids, np.int64)[classes]


def _finite_maxima(heads: HeadOutputs, spec: ModelSpec) -> list[Floats]:
    """Largest logit of each anchor, by level; raise `HeadError` where a head is not finite."""
    found = []
    for name, head in zip(spec.class_names, heads.classes, strict=True):
        maxima, finite = _maxima(head, spec)
        if not finite:
            check_head(name, head)
        found.append(maxima)
    for name, head in zip(spec.box_names, heads.boxes, strict=True):
        check_head(name, head)
    return found


def _maxima(head: Floats, spec: ModelSpec) -> tuple[Floats, bool]:
    """Largest logit of each anchor of one level, (anchors, places), and whether all are finite."""
    from ..kernels import class_maxima

    rows = _rows(head)
    maxima = np.empty((spec.anchors_per_cell, rows.shape[1]), np.float32)
    return maxima, class_maxima(rows, spec.num_classes, maxima)


def _rows(head: Floats) -> Floats:
    """One level as (channels, places), contiguous."""
    return np.ascontiguousarray(head).reshape(len(head), -1)


def select_topk(
    class_heads: tuple[Floats, ...],
    spec: ModelSpec,
    maxima: Sequence[Floats] | None = None,
    enough: int | None = None,
) -> tuple[Floats, Indices, Indices]:
    """
    Select the exact ``spec.max_candidates`` largest class logits, or *enough* and maybe more.

    Returns falling logits, float32, their anchors and their class ids, int64.  *maxima* are the
    largest logits of each anchor, by level, where they are known.
    """
    from ..kernels import gather_logits

    if maxima is None:
        maxima = [_maxima(head, spec)[0] for head in class_heads]
    enough = min(enough or spec.max_candidates, spec.max_candidates)
    # The k largest of all are those of the k anchors with the largest maxima, and are no less than
    # the k-th of these maxima.  With fewer anchors, each has to give all that it has.
    every = np.concatenate([level.ravel() for level in maxima])
    rest = every.size - enough
    lowest = np.partition(every, rest)[rest] if rest >= 0 else np.float32(-np.inf)
    keys = np.empty(np.count_nonzero(every >= lowest) * spec.num_classes, np.uint64)
    start = count = 0
    for head, highest in zip(class_heads, maxima, strict=True):
        count = gather_logits(_rows(head), spec.num_classes, highest, lowest, start, keys, count)
        start += highest.size
    # Of equal logits, the smaller flat index comes first.
    keys = np.sort(keys[:count])[: spec.max_candidates]
    flat, order = keys.astype("<u8").view("<u4").reshape(-1, 2).T
    logits = np.where(order >> 31, order, order ^ 0x7FFFFFFF).view(np.float32)
    return logits, *np.divmod(flat.astype(np.int64), spec.num_classes)


def gather_codes(box_heads: tuple[Floats, ...], anchors: Indices, spec: ModelSpec) -> Floats:
    """The box regressions (ty, tx, th, tw) of *anchors*, (n, 4) float32."""
    from ..kernels import gather_codes as gather

    codes, start = np.empty((anchors.size, 4), np.float32), 0
    for head in box_heads:
        start = gather(_rows(head), spec.anchors_per_cell, start, anchors, codes)
    return codes


def sigmoid(logits: Floats) -> Floats:
    """Logistic function, float32."""
    with np.errstate(over="ignore"):
        return np.asarray(np.float32(1) / (np.float32(1) + np.exp(-logits)))
