"""Tests for `effd0.metrics.tide`: kinds of errors, and what each costs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from effd0.metrics.coco import match_table
from effd0.metrics.detection_diff import box_iou
from effd0.metrics.summary import coco_metrics
from effd0.metrics.tide import KINDS, Errors, find_errors
from effd0.spec import D0
from tests.helpers.results import Row, drawn_scenes, jittered, scene
from tests.suite.truth import NOTHING, made, truth_of

#: x, y, width, height, category and whether it is crowd: far apart, three of each category.
OBJECTS = [(100 * n, 100 * row, 10, 10, 1 + row, 0) for row in (0, 1) for n in (0, 1, 2)]
#: All of them found, as x1, y1, x2, y2, score, category.
PERFECT = [(x, y, x + w, y + h, 0.9, category) for x, y, w, h, category, _ in OBJECTS]
#: The first object, and boxes that overlap it by a third, and by nothing.
THERE, BESIDE, AWAY = (0, 0, 10, 10), (5, 0, 15, 10), (50, 50, 60, 60)


def errors_in(objects: Sequence[Row], rows: Sequence[Row], empty: Sequence[Row] = ()) -> Errors:
    """Return the errors of *rows* in an image with *objects*, and of *empty* in one without."""
    found = {1: made(rows), 2: made(empty)}
    return find_errors(match_table(scene(objects), found, D0))


def counts(errors: Errors) -> dict[str, int]:
    """Return how many errors there are of each kind that there is."""
    return {kind: errors.count(kind) for kind in KINDS if errors.count(kind)}


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        ("class", [(*THERE, 0.9, 2), *PERFECT[1:]]),
        ("localisation", [(*BESIDE, 0.9, 1), *PERFECT[1:]]),
        ("both", [*PERFECT, (*BESIDE, 0.95, 2)]),
        ("duplicate", [(*THERE, 0.99, 1), (*THERE, 0.95, 1), *PERFECT[1:]]),
        ("background", [*PERFECT, (*AWAY, 0.95, 1)]),
        ("missed", PERFECT[1:]),
    ],
    ids=KINDS,
)
def test_one_planted_error_is_found_and_priced(kind: str, rows: list[Row]) -> None:
    """It is one of its kind and none of another, and fixing it makes the set perfect again."""
    errors = errors_in(OBJECTS, rows)
    assert counts(errors) == {kind: 1}
    ap50 = coco_metrics(scene(OBJECTS), {1: made(rows), 2: NOTHING}, D0).values["AP50"]
    assert ap50 is not None
    assert ap50 < 0.99
    for other in KINDS:
        # Means of the same fractions in another order; measured 2026-11-25: 1.1e-14 points.
        wanted = 100 * (1 - ap50) if other == kind else 0
        assert errors.delta_ap(other) == pytest.approx(wanted, rel=0, abs=1e-12)


@pytest.mark.parametrize(
    ("width", "category", "kind"),
    [
        (1.0, 1, "localisation"), (0.98, 1, "background"), (5.0, 1, "duplicate"),
        (4.98, 1, "localisation"), (5.0, 2, "class"), (4.98, 2, "both"),
    ],
)  # fmt: skip
def test_thresholds_belong_to_what_is_above(width: float, category: int, kind: str) -> None:
    """An IoU of 0.1 is no longer background, and one of 0.5 is in the right place."""
    rows = [*PERFECT, (0, 0, width, 10, 0.5, category)]
    assert counts(errors_in(OBJECTS, rows)) == {kind: 1}


def test_crowds_and_empty_images() -> None:
    """What lies in a crowd of its class counts for nothing; without an object it is background."""
    crowd = (200, 200, 100, 100, 1, 1)
    inside, edge = (210, 210, 220, 220), (150, 200, 230, 300)
    rows = [*PERFECT, (*inside, 0.95, 1), (*inside, 0.95, 2), (*edge, 0.95, 1)]
    assert counts(errors_in([*OBJECTS, crowd], rows)) == {"background": 2}
    assert counts(errors_in(OBJECTS, PERFECT, [(*AWAY, 0.4, 2)])) == {"background": 1}


def test_of_two_errors_about_an_object_the_best_is_made_right() -> None:
    """The other one is suppressed, and an object that is found needs neither."""
    objects = [(*THERE, 1, 0), (100, 0, 10, 10, 2, 0)]
    rows = [(*THERE, 0.9, 2), (*THERE, 0.8, 2), (*AWAY, 0.85, 1), (100, 0, 110, 10, 0.5, 2)]
    errors = errors_in(objects, rows)
    assert counts(errors) == {"class": 2, "background": 1}
    # Category 1 found nothing, 2 its object at the third place; then both at the first.
    assert errors.ap50 == pytest.approx((0 + 1 / 3) / 2)
    assert errors.delta_ap("class") == pytest.approx(100 * (1 - 1 / 6))


def test_an_error_about_an_object_that_is_found_is_suppressed() -> None:
    """It does not take the place of what found the object, however sure it is."""
    rows = [(*THERE, 0.5, 1), (*AWAY, 0.7, 1), (*THERE, 0.9, 2), *PERFECT[3:]]
    errors = errors_in([OBJECTS[0], *OBJECTS[3:]], rows)
    assert counts(errors) == {"class": 1, "background": 1}
    # Category 1 stays at one of two; three of four become three of three.
    assert errors.ap50 == pytest.approx((1 / 2 + 3 / 4) / 2)
    assert errors.delta_ap("class") == pytest.approx(100 * (1 - 3 / 4) / 2)


def test_missed_objects_are_not_counted_in_their_oracle() -> None:
    """Recall is of the rest alone; a class with nothing left stays at 0 and does not vanish."""
    errors = errors_in([*OBJECTS, (300, 0, 10, 10, 3, 0)], [PERFECT[0], *PERFECT[3:]])
    assert counts(errors) == {"missed": 3}
    # A third of the recalls, 0 to 0.33, of category 1 are reached; then all.
    assert errors.ap50 == pytest.approx((34 / 101 + 1 + 0) / 3)
    assert errors.delta_ap("missed") == pytest.approx(100 * (1 - 34 / 101) / 3)


def test_without_objects_there_is_nothing_to_gain() -> None:
    """AP50 is undefined and so is what fixing adds; the errors are counted all the same."""
    errors = errors_in([], [(*AWAY, 0.5, 1)])
    assert counts(errors) == {"background": 1}
    assert errors.ap50 is None
    assert [errors.delta_ap(kind) for kind in KINDS] == [None] * len(KINDS)


@given(st.integers(0, 10**6))
def test_fixing_never_lowers_ap(seed: int) -> None:
    """Whatever is fixed, precision and recall are as high or higher at every cut of the list."""
    dataset = drawn_scenes(seed, 6)
    found = jittered(dataset, seed)
    errors = find_errors(match_table(dataset, found, D0))
    wanted = coco_metrics(dataset, found, D0).values["AP50"]
    # Means of the same fractions in another order; measured 2026-11-25 over 300 sets: 2.3e-16.
    assert errors.ap50 == pytest.approx(wanted, rel=0, abs=1e-12)
    for kind in KINDS:
        delta = errors.delta_ap(kind)
        assert (delta is None) == (wanted is None)
        assert delta is None or delta >= 0
        assert errors.count(kind) or not delta


@given(st.integers(0, 10**6))
def test_each_detection_is_right_or_of_one_kind(seed: int) -> None:
    """The kind is what the paper's definitions say, one detection at a time."""
    dataset = drawn_scenes(seed, 4)
    errors = find_errors(match_table(dataset, jittered(dataset, seed), D0))
    about = set()
    for row, kind, target in zip(errors.counted, errors.kinds, errors.targets, strict=True):
        truth = truth_of(dataset, dataset.image_ids[row["image"]])
        same, other = (
            _best([a["bbox"] for a in truth if (a["category_id"] == row["category"]) == own],
                  row["box"].tolist())
            for own in (True, False)
        )  # fmt: skip
        assert kind == ("" if row["truth"] >= 0 else _kind(same, other))
        assert (target >= 0) == (kind in ("class", "localisation"))
        about.add(int(max(row["truth"], target)))
    objects = {int(n) for n in np.flatnonzero(~errors.truths["crowd"])}
    assert set(errors.missed.tolist()) == objects - about


def _best(boxes: list[list[float]], box: list[float]) -> float:
    """Return the highest IoU of *box* with any of *boxes*, x, y, width, height."""
    one, others = (
        np.array([(x, y, x + w, y + h) for x, y, w, h in some], np.float32).reshape(-1, 4)
        for some in ([box], boxes)
    )
    return float(box_iou(one, others).max(initial=0))


def _kind(same: float, other: float) -> str:
    """Return the kind of a wrong detection by its IoU with objects of its class and others."""
    if 0.1 <= same < 0.5:
        return "localisation"
    if other >= 0.5:
        return "class"
    if same >= 0.5:
        return "duplicate"
    return "both" if other >= 0.1 else "background"
