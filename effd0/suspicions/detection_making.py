"""Mistakes in decoding and suppression: other detections come of the same heads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from ..detection.anchors import anchor_boxes
from ..detection.boxes import decode_boxes, nms
from ..detection.postprocess import sigmoid
from ..spec import ModelSpec
from ..types import Boxes, Floats
from .detection_mistake import DetectionMistake, Make
from .detection_steps import Found, ImageCandidates, clipped, decoded, make, picked, suppressed

#: Boxes as a mistake gives them, xyxy in input pixels.
BoxesOf = Callable[[ImageCandidates, ModelSpec], Boxes]
#: Deviation of the Gaussian by which soft NMS lowers scores, in effdet and in its paper.
_SIGMA = 0.5


def making_mistakes(spec: ModelSpec) -> Iterator[DetectionMistake]:
    """The mistakes that have no parameter, decoding before suppression."""
    for name, explanation, boxes in _DECODING:
        yield DetectionMistake(name, "decode", explanation, make=_with_boxes(boxes))
    for stage, name, explanation, made in _SUPPRESSION:
        yield DetectionMistake(name, stage, explanation, make=made)
    yield DetectionMistake(
        "anchors with width and height exchanged", "decode", "the aspects are turned over",
        make=_with_boxes(_anchored(
            replace(spec, aspect_ratios=tuple((h, w) for w, h in spec.aspect_ratios))
        )),
    )  # fmt: skip
    for scale in (3.0, 1.0):
        if scale != spec.anchor_scale:
            yield DetectionMistake(
                f"anchors of {scale:g} strides", "decode",
                f"anchors of {scale:g} strides, not {spec.anchor_scale:g}, are decoded from",
                make=_with_boxes(_anchored(replace(spec, anchor_scale=scale))),
            )  # fmt: skip


def iou_mistake(iou: float) -> DetectionMistake:
    """Return the mistake of an IoU threshold of *iou*."""
    return DetectionMistake(
        f"IoU threshold {iou:.2f}", "nms", f"boxes are suppressed above an IoU of {iou:.2f}",
        make=_with_spec(lambda spec: replace(spec, nms_iou=iou)),
    )  # fmt: skip


def candidates_mistake(count: int) -> DetectionMistake:
    """Return the mistake of taking only the *count* best candidates into suppression."""
    return DetectionMistake(
        f"only {count} candidates before NMS", "nms", f"the {count} best candidates are taken",
        make=lambda image, spec: make(image[:count], spec),
    )  # fmt: skip


def cap_mistake(count: int) -> DetectionMistake:
    """Return the mistake of keeping at most *count* detections of an image."""
    return DetectionMistake(
        f"at most {count} detections per image", "nms", f"the {count} best of an image are kept",
        make=_with_spec(lambda spec: replace(spec, max_detections=count)),
    )  # fmt: skip


def floor_mistake(floor: float) -> DetectionMistake:
    """Return the mistake of leaving out detections with scores below *floor*."""

    def made(image: ImageCandidates, spec: ModelSpec) -> Found:
        # Candidates are in order, so those that reach the floor stand first.
        return make(image[: int((sigmoid(image.logits) >= floor).sum())], spec)

    return DetectionMistake(
        f"score floor {floor:.3g}", "nms", f"scores below {floor:.3g} are left out", make=made
    )


def _with_boxes(boxes: BoxesOf) -> Make:
    return lambda image, spec: suppressed(image, clipped(image, boxes(image, spec)), spec)


def _with_spec(change: Callable[[ModelSpec], ModelSpec]) -> Make:
    return lambda image, spec: make(image, change(spec))


def _anchored(other: ModelSpec) -> BoxesOf:
    return lambda image, _: decoded(image, other)


def _reordered(*order: int) -> BoxesOf:
    return lambda image, spec: decoded(replace(image, codes=image.codes[:, list(order)]), spec)


def _varied(image: ImageCandidates, spec: ModelSpec) -> Boxes:
    codes: Floats = image.codes * np.array([0.1, 0.1, 0.2, 0.2], np.float32)
    return decoded(replace(image, codes=codes), spec)


def _cornered(image: ImageCandidates, spec: ModelSpec) -> Boxes:
    """Anchors around the corners of the cells, not their centres."""
    places = [size * size * spec.anchors_per_cell for size in spec.feature_sizes]
    strides = np.repeat([spec.image_size / size for size in spec.feature_sizes], places)
    moved = anchor_boxes(spec) - (strides / 2).astype(np.float32)[:, None]
    return decode_boxes(image.codes, moved[image.anchors])


def _unclipped(image: ImageCandidates, spec: ModelSpec) -> Found:
    return suppressed(image, decoded(image, spec), spec)


def _clipped_to_square(image: ImageCandidates, spec: ModelSpec) -> Found:
    return suppressed(image, np.clip(decoded(image, spec), 0, spec.image_size), spec)


def _no_nms(image: ImageCandidates, spec: ModelSpec) -> Found:
    return picked(image, clipped(image, decoded(image, spec)), slice(spec.max_detections))


def _across_classes(image: ImageCandidates, spec: ModelSpec) -> Found:
    boxes = clipped(image, decoded(image, spec))
    one = np.zeros_like(image.classes)
    return picked(image, boxes, nms(boxes, one, spec.nms_iou, spec.max_detections))


def _best_class(image: ImageCandidates, spec: ModelSpec) -> Found:
    _, first = np.unique(image.anchors, return_index=True)
    return make(image[np.sort(first)], spec)


def _soft(*, gaussian: bool) -> Make:
    """Scores lowered by overlap, not left out: Bodla et al. 2017, linear or Gaussian."""

    def made(image: ImageCandidates, spec: ModelSpec) -> Found:
        boxes, scores = clipped(image, decoded(image, spec)), sigmoid(image.logits)
        left, keep, kept = scores.copy(), [], []
        for _ in range(min(spec.max_detections, left.size)):
            best = int(left.argmax())
            keep.append(best)
            kept.append(left[best])
            rivals = np.flatnonzero((image.classes == image.classes[best]) & (left >= 0))
            overlap = _overlap(boxes[best], boxes[rivals])
            if gaussian:
                left[rivals] *= np.exp(-(overlap**2) / _SIGMA)
            else:
                left[rivals] *= np.where(overlap > spec.nms_iou, 1 - overlap, np.float32(1))
            left[best] = -1
        return picked(image, boxes, np.array(keep, np.int64), np.array(kept, np.float32))

    return made


def _overlap(box: Boxes, others: Boxes) -> Floats:
    """IoU of a *box* with each of *others*; 0 where neither has an area."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=1)
    areas = np.prod(others[:, 2:] - others[:, :2], axis=1) + np.prod(box[2:] - box[:2])
    iou: Floats = shared / np.maximum(areas - shared, np.float32(1e-9))
    return iou


_DECODING: tuple[tuple[str, str, BoxesOf], ...] = (
    ("ty and tx of the codes swapped", "(tx, ty, th, tw) is decoded", _reordered(1, 0, 2, 3)),
    ("th and tw of the codes swapped", "(ty, tx, tw, th) is decoded", _reordered(0, 1, 3, 2)),
    ("x and y of the codes swapped", "(tx, ty, tw, th) is decoded", _reordered(1, 0, 3, 2)),
    ("codes multiplied by variances", "codes are multiplied by 0.1, 0.1, 0.2, 0.2", _varied),
    ("anchors around corners", "anchors are half a stride nearer the corner", _cornered),
)  # fmt: skip
_SUPPRESSION: tuple[tuple[str, str, str, Make], ...] = (
    ("decode", "boxes not clipped", "no box is clipped", _unclipped),
    (
        "decode", "boxes clipped to the padded square",
        "boxes are clipped to the network's input, not to the picture in it", _clipped_to_square,
    ),
    ("nms", "no NMS", "the best candidates are all kept", _no_nms),
    (
        "nms", "class-agnostic NMS", "boxes are suppressed by those of other classes too",
        _across_classes,
    ),
    (
        "nms", "best class only of each anchor", "of an anchor, the best class alone is taken",
        _best_class,
    ),
    (
        "nms", "soft NMS (Gaussian): scores lowered where boxes overlap",
        "overlapping boxes are kept with scores lowered by a Gaussian", _soft(gaussian=True),
    ),
    (
        "nms", "soft NMS (linear): scores lowered where boxes overlap",
        "overlapping boxes are kept with scores lowered by 1 - IoU", _soft(gaussian=False),
    ),
)  # fmt: skip
