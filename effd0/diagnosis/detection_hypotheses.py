"""
What other tools do otherwise on the way from heads to a results file: one step at a time.

A hypothesis of the part ``make`` gives other detections of the same candidates, one of ``boxes``,
``classes`` or ``scores`` writes the same detections otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from ..data.coco import NAMES
from ..detection.boxes import anchor_boxes, clip_boxes, decode_boxes, nms
from ..detection.heads import HeadOutputs
from ..detection.postprocess import gather_codes, select_topk, sigmoid
from ..spec import ModelSpec
from ..types import Boxes, Floats, Indices
from .hypothesis import Hypothesis
from .results_json import Doubles

#: Deviation of the Gaussian by which soft NMS lowers scores, in effdet and in its paper.
_SIGMA = 0.5
_IDS = np.array(sorted(NAMES))


@dataclass(frozen=True)
class ImageCandidates:
    """
    What may become a detection of one image, by falling *logits*, and the image's geometry.

    *anchors* are indices, *classes* run from 0, *codes* are (ty, tx, th, tw); *image_scale* times
    input pixels gives pixels of the image, whose *image_size* is (width, height).
    """

    logits: Floats
    anchors: Indices
    classes: Indices
    codes: Floats
    image_scale: float
    image_size: tuple[int, int]

    def __getitem__(self, chosen: Indices | slice) -> ImageCandidates:
        return replace(
            self,
            logits=self.logits[chosen],
            anchors=self.anchors[chosen],
            classes=self.classes[chosen],
            codes=self.codes[chosen],
        )


@dataclass(frozen=True)
class Found:
    """Detections by falling score: *boxes* xyxy in pixels of the image, *classes* COCO's ids."""

    boxes: Doubles
    logits: Floats
    scores: Floats
    classes: Indices


#: The candidates that are kept, and their scores where these are not the candidates' own.
Kept: TypeAlias = tuple[Indices | slice, Floats | None]


def image_candidates(
    heads: HeadOutputs, image_scale: float, image_size: tuple[int, int], spec: ModelSpec
) -> ImageCandidates:
    """Return the candidates of one image; the arguments are those of `postprocess`."""
    logits, anchors, classes = select_topk(heads.classes, spec)
    codes = gather_codes(heads.boxes, anchors, spec)
    return ImageCandidates(logits, anchors, classes, codes, image_scale, image_size)


def decoded(image: ImageCandidates, spec: ModelSpec) -> Boxes:
    """Boxes of all candidates, xyxy in input pixels, not clipped."""
    return decode_boxes(image.codes, anchor_boxes(spec)[image.anchors])


def clipped(boxes: Boxes, image: ImageCandidates, spec: ModelSpec) -> Boxes:
    """*boxes* clipped to the picture, in input pixels."""
    del spec
    return clip_boxes(boxes, image.image_size, np.float32(image.image_scale))


def suppressed(boxes: Boxes, image: ImageCandidates, spec: ModelSpec) -> Kept:
    """What is left of the candidates by their *boxes*."""
    return nms(boxes, image.classes, spec.nms_iou, spec.max_detections), None


def make(
    image: ImageCandidates,
    spec: ModelSpec,
    *,
    boxes: Callable[[ImageCandidates, ModelSpec], Boxes] = decoded,
    clip: Callable[[Boxes, ImageCandidates, ModelSpec], Boxes] = clipped,
    keep: Callable[[Boxes, ImageCandidates, ModelSpec], Kept] = suppressed,
) -> Found:
    """Return detections as `postprocess` gives them, but for a step that is done otherwise."""
    corners = clip(boxes(image, spec), image, spec)
    kept, scores = keep(corners, image, spec)
    logits = image.logits[kept]
    return Found(
        (corners[kept] * np.float32(image.image_scale)).astype(np.float64),
        logits,
        sigmoid(logits) if scores is None else scores,
        image.classes[kept] + 1,
    )


def as_xywh(boxes: Doubles) -> Doubles:
    """Corners xyxy as COCO's x, y, width, height."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)


# Decoding and suppression.


def making_hypotheses(spec: ModelSpec) -> Iterator[Hypothesis]:
    """Return the faults in making detections that have no parameter, decoding first."""
    turned = replace(spec, aspect_ratios=tuple((h, w) for w, h in spec.aspect_ratios))
    rows: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
        ("decode", "ty and tx of the codes swapped", "(tx, ty, th, tw) is decoded",
         {"boxes": _coded(lambda codes: codes[:, [1, 0, 2, 3]])}),
        ("decode", "th and tw of the codes swapped", "(ty, tx, tw, th) is decoded",
         {"boxes": _coded(lambda codes: codes[:, [0, 1, 3, 2]])}),
        ("decode", "x and y of the codes swapped", "(tx, ty, tw, th) is decoded",
         {"boxes": _coded(lambda codes: codes[:, [1, 0, 3, 2]])}),
        ("decode", "codes multiplied by variances", "codes are multiplied by 0.1, 0.1, 0.2, 0.2",
         {"boxes": _coded(lambda codes: codes * np.array([0.1, 0.1, 0.2, 0.2], np.float32))}),
        ("decode", "anchors around corners", "anchors are half a stride nearer the corner",
         {"boxes": _cornered}),
        ("decode", "boxes not clipped", "no box is clipped", {"clip": lambda boxes, *_: boxes}),
        ("decode", "boxes clipped to the padded square",
         "boxes are clipped to the network's input, not to the picture in it",
         {"clip": lambda boxes, *_: np.clip(boxes, 0, spec.image_size)}),
        ("nms", "no NMS", "the best candidates are all kept",
         {"keep": lambda *_: (slice(spec.max_detections), None)}),
        ("nms", "class-agnostic NMS", "boxes are suppressed by those of other classes too",
         {"keep": lambda boxes, image, _: suppressed(
             boxes, replace(image, classes=np.zeros_like(image.classes)), spec)}),
        ("nms", "best class only of each anchor", "of an anchor, the best class alone is taken",
         {"keep": _best_class}),
        ("nms", "soft NMS (Gaussian): scores lowered where boxes overlap",
         "overlapping boxes are kept with scores lowered by a Gaussian",
         {"keep": partial(_soft, lower=lambda iou: np.exp(-(iou**2) / _SIGMA))}),
        ("nms", "soft NMS (linear): scores lowered where boxes overlap",
         "overlapping boxes are kept with scores lowered by 1 - IoU",
         {"keep": partial(_soft, lower=lambda iou: np.where(
             iou > spec.nms_iou, 1 - iou, np.float32(1)))}),
        ("decode", "anchors with width and height exchanged", "the aspects are turned over",
         {"boxes": lambda image, _: decoded(image, turned)}),
        *(("decode", f"anchors of {scale:g} strides",
           f"anchors of {scale:g} strides, not {spec.anchor_scale:g}, are decoded from",
           {"boxes": lambda image, _, scale=scale: decoded(
               image, replace(spec, anchor_scale=scale))})
          for scale in (3.0, 1.0) if scale != spec.anchor_scale),
    )  # fmt: skip
    for stage, name, inverse, step in rows:
        yield Hypothesis(name, inverse, partial(make, **step), stage, "make")


def with_spec(name: str, inverse: str, **changes: Any) -> Hypothesis:
    """Return the fault in suppression of a spec with other values."""
    return Hypothesis(
        name, inverse, lambda image, spec: make(image, replace(spec, **changes)), "nms", "make"
    )


def with_candidates(
    name: str, inverse: str, least: float = 0.0, most: int | None = None
) -> Hypothesis:
    """Return the fault of suppressing candidates of *least* score or more only, *most* of them."""

    def made(image: ImageCandidates, spec: ModelSpec) -> Found:
        # Candidates are in order, so those that reach the score stand first.
        return make(image[: int((sigmoid(image.logits) >= least).sum())][:most], spec)

    return Hypothesis(name, inverse, made, "nms", "make")


def _coded(change: Callable[[Floats], Floats]) -> Callable[[ImageCandidates, ModelSpec], Boxes]:
    return lambda image, spec: decoded(replace(image, codes=change(image.codes)), spec)


def _cornered(image: ImageCandidates, spec: ModelSpec) -> Boxes:
    """Anchors around the corners of the cells, not their centres."""
    places = [size * size * spec.anchors_per_cell for size in spec.feature_sizes]
    strides = np.repeat([spec.image_size / size for size in spec.feature_sizes], places)
    moved = anchor_boxes(spec) - (strides / 2).astype(np.float32)[:, None]
    return decode_boxes(image.codes, moved[image.anchors])


def _best_class(boxes: Boxes, image: ImageCandidates, spec: ModelSpec) -> Kept:
    first = np.sort(np.unique(image.anchors, return_index=True)[1])
    kept, _ = suppressed(boxes[first], image[first], spec)
    return first[kept], None


def _soft(
    boxes: Boxes, image: ImageCandidates, spec: ModelSpec, *, lower: Callable[[Floats], Floats]
) -> Kept:
    """Scores lowered by overlap, not left out: Bodla et al. 2017."""
    left, keep, scores = sigmoid(image.logits), [], []
    for _ in range(min(spec.max_detections, left.size)):
        best = int(left.argmax())
        keep.append(best)
        scores.append(left[best])
        rivals = np.flatnonzero((image.classes == image.classes[best]) & (left >= 0))
        box, others = boxes[best], boxes[rivals]
        low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
        shared = np.prod(np.maximum(high - low, 0), axis=1)
        areas = np.prod(others[:, 2:] - others[:, :2], axis=1) + np.prod(box[2:] - box[:2])
        left[rivals] *= lower(shared / np.maximum(areas - shared, np.float32(1e-9)))
        left[best] = -1
    return np.array(keep, np.int64), np.array(scores, np.float32)


# Writing.


def writing_hypotheses() -> Iterator[Hypothesis]:
    """Return the faults in writing right detections; each of `Found`, the image and the spec."""
    whole = "are written as whole numbers"
    rows: tuple[tuple[str, str, str, str, Callable[..., Any]], ...] = (
        ("boxes", "evaluate", "xyxy written where xywh is wanted",
         "each bbox is read as x1, y1, x2, y2", lambda f, *_: f.boxes),
        ("boxes", "evaluate", "yxyx written where xywh is wanted",
         "each bbox is read as y1, x1, y2, x2", lambda f, *_: f.boxes[:, [1, 0, 3, 2]]),
        ("boxes", "decode", "x and y swapped", "each bbox is read as y, x, height, width",
         lambda f, *_: as_xywh(f.boxes)[:, [1, 0, 3, 2]]),
        ("boxes", "decode", "width and height swapped", "each bbox is read as x, y, height, width",
         lambda f, *_: as_xywh(f.boxes)[:, [0, 1, 3, 2]]),
        ("boxes", "decode", "centres written where corners are wanted",
         "each bbox is read as centre x, centre y, width, height",
         lambda f, *_: as_xywh(f.boxes) + np.pad((f.boxes[:, 2:] - f.boxes[:, :2]) / 2,
                                                 ((0, 0), (0, 2)))),
        ("boxes", "decode", "scale not applied", "boxes are left in pixels of the network's input",
         lambda f, i, _: as_xywh(f.boxes / i.image_scale)),
        ("boxes", "decode", "scale inverted", "boxes are divided by the scale, not multiplied",
         lambda f, i, _: as_xywh(f.boxes / i.image_scale**2)),
        ("boxes", "decode", "scale applied twice", "boxes are multiplied by the scale once more",
         lambda f, i, _: as_xywh(f.boxes * i.image_scale)),
        ("boxes", "decode", "boxes scaled as if the picture had been stretched",
         "x and y are scaled by the sides of the whole input",
         lambda f, i, s: as_xywh(f.boxes * np.tile(i.image_size, 2)
                                 / (s.image_size * i.image_scale))),
        ("boxes", "decode", "padding taken off as if the picture had lain in the middle",
         "half of the padding is taken off",
         lambda f, i, s: as_xywh(f.boxes - (s.image_size * i.image_scale
                                            - np.tile(i.image_size, 2)) / 2)),
        ("boxes", "decode", "boxes normalised by the image (0..1)",
         "boxes are parts of width and height",
         lambda f, i, _: as_xywh(f.boxes / np.tile(i.image_size, 2))),
        ("boxes", "decode", "boxes normalised by the network's input (0..1)",
         "boxes are parts of the input",
         lambda f, i, s: as_xywh(f.boxes / (i.image_scale * s.image_size))),
        ("boxes", "decode", "boxes rounded to whole pixels",
         f"x, y, width, height {whole}, rounded", lambda f, *_: np.rint(as_xywh(f.boxes))),
        ("boxes", "decode", "corners rounded to whole pixels",
         f"x1, y1, x2, y2 {whole}, rounded", lambda f, *_: as_xywh(np.rint(f.boxes))),
        ("boxes", "decode", "boxes cut to whole pixels",
         f"x, y, width, height {whole}, cut off", lambda f, *_: np.trunc(as_xywh(f.boxes))),
        ("boxes", "decode", "corners cut to whole pixels",
         f"x1, y1, x2, y2 {whole}, cut off", lambda f, *_: as_xywh(np.trunc(f.boxes))),
        ("classes", "evaluate", "classes shifted down by one", "1 is taken off each category id",
         lambda f, *_: f.classes - 1),
        ("classes", "evaluate", "classes shifted up by one", "1 is added to each category id",
         lambda f, *_: f.classes + 1),
        ("classes", "evaluate", "classes numbered 0 to 79",
         "COCO's 80 categories are numbered without gaps, from 0",
         lambda f, *_: _contiguous(f.classes)),
        ("classes", "evaluate", "classes numbered 1 to 80",
         "COCO's 80 categories are numbered without gaps, from 1",
         lambda f, *_: _contiguous(f.classes) + 1),
        ("classes", "evaluate", "ids mapped from 80 to 90 a second time",
         "each id is taken for a number from 1 to 80",
         lambda f, *_: np.where(f.classes <= len(_IDS),
                                _IDS[np.minimum(f.classes, len(_IDS)) - 1], f.classes)),
        ("scores", "decode", "sigmoid missing", "logits are written as scores",
         lambda f, *_: f.logits.astype(np.float64)),
        ("scores", "decode", "sigmoid applied twice", "a second sigmoid is applied",
         lambda f, *_: 1 / (1 + np.exp(-f.scores.astype(np.float64)))),
        ("scores", "evaluate", "scores in percent", "scores are multiplied by 100",
         lambda f, *_: f.scores.astype(np.float64) * 100),
        ("scores", "evaluate", "scores rounded to 2 decimals",
         "scores are rounded to 2 decimals", lambda f, *_: f.scores.astype(np.float64).round(2)),
    )  # fmt: skip
    for part, stage, name, inverse, apply in rows:
        yield Hypothesis(name, inverse, apply, stage, part)


def with_boxes(name: str, inverse: str, change: Callable[[Doubles], Doubles]) -> Hypothesis:
    """Return the fault in decoding of corners that *change* gives as x, y, width, height."""
    return Hypothesis(name, inverse, lambda found, *_: change(found.boxes), "decode", "boxes")


def _contiguous(classes: Indices) -> Indices:
    """80 numbers from 0; an id that is none of COCO's takes the number of the one before it."""
    return np.maximum(np.searchsorted(_IDS, classes, side="right") - 1, 0)
