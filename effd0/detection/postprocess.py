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
#: Bytes of logits that are read at a time, so that they are still in the cache when read again.
_CACHE = 2**20


@dataclass(frozen=True)
class Detections:
    """
    What was found in one image, by falling score.

    *boxes* is (n, 4) float32 xyxy in pixels of the original image, *scores* (n,) float32,
    *classes* (n,) int64 COCO category ids, 1 to 90.
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
            return Detections(boxes[keep] * scale, sigmoid(logits[keep]), classes[keep] + 1)
        enough = int(_MORE * enough * spec.max_detections / keep.size)


def _finite_maxima(heads: HeadOutputs, spec: ModelSpec) -> list[Floats]:
    """Largest logit of each anchor, by level; raise `HeadError` where a head is not finite."""
    found = []
    for name, head in zip(spec.class_names, heads.classes, strict=True):
        maxima, lowest = _maxima_and_lowest(head, spec)
        # A maximum is NaN or +inf where any of its values is; -inf shows in the lowest.
        if not (np.isfinite(maxima).all() and np.isfinite(lowest)):
            check_head(name, head)
        found.append(maxima)
    for name, head in zip(spec.box_names, heads.boxes, strict=True):
        check_head(name, head)
    return found


def _maxima_and_lowest(head: Floats, spec: ModelSpec) -> tuple[Floats, np.float32]:
    """Largest logit of each anchor of one level, (anchors, places), and the lowest of them all."""
    grid = _grid(head, spec.num_classes, spec)
    maxima = np.empty((grid.shape[0], grid.shape[2]), np.float32)
    step = max(1, _CACHE // grid[0].nbytes)
    lowest = []
    for start in range(0, len(grid), step):
        part = grid[start : start + step]
        part.max(axis=1, out=maxima[start : start + step])
        lowest.append(part.min())  # read once more, but from the cache
    return maxima, np.min(lowest)


def _grid(head: Floats, width: int, spec: ModelSpec) -> Floats:
    """One level's *width* numbers of each anchor and place, (anchors, width, places)."""
    places = head.shape[1] * head.shape[2]
    return head.reshape(spec.anchors_per_cell, width, places)


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
    if maxima is None:
        maxima = [_maxima_and_lowest(head, spec)[0] for head in class_heads]
    enough = min(enough or spec.max_candidates, spec.max_candidates)
    # The k largest of all are those of the k anchors with the largest maxima, and are no less than
    # the k-th of these maxima.  With fewer anchors, each has to give all that it has.
    every = np.concatenate([level.ravel() for level in maxima])
    lowest = _kth_largest(every, enough) if enough <= every.size else np.float32(-np.inf)
    parts, start = [], 0
    for head, highest in zip(class_heads, maxima, strict=True):
        local = np.flatnonzero((highest >= lowest).T)
        place, anchor = np.divmod(local, spec.anchors_per_cell)
        values = _grid(head, spec.num_classes, spec)[anchor, :, place].ravel()
        reached = np.flatnonzero(values >= lowest)
        row, label = np.divmod(reached, spec.num_classes)
        parts.append((values[reached], (start + local[row]) * spec.num_classes + label))
        start += highest.size
    logits, flat = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    if logits.size > spec.max_candidates:
        wanted = logits >= _kth_largest(logits, spec.max_candidates)
        logits, flat = logits[wanted], flat[wanted]
    # Stable: of equal logits, the smaller flat index stays first.
    order = np.argsort(-logits, kind="stable")[: spec.max_candidates]
    return logits[order], *np.divmod(flat[order], spec.num_classes)


def _kth_largest(values: Floats, k: int) -> np.float32:
    kth: np.float32 = np.partition(values, values.size - k)[values.size - k]
    return kth


def gather_codes(box_heads: tuple[Floats, ...], anchors: Indices, spec: ModelSpec) -> Floats:
    """The box regressions (ty, tx, th, tw) of *anchors*, (n, 4) float32."""
    codes = np.empty((anchors.size, 4), np.float32)
    start = 0
    for head in box_heads:
        grid = _grid(head, 4, spec)
        stop = start + grid.shape[0] * grid.shape[2]
        here = np.flatnonzero((anchors >= start) & (anchors < stop))
        place, anchor = np.divmod(anchors[here] - start, spec.anchors_per_cell)
        codes[here] = grid[anchor, :, place]
        start = stop
    return codes


def sigmoid(logits: Floats) -> Floats:
    """Logistic function, float32."""
    with np.errstate(over="ignore"):
        return np.asarray(np.float32(1) / (np.float32(1) + np.exp(-logits)))
