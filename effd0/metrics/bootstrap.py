"""
AP of resampled images: how sure a drop against a reference is, and what a partial run can reach.

Matching is done once.  AP (IoU .50:.95, all areas, at most 100 detections) of a resample then
costs sums alone: an image that was drawn n times counts n times.
"""

import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import EvaluationError
from ..types import Fractions, Indices
from .coco import MatchTable, columns
from .detection_diff import DetectionParity
from .summary import CocoMetrics

RESAMPLES = 1000
#: A bootstrap of fewer images knows too little of its own spread to decide anything.
MIN_IMAGES = 30
#: Classes that a verdict names.
WORST_CLASSES = 5
#: Drawn images that are in memory at a time.
_CHUNK = 1_000_000

#: How often each image was drawn: (images, resamples), whole numbers.
Weights = npt.NDArray[np.int32]


class ClassDrop(NamedTuple):
    """Points of AP that a class loses, and the 95 % interval of that."""

    name: str
    points: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.name} {self.points:.1f} ({self.low:.1f} to {self.high:.1f})"


@dataclass(frozen=True)
class PairedDrop:
    """
    mAP of the reference less that of the candidate, in points: positive is a loss.

    *low* and *high* bound the 95 % interval of a paired bootstrap over *images* images;
    *reference_ap* and *candidate_ap* are fractions.  *classes* are those with an object, the one
    that loses most first.
    """

    points: float
    low: float
    high: float
    images: int
    reference_ap: float
    candidate_ap: float
    classes: tuple[ClassDrop, ...] = ()

    @property
    def worst_classes(self) -> str:
        """The classes that lose most, with intervals; empty where none loses anything."""
        return ", ".join(str(one) for one in self.classes[:WORST_CLASSES] if one.points > 0)

    def __str__(self) -> str:
        return (
            f"mAP drops by {self.points:.2f} points against the reference "
            f"(95 % interval {self.low:.2f} to {self.high:.2f}, {self.images} images)"
        )

    def status(self, max_drop: float) -> str:
        """``pass`` or ``fail`` where the whole interval says so, in points; else ``undecided``."""
        if self.images < MIN_IMAGES:
            return "undecided"
        if self.high <= max_drop:
            return "pass"
        return "fail" if self.low > max_drop else "undecided"


@dataclass(frozen=True)
class ReferenceComparison:
    """
    A candidate compared with a reference that ran on the same images.

    *max_drop* is in points of mAP; *runner*, *model_sha256* and *metrics* are those of the
    reference.
    """

    drop: PairedDrop
    parity: DetectionParity
    max_drop: float
    runner: str
    model_sha256: str
    metrics: CocoMetrics


def paired_drop(
    reference: MatchTable, candidate: MatchTable, *, resamples: int = RESAMPLES, seed: int = 0
) -> PairedDrop:
    """
    Compare the matches of two models on the same dataset; a *seed* always gives the same interval.

    Algorithm: the paired bootstrap's percentile interval (Efron and Tibshirani, "An Introduction
    to the Bootstrap", 1993, chapter 13).  Both models are scored on the same draws of images, with
    replacement, so that what makes an image hard cancels out.  Raises `EvaluationError` where the
    images hold no object to be found.
    """
    sides = [*category_hits(reference), *category_hits(candidate)]
    dataset, images = reference.dataset, len(reference.dataset.samples)
    wanted, got = np.split(_class_precision(sides, np.ones((images, 1), np.int32)), 2)
    if not wanted.size:
        raise EvaluationError(
            f"the {images} images have no object that is not crowd, but a drop of mAP needs some; "
            "give images with annotations"
        )
    together = max(1, _CHUNK // images)
    rng, parts = np.random.default_rng(seed), []
    for start in range(0, resamples, together):
        drawn = rng.integers(0, images, (min(together, resamples - start), images))
        weights = np.stack([np.bincount(row, minlength=images) for row in drawn], 1)
        both = np.split(_class_precision(sides, weights.astype(np.int32)), 2)
        parts.append(np.vstack([both[0] - both[1], _mean(both[0]) - _mean(both[1])]))
    # A draw of images without any object says nothing and is left out; so of each class.
    drops = 100 * np.hstack(parts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a class may be in no draw at all
        *each, (low, high) = np.nanquantile(drops, (0.025, 0.975), axis=1).T.tolist()
    names = [dataset.categories[found.category] for found in sides[: len(wanted)]]
    losses = (100 * (wanted - got))[:, 0].tolist()
    classes = [ClassDrop(*of, *ends) for *of, ends in zip(names, losses, each, strict=True)]
    classes.sort(key=lambda one: -one.points)
    ap, other = float(_mean(wanted)[0]), float(_mean(got)[0])
    return PairedDrop(100 * (ap - other), low, high, images, ap, other, tuple(classes))


def reachable_ap(matches: MatchTable) -> float:
    """
    The highest AP, as a fraction, that all images can have, once those of *matches* were run.

    Suppose every object of the images that a limit left out found, before anything else.  Whatever
    the model finds there instead, cut the list of its detections anywhere: the same cut through
    what it found in the images that were run shows, behind those perfect ones, as many hits or
    more, and as many misses or fewer.  So recall and precision are as high or higher at every
    point of the curve, and AP is too.  NaN where there is no object in any image.
    """
    weights = np.ones((len(matches.dataset.samples) + 1, 1), np.int32)
    return float(average_precision(category_hits(matches, matches.dataset.left_out), weights)[0])


class CategoryHits(NamedTuple):
    """
    The detections of one *category*, an id, over all images, by falling score.

    *matches* are columns of the match table: the bits of hits, the bits of what counts neither way,
    the place of the image.  *wanted* counts the objects to be found in each image.
    """

    category: int
    matches: tuple[Indices, ...]
    wanted: Indices


def category_hits(
    matches: MatchTable, perfect: Mapping[int, int] | None = None
) -> list[CategoryHits]:
    """
    The hits of each category in *matches*, categories without any object left out.

    With *perfect* there is one image more, behind all others: so many objects of each category,
    by its id, are found in it first.
    """
    every = []
    for category, own in matches.by_category():
        found, wanted = columns(own, "hit", "ignored", "image"), matches.wanted(category)[0]
        if perfect is not None:
            more = perfect.get(category, 0)
            first = (np.full(more, value) for value in (1023, 0, wanted.size))
            found = tuple(map(np.append, first, found))
            wanted = np.append(wanted, more)
        if wanted.any():
            every.append(CategoryHits(category, found, wanted))
    return every


def average_precision(categories: Sequence[CategoryHits], weights: Weights) -> Fractions:
    """
    AP of each resample in *weights*, (resamples,) fractions; NaN where it has no object.

    Weights of one give COCOeval's AP of the images as they are.
    """
    return _mean(_class_precision(categories, weights))


def _class_precision(categories: Sequence[CategoryHits], weights: Weights) -> Fractions:
    """AP of each category in each resample, (categories, resamples); NaN without an object."""
    from ..kernels import resampled_ap

    with ThreadPoolExecutor() as pool:
        rows = pool.map(lambda one: resampled_ap(one.matches, one.wanted, weights), categories)
        return np.array([*rows]).reshape(-1, weights.shape[1])


def _mean(by_class: Fractions) -> Fractions:
    """The mean over the classes that are there, (resamples,); NaN where none is."""
    defined = np.isfinite(by_class)
    total, count = np.where(defined, by_class, 0).sum(axis=0), defined.sum(axis=0)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))
