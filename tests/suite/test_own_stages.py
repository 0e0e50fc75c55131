"""Stages decode, nms and evaluate of effd0 itself, on the heads and truths of this very run."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from effd0.data.coco import Dataset, Sample
from effd0.detection.heads import HeadOutputs, split_heads
from effd0.detection.postprocess import Detections, postprocess
from effd0.metrics.summary import coco_metrics
from effd0.results.check import Broken
from effd0.spec import ModelSpec
from effd0.tolerances import BOXES, SCORES
from effd0.types import Floats, Tensors

from .conftest import NoteFigure
from .truth import NOTHING, perfect, truth_of

#: Images whose detections are compared with effdet's.
COMPARED = 3


@pytest.fixture(scope="session")
def heads(
    torch_heads: Tensors, dataset_under_test: Dataset, spec: ModelSpec
) -> list[tuple[Sample, HeadOutputs]]:
    """The first images, and what the checkpoint says of them in torch."""
    pytest.importorskip("effdet", reason="needs effdet: pip install 'effd0[torch]'")
    images = split_heads(torch_heads, spec)[:COMPARED]
    return list(zip(dataset_under_test.samples, images, strict=False))


@pytest.mark.stage("decode")
def test_own_candidates_are_effdets(
    heads: list[tuple[Sample, HeadOutputs]], spec: ModelSpec, note_figure: NoteFigure
) -> None:
    """Without suppression, the best hundred candidates are those that effdet decodes."""
    from .reference import Geometry, effdet_candidates

    unsuppressed = replace(spec, nms_iou=1.0)
    for sample, head in heads:
        image = Geometry.of(sample.size, spec)
        wanted = effdet_candidates(head, image, spec)[: spec.max_detections]
        found = postprocess(head, image.scale, image.size, unsuppressed)
        _compare(found, wanted, sample, "effd0's own decoding", note_figure)


@pytest.mark.stage("nms")
def test_own_detections_are_effdets(
    heads: list[tuple[Sample, HeadOutputs]], spec: ModelSpec, note_figure: NoteFigure
) -> None:
    """Number, order, classes, boxes and scores are those of effdet's bench."""
    from .reference import Geometry, effdet_detections

    for sample, head in heads:
        image = Geometry.of(sample.size, spec)
        found = postprocess(head, image.scale, image.size, spec)
        wanted = effdet_detections(head, image, spec)
        _compare(found, wanted, sample, "effd0's own suppression", note_figure)


def _compare(
    found: Detections, wanted: Floats, sample: Sample, whose: str, note_figure: NoteFigure
) -> None:
    """Raise `Broken` unless *found* are the rows x1, y1, x2, y2, score, category *wanted*."""
    got, faults = np.column_stack([found.boxes, found.scores, found.classes]), []
    corners = math.inf  # where a row has no partner
    if len(got) != len(wanted):
        faults.append(f"{len(got)} detections, but {len(wanted)} were wanted")
    else:
        # Neither says which of two comes first whose scores are equal but for rounding.
        ties = np.cumsum(np.diff(wanted[:, 4], prepend=wanted[:1, 4]) < -SCORES.limit)
        got, wanted = (one[np.lexsort((one[:, 0], one[:, 5], ties))] for one in (got, wanted))
        if classes := np.count_nonzero(got[:, 5] != wanted[:, 5]):
            faults.append(f"{classes} of {len(got)} detections have another class")
        scores = float(np.abs(got[:, 4] - wanted[:, 4]).max(initial=0))
        if not scores <= SCORES.limit:
            faults.append(f"scores differ by {scores:.3g}, but {SCORES.limit} is allowed")
        corners = float(np.abs(got[:, :4] - wanted[:, :4]).max(initial=0)) / max(sample.size)
        if not corners <= BOXES.limit:
            allowed = f"but {BOXES.limit} of the longer side is allowed"
            faults.append(f"corners differ by {corners:.3g}, {allowed}")
    note_figure(corners, BOXES.limit, "of the longer side")
    if faults:
        raise Broken(
            f"{sample.path.name}: {faults[0]}",
            f"{whose}: the same heads give others in effdet",
            details=faults,
        )


@pytest.mark.stage("evaluate")
def test_the_truth_is_perfect(
    dataset_under_test: Dataset, spec: ModelSpec, note_figure: NoteFigure
) -> None:
    """Every annotation, given as a detection, makes an AP of 1 in all and in each class."""
    metrics = coco_metrics(dataset_under_test, perfect(dataset_under_test), spec)
    note_figure(None if metrics.ap is None else 100 * metrics.ap, 100 * _ALL, "%")
    low = {name: ap for name, ap in metrics.per_class.items() if ap is not None and ap < _ALL}
    if low or metrics.ap is None or metrics.ap < _ALL:
        raise Broken(
            f"the truth itself scores an AP of {metrics.ap}, and {len(low)} classes less than 1",
            "effd0's own scoring: boxes, classes or images are not paired as COCO pairs them",
            details=[f"{name}: {ap}" for name, ap in low.items()],
        )


#: An AP of 1 as a sum of 101 equal parts and then of ten: a rounding of float64 may be missing.
_ALL = 1 - 1e-12


@pytest.mark.stage("evaluate")
def test_what_is_not_found_costs_recall(dataset_under_test: Dataset, spec: ModelSpec) -> None:
    """Where every other image has no detection, recall is the share of truths in the rest."""
    found = perfect(dataset_under_test)
    kept = set(dataset_under_test.image_ids[::2])
    found = {id_: one if id_ in kept else NOTHING for id_, one in found.items()}
    totals = _classes(dataset_under_test, set(dataset_under_test.image_ids))
    there = _classes(dataset_under_test, kept)
    wanted = np.mean([there[category] / count for category, count in totals.items()])
    recall = coco_metrics(dataset_under_test, found, spec).values["AR100"]
    if recall is None or abs(recall - wanted) > 1e-9:  # sums of float64 in another order
        raise Broken(
            f"AR100 is {recall} where half of the images have no detection, "
            f"but {wanted:.6f} of the truths were given",
            "effd0's own scoring: images without a detection are not counted",
        )


def _classes(dataset: Dataset, image_ids: set[int]) -> Counter[int]:
    truths = [a for id_ in image_ids for a in truth_of(dataset, id_)]
    return Counter(annotation["category_id"] for annotation in truths)
