"""Faults of effd0's own steps: mistakes that a change of this very code might make."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np

import effd0
import effd0.data.preprocess
import effd0.detection.postprocess
import effd0.metrics.coco

from .run import Fault, Good, Plant, Planted, with_model

Change = Callable[..., Any]


# A module that is imported while a function is patched would keep the wrong one for good.
for _module in pkgutil.walk_packages(effd0.__path__, "effd0."):
    if not _module.name.endswith("__main__"):
        importlib.import_module(_module.name)


def _patched(module: Any, name: str, wrong: Callable[[Change], Change]) -> Plant:
    """Replace the function *name* of *module* by what *wrong* makes of it."""

    def plant(good: Good, _: object) -> Planted:
        return replace(
            with_model(good, good.model),
            patched=lambda: mock.patch.object(module, name, wrong(getattr(module, name))),
        )

    return plant


def _threshold(right: Change) -> Change:
    """Another threshold than the spec's; a call that suppresses nothing still does so."""
    return lambda boxes, classes, iou, limit: right(boxes, classes, 0.6 if iou < 1 else iou, limit)


def _results(change: Callable[[Any], Any]) -> Callable[[Change], Change]:
    """The rows of results as *change* makes them."""
    return lambda right: lambda found, spec: change(right(found, spec))


def _corners(table: Any) -> Any:
    table["box"][:, 2:] += table["box"][:, :2]
    return table


def _classes_shifted(table: Any) -> Any:
    table["category"] -= 1
    return table


_POSTPROCESS, _COCO = effd0.detection.postprocess, effd0.metrics.coco
FAULTS = (
    # What the picture leaves of the square is filled with its colour the wrong way round.
    Fault("own-fill-bgr", "preprocess", "peers F8", "own preprocessing",
          _patched(effd0.data.preprocess, "normalize", lambda right: (
              lambda pixels, spec: right(pixels[..., ::-1], spec)))),
    Fault("own-h-and-w-swapped", "decode", "peers F27", "own decoding",
          _patched(_POSTPROCESS, "decode_boxes", lambda right: (
              lambda codes, anchors: right(codes[:, [0, 1, 3, 2]], anchors)))),
    # Half a stride away: their centres lie on corners of cells.
    Fault("own-anchors-offset", "decode", "peers F39", "own decoding",
          _patched(_POSTPROCESS, "decode_boxes", lambda right: (
              lambda codes, anchors: right(codes, anchors - np.float32(4))))),
    Fault("own-clip-to-square", "decode", "peers F30", "own decoding",
          _patched(_POSTPROCESS, "clip_boxes", lambda right: (
              lambda boxes, *_: right(boxes, (512, 512), np.float32(1))))),
    Fault("own-clip-left-out", "decode", "peers F30", "own decoding",
          _patched(_POSTPROCESS, "clip_boxes", lambda _: lambda boxes, *_: boxes)),
    Fault("own-iou-threshold", "nms", "peers F44", "own suppression",
          _patched(_POSTPROCESS, "nms", _threshold)),
    Fault("own-nms-over-classes", "nms", "peers F43", "own suppression",
          _patched(_POSTPROCESS, "nms", lambda right: (
              lambda boxes, classes, *more: right(boxes, np.zeros_like(classes), *more)))),
    Fault("own-results-corners", "evaluate", "peers F28", "own scoring",
          _patched(_COCO, "to_coco_results", _results(_corners))),
    Fault("own-classes-shifted", "evaluate", "peers F46", "own scoring",
          _patched(_COCO, "to_coco_results", _results(_classes_shifted))),
)  # fmt: skip
