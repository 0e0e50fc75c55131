"""
Which detections hit, image by image; and COCO's AP of any mixture of these images.

Matching is done once, by pycocotools.  AP (IoU .50:.95, all sizes, at most 100 detections) of a
resample then costs sums alone: an image that was drawn n times counts n times.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from .arrays import Indices
from .dataset import Dataset
from .evaluate import match_images
from .postprocess import Detections
from .spec import ModelSpec

Fractions = npt.NDArray[np.float64]
#: How often each image was drawn: (resamples, images), whole numbers.
Weights = npt.NDArray[np.int32]

#: COCO reads precision at these recalls.
_RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class ClassMatches:
    """
    The detections of one category over all images, by falling score.

    *images* is the place of each one's image in the dataset.  *hits* and *ignored* hold, for each
    of COCO's ten IoU thresholds, the positions of detections that found an object and of those
    that count neither way.  *truths* counts the objects to be found in each image.
    """

    images: Indices
    hits: tuple[Indices, ...]
    ignored: tuple[Indices, ...]
    truths: Indices


def class_matches(
    dataset: Dataset, detections: Mapping[int, Detections], spec: ModelSpec
) -> list[ClassMatches]:
    """
    Match *detections* (by image id) once; categories without any object are left out.

    Raises `EvaluationError` unless every image is there exactly once and none is foreign.
    """
    every = matches_by_category(dataset, detections, spec).values()
    return [matches for matches in every if matches.truths.any()]


def matches_by_category(
    dataset: Dataset, detections: Mapping[int, Detections], spec: ModelSpec
) -> dict[int, ClassMatches]:
    """
    Match *detections* once: by category id, each that has an object or a detection.

    Raises as `class_matches` does.
    """
    place = {image_id: i for i, image_id in enumerate(dataset.image_ids)}
    found = match_images(dataset, detections, spec)
    return {
        category: _class_matches(list(of_class), place)
        for category, of_class in groupby(found, key=lambda entry: entry["category_id"])
    }


def _class_matches(entries: Sequence[dict[str, Any]], place: Mapping[int, int]) -> ClassMatches:
    """One category out of COCOeval's records of its images, in the order of image ids."""
    truths = np.zeros(len(place), np.int64)
    for entry in entries:
        truths[place[entry["image_id"]]] = np.sum(np.asarray(entry["gtIgnore"]) == 0)
    scores = np.concatenate([entry["dtScores"] for entry in entries])
    images = np.repeat(
        [place[entry["image_id"]] for entry in entries], [len(e["dtScores"]) for e in entries]
    )
    # Stable, as COCOeval: of equal scores, the smaller image id comes first.
    order = np.argsort(-scores, kind="stable")
    matched = np.concatenate([entry["dtMatches"] for entry in entries], axis=1)[:, order] != 0
    ignored = np.concatenate([entry["dtIgnore"] for entry in entries], axis=1)[:, order] != 0
    return ClassMatches(
        images=images[order],
        hits=tuple(np.flatnonzero(row) for row in matched & ~ignored),
        ignored=tuple(np.flatnonzero(row) for row in ignored),
        truths=truths,
    )


def average_precision(classes: Iterable[ClassMatches], weights: Weights) -> Fractions:
    """
    AP of each resample in *weights*, (resamples,) fractions; NaN where it has no object.

    Weights of one give COCOeval's AP of the images as they are.
    """
    total, defined = np.zeros(len(weights)), np.zeros(len(weights))
    for matches in classes:
        truths = weights @ matches.truths
        present = truths > 0
        total[present] += _class_precision(matches, weights[present], truths[present])
        defined += present
    total[defined == 0] = np.nan
    result: Fractions = total / np.maximum(defined, 1)
    return result


def _class_precision(matches: ClassMatches, weights: Weights, truths: Indices) -> Fractions:
    """AP of one category: the mean over the ten IoU thresholds."""
    drawn = weights[:, matches.images]
    counted = np.cumsum(drawn, axis=1, dtype=np.int32)
    total = np.zeros(len(weights))
    for hits, ignored in zip(matches.hits, matches.ignored, strict=True):
        if not hits.size:
            continue
        shown = counted[:, hits]
        if ignored.size:
            before = np.cumsum(drawn[:, ignored], axis=1, dtype=np.int32)
            before = np.pad(before, ((0, 0), (1, 0)))
            shown = shown - before[:, np.searchsorted(ignored, hits)]
        total += _interpolated(np.cumsum(drawn[:, hits], axis=1), shown, truths)
    return total / len(matches.hits)


def _interpolated(found: Indices, shown: Weights, truths: Indices) -> Fractions:
    """
    COCO's 101-point mean from *found* of *shown* detections up to each hit, (resamples, hits).

    Only hits matter: after one precision falls, and recall stands still, until the next.
    """
    # The same last bit in the denominator as in COCOeval: nothing shown is precision 0.
    precision = found / (shown + np.spacing(1))
    highest = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    reached = np.searchsorted(_RECALLS, found / truths[:, None], side="right")
    points = np.diff(reached, axis=1, prepend=0)
    mean: Fractions = np.einsum("rh,rh->r", highest, points) / len(_RECALLS)
    return mean
