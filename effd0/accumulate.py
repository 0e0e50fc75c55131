"""
Which detections hit, image by image; and COCO's AP of any mixture of these images.

Matching is done once.  AP (IoU .50:.95, all sizes, at most 100 detections) of a resample then
costs sums alone: an image that was drawn n times counts n times.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .complete import check_complete
from .curves import RECALLS
from .data.coco import Dataset
from .detection.postprocess import Detections
from .evaluate import to_coco_results
from .hits import CategoryHits, category_hits
from .spec import ModelSpec
from .types import Fractions, Indices

#: How often each image was drawn: (resamples, images), whole numbers.
Weights = npt.NDArray[np.int32]


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
    check_complete(dataset, detections)
    every = category_hits(dataset, to_coco_results(detections, spec))
    return [matches for matches in map(matches_of_hits, every) if matches.truths.any()]


def matches_of_hits(found: CategoryHits) -> ClassMatches:
    """What of the hits of a category counts in AP over objects of all sizes."""
    return ClassMatches(
        images=found.images,
        hits=tuple(np.flatnonzero(row) for row in found.hits[:, 0].T),
        ignored=tuple(np.flatnonzero(row) for row in found.ignored[:, 0].T),
        truths=found.truths[0],
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
    reached = np.searchsorted(RECALLS, found / truths[:, None], side="right")
    points = np.diff(reached, axis=1, prepend=0)
    mean: Fractions = np.einsum("rh,rh->r", highest, points) / len(RECALLS)
    return mean
