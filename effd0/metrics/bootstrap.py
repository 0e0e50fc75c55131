"""
AP of resampled images: how sure a drop against a reference is, and what a partial run can reach.

Matching is done once.  AP (IoU .50:.95, all areas, at most 100 detections) of a resample then
costs sums alone: an image that was drawn n times counts n times.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import EvaluationError
from ..types import Fractions, Indices
from .coco import MatchTable, flags
from .detection_diff import DetectionParity
from .summary import RECALLS, CocoMetrics

RESAMPLES = 1000
#: A bootstrap of fewer images knows too little of its own spread to decide anything.
MIN_IMAGES = 30
#: Classes that a verdict names.
WORST_CLASSES = 5
#: Image draws times detections of the largest category that are in memory at a time.
_CHUNK = 4_000_000

#: How often each image was drawn: (resamples, images), whole numbers.
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
    sides = [category_hits(matches) for matches in (reference, candidate)]
    dataset = reference.dataset
    images = len(dataset.samples)
    whole = np.ones((1, images), np.int32)
    wanted, got = (_class_precision(side, whole)[:, 0] for side in sides)
    if not wanted.size:
        raise EvaluationError(
            f"the {images} images have no object that is not crowd, but a drop of mAP needs some; "
            "give images with annotations"
        )
    largest = max(found.images.size for side in sides for found in side)
    together = max(1, _CHUNK // max(largest, 1))
    rng, parts = np.random.default_rng(seed), []
    for start in range(0, resamples, together):
        drawn = rng.integers(0, images, (min(together, resamples - start), images))
        weights = np.stack([np.bincount(row, minlength=images) for row in drawn]).astype(np.int32)
        both = [_class_precision(side, weights) for side in sides]
        parts.append(np.vstack([both[0] - both[1], _mean(both[0]) - _mean(both[1])]))
    # A draw of images without any object says nothing and is left out; so of each class.
    drops = 100 * np.hstack(parts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a class may be in no draw at all
        *each, (low, high) = np.nanquantile(drops, (0.025, 0.975), axis=1).T.tolist()
    names = [dataset.categories[found.category] for found in sides[0]]
    losses = (100 * (wanted - got)).tolist()
    classes = [ClassDrop(*of, *ends) for *of, ends in zip(names, losses, each, strict=True)]
    classes.sort(key=lambda one: -one.points)
    ap, other = float(_mean(wanted[:, None])[0]), float(_mean(got[:, None])[0])
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
    weights = np.ones((1, len(matches.dataset.samples) + 1), np.int32)
    return float(average_precision(category_hits(matches, matches.dataset.left_out), weights)[0])


class CategoryHits(NamedTuple):
    """
    The detections of one *category*, an id, over all images, by falling score.

    *images* is the place of each one's image in the dataset.  *hits* and *ignored* hold, for each
    of COCO's ten IoU thresholds, the positions of detections that found an object and of those
    that count neither way.  *wanted* counts the objects to be found in each image.
    """

    category: int
    images: Indices
    hits: tuple[Indices, ...]
    ignored: tuple[Indices, ...]
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
        images, wanted, more = own["image"].astype(np.int64), matches.wanted(category)[0], 0
        if perfect is not None:
            more = perfect.get(category, 0)
            images = np.concatenate([np.full(more, wanted.size), images])
            wanted = np.append(wanted, more)
        hits, ignored = flags(own, "hit")[:, 0].T, flags(own, "ignored")[:, 0].T
        if wanted.any():
            hit = (np.append(np.arange(more), np.flatnonzero(row) + more) for row in hits)
            left_out = (np.flatnonzero(row) + more for row in ignored)
            every.append(CategoryHits(category, images, tuple(hit), tuple(left_out), wanted))
    return every


def average_precision(categories: Sequence[CategoryHits], weights: Weights) -> Fractions:
    """
    AP of each resample in *weights*, (resamples,) fractions; NaN where it has no object.

    Weights of one give COCOeval's AP of the images as they are.
    """
    return _mean(_class_precision(categories, weights))


def _class_precision(categories: Sequence[CategoryHits], weights: Weights) -> Fractions:
    """AP of each category in each resample, (categories, resamples); NaN without an object."""
    result = np.full((len(categories), len(weights)), np.nan)
    for row, found in zip(result, categories, strict=True):
        wanted = weights @ found.wanted
        present = wanted > 0
        row[present] = _category_precision(found, weights[present], wanted[present])
    return result


def _mean(by_class: Fractions) -> Fractions:
    """The mean over the classes that are there, (resamples,); NaN where none is."""
    defined = np.isfinite(by_class)
    total, count = np.where(defined, by_class, 0).sum(axis=0), defined.sum(axis=0)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def _category_precision(found: CategoryHits, weights: Weights, wanted: Indices) -> Fractions:
    """AP of one category in each resample: COCO's mean over ten IoU thresholds, 101 recalls."""
    drawn = weights[:, found.images]
    counted = np.cumsum(drawn, axis=1, dtype=np.int32)
    total = np.zeros(len(weights))
    for hits, ignored in zip(found.hits, found.ignored, strict=True):
        if not hits.size:
            continue
        # Only hits matter: after one precision falls, and recall stands still, until the next.
        shown = counted[:, hits]
        if ignored.size:
            before = np.cumsum(drawn[:, ignored], axis=1, dtype=np.int32)
            before = np.pad(before, ((0, 0), (1, 0)))
            shown = shown - before[:, np.searchsorted(ignored, hits)]
        got = np.cumsum(drawn[:, hits], axis=1)
        # The same last bit in the denominator as in COCOeval: nothing shown is precision 0.
        precision = got / (shown + np.spacing(1))
        highest = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        reached = np.searchsorted(RECALLS, got / wanted[:, None], side="right")
        points = np.diff(reached, axis=1, prepend=0)
        total += np.einsum("rh,rh->r", highest, points) / len(RECALLS)
    return total / len(found.hits)
