"""COCO's precision and recall curves, its twelve numbers, and the AP of each class."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.coco import Dataset
from ..detection.postprocess import Detections
from ..spec import ModelSpec
from ..types import Fractions, Indices
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
    return _metrics(matches.dataset, means, precision[..., 0], matches.count)


def accumulate(matches: coco.MatchTable) -> tuple[Fractions, Fractions]:
    """
    Precision over recall, and recall, of each category, as COCOeval accumulates them.

    Precision is (thresholds, recalls, categories, areas), among at most 100 detections per
    category and image; recall is (thresholds, categories, areas, `MAX_DETECTIONS`).  Both are -1
    where a category has no object to be found.
    """
    shape = (len(coco.THRESHOLDS), len(matches.dataset.categories), len(coco.AREAS))
    precision = np.full((shape[0], len(RECALLS), *shape[1:]), -1.0)
    recall = np.full((*shape, len(coco.MAX_DETECTIONS)), -1.0)
    for k, (category, own) in enumerate(matches.by_category()):
        wanted = matches.wanted(category).sum(axis=1)
        hits, ignored = coco.flags(own, "hit"), coco.flags(own, "ignored")
        for area in np.flatnonzero(wanted):
            for n in range(len(coco.THRESHOLDS)):
                (hit,) = hits[:, area, n].nonzero()
                shown = (~ignored[:, area, n]).cumsum(dtype=np.int64)[hit]
                precision[n, :, k, area] = precision_at_recalls(shown, wanted[area])
                ranks = own["rank"][hit]
                first = [np.count_nonzero(ranks < most) for most in coco.MAX_DETECTIONS]
                recall[n, k, area] = first / wanted[area]
    return precision, recall


def precision_at_recalls(shown: Indices, wanted: int) -> Fractions:
    """
    COCO's precision at each of `RECALLS`, of detections that are to find *wanted* objects.

    *shown* counts the detections down to each hit.  Only hits matter: after one precision falls,
    and recall stands still, until the next.
    """
    hits, highest = np.arange(1, shown.size + 1), np.zeros(shown.size + 1)
    # The same last bit in the denominator as in COCOeval: nothing shown is precision 0.
    np.divide(hits, shown + np.spacing(1), out=highest[:-1])
    highest = np.maximum.accumulate(highest[::-1])[::-1]
    return highest[(hits / wanted).searchsorted(RECALLS)]


def pycocotools_metrics(
    dataset: Dataset, detections: Mapping[int, Detections], spec: ModelSpec
) -> CocoMetrics:
    """
    What `coco_metrics` gives, computed by pycocotools: a reference to confirm it with.

    Takes about 100 times as long.  Raises as `coco_metrics` does.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    coco.check_complete(dataset, detections)
    results = coco.to_coco_results(detections, spec)
    truth, found = COCO(), COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": id_} for id_ in dataset.image_ids],
        "annotations": [
            # What COCO files may leave out.
            {"iscrowd": 0, "area": annotation["bbox"][2] * annotation["bbox"][3]} | annotation
            for annotation in dataset.annotations
        ],
        "categories": [{"id": id_, "name": name} for id_, name in dataset.categories.items()],
    }
    found.dataset = truth.dataset | {"annotations": []}
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        found.createIndex()
        if len(results):  # loadRes does not take an empty list.
            found = truth.loadRes([*coco.entries_of(results)])
        scored: Any = COCOeval(truth, found, "bbox")
        scored.params.imgIds = dataset.image_ids
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    means = [None if value == -1 else float(value) for value in scored.stats]
    return _metrics(dataset, means, scored.eval["precision"][..., 0, -1], len(results))


def _metrics(
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
