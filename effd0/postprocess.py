"""
Head outputs -> detections: exact top-k, decode, clip, sigmoid, per-class NMS.

Gives what effdet's ``DetBenchPredict`` with hard NMS gives.  Where logits tie, the smaller flat
index (anchor * num_classes + class) comes first; the reference leaves that order open.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .anchors import anchor_boxes
from .arrays import Boxes, Floats, Indices
from .boxes import clip_boxes, decode_boxes, nms
from .heads import HeadOutputs, check_finite
from .spec import ModelSpec


@dataclass(frozen=True)
class Candidates:
    """The highest class logits of an image: falling logits, their anchors, their class ids."""

    logits: Floats
    anchors: Indices
    classes: Indices


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
    check_finite(heads, spec)
    candidates = select_topk(heads.classes, spec)
    codes = gather_codes(heads.boxes, candidates.anchors, spec)
    boxes = decode_boxes(codes, anchor_boxes(spec)[candidates.anchors])
    scale = np.float32(image_scale)
    boxes = clip_boxes(boxes, image_size, scale)
    keep = nms(boxes, candidates.classes, spec.nms_iou, spec.max_detections)
    return Detections(
        boxes=boxes[keep] * scale,
        scores=sigmoid(candidates.logits[keep]),
        classes=candidates.classes[keep] + 1,
    )


def select_topk(class_heads: tuple[Floats, ...], spec: ModelSpec) -> Candidates:
    """
    Select the exact ``spec.max_candidates`` largest of all class logits.

    An element of the overall top k lies in one of the k anchors with the largest maxima, so
    only those anchors are looked into.
    """
    maxima = np.concatenate([_anchor_maxima(head, spec) for head in class_heads])
    count = min(spec.max_candidates, maxima.size * spec.num_classes)
    # With fewer anchors than candidates, each anchor has to give all that it has.
    floor = _kth_largest(maxima, count) if count <= maxima.size else np.float32(-np.inf)
    parts = list(_elements_from(class_heads, maxima, floor, spec))
    logits = np.concatenate([part[0] for part in parts])
    flat = np.concatenate([part[1] for part in parts])
    if logits.size > count:
        wanted = logits >= _kth_largest(logits, count)
        logits, flat = logits[wanted], flat[wanted]
    order = np.lexsort((flat, -logits))[:count]
    anchors, classes = np.divmod(flat[order], spec.num_classes)
    return Candidates(logits[order], anchors, classes)


def _anchor_maxima(head: Floats, spec: ModelSpec) -> Floats:
    """Largest logit of each anchor of one level, in anchor order."""
    places = head.shape[1] * head.shape[2]
    grid = head.reshape(spec.anchors_per_cell, spec.num_classes, places)
    maxima: Floats = grid.max(axis=1).T.ravel()
    return maxima


def _kth_largest(values: Floats, k: int) -> np.float32:
    kth: np.float32 = np.partition(values, values.size - k)[values.size - k]
    return kth


def _elements_from(
    class_heads: tuple[Floats, ...], maxima: Floats, floor: np.float32, spec: ModelSpec
) -> Iterator[tuple[Floats, Indices]]:
    """Per level, the logits that reach *floor* and their flat indices over all levels."""
    start = 0
    for head in class_heads:
        places = head.shape[1] * head.shape[2]
        grid = head.reshape(spec.anchors_per_cell, spec.num_classes, places)
        stop = start + places * spec.anchors_per_cell
        local = np.flatnonzero(maxima[start:stop] >= floor)
        place, anchor = np.divmod(local, spec.anchors_per_cell)
        logits = grid[anchor, :, place]
        rows, classes = np.nonzero(logits >= floor)
        yield logits[rows, classes], (start + local[rows]) * spec.num_classes + classes
        start = stop


def gather_codes(box_heads: tuple[Floats, ...], anchors: Indices, spec: ModelSpec) -> Floats:
    """The box regressions (ty, tx, th, tw) of *anchors*, (n, 4) float32."""
    codes = np.empty((anchors.size, 4), np.float32)
    start = 0
    for head in box_heads:
        places = head.shape[1] * head.shape[2]
        stop = start + places * spec.anchors_per_cell
        here = np.flatnonzero((anchors >= start) & (anchors < stop))
        place, anchor = np.divmod(anchors[here] - start, spec.anchors_per_cell)
        codes[here] = head.reshape(spec.anchors_per_cell, 4, places)[anchor, :, place]
        start = stop
    return codes


def sigmoid(logits: Floats) -> Floats:
    """Logistic function, float32."""
    with np.errstate(over="ignore"):
        scores: Floats = np.float32(1) / (np.float32(1) + np.exp(-logits))
    return scores
