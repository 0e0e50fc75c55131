"""Faults of effd0's own steps: mistakes that a change of this very code might make."""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np

import effd0
import effd0.data.preprocess
import effd0.detection.postprocess
import effd0.evaluation.pipeline
import effd0.metrics.coco

from .fault import Fault, Good, Plant, Planted
from .good import detections_of
from .run import base_options

Change = Callable[..., Any]


# A module that is imported while a function is patched would keep the wrong one for good.
for _module in pkgutil.walk_packages(effd0.__path__, "effd0."):
    if not _module.name.endswith("__main__"):
        importlib.import_module(_module.name)


def _patched(module: Any, name: str, wrong: Callable[[Change], Change]) -> Plant:
    """Replace the function *name* of *module* by what *wrong* makes of it."""

    def patch() -> contextlib.AbstractContextManager[object]:
        return mock.patch.object(module, name, wrong(getattr(module, name)))

    def plant(good: Good, _: object) -> Planted:
        options = (*base_options(good), f"--model={good.model}", "--runner=ort")
        return Planted(options, patch, lambda: detections_of(good.model, good.dataset))

    return plant


def _swapped_sizes(right: Change) -> Change:
    return lambda codes, anchors: right(codes[:, [0, 1, 3, 2]], anchors)


def _offset(right: Change) -> Change:
    """Anchors half a stride away: their centres lie on corners of cells."""
    return lambda codes, anchors: right(codes, anchors - np.float32(4))


def _clipped_to_square(right: Change) -> Change:
    return lambda boxes, _size, _scale: right(boxes, (512, 512), np.float32(1))


def _unclipped(_: Change) -> Change:
    return lambda boxes, _size, _scale: boxes


def _threshold(value: float) -> Callable[[Change], Change]:
    """Another threshold than the spec's; a call that suppresses nothing still does so."""
    return lambda right: (
        lambda boxes, classes, iou, limit: right(boxes, classes, value if iou < 1 else iou, limit)
    )


def _agnostic(right: Change) -> Change:
    return lambda boxes, classes, iou, limit: right(boxes, np.zeros_like(classes), iou, limit)


def _corners(right: Change) -> Change:
    def results(found: Any, spec: Any) -> Any:
        table = right(found, spec)
        table[:, 3:5] += table[:, 1:3]
        return table

    return results


def _classes_shifted(right: Change) -> Change:
    def results(found: Any, spec: Any) -> Any:
        table = right(found, spec)
        table[:, 6] -= 1
        return table

    return results


def _fill_of_bgr(right: Change) -> Change:
    """What the picture leaves of the square is filled with its colour the wrong way round."""
    return lambda pixels, spec: right(pixels[..., ::-1], spec)


OWN_FAULTS = (
    Fault("own-fill-bgr", "preprocess", "peers F8", "own preprocessing",
          _patched(effd0.data.preprocess, "normalize", _fill_of_bgr)),
    Fault("own-h-and-w-swapped", "decode", "peers F27", "own decoding",
          _patched(effd0.detection.postprocess, "decode_boxes", _swapped_sizes)),
    Fault("own-anchors-offset", "decode", "peers F39", "own decoding",
          _patched(effd0.detection.postprocess, "decode_boxes", _offset)),
    Fault("own-clip-to-square", "decode", "peers F30", "own decoding",
          _patched(effd0.detection.postprocess, "clip_boxes", _clipped_to_square)),
    Fault("own-clip-left-out", "decode", "peers F30", "own decoding",
          _patched(effd0.detection.postprocess, "clip_boxes", _unclipped)),
    Fault("own-iou-threshold", "nms", "peers F44", "own suppression",
          _patched(effd0.detection.postprocess, "nms", _threshold(0.6))),
    Fault("own-nms-over-classes", "nms", "peers F43", "own suppression",
          _patched(effd0.detection.postprocess, "nms", _agnostic)),
    Fault("own-results-corners", "evaluate", "peers F28", "own scoring",
          _patched(effd0.metrics.coco, "to_coco_results", _corners)),
    Fault("own-classes-shifted", "evaluate", "peers F46", "own scoring",
          _patched(effd0.metrics.coco, "to_coco_results", _classes_shifted)),
)  # fmt: skip
