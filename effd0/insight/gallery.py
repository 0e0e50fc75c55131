"""The images to look at first: with a small picture, what is there and what was found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..data.categories import NAMES
from ..data.coco import Dataset, Sample
from ..detection.postprocess import Detections
from ..metrics.coco import to_coco_results
from ..metrics.detection_diff import match_detections
from ..metrics.tide import Errors
from ..spec import ModelSpec
from ..types import Fractions
from .thumbnail import thumbnail

#: Images shown; detections shown of each, and the score from which on they are.
PICTURES, BOXES, SHOWN = 80, 50, 0.3


def gallery(
    dataset: Dataset,
    candidate: Mapping[int, Detections],
    reference: Mapping[int, Detections] | None,
    differences: Mapping[int, float],
    spec: ModelSpec,
) -> list[dict[str, Any]]:
    """The `PICTURES` images with the greatest of *differences* (by image id), greatest first."""
    chosen = sorted(dataset.samples, key=lambda sample: -differences[sample.image_id])[:PICTURES]
    truth: dict[int, list[dict[str, Any]]] = {sample.image_id: [] for sample in chosen}
    for annotation in dataset.annotations:
        if annotation["image_id"] in truth:
            truth[annotation["image_id"]].append(_object(annotation, dataset))
    return [
        {
            "image_id": sample.image_id,
            "file_name": sample.path.name,
            "width": sample.size[0],
            "height": sample.size[1],
            "jpeg": thumbnail(sample.path),
            "difference": differences[sample.image_id],
            "truth": truth[sample.image_id],
            "candidate": _boxes(sample, candidate, dataset, spec),
            "reference": None if reference is None else _boxes(sample, reference, dataset, spec),
        }
        for sample in chosen
    ]


def difference(reference: Detections, candidate: Detections) -> float:
    """
    How far what is shown of an image differs, 0 to 1: the detections' Dice distance.

    Detections pair up as in `match_detections`; a pair agrees by its IoU times its lower score,
    twice, and the difference is 1 less the sum of this over that of all scores.  Pairs, and
    detections without a partner, count where a score reaches `SHOWN`.
    """
    pairs = match_detections(reference, candidate)
    scores = np.stack([reference.scores[pairs.reference], candidate.scores[pairs.candidate]])
    shown = scores.max(axis=0) >= SHOWN
    agreed = 2 * (pairs.ious * scores.min(axis=0))[shown].sum(dtype=np.float64)
    alone = np.concatenate([pairs.missing, pairs.extra])
    total = scores[:, shown].sum(dtype=np.float64) + alone[alone >= SHOWN].sum(dtype=np.float64)
    return float(np.clip(1 - agreed / total, 0, 1)) if total else 0.0


def mistakes(dataset: Dataset, errors: Errors) -> dict[int, float]:
    """
    How many mistakes are to be seen in each image, by its id.

    They are the shown detections that found nothing and the objects that no shown one found.
    """
    truths, images = errors.truths, len(dataset.samples)
    shown = errors.counted.compress(errors.counted["score"] >= SHOWN)
    right = shown["truth"] >= 0
    objects = np.bincount(truths["image"][~truths["ignored"][:, 0]], minlength=images)
    hits, wrong = (np.bincount(shown["image"][of], minlength=images) for of in (right, ~right))
    counts = (objects - hits + wrong).astype(float)
    return dict(zip(dataset.image_ids, counts.tolist(), strict=True))


def _object(annotation: Mapping[str, Any], dataset: Dataset) -> dict[str, Any]:
    return {
        "box": _pixels(np.array(annotation["bbox"], np.float64)),
        "class": dataset.categories[annotation["category_id"]],
        "crowd": bool(annotation.get("iscrowd", 0)),
    }


def _boxes(
    sample: Sample, found: Mapping[int, Detections], dataset: Dataset, spec: ModelSpec
) -> list[dict[str, Any]]:
    """The first `BOXES` detections of an image with a score of at least `SHOWN`, best first."""
    rows = to_coco_results({sample.image_id: found[sample.image_id]}, spec)
    rows = rows[rows[:, 5] >= SHOWN]
    return [
        {
            "box": _pixels(row[1:5]),
            "class": _name(int(row[6]), dataset),
            "score": round(float(row[5]), 4),
        }
        for row in rows[np.argsort(-rows[:, 5], kind="stable")][:BOXES]
    ]


def _name(category: int, dataset: Dataset) -> str:
    """The dataset's name of *category*, or COCO's; a model may know more than its dataset."""
    return dataset.categories.get(category, NAMES.get(category, f"category {category}"))


def _pixels(box: Fractions) -> list[float]:
    """A box as it is drawn: hundredths of a pixel are below what is seen."""
    return [round(float(value), 2) for value in box]
