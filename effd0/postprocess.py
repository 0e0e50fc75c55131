"""
Head outputs -> detections: exact top-k, decode, clip, sigmoid, per-class NMS.

Gives what effdet's ``DetBenchPredict`` with hard NMS gives.  Where logits tie, the smaller flat
index (anchor * num_classes + class) comes first; the reference leaves that order open.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .anchors import anchor_boxes
from .arrays import Boxes, Indices, Tensors
from .errors import HeadError
from .spec import ModelSpec

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class HeadOutputs:
    """The heads of one image: per level, (810, rows, columns) and (36, rows, columns) float32."""

    classes: tuple[Floats, ...]
    boxes: tuple[Floats, ...]


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


def split_heads(outputs: Tensors, spec: ModelSpec) -> list[HeadOutputs]:
    """
    Sort a runner's *outputs* into the heads of each image of the batch.

    A head is found by its name, or, where a model has other names, by its shape; never by
    position.  Raises `HeadError` where a head is missing, doubled or of another shape.
    """
    heads = _named_heads(outputs, spec)
    batch = {head.shape[0] for head in heads.values()}
    if len(batch) != 1:
        raise HeadError(f"heads hold {sorted(batch)} images, but all must hold the same number")
    return [
        HeadOutputs(
            tuple(heads[name][i] for name in spec.class_names),
            tuple(heads[name][i] for name in spec.box_names),
        )
        for i in range(batch.pop())
    ]


def _named_heads(outputs: Tensors, spec: ModelSpec) -> dict[str, Floats]:
    shapes = spec.head_shapes
    if outputs.keys() == shapes.keys():
        names = {name: name for name in shapes}
    else:
        by_shape = {shape: name for name, shape in shapes.items()}
        names = {}
        for given, tensor in outputs.items():
            name = by_shape.get(tuple(tensor.shape[1:]))
            if name is None or name in names:
                known = {given: tensor.shape for given, tensor in outputs.items()}
                raise HeadError(
                    f"output {given} is {tensor.shape}, but each of {list(shapes.values())} "
                    f"(channels, rows, columns) was wanted once; the model gives {known}"
                )
            names[name] = given
    for name, shape in shapes.items():
        if name not in names:
            raise HeadError(f"{name} (N, {shape}) is missing among outputs {sorted(outputs)}")
        if outputs[names[name]].shape[1:] != shape:
            raise HeadError(
                f"{name} is {outputs[names[name]].shape}, but (N, {', '.join(map(str, shape))}) "
                "was wanted; the model's outputs may be swapped: export it again"
            )
    return {name: np.asarray(outputs[names[name]], np.float32) for name in shapes}


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


def check_finite(heads: HeadOutputs, spec: ModelSpec) -> None:
    """Raise `HeadError` naming the first head that holds NaN or infinity."""
    named = zip(spec.output_names, heads.classes + heads.boxes, strict=True)
    for name, head in named:
        flat = head.ravel()
        # One fast pass: the sum of squares is finite only if every value is.
        if np.isfinite(np.dot(flat, flat)):
            continue
        bad = flat[~np.isfinite(flat)]
        if bad.size:
            raise HeadError(
                f"{name} holds {bad.size} values that are not finite (the first is {bad[0]}), "
                "but logits and box codes must be; the backend overflowed or the model is broken"
            )


def select_topk(class_heads: tuple[Floats, ...], spec: ModelSpec) -> Candidates:
    """
    Select the exact ``spec.max_candidates`` largest of all class logits.

    An element of the overall top k lies in one of the k anchors with the largest maxima, so
    only those anchors are looked into.
    """
    maxima = np.concatenate([_anchor_maxima(head, spec) for head in class_heads])
    count = min(spec.max_candidates, maxima.size * spec.num_classes)
    floor = _kth_largest(maxima, min(count, maxima.size))
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


def decode_boxes(codes: Floats, anchors: Boxes) -> Boxes:
    """
    Apply regressions (ty, tx, th, tw) to yxyx *anchors*; return (n, 4) xyxy in input pixels.

    Source: the Faster R-CNN box coder without scale factors.
    """
    height, width = anchors[:, 2] - anchors[:, 0], anchors[:, 3] - anchors[:, 1]
    centre_y, centre_x = (anchors[:, 0] + anchors[:, 2]) / 2, (anchors[:, 1] + anchors[:, 3]) / 2
    # A wild regression may overflow to infinity; clipping then gives the image's border.
    with np.errstate(over="ignore"):
        half_height, half_width = np.exp(codes[:, 2]) * height / 2, np.exp(codes[:, 3]) * width / 2
    y, x = codes[:, 0] * height + centre_y, codes[:, 1] * width + centre_x
    return np.stack([x - half_width, y - half_height, x + half_width, y + half_height], 1)


def encode_boxes(boxes: Boxes, anchors: Boxes) -> Floats:
    """Inverse of `decode_boxes`: the regressions that lead from *anchors* to xyxy *boxes*."""
    height, width = anchors[:, 2] - anchors[:, 0], anchors[:, 3] - anchors[:, 1]
    centre_y, centre_x = (anchors[:, 0] + anchors[:, 2]) / 2, (anchors[:, 1] + anchors[:, 3]) / 2
    box_width, box_height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    return np.stack(
        [
            (y - centre_y) / height,
            (x - centre_x) / width,
            np.log(box_height / height),
            np.log(box_width / width),
        ],
        1,
    )


def clip_boxes(boxes: Boxes, image_size: tuple[int, int], image_scale: np.float32) -> Boxes:
    """Clip xyxy *boxes* in input pixels to the picture, which may end before the padding does."""
    width, height = (np.float32(side) / image_scale for side in image_size)
    clipped: Boxes = np.minimum(
        np.maximum(boxes, np.float32(0)), np.array([width, height, width, height], np.float32)
    )
    return clipped


def sigmoid(logits: Floats) -> Floats:
    """Logistic function, float32."""
    with np.errstate(over="ignore"):
        scores: Floats = np.float32(1) / (np.float32(1) + np.exp(-logits))
    return scores


def nms(boxes: Boxes, classes: Indices, iou_threshold: float, limit: int) -> Indices:
    """
    Greedy non-maximum suppression within each class; indices of the first *limit* kept.

    *boxes* are xyxy by falling score.  A box goes if its IoU with a kept one of its class is
    above the threshold; boxes without area have no IoU and stay, as in torchvision.
    """
    # Boxes are laid out class by class, so that a kept one is compared with a plain slice.
    order = np.argsort(classes, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(order.size)
    ends = np.searchsorted(classes[order], classes, side="right")
    x1, y1, x2, y2 = np.ascontiguousarray(boxes[order].T)
    areas = (x2 - x1) * (y2 - y1)
    alive = np.ones(order.size, bool)
    kept: list[int] = []
    for index in range(order.size):
        at = place[index]
        if not alive[at]:
            continue
        kept.append(index)
        if len(kept) == limit:
            break
        rest = slice(at + 1, ends[index])
        width = np.minimum(x2[at], x2[rest]) - np.maximum(x1[at], x1[rest])
        height = np.minimum(y2[at], y2[rest]) - np.maximum(y1[at], y1[rest])
        overlap = np.maximum(width, 0) * np.maximum(height, 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            alive[rest] &= ~(overlap / (areas[at] + areas[rest] - overlap) > iou_threshold)
    return np.array(kept, np.int64)
