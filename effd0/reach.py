"""
The most that mAP of all images can be, once some of them were run: an early failure is a sure one.

Suppose every object of the other images found, before anything else.  Whatever the model finds
there instead, cut the list of its detections anywhere: the same cut through what it found in the
images that were run shows, behind those perfect ones, as many hits or more, and as many misses or
fewer.  So recall and precision are as high or higher at every point of the curve, and AP is too.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .accumulate import ClassMatches, average_precision, matches_of_hits
from .data.coco import Dataset
from .hits import CategoryHits


def reachable_ap(dataset: Dataset, every: Iterable[CategoryHits]) -> float:
    """
    AP, as a fraction, if the images that the limit left out of *dataset* were all perfect.

    *every* holds the hits of each category in those that were run.  NaN where there is no object
    in any image.
    """
    images = len(dataset.samples)
    classes = (
        _perfected(matches_of_hits(found), dataset.left_out.get(found.category, 0), images)
        for found in every
    )
    present = (of_class for of_class in classes if of_class.truths.any())
    return float(average_precision(present, np.ones((1, images + 1), np.int32))[0])


def _perfected(matches: ClassMatches, more: int, images: int) -> ClassMatches:
    """*matches*, and one image behind all *images*, in which *more* objects are found first."""
    first = np.arange(more)
    return ClassMatches(
        images=np.concatenate([np.full(more, images), matches.images]),
        hits=tuple(np.concatenate([first, hits + more]) for hits in matches.hits),
        ignored=tuple(ignored + more for ignored in matches.ignored),
        truths=np.append(matches.truths, more),
    )
