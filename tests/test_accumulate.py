"""Tests for `effd0.accumulate`: AP of any mixture of images is COCOeval's own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effd0.accumulate import average_precision, class_matches
from effd0.data.coco import Dataset
from effd0.errors import EvaluationError
from effd0.evaluate import EVALUATORS, evaluate
from effd0.spec import D0

from .scored import NOTHING, Found, drawn_scenes, jittered, made, perfect, redrawn

#: The same fractions in another order of sums; measured 2026-11-23 over 300 drawn sets and as
#: many resamples: at most 1.7e-16.
SAME = 1e-9


def ap_of(dataset: Dataset, found: Found, counts: list[int] | None = None) -> float:
    """Return effd0's AP of *dataset*, each image as often as *counts* says, or once."""
    weights = np.array([[1] * len(dataset.samples) if counts is None else counts], np.int32)
    return float(average_precision(class_matches(dataset, found, D0), weights)[0])


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_ap_is_that_of_the_evaluator(evaluator: str, embedded_dataset: Dataset) -> None:
    """On the embedded scenes, crowds included, the AP is the evaluator's."""
    found = jittered(embedded_dataset, 0)
    wanted = evaluate(embedded_dataset, found, D0, evaluator=evaluator).ap
    assert ap_of(embedded_dataset, found) == pytest.approx(wanted, rel=0, abs=SAME)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_ap_is_that_of_pycocotools_on_any_scenes(seed: int) -> None:
    """Whatever is drawn, crowds, objects to ignore and empty images, the AP is pycocotools'."""
    dataset = drawn_scenes(seed, 6)
    found = jittered(dataset, seed)
    wanted = evaluate(dataset, found, D0, evaluator="pycocotools").ap
    got = ap_of(dataset, found)
    assert got == pytest.approx(np.nan if wanted is None else wanted, rel=0, abs=SAME, nan_ok=True)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_an_image_drawn_n_times_counts_n_times(seed: int) -> None:
    """The AP of a resample is pycocotools' AP of a dataset that holds each image that often."""
    dataset = drawn_scenes(seed, 6)
    found = jittered(dataset, seed)
    counts = np.random.default_rng(seed).integers(0, 4, 6).tolist()
    copies, found_in_copies = redrawn(dataset, found, counts)
    wanted = evaluate(copies, found_in_copies, D0, evaluator="pycocotools").ap
    got = ap_of(dataset, found, counts)
    assert got == pytest.approx(np.nan if wanted is None else wanted, rel=0, abs=SAME, nan_ok=True)


def test_equal_scores_stand_in_the_order_of_images() -> None:
    """Where all scores tie, order decides the AP, and it is pycocotools'."""
    dataset = drawn_scenes(3, 8)
    found = {
        id_: made([(*box, 0.5, c) for box, c in zip(d.boxes, d.classes, strict=True)])
        for id_, d in jittered(dataset, 3).items()
    }
    wanted = evaluate(dataset, found, D0, evaluator="pycocotools").ap
    assert ap_of(dataset, found) == pytest.approx(wanted, rel=0, abs=SAME)


def test_resamples_are_independent_rows() -> None:
    """Each row of weights has the AP that it has alone; one without an object has none."""
    dataset = drawn_scenes(1, 5, crowds=False)
    bare = replace(dataset, annotations=tuple(a for a in dataset.annotations if a["image_id"] > 1))
    matches = class_matches(bare, jittered(dataset, 1), D0)
    weights = np.array([[1, 1, 1, 1, 1], [4, 0, 0, 0, 0], [0, 2, 0, 1, 2]], np.int32)
    together = average_precision(matches, weights)
    alone = [float(average_precision(matches, row[None])[0]) for row in weights]
    assert together.tolist() == pytest.approx(alone, rel=0, abs=0, nan_ok=True)
    assert np.isnan(together).tolist() == [False, True, False]
    assert together[0] != together[2]


def test_all_found_is_one_and_nothing_found_is_zero(embedded_dataset: Dataset) -> None:
    """The ends of the scale."""
    nothing = dict.fromkeys(embedded_dataset.image_ids, NOTHING)
    # COCOeval adds a last bit to denominators; measured 2026-11-23: 0.
    assert ap_of(embedded_dataset, perfect(embedded_dataset)) == pytest.approx(1, abs=1e-12)
    assert ap_of(embedded_dataset, nothing) == 0


def test_missing_images_are_refused() -> None:
    """An image without a result is not an image without a detection."""
    dataset = drawn_scenes(0, 3)
    with pytest.raises(EvaluationError, match=r"cover 2 images, but the dataset has 3: 1 are miss"):
        class_matches(dataset, {1: NOTHING, 2: NOTHING}, D0)
