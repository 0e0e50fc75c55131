"""An image's detections step by step, so that a mistake can be made in any one step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..detection.anchors import anchor_boxes
from ..detection.boxes import clip_boxes, decode_boxes, nms
from ..detection.heads import HeadOutputs
from ..detection.postprocess import gather_codes, select_topk, sigmoid
from ..spec import ModelSpec
from ..types import Boxes, Floats, Indices


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
        return ImageCandidates(
            self.logits[chosen],
            self.anchors[chosen],
            self.classes[chosen],
            self.codes[chosen],
            self.image_scale,
            self.image_size,
        )


@dataclass(frozen=True)
class Found:
    """Detections by falling score: *boxes* xyxy in pixels of the image, *classes* COCO's ids."""

    boxes: Boxes
    logits: Floats
    scores: Floats
    classes: Indices


def image_candidates(
    heads: HeadOutputs, image_scale: float, image_size: tuple[int, int], spec: ModelSpec
) -> ImageCandidates:
    """The candidates of one image; the arguments are those of `postprocess`."""
    best = select_topk(heads.classes, spec)
    codes = gather_codes(heads.boxes, best.anchors, spec)
    return ImageCandidates(best.logits, best.anchors, best.classes, codes, image_scale, image_size)


def decoded(image: ImageCandidates, spec: ModelSpec) -> Boxes:
    """Boxes of all candidates, xyxy in input pixels, not clipped."""
    return decode_boxes(image.codes, anchor_boxes(spec)[image.anchors])


def clipped(image: ImageCandidates, boxes: Boxes) -> Boxes:
    """*boxes* clipped to the picture, in input pixels."""
    return clip_boxes(boxes, image.image_size, np.float32(image.image_scale))


def suppressed(image: ImageCandidates, boxes: Boxes, spec: ModelSpec) -> Found:
    """What is left of the candidates by their *boxes*."""
    keep = nms(boxes, image.classes, spec.nms_iou, spec.max_detections)
    return picked(image, boxes, keep)


def picked(
    image: ImageCandidates, boxes: Boxes, keep: Indices | slice, scores: Floats | None = None
) -> Found:
    """The candidates *keep*, of *boxes* in input pixels, with *scores* other than their own."""
    logits = image.logits[keep]
    return Found(
        boxes[keep] * np.float32(image.image_scale),
        logits,
        sigmoid(logits) if scores is None else scores,
        image.classes[keep] + 1,
    )


def make(image: ImageCandidates, spec: ModelSpec) -> Found:
    """Detections as `postprocess` gives them."""
    return suppressed(image, clipped(image, decoded(image, spec)), spec)
