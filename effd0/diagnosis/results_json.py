"""
Detections in COCO's results file, as detectors write them, and which rows of two sides are alike.

Only the form of a file is checked.  Images or categories that do not exist and boxes without size
stay as they are: they tell of the fault that made them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from ..detection.postprocess import Detections
from ..errors import ResultError
from ..metrics.coco import to_coco_results
from ..spec import ModelSpec
from ..types import Indices

Doubles: TypeAlias = npt.NDArray[np.float64]
#: An image id that was written as text: its digits, or the name of COCO's file.
_TEXT_ID = re.compile(r"\d+(?=(\.\w+)?$)", re.ASCII)
_WANTED = "but a COCO results file is one list of {image_id, category_id, bbox, score}"
_AGAIN = "write the file again"
#: What each row holds besides its image.
FIELDS = ("boxes", "scores", "classes")
#: A score is also off by this part of itself, for logits written as scores.
_RELATIVE = 6e-4
#: Boxes that are written as parts of the image are compared to this part of the largest number.
_PART = 1e-3


@dataclass(frozen=True)
class Rows:
    """Detections of one image as they stand in a file: *boxes* (n, 4), *scores*, *classes*."""

    boxes: Doubles
    scores: Doubles
    classes: Indices

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, chosen: Indices | slice) -> Rows:
        return Rows(self.boxes[chosen], self.scores[chosen], self.classes[chosen])


@dataclass(frozen=True)
class CocoResults:
    """
    The rows of the file *path* under each image id, by falling score.

    *text_ids* counts image ids that are text; here they are numbers.
    """

    path: Path
    images: dict[int, Rows]
    text_ids: int = 0

    def __len__(self) -> int:
        return sum(map(len, self.images.values()))


class _Entry(msgspec.Struct):
    image_id: int | float | str
    category_id: int | float
    bbox: tuple[float, float, float, float]
    score: float


def read_results(path: Path) -> CocoResults:
    """Read the COCO results file *path*; raise `ResultError` unless it has their form."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ResultError(
            f"{path} cannot be read: {error.strerror}; give a COCO results file"
        ) from error
    try:
        entries = msgspec.json.decode(data, type=list[_Entry])
        ids = np.array([_whole(entry.image_id) for entry in entries], np.int64)
        categories = np.array([_whole(entry.category_id) for entry in entries], np.int64)
    except (msgspec.DecodeError, RecursionError, ValueError, OverflowError) as error:
        raise ResultError(f"{path}: {error}, {_WANTED}; {_AGAIN}") from error
    if not entries:
        raise ResultError(f"{path} holds no detection, {_WANTED}; {_AGAIN}")
    boxes = np.array([entry.bbox for entry in entries], np.float64)
    scores = np.array([entry.score for entry in entries], np.float64)
    order = np.lexsort((-scores, ids))
    found, starts = np.unique(ids[order], return_index=True)
    rows = Rows(boxes[order], scores[order], categories[order])
    ends = [*starts[1:], len(rows)]
    images = {
        int(id_): rows[start:end] for id_, start, end in zip(found, starts, ends, strict=True)
    }
    return CocoResults(path, images, sum(isinstance(entry.image_id, str) for entry in entries))


def _whole(value: int | float | str) -> int:
    """The number of an id; text may be the number or the name of COCO's image file."""
    if isinstance(value, str) and (digits := _TEXT_ID.search(value)):
        return int(digits[0])
    if isinstance(value, str) or value != int(value):
        raise ValueError(f"{value!r} is no id, which is a whole number")
    return int(value)


def own_rows(found: Detections, spec: ModelSpec) -> Rows:
    """Return what effd0 would write of the detections *found* in an image."""
    table = to_coco_results({0: found}, spec)
    return Rows(table[:, 1:5], table[:, 5], table[:, 6].astype(np.int64))


@dataclass(frozen=True)
class Tolerance:
    """
    How far a box's four numbers may be off, in pixels and as part of its size, and a score.

    A fault explains rows if it leaves at most the share *explained* of them different, and at
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
        reach = min(tolerance.box, _PART * float(np.abs(wanted.boxes).max()))
        allowed = reach + tolerance.size * np.abs(wanted.boxes[:, 2:]).max(axis=1)
        far = np.abs(given.boxes[rows] - wanted.boxes[columns]).max(axis=1) > allowed[columns]
        rows, columns = rows[~far], columns[~far]
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
    given: Rows, wanted: Rows, tolerance: Tolerance, threshold: float, but: str = ""
) -> tuple[int, int]:
    """
    Count the rows of both sides that have no like on the other, and the rows that count at all.

    A row alone counts only if its score is above *threshold* by more than the tolerance: what is
    below may be written or not.
    """
    left, right = same_rows(given, wanted, tolerance, but)
    least = threshold + tolerance.score
    alone = sum(
        int((np.delete(side.scores, paired) >= least).sum())
        for side, paired in ((given, left), (wanted, right))
    )
    return alone, alone + 2 * len(left)
