"""Precision over recall of each category, as COCOeval accumulates it, and its twelve numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .data.coco import Dataset
from .hits import MOST, THRESHOLDS, CategoryHits, category_hits
from .overlaps import SIZES
from .types import Fractions, Indices

#: COCO reads precision at these recalls.
RECALLS: Fractions = np.linspace(0, 1, 101)
#: COCO counts recall among so many detections of a category and image.
LIMITS = (1, 10, MOST)


@dataclass(frozen=True)
class Curves:
    """
    What COCOeval accumulates; -1 where a category has no object to be found.

    *precision* is (thresholds, recalls, categories, sizes), among at most `MOST` detections;
    *recall* is (thresholds, categories, sizes, limits).
    """

    precision: Fractions
    recall: Fractions

    def stats(self) -> list[float]:
        """COCO's twelve numbers; -1 for one that is undefined."""
        last, sizes = len(LIMITS) - 1, range(1, len(SIZES))
        return [
            _mean(self.precision[..., 0]),
            *(_mean(self.precision[np.isclose(THRESHOLDS, iou), ..., 0]) for iou in (0.5, 0.75)),
            *(_mean(self.precision[..., size]) for size in sizes),
            *(_mean(self.recall[..., 0, limit]) for limit in range(len(LIMITS))),
            *(_mean(self.recall[..., size, last]) for size in sizes),
        ]


def accumulate_curves(dataset: Dataset, results: Fractions) -> Curves:
    """Match *results*, a table as `to_coco_results` gives it, and accumulate all categories."""
    return curves_of_hits(dataset, category_hits(dataset, results))


def curves_of_hits(dataset: Dataset, every: Iterable[CategoryHits]) -> Curves:
    """Accumulate the hits of *every* category of *dataset*, by rising id."""
    shape = (len(THRESHOLDS), len(dataset.categories), len(SIZES))
    precision = np.full((shape[0], len(RECALLS), *shape[1:]), -1.0)
    recall = np.full((*shape, len(LIMITS)), -1.0)
    for k, (_, found) in enumerate(zip(sorted(dataset.categories), every, strict=True)):
        truths = found.truths.sum(axis=1)
        for size in np.flatnonzero(truths).tolist():
            own = _of_size(found, size, int(truths[size]))
            precision[:, :, k, size], recall[:, k, size] = own
    return Curves(precision, recall)


def _of_size(found: CategoryHits, size: int, truths: int) -> tuple[Fractions, Fractions]:
    """Precision at each threshold and recall, recall at each threshold and limit."""
    # A threshold in a row of its own: of many detections, a column lies all over the memory.
    hits, ignored = (
        np.ascontiguousarray(flags[:, size].T) for flags in (found.hits, found.ignored)
    )
    counts = [np.count_nonzero(hits & (found.ranks < limit), axis=1) for limit in LIMITS]
    precision = []
    for hit, out in zip(hits, ignored, strict=True):
        shown = np.cumsum(~out, dtype=np.int64)[hit]
        precision.append(precision_at_recalls(shown, truths))
    return np.stack(precision), np.stack(counts, 1) / truths


def precision_at_recalls(shown: Indices, truths: int) -> Fractions:
    """
    COCO's precision at each of `RECALLS`, of detections that are to find *truths* objects.

    *shown* counts the detections down to each hit.  Only hits matter: after one precision falls,
    and recall stands still, until the next.
    """
    curve = np.zeros(len(RECALLS))
    hits = np.arange(1, shown.size + 1)
    # The same last bit in the denominator as in COCOeval: nothing shown is precision 0.
    highest = np.maximum.accumulate((hits / (shown + np.spacing(1)))[::-1])[::-1]
    reached = np.searchsorted(hits / truths, RECALLS)
    inside = reached < shown.size
    curve[inside] = highest[reached[inside]]
    return curve


def _mean(values: Fractions) -> float:
    defined = values[values > -1]
    return float(np.mean(defined)) if defined.size else -1.0
