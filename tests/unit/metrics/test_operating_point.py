"""Tests for `effd0.metrics.operating_point`: counted again, one detection at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effd0.data.coco import Dataset
from effd0.metrics.coco import match_table
from effd0.metrics.operating_point import SCORES, ClassFigures, OperatingPoint, operating_point
from effd0.spec import D0
from tests.helpers.results import Row, drawn_scenes, jittered, scene
from tests.suite.truth import NOTHING, Found, made

#: Two objects of category a, one of b, all far apart, as x, y, width, height, category and crowd.
OBJECTS = [(0, 0, 10, 10, 1, 0), (100, 0, 10, 10, 1, 0), (200, 0, 10, 10, 2, 0)]
FIRST, SECOND, THIRD, AWAY = ((x, 0, x + 10, 10) for x in (0, 100, 200, 300))
#: All of FIRST but a tenth.
ALMOST = (0, 0, 9, 10)


def point_of(rows: Sequence[Row], objects: Sequence[Row] = OBJECTS) -> OperatingPoint:
    """Return the operating point of *rows*, detections in the image of *objects*."""
    return operating_point(match_table(scene(objects), {1: made(rows), 2: NOTHING}, D0))


def iou(one: Any, other: Any, *, crowd: bool = False) -> float:
    """Return the IoU of two boxes x, y, width, height; of a crowd, the part of *one* in it."""
    sides = [
        max(0.0, min(one[n] + one[n + 2], other[n] + other[n + 2]) - max(one[n], other[n]))
        for n in (0, 1)
    ]
    overlap, area = sides[0] * sides[1], one[2] * one[3]
    return float(overlap / (area if crowd else area + other[2] * other[3] - overlap))


def counted_again(dataset: Dataset, found: Found, least: float) -> Counter[Any]:
    """
    Count pairs of (truth, found) categories of the detections of at least *least*.

    Detections find objects of their category by falling score, then the rest pairs by IoU.
    """
    pairs: Counter[Any] = Counter()
    for image_id in dataset.image_ids:
        truths = [one for one in dataset.annotations if one["image_id"] == image_id]
        free = [one for one in truths if not one["iscrowd"] and one["area"] <= 1e10]
        wrong = []
        one = found[image_id]
        for corners, score, kind in zip(one.boxes, one.scores, one.classes, strict=True):
            if score < max(least, 0.001):
                continue
            box = [*corners[:2].tolist(), *(corners[2:] - corners[:2]).tolist()]
            own = [t for t in free if t["category_id"] == kind and iou(box, t["bbox"]) >= 0.5]
            crowds = [t for t in truths if t["iscrowd"] and t["category_id"] == kind]
            if own:
                taken = max(own, key=lambda t, box=box: iou(box, t["bbox"]))  # type: ignore[misc]
                free.remove(taken)
                pairs[int(kind), int(kind)] += 1
            elif not any(iou(box, t["bbox"], crowd=True) >= 0.5 for t in crowds):
                wrong.append((box, int(kind)))
        overlaps = [
            (iou(box, t["bbox"]), row, column)
            for row, (box, _) in enumerate(wrong)
            for column, t in enumerate(free)
        ]
        rows, columns = set(range(len(wrong))), set(range(len(free)))
        for overlap, row, column in sorted(overlaps, reverse=True):
            if overlap >= 0.5 and row in rows and column in columns:
                pairs[free[column]["category_id"], wrong[row][1]] += 1
                rows.remove(row)
                columns.remove(column)
        pairs.update((None, wrong[row][1]) for row in rows)
        pairs.update((free[column]["category_id"], None) for column in columns)
    return pairs


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_everything_is_as_counted_one_detection_at_a_time(seed: int) -> None:
    """The curve at every threshold, the best of them, and at it the matrix and each class."""
    dataset = drawn_scenes(seed, 6)
    found = jittered(dataset, seed)
    point = operating_point(match_table(dataset, found, D0))
    names: dict[Any, str | None] = {**dataset.categories, None: None}
    best = -1.0
    for n, least in enumerate(SCORES.tolist()):
        pairs = counted_again(dataset, found, least)
        hits = sum(count for (truth, kind), count in pairs.items() if truth == kind)
        shown = sum(count for (_, kind), count in pairs.items() if kind is not None)
        objects = sum(count for (truth, _), count in pairs.items() if truth is not None)
        f1 = 2 * hits / (shown + objects) if shown + objects else None
        assert point.curves.precision[n] == (hits / shown if shown else None)
        assert point.curves.recall[n] == (hits / objects if objects else None)
        assert point.curves.f1[n] == f1
        if (f1 or 0) > best:
            best, threshold = f1 or 0, least
    assert point.threshold == threshold
    pairs = counted_again(dataset, found, threshold)
    assert {(truth, kind): count for truth, kind, count in point.confusion} == {
        (names[truth], names[kind]): count for (truth, kind), count in pairs.items()
    }
    for category, name in dataset.categories.items():
        one = point.per_class[name]
        assert one.objects == sum(n for (truth, _), n in pairs.items() if truth == category)
        assert one.detections == sum(n for (_, kind), n in pairs.items() if kind == category)
        hits = pairs[category, category]
        assert one.precision == (hits / one.detections if one.detections else None)
        assert one.recall == (hits / one.objects if one.objects else None)


@pytest.mark.parametrize(
    ("rows", "confusion"),
    [
        pytest.param(
            [(*FIRST, 0.9, 2), (*ALMOST, 0.9, 1), (*SECOND, 0.9, 1), (*THIRD, 0.9, 2)],
            {("a", "a"): 2, ("b", "b"): 1, (None, "b"): 1},
            id="an-object-goes-to-its-own-class",
        ),
        pytest.param(
            [(*ALMOST, 0.9, 2), (*FIRST, 0.9, 3), (*SECOND, 0.9, 1), (*THIRD, 0.9, 2)],
            {("a", "c"): 1, ("a", "a"): 1, ("b", "b"): 1, (None, "b"): 1},
            id="then-to-the-one-that-overlaps-it-most",
        ),
        pytest.param(
            [(*FIRST, 0.9, 1), (*SECOND, 0.9, 1), (*AWAY, 0.9, 3)],
            {("a", "a"): 2, ("b", None): 1, (None, "c"): 1},
            id="the-rest-is-background",
        ),
    ],
)
def test_confusion(rows: list[Row], confusion: dict[Any, int]) -> None:
    """An object counts once, as what it was found as; so does a detection."""
    assert {(truth, kind): count for truth, kind, count in point_of(rows).confusion} == confusion


@pytest.mark.parametrize(
    ("scores", "threshold", "f1"),
    [
        # Of 3 objects, with the false one 2 of 3 detections are right; without it 2 of 2.
        pytest.param((0.9, 0.5, 0.3), 0.31, 4 / 5, id="above-what-is-false"),
        pytest.param((0.9, 0.3, 0.95), 0, 4 / 6, id="all-where-the-best-is-false"),
        pytest.param((0.9, 0.5, 0.0005), 0, 4 / 5, id="below-the-floor-nothing-counts"),
    ],
)
def test_the_threshold_is_the_lowest_of_the_highest_f1(
    scores: tuple[float, float, float], threshold: float, f1: float
) -> None:
    """Two are right, the third is false: it is left out where that costs no object."""
    places = ((*FIRST, scores[0], 1), (*SECOND, scores[1], 1), (*AWAY, scores[2], 1))
    point = point_of(list(places))
    assert (point.threshold, point.total.f1) == (threshold, f1)


def test_what_cannot_be_divided_is_none() -> None:
    """No object has no recall, no detection no precision, and neither has no F1."""
    nothing = point_of([])
    assert (nothing.total.precision, nothing.total.recall, nothing.total.f1) == (None, 0, 0)
    assert nothing.per_class["c"] == ClassFigures(None, None, None, 0, 0)
    false = point_of([(*AWAY, 0.5, 1)], objects=[])
    assert (false.total.precision, false.total.recall, false.total.f1) == (0, None, 0)
