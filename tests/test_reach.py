"""Tests for `effd0.reach`: no run of all images ever has more than a part of it allowed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from effd0.data.coco import Dataset
from effd0.evaluate import evaluate, to_coco_results
from effd0.hits import category_hits
from effd0.reach import reachable_ap
from effd0.spec import D0
from effd0.tolerances import AP_ARITHMETIC

from .scored import NOTHING, Found, drawn_scenes, jittered, perfect, truth_of


def first(dataset: Dataset, count: int) -> Dataset:
    """Return *dataset* as if it had been loaded with a limit of *count* images."""
    kept = set(dataset.image_ids[:count])
    return replace(
        dataset,
        samples=dataset.samples[:count],
        annotations=tuple(a for a in dataset.annotations if a["image_id"] in kept),
        left_out=Counter(
            annotation["category_id"]
            for image_id in dataset.image_ids[count:]
            for annotation in truth_of(dataset, image_id)
        ),
    )


def ap_of(dataset: Dataset, found: Found) -> float:
    """Return AP by the evaluator, in points."""
    ap = evaluate(dataset, found, D0).ap
    assert ap is not None
    return 100 * ap


def bound(dataset: Dataset, found: Found, count: int) -> float:
    """Return the most that is left to hope for after *count* images, in points."""
    part = first(dataset, count)
    results = to_coco_results({id_: found[id_] for id_ in part.image_ids}, D0)
    return 100 * reachable_ap(part, category_hits(part, results))


def mixed(dataset: Dataset, seed: int, good: float) -> Found:
    """Return perfect detections of a share *good* of the images, and middling ones of the rest."""
    rng = np.random.default_rng(seed)
    sides = (jittered(dataset, seed), perfect(dataset))
    return {id_: sides[int(rng.random() < good)][id_] for id_ in dataset.image_ids}


@given(
    seed=st.integers(0, 10_000),
    images=st.integers(2, 9),
    good=st.sampled_from([0.0, 0.5, 0.9]),
    data=st.data(),
)
def test_the_whole_run_never_exceeds_what_a_part_allowed(
    seed: int, images: int, good: float, data: st.DataObject
) -> None:
    """For any detections and any number of first images, AP of all is at most the bound."""
    dataset = drawn_scenes(seed, images)
    if not any(truth_of(dataset, id_) for id_ in dataset.image_ids):
        return
    found = mixed(dataset, seed, good)
    count = data.draw(st.integers(1, images))
    assert ap_of(dataset, found) <= bound(dataset, found, count) + AP_ARITHMETIC.limit


@pytest.mark.parametrize("seed", range(4))
def test_the_bound_falls_with_every_image_down_to_the_truth(seed: int) -> None:
    """One more image can only take hope away; after the last, the bound is AP itself."""
    dataset = drawn_scenes(seed, 12)
    found = mixed(dataset, seed, 0.5)
    bounds = [bound(dataset, found, count) for count in range(1, 13)]
    rounding = AP_ARITHMETIC.limit
    assert all(b <= a + rounding for a, b in pairwise(bounds))
    assert bounds[-1] == pytest.approx(ap_of(dataset, found), rel=0, abs=rounding)
    assert bounds[0] > bounds[-1] + 1


@pytest.mark.parametrize("seed", range(4))
def test_the_bound_is_reached_where_the_rest_is_perfect(seed: int) -> None:
    """It is no looser than it must be: perfect detections, surer than all others, have it."""
    dataset = drawn_scenes(seed, 12)
    found = jittered(dataset, seed)
    best = {**perfect(dataset), **{id_: found[id_] for id_ in dataset.image_ids[:5]}}
    assert ap_of(dataset, best) == pytest.approx(
        bound(dataset, found, 5), rel=0, abs=AP_ARITHMETIC.limit
    )


def test_a_perfect_part_rules_nothing_out() -> None:
    """As long as nothing was wrong, everything can be reached."""
    dataset = drawn_scenes(3, 8)
    assert bound(dataset, perfect(dataset), 4) == pytest.approx(100, abs=AP_ARITHMETIC.limit)


def test_a_class_that_was_not_seen_yet_counts_as_found() -> None:
    """Objects of a category that is in the left images alone are its AP of 1."""
    dataset = drawn_scenes(3, 2)
    wanted = {1: 1, 2: 2}
    dataset = replace(
        dataset,
        annotations=tuple(
            {
                "id": image_id,
                "image_id": image_id,
                "category_id": category,
                "bbox": [1.0, 2.0, 30.0, 40.0],
                "area": 1200.0,
            }
            for image_id, category in wanted.items()
        ),
    )
    nothing = {1: NOTHING, 2: NOTHING}
    assert bound(dataset, nothing, 1) == pytest.approx(50)
    assert bound(dataset, nothing, 2) == 0
