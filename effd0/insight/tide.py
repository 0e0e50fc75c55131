"""
What kind of mistake each wrong detection is, and what AP50 would be without that kind.

Algorithm source: Bolya, Foley, Hays and Hoffman, "TIDE: A General Toolbox for Identifying Object
Detection Errors", ECCV 2020, section 2.2: six kinds and an oracle for each.  Detections match
objects, and AP50 is accumulated, as in COCO; what lies in a crowd is no mistake.

Measured 2026-11-25 against the authors' tidecv 1.0.1 on 40 drawn sets without crowds: the same
counts, and deltas within 5.4e-14 points once tidecv reads COCO's own recalls and, for class and for
localisation, lets an oracle fix what is the best of its own kind, not only of both together.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ..curves import precision_at_recalls
from ..data.coco import Dataset
from ..hits import category_hits
from ..overlaps import Flags, PlacedBoxes, PlacedObjects, overlapping, placed_objects
from ..types import Fractions, Indices

#: From this IoU on a box is in the right place; below the other it is on no object at all.
FOREGROUND, BACKGROUND = 0.5, 0.1
KINDS = ("class", "localisation", "both", "duplicate", "background", "missed")

Names: TypeAlias = npt.NDArray[np.str_]


@dataclass(frozen=True)
class Outcomes:
    """
    The detections that count in COCO's AP50, of each category by falling score.

    *rows* are their rows in the table of results, *images* the places of their images in the
    dataset, *objects* what they found, or -1.
    """

    rows: Indices
    images: Indices
    categories: Indices
    scores: Fractions
    objects: Indices


@dataclass(frozen=True)
class Errors:
    """
    The mistakes of a detector.

    *kinds* names that of each of *outcomes*, or is empty where it is right; *targets* is the
    object that one of class or localisation was about, else -1.  *truth* are all objects, *missed*
    those that no detection found and no mistake of class or localisation was about.
    """

    outcomes: Outcomes
    truth: PlacedObjects
    kinds: Names
    targets: Indices
    missed: Indices

    def count(self, kind: str) -> int:
        """How many mistakes are of *kind*."""
        return self.missed.size if kind == "missed" else int(np.sum(self.kinds == kind))

    @cached_property
    def ap50(self) -> float | None:
        """AP50 as a fraction; None without an object to be found."""
        return _ap50(self.outcomes, _counts(self.truth.categories[~self.truth.ignored[:, 0]]))

    def delta_ap(self, kind: str) -> float | None:
        """Points of AP50 gained by fixing *kind* alone, never negative; None where undefined."""
        truths = _counts(self.truth.categories[~self.truth.ignored[:, 0]])
        if kind == "missed":
            # As if the detector were as precise on them as on the rest.
            for category in self.truth.categories[self.missed].tolist():
                truths[category] -= 1
            fixed = _ap50(self.outcomes, truths)
        else:
            fixed = _ap50(_fixed(self, kind), truths)
        return None if fixed is None or self.ap50 is None else 100 * (fixed - self.ap50)


def find_errors(dataset: Dataset, results: Fractions) -> Errors:
    """
    Name each mistake in *results*, a table as `to_coco_results` gives it.

    Where a wrong detection lies by an object of its class and on one of another, it is one of
    localisation, and where it repeats an object and lies on another, one of class: so the paper's
    authors resolve what their definitions leave open.
    """
    outcomes, truth = find_outcomes(dataset, results), placed_objects(dataset)
    wrong = np.flatnonzero(outcomes.objects < 0)
    found = PlacedBoxes(outcomes.images[wrong], results[outcomes.rows[wrong], 1:5])
    same, other = _nearest(found, outcomes.categories[wrong], truth)
    names = np.select(
        [
            (same.ious >= BACKGROUND) & (same.ious < FOREGROUND),
            other.ious >= FOREGROUND,
            same.ious >= FOREGROUND,
            other.ious >= BACKGROUND,
        ],
        ["localisation", "class", "duplicate", "both"],
        "background",
    )
    kinds = np.full(outcomes.rows.size, "", names.dtype)
    kinds[wrong] = names
    targets = np.full(outcomes.rows.size, -1)
    targets[wrong] = np.select(
        [names == "localisation", names == "class"], [same.objects, other.objects], -1
    )
    covered = np.union1d(outcomes.objects, targets)
    missed = np.setdiff1d(np.flatnonzero(~truth.ignored[:, 0]), covered)
    return Errors(outcomes, truth, kinds, targets, missed)


def find_outcomes(dataset: Dataset, results: Fractions) -> Outcomes:
    """What each detection in *results* found at IoU 0.50; those that COCO ignores are left out."""
    parts = []
    for found in category_hits(dataset, results):
        counts = ~found.ignored[:, 0, 0]
        parts.append((found.rows[counts], found.images[counts], found.objects[counts]))
    none = np.empty(0, np.int64)
    rows, images, objects = (np.concatenate([none, *part]) for part in zip(*parts, strict=True))
    categories = results[rows, 6].astype(np.int64)
    return Outcomes(rows, images, categories, results[rows, 5], objects)


@dataclass(frozen=True)
class _Nearest:
    """For each box the object that it overlaps most: its index or -1, and the IoU or 0."""

    objects: Indices
    ious: Fractions


def _nearest(
    found: PlacedBoxes, categories: Indices, truth: PlacedObjects
) -> tuple[_Nearest, _Nearest]:
    """The nearest object of the same category as each of *found*, and of any other one."""
    parts = list(overlapping(found, truth, BACKGROUND))
    none = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    rows, columns, ious = (np.concatenate(part) for part in zip(none, *parts, strict=True))
    real = ~truth.ignored[columns, 0]
    same = truth.categories[columns] == categories[rows]
    nearest = []
    for kept in (real & same, real & ~same):
        # The last write of a row stands, and that is its highest IoU.
        order = np.flatnonzero(kept)[np.argsort(ious[kept], kind="stable")]
        objects, best = np.full(len(found.rows), -1), np.zeros(len(found.rows))
        objects[rows[order]], best[rows[order]] = columns[order], ious[order]
        nearest.append(_Nearest(objects, best))
    return nearest[0], nearest[1]


def _fixed(errors: Errors, kind: str) -> Outcomes:
    """
    The outcomes after the oracle of *kind*: what can be made right is, the rest is suppressed.

    Made right is the best that was about an object which no detection found.
    """
    outcomes, wrong = errors.outcomes, errors.kinds == kind
    about = np.flatnonzero(wrong & (errors.targets >= 0))
    about = about[~np.isin(errors.targets[about], outcomes.objects)]
    about = about[np.argsort(-outcomes.scores[about], kind="stable")]
    targets, first = np.unique(errors.targets[about], return_index=True)
    best = about[first]
    objects, categories = outcomes.objects.copy(), outcomes.categories.copy()
    objects[best], categories[best] = targets, errors.truth.categories[targets]
    kept: Flags = ~wrong
    kept[best] = True
    return Outcomes(
        outcomes.rows[kept],
        outcomes.images[kept],
        categories[kept],
        outcomes.scores[kept],
        objects[kept],
    )


def _counts(categories: Indices) -> dict[int, int]:
    values, counts = np.unique(categories, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _ap50(outcomes: Outcomes, truths: dict[int, int]) -> float | None:
    """
    AP at IoU 0.50 over the categories of *truths*, which counts their objects.

    Of a category without any left nothing was found, so that its AP stays 0.
    """
    order = np.lexsort((-outcomes.scores, outcomes.categories))
    categories, hits = outcomes.categories[order], outcomes.objects[order] >= 0
    means = []
    for category, count in truths.items():
        start, stop = np.searchsorted(categories, (category, category + 1))
        shown = np.flatnonzero(hits[start:stop]) + 1
        means.append(float(precision_at_recalls(shown, max(count, 1)).mean()))
    return float(np.mean(means)) if means else None
