"""The rows of a results file that are of one image, and which of two sides' rows are the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ..detection.postprocess import Detections
from ..metrics.coco import to_coco_results
from ..spec import ModelSpec
from ..types import Indices


@dataclass(frozen=True)
class Rows:
    """Detections of one image as they stand in a file: *boxes* (n, 4), *scores*, *classes*."""

    boxes: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    classes: Indices

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, chosen: Indices | slice | npt.NDArray[np.bool_]) -> Rows:
        return Rows(self.boxes[chosen], self.scores[chosen], self.classes[chosen])


@dataclass(frozen=True)
class Tolerance:
    """
    How far a box's four numbers may be off, in pixels and as part of its size, and a score.

    A mistake explains rows if it leaves at most the share *explained* of them different, and at
    most the part *fall* of those that differed without it: chance gives no such fall.
    """

    box: float
    size: float
    score: float
    explained: float
    fall: float


#: Of the same heads: JSON rounded to one decimal leaves 0.05 pixels of a box, three decimals
#: 0.0005 of a score.  No row differed so of ONNX Runtime's heads and torch's, and 0.5 % of heads
#: stored in float16, measured 2026-11-25.
EXACT = Tolerance(box=0.06, size=0.0, score=6e-4, explained=0.05, fall=0.1)
#: Of heads in another precision: with noise as of float16 arithmetic (2.2e-3 of the heads' norm)
#: 8 % of the rows differed so, with 5e-3 16 %, and a float32 tolerance would have 85 %, measured
#: 2026-11-25.
NEAR = Tolerance(box=1.5, size=0.03, score=0.02, explained=0.15, fall=0.25)
#: Rows alone, and rows that count.
Count: TypeAlias = tuple[int, int]
#: What each row holds besides its image.
FIELDS = ("boxes", "scores", "classes")
#: A score is also off by this part of itself, for logits written as scores.
_RELATIVE = 6e-4
#: Boxes that are written as parts of the image are held to this part of the largest number.
_PART = 1e-3


def own_rows(found: Detections, spec: ModelSpec) -> Rows:
    """What effd0 would write of the detections *found* in an image."""
    table = to_coco_results({0: found}, spec)
    return Rows(table[:, 1:5], table[:, 5], table[:, 6].astype(np.int64))


def same_rows(
    given: Rows, wanted: Rows, tolerance: Tolerance, but: str = ""
) -> tuple[Indices, Indices]:
    """
    Pair rows that are the same within *tolerance*, each at most once, the nearest scores first.

    *but* names the one of `FIELDS` that may differ.
    """
    gap = np.abs(given.scores[:, None] - wanted.scores)
    near = np.ones(gap.shape, bool)
    if but != "classes":
        near &= given.classes[:, None] == wanted.classes
    if but != "scores":
        near &= gap <= tolerance.score + _RELATIVE * np.abs(wanted.scores)
    rows, columns = np.nonzero(near)
    if but != "boxes" and rows.size:
        largest = float(np.abs(wanted.boxes).max())
        reach = min(tolerance.box, _PART * largest)
        allowed = reach + tolerance.size * np.abs(wanted.boxes[:, 2:]).max(axis=1)
        far = np.abs(given.boxes[rows] - wanted.boxes[columns]).max(axis=1) > allowed[columns]
        rows, columns = rows[~far], columns[~far]
    return _exclusive(rows, columns, gap)


def _exclusive(
    rows: Indices, columns: Indices, gap: npt.NDArray[np.float64]
) -> tuple[Indices, Indices]:
    order = np.argsort(gap[rows, columns], kind="stable")
    rows, columns = rows[order], columns[order]
    if len(set(rows.tolist())) == len(rows) == len(set(columns.tolist())):
        return rows, columns
    taken: tuple[set[int], set[int]] = (set(), set())
    kept = []
    for n, (row, column) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
        if row not in taken[0] and column not in taken[1]:
            kept.append(n)
            taken[0].add(row)
            taken[1].add(column)
    return rows[kept], columns[kept]


def count_different(
    given: Rows, wanted: Rows, tolerance: Tolerance, floor: float, but: str = ""
) -> Count:
    """
    How many rows of both sides have no like on the other, and how many rows count at all.

    A row alone counts only if its score is above *floor* by more than the tolerance: what is
    below may be written or not.
    """
    left, right = same_rows(given, wanted, tolerance, but)
    least = floor + tolerance.score
    alone = sum(
        int((np.delete(side.scores, paired) >= least).sum())
        for side, paired in ((given, left), (wanted, right))
    )
    return alone, alone + 2 * len(left)
