"""Two runs' detections of the same images, paired by class and IoU; images that share theirs."""

import hashlib
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np

from ..data.coco import Dataset, Sample
from ..data.preprocess import preprocess
from ..data.remote import localized
from ..detection.postprocess import Detections
from ..errors import EvaluationError
from ..spec import ModelSpec
from ..tolerances import SAME_DETECTIONS, SAME_SCORES
from ..types import Boxes, Floats, Indices

#: Boxes of one class that overlap by less show different things.
MIN_IOU = 0.5
#: How many images a summary lists.
WORST = 5
#: So many different float32 scores are equal to the last bit by chance in no two images.
DISTINCT_SCORES = 10
#: Median, the value that 1 % are worse than, the worst.
Spread: TypeAlias = tuple[float, float, float]


class Matched(NamedTuple):
    """
    The pairs of one image, and what is left over on each side.

    *reference* and *candidate* are the indices of the pairs; *ious* and *score_differences*
    (candidate less reference) are theirs; *missing* and *extra* are the scores of what only the
    reference and only the candidate found, falling.
    """

    reference: Indices
    candidate: Indices
    ious: Floats
    score_differences: Floats
    missing: Floats
    extra: Floats

    @property
    def worst(self) -> float:
        """The score at stake: the highest that is unmatched, or the largest difference."""
        parts = (self.missing, self.extra, np.abs(self.score_differences))
        return max((float(part.max()) for part in parts if part.size), default=0.0)


@dataclass(frozen=True)
class DetectionParity:
    """
    The pairs of all images in numbers.

    *score_difference* and *iou* hold the median, the value that 1 % of the pairs are worse than,
    and the worst (absolute differences; None without a pair).  *worst* lists (image id, score at
    stake), the worst first, images without any difference left out.
    """

    images: int
    matched: int
    missing: int
    extra: int
    score_difference: Spread | None
    iou: Spread | None
    worst: tuple[tuple[int, float], ...]

    @property
    def same_but_for_rounding(self) -> bool:
        """Whether nearly every detection has a partner of nearly its score (see tolerances)."""
        unmatched, reference = self.missing + self.extra, self.matched + self.missing
        return (
            self.score_difference is not None
            and unmatched <= 2 * SAME_DETECTIONS.limit * reference
            and self.score_difference[1] <= SAME_SCORES.limit
        )

    def __str__(self) -> str:
        worst = ", ".join(f"{image_id} ({stake:.2g})" for image_id, stake in self.worst)
        pairs = ""
        if self.score_difference is not None and self.iou is not None:
            pairs = (
                f"; scores differ by {self.score_difference[0]:.2g} in the median and "
                f"{self.score_difference[2]:.2g} at most, IoU is {self.iou[0]:.4f} in the median "
                f"and {self.iou[2]:.4f} at least"
            )
        return (
            f"{self.matched} detections of {self.images} images matched, {self.missing} missing, "
            f"{self.extra} extra{pairs}{f'; worst images: {worst}' if worst else ''}"
        )


def match_detections(
    reference: Detections, candidate: Detections, min_iou: float = MIN_IOU
) -> Matched:
    """
    Pair the detections of one image: of the same class, the highest IoU first.

    Of equal IoUs the pair of higher scores goes first, then the one of smaller indices; swapping
    the sides swaps the result.  Pairs have an IoU of at least *min_iou*, above 0.
    """
    ious = box_iou(reference.boxes, candidate.boxes)
    same = reference.classes[:, None] == candidate.classes
    rows, columns = np.nonzero(same & (ious >= min_iou) & (ious > 0))
    scores = reference.scores[rows] + candidate.scores[columns]
    # Stable: two pairs that share a detection stay in the order of their other indices.
    left, right = once_each(rows, columns, np.lexsort((-scores, -ious[rows, columns])))
    alone = [
        np.sort(np.delete(side.scores, own))[::-1]
        for side, own in ((reference, left), (candidate, right))
    ]
    differences = candidate.scores[right] - reference.scores[left]
    return Matched(left, right, ious[left, right], differences, *alone)


def once_each(rows: Indices, columns: Indices, order: Indices) -> tuple[Indices, Indices]:
    """The pairs of *rows* and *columns*, by *order*, that share neither with one before."""
    left, right = dict[int, int](), set[int]()
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in left and column not in right:
            left[row] = column
            right.add(column)
    return np.array([*left], np.int64), np.array([*left.values()], np.int64)


def detection_parity(
    reference: Mapping[int, Detections], candidate: Mapping[int, Detections]
) -> DetectionParity:
    """
    Pair the detections of all images, by image id.

    Raises `EvaluationError` where the two sides are not of the same images.
    """
    if reference.keys() != candidate.keys():
        other = sorted(reference.keys() ^ candidate.keys())
        raise EvaluationError(
            f"the candidate has {len(candidate)} images, but the reference {len(reference)}; "
            f"{len(other)} are on one side only {other[:5]}: run both on the same images"
        )
    found = {id_: match_detections(reference[id_], candidate[id_]) for id_ in sorted(reference)}

    def spread(parts: list[Floats], at: Spread) -> Spread | None:
        values = np.concatenate([np.empty(0, np.float32), *parts])
        if not values.size:
            return None
        middle, far, worst = np.quantile(values, at).tolist()
        return middle, far, worst

    stakes = sorted(((id_, m.worst) for id_, m in found.items()), key=lambda pair: -pair[1])
    return DetectionParity(
        images=len(found),
        matched=sum(m.ious.size for m in found.values()),
        missing=sum(m.missing.size for m in found.values()),
        extra=sum(m.extra.size for m in found.values()),
        score_difference=spread(
            [np.abs(m.score_differences) for m in found.values()], (0.5, 0.99, 1)
        ),
        iou=spread([m.ious for m in found.values()], (0.5, 0.01, 0)),
        worst=tuple(pair for pair in stakes[:WORST] if pair[1] > 0),
    )


def box_iou(left: Boxes, right: Boxes) -> Floats:
    """IoU of each of *left* with each of *right*, xyxy, (n, m); 0 where neither has an area."""
    x1, y1, x2, y2 = (np.asarray(left, np.float64)[:, None, i] for i in range(4))
    u1, v1, u2, v2 = (np.asarray(right, np.float64)[None, :, i] for i in range(4))
    width = np.maximum(np.minimum(x2, u2) - np.maximum(x1, u1), 0)
    height = np.maximum(np.minimum(y2, v2) - np.maximum(y1, v1), 0)
    overlap = width * height
    union = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - overlap
    iou = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
    return np.asarray(iou, np.float32)


def check_repeats(dataset: Dataset, detections: Mapping[int, Detections], spec: ModelSpec) -> None:
    """
    Raise `EvaluationError` where two different images have the same scores to the last bit.

    Boxes are not compared, as they scale with the size of an image.  One picture that is stored
    under two ids rightly has the same detections twice, so the inputs of both are compared too.
    """
    alike: dict[bytes, list[Sample]] = defaultdict(list)
    for sample in dataset.samples:
        found = detections[sample.image_id]
        if len(np.unique(found.scores)) >= DISTINCT_SCORES:
            content = found.scores.astype("<f4").tobytes() + found.classes.astype("<i8").tobytes()
            alike[hashlib.blake2b(content, digest_size=16).digest()].append(sample)
    for first, *others in alike.values():
        for other in others:
            with localized((first, other), Path(tempfile.gettempdir())) as pair:
                one, two = (preprocess(sample.path, spec).tensor for sample in pair)
            if not np.array_equal(one, two):
                raise EvaluationError(
                    f"images {first.image_id} ({first.path.name}) and {other.image_id} "
                    f"({other.path.name}) differ, but their detections have the same scores to "
                    "the last bit: one was given the results of the other, or the model does not "
                    "look at its input; run the inference again"
                )
