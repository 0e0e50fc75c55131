"""
Precision, recall and F1 over the score threshold, and which class is found as which.

All at IoU 0.50, all areas, at most 100 detections of a category in an image, read from COCO's match
table: objects are matched by falling score, so that what a threshold leaves out changes no match
above it.  Crowds, and detections that lie in a crowd of their class, count for nothing.
"""

from dataclasses import dataclass

import numpy as np

from ..types import Fractions, Indices
from .coco import MATCH, THRESHOLDS, MatchTable, Rows, overlapping
from .detection_diff import once_each

#: The score thresholds: a detection counts from its score on.
SCORES: Fractions = np.arange(101) / 100


@dataclass(frozen=True)
class ClassFigures:
    """
    Figures of a class, or of all, as fractions; None where there is nothing to divide by.

    *objects* are to be found; *detections* are those of at least the threshold.
    """

    precision: float | None
    recall: float | None
    f1: float | None
    objects: int
    detections: int


@dataclass(frozen=True)
class ScoreCurves:
    """Figures over all classes (micro-averaged) at each of `SCORES`; None as in `ClassFigures`."""

    precision: list[float | None]
    recall: list[float | None]
    f1: list[float | None]


@dataclass(frozen=True)
class OperatingPoint:
    """
    What a detector does at the score *threshold*: the lowest of `SCORES` whose micro F1 is highest.

    *total* and *per_class*, by category name, are at the threshold.  *confusion* counts pairs of
    the class of an object and the class it was found as, as (truth, found, count); None is
    background: an object that nothing found, a detection that found none.
    """

    threshold: float
    total: ClassFigures
    per_class: dict[str, ClassFigures]
    confusion: list[tuple[str | None, str | None, int]]
    curves: ScoreCurves


def operating_point(matches: MatchTable) -> OperatingPoint:
    """The figures of *matches* at the score threshold of their highest micro F1, and over all."""
    rows = np.concatenate([np.empty(0, MATCH), *matches.parts])
    counted = rows.compress(rows["ignored"] & 1 == 0)
    objects = int(np.sum(~matches.truths["ignored"][:, 0]))
    # A detection counts at as many thresholds as its score reaches.
    reached = np.searchsorted(SCORES, counted["score"], side="right")
    shown, hits = (
        np.bincount(some, minlength=SCORES.size + 1)[:0:-1].cumsum()[::-1]
        for some in (reached, reached[counted["truth"] >= 0])
    )
    every = [
        _figures(hit, objects, count)
        for hit, count in zip(hits.tolist(), shown.tolist(), strict=True)
    ]
    best = max(range(SCORES.size), key=lambda n: every[n].f1 or 0.0)
    matrix = _confusion(matches, counted.compress(reached > best))
    categories = sorted(matches.dataset.categories)
    names = [*(matches.dataset.categories[category] for category in categories), None]
    sums = (matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0))
    return OperatingPoint(
        threshold=float(SCORES[best]),
        total=every[best],
        # The last is background.
        per_class={
            name: _figures(*figures)
            for name, *figures in zip(names, *(one.tolist() for one in sums), strict=True)
            if name is not None
        },
        confusion=[
            (names[truth], names[found], int(matrix[truth, found]))
            for truth, found in np.argwhere(matrix).tolist()
        ],
        curves=ScoreCurves(
            *([getattr(one, key) for one in every] for key in ("precision", "recall", "f1"))
        ),
    )


def _figures(hits: int, objects: int, detections: int) -> ClassFigures:
    """Of *detections*, and of *objects* to be found, so many are *hits*."""
    precision, recall, f1 = (
        part / whole if whole else None
        for part, whole in ((hits, detections), (hits, objects), (2 * hits, objects + detections))
    )
    return ClassFigures(precision, recall, f1, objects, detections)


def _confusion(matches: MatchTable, shown: Rows) -> Indices:
    """
    How many objects of each category were found as each, (categories + 1, categories + 1).

    Rows are the truth, columns what was found, by rising id; the last of each is background.  An
    object goes to the detection of its class that found it in the match table, so that the
    diagonal is what precision and recall count; what is left on both sides, of different
    classes, pairs by falling IoU from 0.50 on, each once.  (Where IoU alone decides, as in some
    tools, a box of a wrong class hides that the object was found rightly too.)
    """
    truths, kinds = matches.truths, np.array(sorted(matches.dataset.categories))
    target = shown["truth"].astype(np.int64)
    free = ~truths["ignored"][:, 0]
    free[target[target >= 0]] = False
    left, open_ = np.flatnonzero(target < 0), np.flatnonzero(free)
    pairs = overlapping(
        shown["image"][left], shown["box"][left], truths.take(open_), float(THRESHOLDS[0])
    )
    rows, columns = left[pairs[0]], open_[pairs[1]]
    order = np.argsort(-pairs[2], kind="stable")
    order = order[(shown["category"][rows] != truths["category"][columns])[order]]
    found, places = once_each(rows, columns, order)
    target[found], free[places] = places, False
    of_truth = np.append(np.searchsorted(kinds, truths["category"]), kinds.size)
    matrix = np.zeros((kinds.size + 1, kinds.size + 1), np.int64)
    # A target of -1 is the last of all, background.
    np.add.at(matrix, (of_truth[target], np.searchsorted(kinds, shown["category"])), 1)
    np.add.at(matrix, (of_truth[:-1][free], kinds.size), 1)
    return matrix
