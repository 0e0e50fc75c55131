"""What the page says of accuracy: COCO's numbers, classes, errors, beside a reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..runfile import Run
from ..runfile.pairs import called

#: An accuracy as it stands in a run file.
Accuracy = Mapping[str, Any]
#: TIDE's kinds of error, and what each is.
ERRORS = {
    "class": "right place, wrong class",
    "localisation": "right class, box is off",
    "both": "wrong class and box is off",
    "duplicate": "a better detection had the object",
    "background": "nothing is there",
    "missed": "an object that nothing found",
}
#: The data set that published figures are of, and its images.
PUBLISHED_ON = ("val2017", 5000)


@dataclass(frozen=True)
class ClassRow:
    """The AP of one class on both sides, as fractions; *change* is in points."""

    name: str
    ap: float | None
    reference: float | None

    @property
    def change(self) -> float | None:
        """How much better than the reference."""
        if self.ap is None or self.reference is None:
            return None
        return 100 * (self.ap - self.reference)


@dataclass(frozen=True)
class ErrorRow:
    """
    One kind of error on both sides: how many, and points of AP50 that they cost.

    The shares, in per cent, are of the costliest kind.
    """

    name: str
    meaning: str
    candidate: Mapping[str, Any]
    reference: Mapping[str, Any] | None
    share: float
    reference_share: float


def foremost(run: Run) -> Accuracy | None:
    """
    The accuracy that pictures are of: one with insight, held against a reference if any is.

    Of several the lowest mAP.  A fault may raise mAP, so that the reference itself has the lowest.
    """
    every: Sequence[Accuracy] = run["accuracy"]
    return min(every, key=_rank, default=None)


def _rank(accuracy: Accuracy) -> tuple[bool, bool, float]:
    ap = accuracy["metrics"]["AP"]
    return accuracy["insight"] is None, accuracy["against"] is None, 2.0 if ap is None else ap


def title(accuracy: Accuracy) -> str:
    """What an accuracy is of, short."""
    return called(accuracy)


def class_rows(accuracy: Accuracy) -> list[ClassRow]:
    """Every class that is defined on a side, those that lose most before all others."""
    against = accuracy["against"]
    reference = {} if against is None else against["per_class"]
    rows = [ClassRow(name, ap, reference.get(name)) for name, ap in accuracy["per_class"].items()]
    known = [row for row in rows if row.ap is not None or row.reference is not None]
    return sorted(known, key=_worst_first)


def _worst_first(row: ClassRow) -> tuple[float, float, str]:
    change = 0.0 if row.change is None else row.change
    return change, -1.0 if row.ap is None else row.ap, row.name


def error_rows(accuracy: Accuracy) -> list[ErrorRow]:
    """TIDE's kinds of error in their order."""
    sides = accuracy["insight"]["errors"]
    candidate, reference = sides["candidate"], sides["reference"]
    both = [side for side in (candidate, reference) if side is not None]
    greatest = max((_cost(side[name]) for side in both for name in ERRORS), default=0.0)
    return [
        ErrorRow(
            name,
            meaning,
            candidate[name],
            None if reference is None else reference[name],
            100 * _cost(candidate[name]) / (greatest or 1.0),
            0.0 if reference is None else 100 * _cost(reference[name]) / (greatest or 1.0),
        )
        for name, meaning in ERRORS.items()
    ]


def _cost(error: Mapping[str, Any]) -> float:
    """What a kind of error costs, as far as a bar can show it."""
    return max(0.0, error["delta_ap"] or 0.0)


def comparable(run: Run, accuracy: Accuracy) -> bool:
    """Whether the mAP may stand beside published ones: all images of val2017."""
    dataset = run["artefact"]["dataset"]
    return dataset is not None and (dataset["name"], accuracy["images"]) == PUBLISHED_ON
