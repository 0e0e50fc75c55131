"""Tests for `effd0.metrics.summary`: the twelve numbers and the AP of each class."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import replace
from statistics import fmean

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from effd0.data.coco import Dataset
from effd0.errors import EvaluationError
from effd0.metrics.summary import METRICS, CocoMetrics, coco_metrics
from effd0.spec import D0, ModelSpec
from tests.helpers.results import as_dicts, jittered
from tests.suite.scoring import pycocotools_metrics
from tests.suite.truth import NOTHING, Found

Score = Callable[[Dataset, Found, ModelSpec], CocoMetrics]
#: What confirms the metrics has to read the dataset as they do.
BOTH = pytest.mark.parametrize("score", [coco_metrics, pycocotools_metrics])


@BOTH
def test_numbers_are_those_of_plain_pycocotools(score: Score, embedded_dataset: Dataset) -> None:
    """The file read by COCO itself and detections as dicts give the same twelve numbers."""
    found = jittered(embedded_dataset, 0)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(embedded_dataset.annotation_file))
        scored = COCOeval(truth, truth.loadRes(as_dicts(found)), "bbox")
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    metrics = score(embedded_dataset, found, D0)
    assert metrics.values == dict(zip(METRICS, scored.stats.tolist(), strict=True))
    assert 0.1 < scored.stats[0] < 0.9  # such detections tell right from wrong
    assert any(annotation["iscrowd"] for annotation in embedded_dataset.annotations)


@BOTH
def test_no_detections_score_zero(score: Score, embedded_dataset: Dataset) -> None:
    """All images are counted though nothing was found in any of them; none may be missing."""
    found = dict.fromkeys(embedded_dataset.image_ids, NOTHING)
    metrics = score(embedded_dataset, found, D0)
    assert metrics.values == dict.fromkeys(METRICS, 0.0)
    assert (metrics.images, metrics.detections) == (48, 0)
    del found[embedded_dataset.image_ids[0]]
    with pytest.raises(EvaluationError, match="cover 47 images, but the dataset has 48"):
        score(embedded_dataset, found, D0)


def test_a_class_without_truth_has_no_score(embedded_dataset: Dataset) -> None:
    """A class is undefined exactly where it has no annotation; AP is the mean of the others."""
    metrics = coco_metrics(embedded_dataset, jittered(embedded_dataset, 0), D0)
    present = {
        embedded_dataset.categories[annotation["category_id"]]
        for annotation in embedded_dataset.annotations
        if not annotation["iscrowd"]
    }
    scores = {name: score for name, score in metrics.per_class.items() if score is not None}
    assert set(metrics.per_class) == set(embedded_dataset.categories.values())
    assert set(scores) == present
    assert metrics.ap == pytest.approx(fmean(scores.values()), abs=1e-12)  # rounding only


@BOTH
@pytest.mark.parametrize("kept", ["small", "crowds", "nothing"])
def test_an_undefined_number_is_none_with_a_reason(
    score: Score, kept: str, embedded_dataset: Dataset
) -> None:
    """Where no object is large, or none at all, numbers of these are missing and say why."""
    truth = tuple(
        a for a in embedded_dataset.annotations
        if (kept == "small" and a["area"] < 96**2) or (kept == "crowds" and a["iscrowd"])
    )  # fmt: skip
    dataset = replace(embedded_dataset, annotations=truth)
    metrics = score(dataset, jittered(embedded_dataset, 0), D0)
    missing = ("APl", "ARl") if kept == "small" else METRICS
    assert tuple(name for name, value in metrics.values.items() if value is None) == missing
    reason = "undefined: the evaluated images have no ground truth{} that is not crowd"
    assert [*metrics.undefined] == [*missing]
    assert metrics.undefined["APl"] == reason.format(" of large (area > 96²)")
    if kept != "small":
        assert metrics.undefined["AP"] == reason.format("")
        assert set(metrics.per_class.values()) == {None}


@BOTH
def test_an_omitted_area_is_that_of_the_box(score: Score, embedded_dataset: Dataset) -> None:
    """An annotation without area and crowd flag counts as a whole box that is no crowd."""
    full, bare = [], []
    for a in embedded_dataset.annotations:
        bare.append({key: a[key] for key in ("id", "image_id", "category_id", "bbox")})
        full.append({**bare[-1], "area": a["bbox"][2] * a["bbox"][3], "iscrowd": 0})
    found = jittered(embedded_dataset, 1)
    one, other = (
        score(replace(embedded_dataset, annotations=tuple(a)), found, D0) for a in (full, bare)
    )
    assert one == other
