"""Tests for `effd0.insight`: what pictures of an evaluation are drawn from."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effd0.data.coco import Dataset
from effd0.errors import EvaluationError
from effd0.insight import insight
from effd0.metrics.coco import to_coco_results
from effd0.metrics.summary import coco_metrics
from effd0.metrics.tide import KINDS
from effd0.spec import D0

from .scored import drawn_scenes, jittered, made

#: The same fractions in another order of sums; measured 2026-11-25 over 300 sets: 3.9e-16.
SAME = 1e-12
#: Name of a curve -> COCO's number that is its mean.
CURVES = {"0.50": "AP50", "0.75": "AP75", "0.50:0.95": "AP"}


@pytest.fixture(scope="module")
def of_embedded(embedded_dataset: Dataset) -> dict[str, Any]:
    """The insight into two middling detectors of the embedded images."""
    found = [jittered(embedded_dataset, seed) for seed in (0, 1)]
    return insight(embedded_dataset, found[0], found[1], D0)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_the_mean_of_a_curve_is_its_metric(seed: int) -> None:
    """Each curve is the precision that a number of COCO's is the mean of."""
    dataset = drawn_scenes(seed, 8)
    found = jittered(dataset, seed)
    curves = insight(dataset, found, None, D0)["curves"]["candidate"]
    values = coco_metrics(dataset, found, D0).values
    for name, metric in CURVES.items():
        if values[metric] is None:
            assert curves[name] == [None] * 101
            continue
        assert np.mean(curves[name]) == pytest.approx(values[metric], rel=0, abs=SAME)


def test_it_is_plain_json(of_embedded: dict[str, Any]) -> None:
    """It survives being written and read, without a number that JSON does not know."""
    assert json.loads(json.dumps(of_embedded, allow_nan=False)) == of_embedded


def test_both_sides_are_described_alike(
    of_embedded: dict[str, Any], embedded_dataset: Dataset
) -> None:
    """What stands under reference is what would stand under candidate, were it that."""
    alone = insight(embedded_dataset, jittered(embedded_dataset, 1), None, D0)
    for part in ("curves", "scores", "errors"):
        assert of_embedded[part]["reference"] == alone[part]["candidate"]
        assert of_embedded[part]["candidate"] != alone[part]["candidate"]
        assert alone[part]["reference"] is None
    assert {picture["reference"] for picture in alone["gallery"]} == {None}
    assert list(of_embedded["errors"]["candidate"]) == list(KINDS)
    assert of_embedded["recall"] == [n / 100 for n in range(101)]


def test_the_gallery_goes_by_difference_then_by_mistakes(
    of_embedded: dict[str, Any], embedded_dataset: Dataset
) -> None:
    """With a reference images differ by 0 to 1; without one by whole mistakes, greatest first."""
    beside = [picture["difference"] for picture in of_embedded["gallery"]]
    alone = insight(embedded_dataset, jittered(embedded_dataset, 0), None, D0)
    mistakes = [picture["difference"] for picture in alone["gallery"]]
    assert len(beside) == len(mistakes) == len(embedded_dataset.samples)
    assert beside == sorted(beside, reverse=True)
    assert mistakes == sorted(mistakes, reverse=True)
    assert beside[0] <= 1 < mistakes[0] == int(mistakes[0])
    assert all(picture["jpeg"] for picture in of_embedded["gallery"])


def test_scores_are_counted_in_twenty_bins() -> None:
    """A bound belongs to the bin above it, 1 to the last; below the score floor nothing counts."""
    dataset = drawn_scenes(0, 1)
    scores = [0.0005, 0.0625, 0.25, 0.5, 0.625, 0.65625, 1]
    found = {1: made([(0, 0, 9, 9, score, 1) for score in scores])}
    bins = insight(dataset, found, None, D0)["scores"]
    assert bins["edges"] == [n / 20 for n in range(21)]
    wanted = dict.fromkeys(range(20), 0) | {1: 1, 5: 1, 10: 1, 12: 1, 13: 1, 19: 1}
    assert dict(enumerate(bins["candidate"])) == wanted


def test_without_objects_only_ap_is_undefined(embedded_dataset: Dataset) -> None:
    """Curves and what fixing adds are null; scores, mistakes and the gallery are still there."""
    found = jittered(embedded_dataset, 0)
    empty = insight(replace(embedded_dataset, annotations=()), found, found, D0)
    assert set(empty["curves"]["candidate"]["0.50"]) == {None}
    background = empty["errors"]["candidate"]["background"]
    assert background == {"count": len(to_coco_results(found, D0)), "delta_ap": None}
    assert sum(empty["scores"]["candidate"]) == background["count"]
    assert len(empty["gallery"]) == len(embedded_dataset.samples)


@pytest.mark.parametrize("side", ["candidate", "reference"])
def test_a_missing_image_is_refused(side: str) -> None:
    """Pictures of half of the images would look like pictures of all."""
    dataset = drawn_scenes(0, 3)
    whole = jittered(dataset, 0)
    part = {id_: found for id_, found in whole.items() if id_ != 2}
    sides = {"candidate": whole, "reference": whole} | {side: part}
    with pytest.raises(EvaluationError, match=r"1 are missing \[2\]"):
        insight(dataset, sides["candidate"], sides["reference"], D0)
