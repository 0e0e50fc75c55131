"""Faults that nothing but the mAP shows, and runs that may not pass for what they leave out."""

from __future__ import annotations

from pathlib import Path

from .fault import Fault, Good, Planted
from .good import detections_of
from .run import base_options


def _other_architecture(good: Good, folder: Path) -> Planted:
    """Weights of one architecture in its sibling, some of whose keys are others."""
    del folder
    return Planted((*base_options(good), "--arch=efficientdet_d0", "--runner=torch"))


def _advprop(good: Good, folder: Path) -> Planted:
    """Weights that were trained on one normalisation, run with another."""
    del folder
    return Planted((*base_options(good), "--arch=tf_efficientdet_d0_ap", "--runner=torch"))


def _limited(good: Good, folder: Path) -> Planted:
    """A part of the images stands for all, where all are required."""
    del folder
    options = (*base_options(good), f"--model={good.model}", "--runner=ort")
    return Planted((*options, "--image-limit=6", "--require=coco"))


def _too_high(good: Good, folder: Path) -> Planted:
    """A model that is all it claims to be, and not good enough."""
    del folder
    options = (*base_options(good)[:-1], f"--min-map={good.points + 0.5}")
    return Planted(
        (*options, f"--model={good.model}", "--runner=ort"),
        found=lambda: detections_of(good.model, good.dataset),
    )


GATE_FAULTS = (
    Fault("architectures-mixed-up", "checkpoint", "effdet's two D0s", "", _other_architecture),
    Fault("advprop-mixed-up", "gate", "effdet's *_ap weights", "tf_efficientdet_d0", _advprop),
    Fault("part-of-the-images", "gate", "peers F16", "", _limited),
    Fault("below-the-floor", "gate", "peers 2", "", _too_high),
)  # fmt: skip
