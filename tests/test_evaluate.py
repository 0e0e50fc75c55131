"""Tests for `effd0.evaluate`: the score is pycocotools' own."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace
from statistics import fmean

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from effd0.data.coco import Dataset
from effd0.evaluate import EVALUATORS, METRICS, evaluate
from effd0.spec import D0

from .scored import NOTHING, Found, as_dicts, jittered, perfect, truth_of

EVERY_EVALUATOR = pytest.mark.parametrize("evaluator", EVALUATORS)
SEEDS = pytest.mark.parametrize(
    "seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))], ids="seed={}".format
)


def _plain_pycocotools(dataset: Dataset, found: Found) -> list[float]:
    """Return COCO's twelve numbers the way that its own example computes them."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(dataset.annotation_file))
        scored = COCOeval(truth, truth.loadRes(as_dicts(found)), "bbox")
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    return [float(number) for number in scored.stats]


@SEEDS
def test_numbers_are_those_of_plain_pycocotools(seed: int, embedded_dataset: Dataset) -> None:
    """The file read by COCO itself and detections as dicts give the same twelve numbers."""
    found = jittered(embedded_dataset, seed)
    wanted = _plain_pycocotools(embedded_dataset, found)
    metrics = evaluate(embedded_dataset, found, D0, evaluator="pycocotools")
    assert list(metrics.values) == list(METRICS)
    assert list(metrics.values.values()) == wanted
    assert 0.1 < wanted[0] < 0.9  # such detections tell right from wrong
    assert any(annotation["iscrowd"] for annotation in embedded_dataset.annotations)


@pytest.mark.parametrize("evaluator", sorted(set(EVALUATORS) - {"pycocotools"}))
@SEEDS
def test_evaluators_agree(seed: int, evaluator: str, embedded_dataset: Dataset) -> None:
    """A faster evaluator gives all twelve numbers and every class's AP as the reference does."""
    found = jittered(embedded_dataset, seed)
    fast, slow = (
        evaluate(embedded_dataset, found, D0, evaluator=name) for name in (evaluator, "pycocotools")
    )
    for ours, reference in ((fast.values, slow.values), (fast.per_class, slow.per_class)):
        assert ours.keys() == reference.keys()
        for name, value in reference.items():
            # All average the same fractions; measured 2026-11-25 over ten seeds: 5.6e-17.
            assert ours[name] == (None if value is None else pytest.approx(value, rel=0, abs=1e-9))


@EVERY_EVALUATOR
def test_perfect_detections_score_one(evaluator: str, embedded_dataset: Dataset) -> None:
    """Every annotation found and nothing else: precision and recall are 1 for every size."""
    metrics = evaluate(embedded_dataset, perfect(embedded_dataset), D0, evaluator=evaluator)
    # COCOeval adds a last bit to denominators; measured 2026-11-23: 0.
    for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100", "ARs", "ARm", "ARl"):
        assert metrics.values[name] == pytest.approx(1, abs=1e-12), name
    assert metrics.images == len(embedded_dataset.samples)
    assert metrics.undefined == {}


@EVERY_EVALUATOR
def test_no_detections_score_zero(evaluator: str, embedded_dataset: Dataset) -> None:
    """All images are counted though nothing was found in any of them."""
    found = dict.fromkeys(embedded_dataset.image_ids, NOTHING)
    metrics = evaluate(embedded_dataset, found, D0, evaluator=evaluator)
    assert metrics.values == dict.fromkeys(METRICS, 0.0)
    assert (metrics.images, metrics.detections) == (48, 0)


@EVERY_EVALUATOR
def test_images_without_detections_cost_recall(evaluator: str, embedded_dataset: Dataset) -> None:
    """Where half of the images are empty-handed, recall is the part found of each class."""
    ids = embedded_dataset.image_ids
    found = perfect(embedded_dataset) | dict.fromkeys(ids[::2], NOTHING)
    metrics = evaluate(embedded_dataset, found, D0, evaluator=evaluator)
    truth = [(a["category_id"], id_) for id_ in ids for a in truth_of(embedded_dataset, id_)]
    parts = []
    for category in {category for category, _ in truth}:
        of_class = [id_ in ids[1::2] for other, id_ in truth if other == category]
        parts.append(sum(of_class) / len(of_class))
    assert metrics.values["AR100"] == pytest.approx(fmean(parts), abs=1e-12)  # rounding only
    assert metrics.ap is not None
    assert metrics.ap < 0.9


@EVERY_EVALUATOR
def test_class_without_truth_has_no_score(evaluator: str, embedded_dataset: Dataset) -> None:
    """A class is undefined exactly where it has no annotation; AP is the mean of the others."""
    found = jittered(embedded_dataset, 0)
    metrics = evaluate(embedded_dataset, found, D0, evaluator=evaluator)
    present = {
        embedded_dataset.categories[annotation["category_id"]]
        for annotation in embedded_dataset.annotations
        if not annotation["iscrowd"]
    }
    scores = {name: score for name, score in metrics.per_class.items() if score is not None}
    assert set(metrics.per_class) == set(embedded_dataset.categories.values())
    assert set(scores) == present
    assert metrics.ap == pytest.approx(fmean(scores.values()), abs=1e-12)  # rounding only


@EVERY_EVALUATOR
def test_undefined_number_is_none_with_a_reason(evaluator: str, embedded_dataset: Dataset) -> None:
    """Where no object is large, only the numbers of large objects are missing."""
    small = tuple(a for a in embedded_dataset.annotations if a["area"] < 96**2)
    dataset = replace(embedded_dataset, annotations=small)
    metrics = evaluate(dataset, jittered(dataset, 0), D0, evaluator=evaluator)
    reason = (
        "undefined: the evaluated images have no ground truth of large (area > 96²) "
        "that is not crowd"
    )
    assert metrics.undefined == {"APl": reason, "ARl": reason}
    assert [name for name, value in metrics.values.items() if value is None] == ["APl", "ARl"]


@EVERY_EVALUATOR
def test_nothing_is_defined_without_truth(evaluator: str, embedded_dataset: Dataset) -> None:
    """Images on which nothing is annotated, or only crowds, give no number and say why."""
    crowds = tuple(a for a in embedded_dataset.annotations if a["iscrowd"])
    for truth in ((), crowds):
        dataset = replace(embedded_dataset, annotations=truth)
        metrics = evaluate(dataset, jittered(embedded_dataset, 0), D0, evaluator=evaluator)
        assert metrics.values == dict.fromkeys(METRICS)
        assert metrics.undefined.keys() == set(METRICS)
        assert metrics.undefined["AP"] == (
            "undefined: the evaluated images have no ground truth that is not crowd"
        )
        assert set(metrics.per_class.values()) == {None}


@EVERY_EVALUATOR
def test_left_out_area_is_that_of_the_box(evaluator: str, embedded_dataset: Dataset) -> None:
    """An annotation without area and crowd flag counts as a whole box that is no crowd."""
    full, bare = [], []
    for a in embedded_dataset.annotations:
        bare.append({key: a[key] for key in ("id", "image_id", "category_id", "bbox")})
        full.append({**bare[-1], "area": a["bbox"][2] * a["bbox"][3], "iscrowd": 0})
    found = jittered(embedded_dataset, 1)
    one, other = (
        evaluate(replace(embedded_dataset, annotations=tuple(a)), found, D0, evaluator=evaluator)
        for a in (full, bare)
    )
    assert one == other
