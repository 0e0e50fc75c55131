"""Two runs' detections of the same images, paired by class and IoU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from ..detection.postprocess import Detections
from ..errors import EvaluationError
from ..types import Boxes, Floats, Indices

#: Boxes of one class that overlap by less show different things.
MIN_IOU = 0.5
#: How many images a summary lists.
WORST = 5
#: Median, the value that 1 % are worse than, the worst.
Spread: TypeAlias = tuple[float, float, float]


@dataclass(frozen=True)
class Matched:
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
    missing, extra = (
        np.sort(np.delete(side.scores, own))[::-1]
        for side, own in ((reference, left), (candidate, right))
    )
    return Matched(
        reference=left,
        candidate=right,
        ious=ious[left, right],
        score_differences=candidate.scores[right] - reference.scores[left],
        missing=missing,
        extra=extra,
    )


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
    every = {id_: match_detections(reference[id_], candidate[id_]) for id_ in sorted(reference)}
    found = list(every.values())
    stakes = sorted(((id_, m.worst) for id_, m in every.items()), key=lambda pair: -pair[1])
    return DetectionParity(
        images=len(found),
        matched=sum(m.ious.size for m in found),
        missing=sum(m.missing.size for m in found),
        extra=sum(m.extra.size for m in found),
        score_difference=_spread([np.abs(m.score_differences) for m in found], (0.5, 0.99, 1)),
        iou=_spread([m.ious for m in found], (0.5, 0.01, 0)),
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
    single: Floats = iou.astype(np.float32)
    return single


def _spread(parts: list[Floats], at: Spread) -> Spread | None:
    values = np.concatenate([np.empty(0, np.float32), *parts])
    if not values.size:
        return None
    middle, far, worst = (float(value) for value in np.quantile(values, at))
    return middle, far, worst
