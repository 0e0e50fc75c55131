"""
Tests for `effd0.evaluation.evaluate`: what units of images found is scored and judged as one run
is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.synthetic import scored_set
from effd0.data import fixture as embedded
from effd0.data.coco import Dataset, load_coco
from effd0.errors import EvaluationError
from effd0.evaluation.evaluate import score, score_matches
from effd0.report import Evaluation
from effd0.spec import D0

from .scored import Found, cut, jittered, perfect

SCENES = load_coco(embedded.coco_root())
PART = load_coco(embedded.coco_root(), image_limit=20)


def about(min_map: float | None) -> Any:
    """Return what a run says of itself."""
    return {
        "min_map": min_map,
        "images_per_second": 3.0,
        "stages": {},
        "runner": "units",
        "model_sha256": "0" * 64,
        "settings": {"batch_size": 8},
    }


def same(evaluation: Evaluation) -> Evaluation:
    """Leave out the one thing that two scores of the same differ in."""
    return replace(evaluation, peak_rss_mb=0)


@pytest.mark.parametrize(
    ("dataset", "min_map"),
    [
        pytest.param(SCENES, 1.0, id="all"),
        pytest.param(PART, None, id="limited-no-floor"),
        pytest.param(PART, 1.0, id="limited-floor"),
        pytest.param(PART, 99.5, id="limited-unreachable"),
    ],
)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_units_are_scored_as_one_run(
    dataset: Dataset, min_map: float | None, data: st.DataObject
) -> None:
    """Numbers, verdict and record are the same, what a limited run can still reach included."""
    found = jittered(dataset, data.draw(st.integers(0, 9)))
    borders = data.draw(st.lists(st.integers(0, len(dataset.samples)), max_size=6))
    units = data.draw(st.permutations(cut(dataset, found, borders)))
    wanted = score(dataset, found, D0, evaluator="numpy", **about(min_map))
    assert same(score_matches(dataset, units, D0, **about(min_map))) == same(wanted)


def test_a_limited_run_that_cannot_reach_the_floor_fails() -> None:
    """The bound is of the images that were left out too, and it decides."""
    nothing = jittered(replace(PART, annotations=()), 0)
    told = []
    for found in (nothing, perfect(PART)):
        units = cut(PART, found, [7])
        told.append(score_matches(PART, units, D0, **about(99.0)).verdict)
    assert [verdict.status for verdict in told] == ["fail", "undecided"]
    assert "cannot reach 99.00 %: if all others were perfect" in told[0].reason


def test_a_missing_unit_is_refused() -> None:
    """Images without a result are no images without a detection."""
    units = cut(SCENES, jittered(SCENES, 0), [10, 20])
    with pytest.raises(EvaluationError, match=r"cover 38 images, but the dataset has 48: 10 are m"):
        score_matches(SCENES, [units[0], units[2]], D0, **about(None))


def test_a_unit_that_came_twice_is_refused() -> None:
    """A worker that starts again may send what the first one sent; nothing counts twice."""
    units = cut(SCENES, jittered(SCENES, 0), [10, 12])
    ids = SCENES.image_ids[10:12]
    message = rf"detections of 2 images came more than once \[{ids[0]}, {ids[1]}\]"
    with pytest.raises(EvaluationError, match=message):
        score_matches(SCENES, [*units, units[1]], D0, **about(None))


def test_a_foreign_image_is_refused() -> None:
    """Units of a dataset that has more images than the one that is scored are of another."""
    units = cut(SCENES, jittered(SCENES, 0), [10])
    with pytest.raises(EvaluationError, match=r"cover 48 images.* 0 are missing \[\], 28 are fore"):
        score_matches(PART, units, D0, **about(None))


def test_a_unit_in_the_wrong_place_is_refused() -> None:
    """Matches of one image are never counted as another's."""
    units = cut(SCENES, jittered(SCENES, 0), [10])
    moved = [units[0], replace(units[1], first=9)]
    with pytest.raises(EvaluationError, match=r"a unit came with images .* from place 9 on, where"):
        score_matches(SCENES, moved, D0, **about(None))


def test_twins_in_two_units_are_refused() -> None:
    """An image that was given the detections of another is found wherever both were matched."""
    found = many(SCENES)
    one, other = SCENES.image_ids[3], SCENES.image_ids[30]
    units = cut(SCENES, {**found, other: found[one]}, [10, 20])
    with pytest.raises(EvaluationError, match=rf"images {one} \(.*\) and {other} \(.*\) differ"):
        score_matches(SCENES, units[::-1], D0, **about(None))


def many(dataset: Dataset) -> Found:
    """Return so many detections of each image that they tell it from others."""
    drawn = scored_set(len(dataset.samples))[1].values()
    return dict(zip(dataset.image_ids, drawn, strict=True))
