"""A candidate held against a reference that ran on the same images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .data.coco import Dataset
from .detection.postprocess import Detections
from .evaluate import CocoMetrics
from .match import DetectionParity, detection_parity
from .paired import PairedDrop, paired_drop
from .spec import ModelSpec


@dataclass(frozen=True)
class Against:
    """
    What the comparison gave, and what was compared with.

    *max_drop* is in points of mAP; *runner*, *model_sha256* and *metrics* are those of the
    reference.
    """

    drop: PairedDrop
    parity: DetectionParity
    max_drop: float
    runner: str
    model_sha256: str
    metrics: CocoMetrics

    def to_json(self) -> dict[str, Any]:
        """The comparison as plain values; the drop in points, AP as fractions."""
        return asdict(self)


def hold_against(
    dataset: Dataset,
    reference: Mapping[int, Detections],
    candidate: Mapping[int, Detections],
    spec: ModelSpec,
    *,
    max_drop: float,
    runner: str,
    model_sha256: str,
    metrics: CocoMetrics,
) -> Against:
    """
    Compare the detections of two models, by image id; raise as `paired_drop` does.

    *runner*, *model_sha256* and *metrics* are those of the reference.
    """
    return Against(
        drop=paired_drop(dataset, reference, candidate, spec),
        parity=detection_parity(reference, candidate),
        max_drop=max_drop,
        runner=runner,
        model_sha256=model_sha256,
        metrics=metrics,
    )
