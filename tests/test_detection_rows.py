"""Tests for rows of results files: which are the same, which count, which image they are of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from effd0.results_json import CocoResults
from effd0.suspicions.detection_images import rows_by_image
from effd0.suspicions.detection_rows import EXACT, Rows, count_different, same_rows

ROWS = Rows(
    np.array([[10, 20, 30, 40], [50, 60, 70, 80], [11, 21, 31, 41]], float),
    np.array([0.9, 0.5, 0.1]),
    np.array([1, 2, 1]),
)


@pytest.mark.parametrize(
    ("score", "alone"),
    [
        pytest.param(5e-4, 0, id="below"),
        pytest.param(1.5e-3, 0, id="within-tolerance"),
        pytest.param(2e-3, 2, id="above"),
    ],
)
def test_rows_below_the_floor_do_not_count(score: float, alone: int) -> None:
    """What one side alone has below the floor is neither a difference nor counted."""
    more = replace(ROWS, scores=np.array([0.9, 0.5, score]))
    other = replace(more, boxes=np.add(more.boxes, [[0], [0], [5]]))
    assert count_different(more, other, EXACT, floor=1e-3) == (alone, 4 + alone)


def test_each_row_is_paired_once() -> None:
    """Of two like rows, only one is the like of the other side's."""
    twice = ROWS[np.array([0, 0, 1])]
    left, right = same_rows(twice, ROWS, EXACT)
    assert sorted(right.tolist()) == [0, 1]
    assert len(set(left.tolist())) == 2


def test_parts_of_the_image_are_compared_as_finely_as_pixels() -> None:
    """Boxes from 0 to 1 are not all alike because they are small."""
    small = replace(ROWS, boxes=ROWS.boxes / 640)
    moved = replace(small, boxes=small.boxes + 0.01)
    assert count_different(small, moved, EXACT, floor=1e-3) == (6, 6)


def test_logits_are_compared_by_their_size() -> None:
    """A score of -9 may be off by more than one of 0.9: float32 is."""
    logits = replace(ROWS, scores=np.array([-9.0, -8, -7]))
    near = replace(logits, scores=logits.scores * 1.0005)
    assert len(same_rows(logits, near, EXACT)[0]) == 3


def test_the_best_rows_of_each_image_are_kept() -> None:
    """What an evaluator with its limit leaves out is not compared, in whatever order it stands."""
    given = CocoResults(
        Path("results.json"),
        image_ids=np.array([7, 3, 7, 7, 3]),
        categories=np.array([1, 2, 3, 4, 5]),
        boxes=np.arange(20.0).reshape(5, 4),
        scores=np.array([0.1, 0.2, 0.3, 0.4, 0.5]),
    )
    found = rows_by_image(given, limit=2)
    assert {id_: rows.classes.tolist() for id_, rows in found.items()} == {7: [4, 3], 3: [5, 2]}
