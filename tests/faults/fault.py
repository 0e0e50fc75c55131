"""Fault: a mistake that is made for real somewhere, and how it is planted in a correct pipeline."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from effd0.data.coco import Dataset
from effd0.detection.postprocess import Detections
from effd0.spec import ModelSpec

Found = Mapping[int, Detections]


@dataclass(frozen=True)
class Good:
    """
    What is right, and stays so: a fault is planted in a copy.

    *dataset* lies in *root*; *model* is the export of *checkpoint* with a free batch; *bins* are
    its inputs and *results* the model's outputs for them, both with their manifests; *detections*
    is what was found, in COCO's result format;
    *points* is its mAP in percent.
    """

    root: Path
    dataset: Dataset
    checkpoint: Path
    model: Path
    bins: Path
    results: Path
    detections: Path
    spec: ModelSpec
    points: float


@dataclass(frozen=True)
class Planted:
    """
    A pipeline with a fault: the *options* of pytest that name it, and what is *patched* meanwhile.

    *found* gives the detections that come of it in *dataset* (None: the good one), for the effect
    on mAP, asked for while the patch is on; None where none can.
    """

    options: tuple[str, ...]
    patched: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext
    found: Callable[[], Found] | None = None
    dataset: Path | None = None


#: What is right and an empty folder for what is not -> the pipeline with the fault.
Plant = Callable[[Good, Path], Planted]


@dataclass(frozen=True)
class Fault:
    """
    A fault called *id* of *stage*, seen in *source*.

    *suspicion* is a pattern that the verdict's suspicion has to match; empty where no cause can be
    told, because the effect is all there is.
    """

    id: str
    stage: str
    source: str
    suspicion: str
    plant: Plant = field(repr=False)
