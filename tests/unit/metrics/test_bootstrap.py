"""Tests for `effd0.metrics.bootstrap`: AP of resamples, paired drops, what a part can reach."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effd0.data.coco import Dataset, Sample
from effd0.detection.postprocess import Detections
from effd0.errors import EvaluationError
from effd0.metrics.bootstrap import (
    PairedDrop,
    average_precision,
    category_hits,
    paired_drop,
    reachable_ap,
)
from effd0.metrics.coco import MatchTable, match_table
from effd0.metrics.summary import coco_metrics
from effd0.spec import D0
from effd0.tolerances import AP_ARITHMETIC
from tests.helpers.results import drawn_scenes, jittered
from tests.suite.scoring import pycocotools_metrics
from tests.suite.truth import Found, perfect, truth_of

#: The same fractions in another order of sums; measured 2026-11-23 over 300 drawn sets and as
#: many resamples: at most 1.7e-16.
SAME = 1e-9
SCENES = drawn_scenes(7, 40)
FOUND = jittered(SCENES, 7)


def fewer(found: Detections, rng: np.random.Generator) -> Detections:
    """Leave out a third."""
    keep = rng.random(len(found)) < 0.67
    return Detections(found.boxes[keep], found.scores[keep], found.classes[keep])


RNG = np.random.default_rng(1)
FEWER = {image_id: fewer(found, RNG) for image_id, found in FOUND.items()}


def matched(found: Found, dataset: Dataset = SCENES) -> MatchTable:
    """Return the matches of *found*."""
    return match_table(dataset, found, D0)


def redrawn(dataset: Dataset, found: Found, counts: Sequence[int]) -> tuple[Dataset, Found]:
    """Return the images of *dataset* as often as *counts* says, each copy with an id of its own."""
    samples: list[Sample] = []
    annotations: list[dict[str, Any]] = []
    copies: Found = {}
    for sample, count in zip(dataset.samples, counts, strict=True):
        for new in range(len(samples) + 1, len(samples) + 1 + count):
            samples.append(Sample(new, sample.path, sample.size))
            copies[new] = found[sample.image_id]
            annotations += [
                {**a, "image_id": new, "id": len(annotations) + n}
                for n, a in enumerate(dataset.annotations, start=1)
                if a["image_id"] == sample.image_id
            ]
    return replace(dataset, samples=tuple(samples), annotations=tuple(annotations)), copies


@settings(max_examples=10)
@given(st.integers(0, 10**6))
def test_an_image_drawn_n_times_counts_n_times(seed: int) -> None:
    """The AP of a resample is pycocotools' AP of a dataset that holds each image that often."""
    dataset = drawn_scenes(seed, 6)
    found = jittered(dataset, seed)
    counts = np.random.default_rng(seed).integers(0, 4, 6).astype(np.int32)
    weights = np.column_stack([np.ones(6, np.int32), counts])
    got = average_precision(category_hits(matched(found, dataset)), weights)
    for row, ap in zip(weights.T.tolist(), got.tolist(), strict=True):
        wanted = pycocotools_metrics(*redrawn(dataset, found, row), D0).ap
        assert ap == pytest.approx(
            np.nan if wanted is None else wanted, rel=0, abs=SAME, nan_ok=True
        )


def test_the_drop_is_the_difference_of_the_metrics() -> None:
    """Points are percent of AP, reference less candidate; a model loses 0 against itself."""
    drop = paired_drop(matched(FOUND), matched(FEWER), resamples=50)
    wanted, got = (points(coco_metrics(SCENES, found, D0).ap) for found in (FOUND, FEWER))
    figures = (drop.points, 100 * drop.reference_ap, 100 * drop.candidate_ap)
    assert figures == pytest.approx((wanted - got, wanted, got), rel=0, abs=100 * SAME)
    assert drop.low < drop.points < drop.high
    drop = paired_drop(matched(FOUND), matched(FOUND), resamples=50)
    assert (drop.points, drop.low, drop.high, drop.images) == (0, 0, 0, 40)


def test_each_class_has_its_own_drop_with_an_interval() -> None:
    """Classes lose what their AP loses, the worst first; their mean is the drop of mAP."""
    sides = [coco_metrics(SCENES, found, D0).per_class for found in (FOUND, FEWER)]
    drop = paired_drop(matched(FOUND), matched(FEWER), resamples=200)
    wanted = {
        name: 100 * (ap - (sides[1][name] or 0)) for name, ap in sides[0].items() if ap is not None
    }
    assert {one.name: one.points for one in drop.classes} == pytest.approx(wanted, abs=100 * SAME)
    assert [one.points for one in drop.classes] == sorted(
        (one.points for one in drop.classes), reverse=True
    )
    assert np.mean([one.points for one in drop.classes]) == pytest.approx(drop.points)
    assert all(one.low <= one.points + SAME for one in drop.classes)
    assert drop.worst_classes.startswith(f"{drop.classes[0].name} {drop.classes[0].points:.1f} (")
    losing = sum(one.points > 0 for one in drop.classes)
    assert drop.worst_classes.count("(") == min(5, losing) > 0


def test_the_interval_is_that_of_plain_resampling() -> None:
    """Draw images, score both sides, subtract: the quantiles are the interval."""
    drops = []
    for drawn in np.random.default_rng(0).integers(0, 40, (12, 40)):
        counts = np.bincount(drawn, minlength=40).tolist()
        sides = [coco_metrics(*redrawn(SCENES, found, counts), D0).ap for found in (FOUND, FEWER)]
        assert None not in sides
        drops.append(100 * (sides[0] - sides[1]))  # type: ignore[operator]  # asserted above
    drop = paired_drop(matched(FOUND), matched(FEWER), resamples=12, seed=0)
    assert [drop.low, drop.high] == pytest.approx(
        np.quantile(drops, (0.025, 0.975)).tolist(), rel=0, abs=SAME
    )


def test_the_seed_decides_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same seed gives the same interval however many draws fit into memory; another not."""
    sides = matched(FOUND), matched(FEWER)
    first = paired_drop(*sides, resamples=40)
    other = paired_drop(*sides, resamples=40, seed=1)
    monkeypatch.setattr("effd0.metrics.bootstrap._CHUNK", 1000)
    assert paired_drop(*sides, resamples=40) == first
    assert (other.low, other.high) != (first.low, first.high)
    assert other.points == first.points


@pytest.mark.parametrize(
    ("low", "high", "images", "status"),
    [
        (-0.1, 0.2, 5000, "pass"), (0.21, 0.4, 5000, "fail"), (0.2, 0.4, 5000, "undecided"),
        (-0.1, 0.21, 5000, "undecided"), (0.0, 0.0, 29, "undecided"),
    ],
)  # fmt: skip
def test_only_a_whole_interval_decides(low: float, high: float, images: int, status: str) -> None:
    """What reaches across the limit, or stands on a handful of images, is not passed."""
    drop = PairedDrop((low + high) / 2, low, high, images, 0.335, 0.334)
    assert drop.status(0.2) == status
    assert f"(95 % interval {low:.2f} to {high:.2f}, {images} images)" in str(drop)


def test_images_without_an_object_are_refused() -> None:
    """A drop of nothing is no drop of zero."""
    empty = matched(FOUND, replace(SCENES, annotations=()))
    with pytest.raises(EvaluationError, match="the 40 images have no object that is not crowd"):
        paired_drop(empty, empty)


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


def points(ap: float | None) -> float:
    """Return a fraction in points."""
    assert ap is not None
    return 100 * ap


def bound(dataset: Dataset, found: Found, count: int) -> float:
    """Return the most that can be reached after *count* images, in points."""
    part = first(dataset, count)
    return points(reachable_ap(matched({id_: found[id_] for id_ in part.image_ids}, part)))


@given(seed=st.integers(0, 10_000), images=st.integers(2, 9), good=st.sampled_from([0.0, 0.5, 0.9]))
def test_the_bound_falls_with_every_image_down_to_the_truth(
    seed: int, images: int, good: float
) -> None:
    """AP of all images never exceeds the bound of a part; after the last image it is the bound."""
    dataset, rng = drawn_scenes(seed, images), np.random.default_rng(seed)
    if not any(truth_of(dataset, id_) for id_ in dataset.image_ids):
        return
    sides = (jittered(dataset, seed), perfect(dataset))
    found = {id_: sides[int(rng.random() < good)][id_] for id_ in dataset.image_ids}
    bounds = [bound(dataset, found, count) for count in range(1, images + 1)]
    rounding = AP_ARITHMETIC.limit
    assert all(later <= earlier + rounding for earlier, later in pairwise(bounds))
    ap = points(coco_metrics(dataset, found, D0).ap)
    assert bounds[-1] == pytest.approx(ap, rel=0, abs=rounding)


def test_the_bound_is_reached_where_the_rest_is_perfect() -> None:
    """It is no looser than it must be: perfect detections, surer than all others, have it."""
    dataset = drawn_scenes(1, 12)
    found = jittered(dataset, 1)
    best = {**perfect(dataset), **{id_: found[id_] for id_ in dataset.image_ids[:5]}}
    assert points(coco_metrics(dataset, best, D0).ap) == pytest.approx(
        bound(dataset, found, 5), rel=0, abs=AP_ARITHMETIC.limit
    )
