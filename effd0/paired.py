"""How many points of mAP a candidate loses against a reference on the same images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from .accumulate import ClassMatches, Weights, average_precision, class_matches
from .data.coco import Dataset
from .detection.postprocess import Detections
from .errors import EvaluationError
from .spec import ModelSpec
from .types import Fractions

RESAMPLES = 1000
#: A bootstrap of fewer images knows too little of its own spread to decide anything.
MIN_IMAGES = 30
#: Image draws times detections of the largest category that are in memory at a time.
_CHUNK = 4_000_000


@dataclass(frozen=True)
class PairedDrop:
    """
    mAP of the reference less that of the candidate, in points: positive is a loss.

    *low* and *high* bound the 95 % interval of a paired bootstrap over *images* images;
    *reference_ap* and *candidate_ap* are fractions.
    """

    points: float
    low: float
    high: float
    images: int
    reference_ap: float
    candidate_ap: float

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


def paired_drop(
    dataset: Dataset,
    reference: Mapping[int, Detections],
    candidate: Mapping[int, Detections],
    spec: ModelSpec,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> PairedDrop:
    """
    Compare the detections of two models, by image id; the same *seed* gives the same interval.

    Both are scored on the same draws of images, with replacement, so that what makes an image
    hard cancels out.  Raises `EvaluationError` where images are missing, foreign, or hold no
    object to be found.
    """
    sides = [class_matches(dataset, found, spec) for found in (reference, candidate)]
    images = len(dataset.samples)
    whole = np.ones((1, images), np.int32)
    wanted, got = (float(average_precision(side, whole)[0]) for side in sides)
    if not np.isfinite(wanted - got):
        raise EvaluationError(
            f"the {images} images have no object that is not crowd, but a drop of mAP needs some; "
            "give images with annotations"
        )
    drops = np.concatenate(
        [
            average_precision(sides[0], weights) - average_precision(sides[1], weights)
            for weights in _draws(images, resamples, seed, _rows(sides))
        ]
    )
    low, high = _interval(100 * drops)
    return PairedDrop(100 * (wanted - got), low, high, images, wanted, got)


def _draws(images: int, resamples: int, seed: int, rows: int) -> Iterator[Weights]:
    """How often each image is drawn in each resample, at most *rows* resamples at a time."""
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = rng.integers(0, images, (count, images))
        yield np.stack([np.bincount(row, minlength=images) for row in drawn]).astype(np.int32)


def _rows(sides: list[list[ClassMatches]]) -> int:
    """How many resamples fit into `_CHUNK`."""
    largest = max(matches.images.size for side in sides for matches in side)
    return max(1, _CHUNK // max(largest, 1))


def _interval(drops: Fractions) -> tuple[float, float]:
    """The middle 95 %; a draw of images without any object says nothing and is left out."""
    low, high = np.quantile(drops[np.isfinite(drops)], (0.025, 0.975))
    return float(low), float(high)
