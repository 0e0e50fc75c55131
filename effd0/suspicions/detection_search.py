"""Rows of results files that differ -> the mistake, or the two mistakes, that make all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeAlias

import numpy as np

from ..spec import ModelSpec
from .detection_making import (
    candidates_mistake,
    cap_mistake,
    floor_mistake,
    iou_mistake,
    making_mistakes,
)
from .detection_mistake import DetectionMistake, Trial
from .detection_rows import FIELDS, Tolerance, count_different, same_rows
from .detection_writing import grown_mistake, moved_mistake, stretched_mistake, writing_mistakes

Mistakes: TypeAlias = tuple[DetectionMistake, ...]
#: The images on which most mistakes are seen to explain nothing, at little cost, and those to
#: which a threshold is fitted.
_SCREEN, _FIT = 1, 2
_COUNTS = (100, 200, 300, 400, 500, 1000, 2000)
_FLOORS = (
    0.002, 0.005, 0.01, 0.02, 0.03, 0.05, *(n / 20 for n in range(2, 20)),
)  # fmt: skip
#: Differences of boxes that are no more than rounding, in pixels and as a factor.
_STILL, _UNSTRETCHED = 0.1, 2e-3


@dataclass(frozen=True)
class Explanation:
    """*mistakes* of different steps, which leave of *before* no more than *after* of the rows."""

    mistakes: Mistakes
    before: float
    after: float


def explain(trials: Sequence[Trial], lowest: float, tolerance: Tolerance) -> Explanation | None:
    """
    Find the mistake that makes the rows given in *trials*, or, where none does, two that do.

    *lowest* is the lowest score of all that was given.  None where nothing explains the rows, or
    nothing is to be explained.
    """
    before = share_different(trials, tolerance)
    mistakes: list[DetectionMistake] = []
    best = _best(trials, _collected(_mistakes(trials, lowest, tolerance), mistakes), tolerance)
    if best is None:
        pairs = ((a, b) for a, b in combinations(mistakes, 2) if a.step != b.step)
        best = _best(trials, pairs, tolerance)
    return None if best is None else Explanation(best[0], before, best[1])


def _mistakes(
    trials: Sequence[Trial], lowest: float, tolerance: Tolerance
) -> Iterator[DetectionMistake]:
    """All mistakes, those that cost little first."""
    yield from writing_mistakes()
    yield from _fitted_boxes(trials, tolerance)
    yield from making_mistakes(trials[0].spec)
    yield from _fitted_sets(trials, lowest, tolerance)


def _collected(
    mistakes: Iterable[DetectionMistake], into: list[DetectionMistake]
) -> Iterator[tuple[DetectionMistake]]:
    for mistake in mistakes:
        into.append(mistake)
        yield (mistake,)


def _best(
    trials: Sequence[Trial], chosen: Iterable[Mistakes], tolerance: Tolerance
) -> tuple[Mistakes, float] | None:
    """The first of those *chosen* that leave the least, and what they leave."""
    limit = min(tolerance.explained, tolerance.fall * share_different(trials, tolerance))
    best: tuple[Mistakes, float] | None = None
    for mistakes in chosen:
        if share_different(trials[:_SCREEN], tolerance, *mistakes) > 3 * limit:
            continue
        after = share_different(trials, tolerance, *mistakes)
        if after <= limit and (best is None or after < best[1]):
            best = mistakes, after
        if after == 0:
            break
    return best


def share_different(
    trials: Sequence[Trial], tolerance: Tolerance, *mistakes: DetectionMistake, but: str = ""
) -> float:
    """The share of rows that differ once *mistakes* were made; 1 where half of them are lost."""
    alone = counted = 0
    for trial in trials:
        rows = trial.rows(*mistakes)
        here = count_different(trial.given, rows, tolerance, trial.spec.score_floor, but)
        alone, counted = alone + here[0], counted + here[1]
    found = counted - alone
    # Rows below the floor do not count, but neither do they explain what was given.
    if found < sum(len(trial.given) for trial in trials):
        return 1.0
    return alone / counted if counted else 0.0


def _fitted_sets(
    trials: Sequence[Trial], lowest: float, tolerance: Tolerance
) -> Iterator[DetectionMistake]:
    """Mistakes with a parameter that the given rows tell: floors, caps, thresholds."""
    spec = trials[0].spec
    if lowest > 2 * spec.score_floor:
        reached = [floor for floor in _FLOORS if floor <= lowest + tolerance.score]
        yield from map(floor_mistake, [*reached[-1:], lowest - tolerance.score])
    most = max(len(trial.given) for trial in trials)
    if most < spec.max_detections:
        yield cap_mistake(most)
    for count in _COUNTS:
        if count < spec.max_candidates:
            yield candidates_mistake(count)
    yield from _nearest_iou(trials[:_FIT], tolerance, spec)


def _nearest_iou(
    trials: Sequence[Trial], tolerance: Tolerance, spec: ModelSpec
) -> Iterator[DetectionMistake]:
    """The IoU threshold that comes nearest, by twentieths and then by hundredths."""

    def left(iou: float) -> float:
        return share_different(trials, tolerance, mistakes[iou], but=unheeded)

    # What was written otherwise besides must not hide which boxes were kept.
    shares = {field: share_different(trials, tolerance, but=field) for field in FIELDS}
    unheeded = min(shares, key=lambda field: shares[field])
    if not shares[unheeded]:
        return
    nearest = spec.nms_iou
    for step, reach in ((0.05, 8), (0.01, 4)):
        ious = [round(nearest + step * n, 2) for n in range(-reach, reach + 1)]
        mistakes = {iou: iou_mistake(iou) for iou in ious if 0 < iou < 1 and iou != spec.nms_iou}
        nearest = min(mistakes, key=left)
    yield mistakes[nearest]


def _fitted_boxes(trials: Sequence[Trial], tolerance: Tolerance) -> Iterator[DetectionMistake]:
    """Boxes moved, grown or stretched alike in all images."""
    ours, theirs = [], []
    for trial in trials:
        rows = trial.rows()
        left, right = same_rows(trial.given, rows, tolerance, but="boxes")
        theirs.append(trial.given.boxes[left])
        ours.append(rows.boxes[right])
    wanted, got = np.concatenate(ours), np.concatenate(theirs)
    if not len(wanted):
        return
    x, y, wider, higher = np.median(got - wanted, axis=0).round(2).tolist()
    if max(abs(x), abs(y)) > _STILL:
        yield moved_mistake(x, y)
    if max(abs(wider), abs(higher)) > _STILL:
        yield grown_mistake(wider, higher)
    sides = wanted[:, 2:].min(axis=1) > 1
    if sides.any():
        across, down = np.median(got[sides, 2:] / wanted[sides, 2:], axis=0).tolist()
        if min(across, down) > 0 and max(abs(across - 1), abs(down - 1)) > _UNSTRETCHED:
            yield stretched_mistake(across, down)
