"""COCO's precision and recall curves, its twelve numbers, and the AP of each class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..data.coco import Dataset
from ..detection.postprocess import Detections
from ..spec import ModelSpec
from ..types import Fractions
from . import coco

#: COCO's twelve numbers, in the order of COCOeval's ``stats``.
METRICS = (
    "AP", "AP50", "AP75", "APs", "APm", "APl",
    "AR1", "AR10", "AR100", "ARs", "ARm", "ARl",
)  # fmt: skip
#: COCO reads precision at these recalls.
RECALLS: Fractions = np.linspace(0, 1, 101)
_AREA_NAMES = {"s": "small (area < 32²)", "m": "medium (32² to 96²)", "l": "large (area > 96²)"}


@dataclass(frozen=True)
class CocoMetrics:
    """
    COCO's bounding-box metrics as fractions; None where a number is undefined.

    *per_class* is AP by category name; *undefined* says why, for each number that is None;
    *images* is how many were scored, *detections* how many boxes.
    """

    values: dict[str, float | None]
    per_class: dict[str, float | None]
    undefined: dict[str, str]
    images: int
    detections: int

    @property
    def ap(self) -> float | None:
        """AP over IoU .50:.95, all areas, at most 100 detections."""
        return self.values["AP"]


def coco_metrics(
    dataset: Dataset, detections: Mapping[int, Detections], spec: ModelSpec
) -> CocoMetrics:
    """
    Score *detections*, by image id, on all images of *dataset*.

    An image without a detection costs recall, it is not left out.  Raises `EvaluationError` unless
    every image is there and none is foreign.
    """
    return summarize(coco.match_table(dataset, detections, spec))


def summarize(matches: coco.MatchTable) -> CocoMetrics:
    """The metrics of *matches*; equal to pycocotools' to the last bit."""
    precision, recall = accumulate(matches)
    last = len(coco.MAX_DETECTIONS) - 1
    numbers = [
        precision[..., 0],
        *(precision[np.isclose(coco.THRESHOLDS, iou), ..., 0] for iou in (0.5, 0.75)),
        *(precision[..., area] for area in range(1, len(coco.AREAS))),
        *(recall[..., 0, limit] for limit in range(len(coco.MAX_DETECTIONS))),
        *(recall[..., area, last] for area in range(1, len(coco.AREAS))),
    ]
    means = [_mean(number) for number in numbers]
    return metrics_of(matches.dataset, means, precision[..., 0], matches.count)


def accumulate(matches: coco.MatchTable) -> tuple[Fractions, Fractions]:
    """
    Precision over recall, and recall, of each category, as COCOeval accumulates them.

    Precision is (thresholds, recalls, categories, areas), among at most 100 detections per
    category and image; recall is (thresholds, categories, areas, `MAX_DETECTIONS`).  Both are -1
    where a category has no object to be found.
    """
    from .. import kernels

    shape = (len(matches.dataset.categories), len(coco.AREAS), len(coco.THRESHOLDS))
    limits = np.array(coco.MAX_DETECTIONS)
    precision, recall = (np.empty((*shape, one.size)) for one in (RECALLS, limits))
    for k, (category, own) in enumerate(matches.by_category()):
        wanted = matches.wanted(category).sum(axis=1)
        out = (one[k].reshape(-1, one.shape[-1]) for one in (precision, recall))
        kernels.curves(coco.columns(own, "hit", "ignored", "rank"), wanted, RECALLS, limits, *out)
    return precision.transpose(2, 3, 0, 1), recall.transpose(2, 0, 1, 3)


def metrics_of(
    dataset: Dataset, means: Sequence[float | None], precision: Fractions, detections: int
) -> CocoMetrics:
    """Metrics of the twelve *means*; *precision* is (thresholds, recalls, categories)."""
    values = dict(zip(METRICS, means, strict=True))
    areas = {name: f" of {size}" for name in METRICS if (size := _AREA_NAMES.get(name[-1]))}
    undefined = {
        name: "undefined: the evaluated images have no ground truth"
        f"{areas.get(name, '')} that is not crowd"
        for name, value in values.items()
        if value is None
    }
    per_class = {
        dataset.categories[category]: _mean(precision[..., k])
        for k, category in enumerate(sorted(dataset.categories))
    }
    return CocoMetrics(values, per_class, undefined, len(dataset.samples), detections)


def _mean(values: Fractions) -> float | None:
    """The mean of *values* that are defined, or None."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None
