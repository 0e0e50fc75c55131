"""
What pictures of an evaluation need: curves, scores, kinds of errors, images to look at first.

All is made of the dataset and of what was found in it, as the plain values of a run file's
``insight``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.coco import Dataset
from ..detection.postprocess import Detections
from ..metrics.coco import THRESHOLDS, MatchTable, match_table, to_coco_results
from ..metrics.coverage import check_complete
from ..metrics.summary import RECALLS, accumulate
from ..metrics.tide import KINDS, Errors, find_errors
from ..spec import ModelSpec
from ..types import Fractions
from .gallery import difference, gallery, mistakes

#: Bounds of the bins that scores are counted in.
EDGES: Fractions = np.arange(21) / 20
#: Names of the curves, and the IoU thresholds that each is averaged over.
_CURVES = {"0.50": slice(0, 1), "0.75": slice(5, 6), "0.50:0.95": slice(0, len(THRESHOLDS))}


def insight(
    dataset: Dataset,
    candidate: Mapping[int, Detections],
    reference: Mapping[int, Detections] | None,
    spec: ModelSpec,
) -> dict[str, Any]:
    """
    All that is drawn of what *candidate* and *reference* found in *dataset*, by image id.

    Images are opened for thumbnails alone; one that cannot be read has none.  Raises
    `EvaluationError` unless both sides are of just the images of *dataset*.
    """
    for found in (candidate, reference):
        if found is not None:
            check_complete(dataset, found)
    ours = _Side.of(dataset, candidate, spec)
    theirs = None if reference is None else _Side.of(dataset, reference, spec)
    differences = (
        mistakes(dataset, ours.errors)
        if reference is None
        else {id_: difference(reference[id_], candidate[id_]) for id_ in dataset.image_ids}
    )
    return {
        "recall": np.round(RECALLS, 2).tolist(),
        "curves": _beside(_curves, ours, theirs),
        "scores": {"edges": EDGES.tolist(), **_beside(_scores, ours, theirs)},
        "errors": _beside(_errors, ours, theirs),
        "gallery": gallery(dataset, candidate, reference, differences, spec),
    }


@dataclass(frozen=True)
class _Side:
    """What one model found: matched with the objects, and what is wrong with it."""

    matches: MatchTable
    errors: Errors
    spec: ModelSpec

    @classmethod
    def of(cls, dataset: Dataset, found: Mapping[int, Detections], spec: ModelSpec) -> _Side:
        matches = match_table(dataset, found, spec)
        return cls(matches, find_errors(matches), spec)


def _beside(make: Callable[[_Side], Any], ours: _Side, theirs: _Side | None) -> dict[str, Any]:
    return {"candidate": make(ours), "reference": None if theirs is None else make(theirs)}


def _curves(side: _Side) -> dict[str, list[float | None]]:
    """Precision at each recall, the mean over the categories that have an object."""
    precision = accumulate(side.matches).precision[..., 0]
    defined = precision[:, :, (precision > -1).all(axis=(0, 1))]
    if not defined.size:
        return {name: [None] * len(RECALLS) for name in _CURVES}
    return {name: defined[ious].mean(axis=(0, 2)).tolist() for name, ious in _CURVES.items()}


def _scores(side: _Side) -> list[int]:
    """How many scores are in each bin; the last one holds its upper bound too."""
    scores = to_coco_results(side.matches.detections, side.spec)[:, 5]
    counts: list[int] = np.histogram(scores, EDGES)[0].tolist()
    return counts


def _errors(side: _Side) -> dict[str, dict[str, float | None]]:
    return {
        kind: {"count": side.errors.count(kind), "delta_ap": side.errors.delta_ap(kind)}
        for kind in KINDS
    }
