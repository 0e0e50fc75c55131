"""Mistakes in how right detections are written: their boxes, classes and scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ..data.coco import NAMES
from ..spec import ModelSpec
from ..types import Indices
from .detection_mistake import DetectionMistake, Doubles, WriteBoxes, as_xywh
from .detection_steps import Found, ImageCandidates

_IDS = np.array(sorted(NAMES))


def writing_mistakes() -> Iterator[DetectionMistake]:
    """All of them, those of boxes first."""
    for stage, name, explanation, boxes in (*_LAYOUT, *_GEOMETRY, *_ROUNDING):
        yield DetectionMistake(name, stage, explanation, boxes=boxes)
    for name, explanation, classes in _CLASSES:
        yield DetectionMistake(name, "evaluate", explanation, classes=classes)
    for stage, name, explanation, scores in _SCORES:
        yield DetectionMistake(name, stage, explanation, scores=scores)


def moved_mistake(dx: float, dy: float) -> DetectionMistake:
    """Return the mistake of boxes that lie *dx* and *dy* pixels of the image off."""
    return DetectionMistake(
        f"boxes moved by ({dx:.3g}, {dy:.3g}) pixels", "decode",
        f"boxes are moved by ({dx:.3g}, {dy:.3g}) pixels",
        boxes=lambda boxes, *_: as_xywh(boxes + np.array([dx, dy, dx, dy])),
    )  # fmt: skip


def grown_mistake(dw: float, dh: float) -> DetectionMistake:
    """Return the mistake of boxes that are *dw* wider and *dh* higher."""
    return DetectionMistake(
        f"widths and heights larger by ({dw:.3g}, {dh:.3g}) pixels", "decode",
        f"({dw:.3g}, {dh:.3g}) is added to width and height",
        boxes=lambda boxes, *_: as_xywh(boxes) + np.array([0, 0, dw, dh]),
    )  # fmt: skip


def stretched_mistake(across: float, down: float) -> DetectionMistake:
    """Return the mistake of boxes whose x are multiplied by *across* and y by *down*."""
    return DetectionMistake(
        f"boxes multiplied by ({across:.4g}, {down:.4g})", "decode",
        f"x are multiplied by {across:.4g} and y by {down:.4g}",
        boxes=lambda boxes, *_: as_xywh(boxes * np.array([across, down, across, down])),
    )  # fmt: skip


def _columns(*order: int) -> WriteBoxes:
    """The columns *order* of x1, y1, x2, y2, width, height."""
    return lambda boxes, *_: np.concatenate([boxes, as_xywh(boxes)[:, 2:]], 1)[:, list(order)]


def _centred(boxes: Doubles, *_: object) -> Doubles:
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1)


def _times(factor: Callable[[ImageCandidates, ModelSpec], object]) -> WriteBoxes:
    """Boxes times one *factor*, or one for x and one for y."""

    def write(boxes: Doubles, image: ImageCandidates, spec: ModelSpec) -> Doubles:
        factors = np.broadcast_to(np.asarray(factor(image, spec), np.float64), 2)
        return as_xywh(boxes * np.tile(factors, 2))

    return write


def _unpadded(boxes: Doubles, image: ImageCandidates, spec: ModelSpec) -> Doubles:
    """As if the picture lay in the middle of the input."""
    free = spec.image_size * image.image_scale - np.array(image.image_size)
    return as_xywh(boxes - np.tile(free / 2, 2))


def _rounded(change: Callable[[Doubles], Doubles], *, corners: bool) -> WriteBoxes:
    if corners:
        return lambda boxes, *_: as_xywh(change(boxes))
    return lambda boxes, *_: change(as_xywh(boxes))


def _contiguous(classes: Indices) -> Indices:
    """80 numbers from 0; an id that is none of COCO's takes the number of the one before it."""
    return np.maximum(np.searchsorted(_IDS, classes, side="right") - 1, 0)


def _mapped_again(classes: Indices) -> Indices:
    return np.where(classes <= len(_IDS), _IDS[np.minimum(classes, len(_IDS)) - 1], classes)


def _logits(found: Found) -> Doubles:
    return found.logits.astype(np.float64)


def _sigmoid_again(found: Found) -> Doubles:
    return 1 / (1 + np.exp(-found.scores.astype(np.float64)))


_LAYOUT: tuple[tuple[str, str, str, WriteBoxes], ...] = (
    (
        "evaluate", "xyxy written where xywh is wanted", "each bbox is read as x1, y1, x2, y2",
        _columns(0, 1, 2, 3),
    ),
    (
        "evaluate", "yxyx written where xywh is wanted", "each bbox is read as y1, x1, y2, x2",
        _columns(1, 0, 3, 2),
    ),
    (
        "decode", "x and y swapped", "each bbox is read as y, x, height, width",
        _columns(1, 0, 5, 4),
    ),
    (
        "decode", "width and height swapped", "each bbox is read as x, y, height, width",
        _columns(0, 1, 5, 4),
    ),
    (
        "decode", "centres written where corners are wanted",
        "each bbox is read as centre x, centre y, width, height", _centred,
    ),
)  # fmt: skip
_GEOMETRY: tuple[tuple[str, str, str, WriteBoxes], ...] = (
    (
        "decode", "scale not applied", "boxes are left in pixels of the network's input",
        _times(lambda image, _: 1 / image.image_scale),
    ),
    (
        "decode", "scale inverted", "boxes are divided by the scale, not multiplied",
        _times(lambda image, _: image.image_scale**-2.0),
    ),
    (
        "decode", "scale applied twice", "boxes are multiplied by the scale once more",
        _times(lambda image, _: image.image_scale),
    ),
    (
        "decode", "boxes scaled as if the picture had been stretched",
        "x and y are scaled by the sides of the whole input",
        _times(lambda image, spec: np.array(image.image_size)
               / (spec.image_size * image.image_scale)),
    ),
    (
        "decode", "padding taken off as if the picture had lain in the middle",
        "half of the padding is taken off", _unpadded,
    ),
    (
        "decode", "boxes normalised by the image (0..1)", "boxes are parts of width and height",
        _times(lambda image, _: 1 / np.array(image.image_size)),
    ),
    (
        "decode", "boxes normalised by the network's input (0..1)", "boxes are parts of the input",
        _times(lambda image, spec: 1 / (image.image_scale * spec.image_size)),
    ),
)  # fmt: skip
_WHOLE = "are written as whole numbers"
_ROUNDING: tuple[tuple[str, str, str, WriteBoxes], ...] = (
    (
        "decode", "boxes rounded to whole pixels", f"x, y, width, height {_WHOLE}, rounded",
        _rounded(np.rint, corners=False),
    ),
    (
        "decode", "corners rounded to whole pixels", f"x1, y1, x2, y2 {_WHOLE}, rounded",
        _rounded(np.rint, corners=True),
    ),
    (
        "decode", "boxes cut to whole pixels", f"x, y, width, height {_WHOLE}, cut off",
        _rounded(np.trunc, corners=False),
    ),
    (
        "decode", "corners cut to whole pixels", f"x1, y1, x2, y2 {_WHOLE}, cut off",
        _rounded(np.trunc, corners=True),
    ),
)  # fmt: skip
_CLASSES: tuple[tuple[str, str, Callable[[Indices], Indices]], ...] = (
    ("classes shifted down by one", "1 is taken off each category id", lambda ids: ids - 1),
    ("classes shifted up by one", "1 is added to each category id", lambda ids: ids + 1),
    (
        "classes numbered 0 to 79", "COCO's 80 categories are numbered without gaps, from 0",
        _contiguous,
    ),
    (
        "classes numbered 1 to 80", "COCO's 80 categories are numbered without gaps, from 1",
        lambda ids: _contiguous(ids) + 1,
    ),
    (
        "ids mapped from 80 to 90 a second time", "each id is taken for a number from 1 to 80",
        _mapped_again,
    ),
)  # fmt: skip
_SCORES: tuple[tuple[str, str, str, Callable[[Found], Doubles]], ...] = (
    ("decode", "sigmoid missing", "logits are written as scores", _logits),
    ("decode", "sigmoid applied twice", "a second sigmoid is applied", _sigmoid_again),
    (
        "evaluate", "scores in percent", "scores are multiplied by 100",
        lambda found: found.scores.astype(np.float64) * 100,
    ),
    (
        "evaluate", "scores rounded to 2 decimals", "scores are rounded to 2 decimals",
        lambda found: found.scores.astype(np.float64).round(2),
    ),
)  # fmt: skip
