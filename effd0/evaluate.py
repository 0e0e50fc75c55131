"""
Detections -> COCO's twelve numbers and the AP of each class.

pycocotools is the reference; ``numpy``, which is effd0's own, gives the same numbers in a fraction
of the time, and faster-coco-eval gives them too (tests hold all three together).  All images of
the dataset are scored: an image without a detection costs recall, it does not vanish.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .complete import check_complete
from .curves import Curves, accumulate_curves, curves_of_hits
from .data.coco import Dataset
from .detection.postprocess import Detections
from .errors import EvaluationError
from .hits import CategoryHits
from .spec import ModelSpec
from .types import Fractions

#: COCO's twelve numbers, in the order of COCOeval's ``stats``.
METRICS = (
    "AP", "AP50", "AP75", "APs", "APm", "APl",
    "AR1", "AR10", "AR100", "ARs", "ARm", "ARl",
)  # fmt: skip
_SIZES = {"s": "small (area < 32²)", "m": "medium (32² to 96²)", "l": "large (area > 96²)"}

EVALUATORS = ("numpy", "faster-coco-eval", "pycocotools")


@dataclass(frozen=True)
class CocoMetrics:
    """
    COCO's bounding-box metrics as fractions; None where a number is undefined.

    *per_class* is AP by category name; *undefined* says why, for each number that is None;
    *images* is how many were scored, *detections* how many boxes.
    """

    values: dict[str, float | None]
    per_class: dict[str, float | None]
    undefined: dict[str, str]
    images: int
    detections: int

    @property
    def ap(self) -> float | None:
        """AP over IoU .50:.95, all sizes, at most 100 detections."""
        return self.values["AP"]


def evaluate(
    dataset: Dataset,
    detections: Mapping[int, Detections],
    spec: ModelSpec,
    *,
    evaluator: str = EVALUATORS[0],
) -> CocoMetrics:
    """
    Score *detections* (by image id) on all images of *dataset*.

    Raises `EvaluationError` unless every image is there exactly once and none is foreign.
    """
    check_complete(dataset, detections)
    results = to_coco_results(detections, spec)
    return _metrics(dataset, _scored(dataset, results, evaluator), len(results))


def metrics_of_hits(
    dataset: Dataset, every: Iterable[CategoryHits], detections: int
) -> CocoMetrics:
    """Score the hits of *every* category of *dataset*, by rising id, among all *detections*."""
    return _metrics(dataset, _of_curves(curves_of_hits(dataset, every)), detections)


def to_coco_results(detections: Mapping[int, Detections], spec: ModelSpec) -> Fractions:
    """
    Detections as COCO's result table: image id, x, y, width, height, score, category id.

    Detections below the score floor are left out, as effdet's evaluator leaves them out.
    """
    found = list(detections.values())
    if not found:
        return np.empty((0, 7))
    images = np.repeat(list(detections), [len(one) for one in found])
    scores = np.concatenate([one.scores for one in found])
    keep = scores >= spec.score_floor
    x1, y1, x2, y2 = np.concatenate([one.boxes for one in found])[keep].T
    classes = np.concatenate([one.classes for one in found])
    columns = (images[keep], x1, y1, x2 - x1, y2 - y1, scores[keep], classes[keep])
    return np.stack(columns, 1).astype(np.float64, copy=False)


def _metrics(dataset: Dataset, scored: _Scored, detections: int) -> CocoMetrics:
    stats = dict(zip(METRICS, (_defined(v) for v in scored.stats[:12]), strict=True))
    per_class = {
        dataset.categories[category]: _class_ap(scored.precision[:, :, k])
        for k, category in enumerate(sorted(dataset.categories))
    }
    return CocoMetrics(
        values=stats,
        per_class=per_class,
        undefined={name: _why(name) for name, value in stats.items() if value is None},
        images=len(dataset.samples),
        detections=detections,
    )


@dataclass(frozen=True)
class _Scored:
    """COCO's numbers, and the precision at each IoU, recall and category for all sizes."""

    stats: Sequence[float]
    precision: Fractions


def _scored(dataset: Dataset, results: Fractions, evaluator: str) -> _Scored:
    check_evaluator(evaluator)
    if evaluator == "numpy":
        return _of_curves(accumulate_curves(dataset, results))
    with contextlib.redirect_stdout(io.StringIO()):
        scored = _prepared(dataset, results, evaluator)
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    return _Scored(scored.stats, scored.eval["precision"][:, :, :, 0, -1])


def _of_curves(curves: Curves) -> _Scored:
    return _Scored(curves.stats(), curves.precision[..., 0])


def _prepared(dataset: Dataset, results: Fractions, evaluator: str) -> Any:
    """A COCOeval of all images of *dataset*."""
    coco_class, eval_class = _evaluator(evaluator)
    truth = coco_class()
    truth.dataset = _ground_truth(dataset)
    truth.createIndex()
    found = truth.loadRes(results) if len(results) else _nothing(coco_class, truth)
    scored = eval_class(truth, found, "bbox")
    scored.params.imgIds = dataset.image_ids
    return scored


def check_evaluator(name: str) -> None:
    """Raise `EvaluationError` unless *name* is one of `EVALUATORS`."""
    if name not in EVALUATORS:
        raise EvaluationError(f"--evaluator is {name!r}, but effd0 knows {', '.join(EVALUATORS)}")


def _evaluator(name: str) -> tuple[Any, Any]:
    if name == "faster-coco-eval":
        import faster_coco_eval

        return faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster
    from pycocotools import coco, cocoeval

    return coco.COCO, cocoeval.COCOeval


def _ground_truth(dataset: Dataset) -> dict[str, Any]:
    """The annotations of the run's images, with what COCO files may leave out."""
    annotations = []
    for annotation in dataset.annotations:
        box = annotation["bbox"]
        defaults = {"iscrowd": 0, "area": box[2] * box[3]}
        annotations.append(defaults | annotation)
    return {
        "info": {},
        "images": [
            {"id": s.image_id, "width": s.size[0], "height": s.size[1]} for s in dataset.samples
        ],
        "annotations": annotations,
        "categories": [{"id": id_, "name": name} for id_, name in dataset.categories.items()],
    }


def _nothing(coco_class: Any, truth: Any) -> Any:
    """A result set without a detection, which ``loadRes`` cannot make."""
    empty = coco_class()
    empty.dataset = {**truth.dataset, "annotations": []}
    empty.createIndex()
    return empty


def _defined(value: float) -> float | None:
    """COCOeval writes -1 where it has nothing to average."""
    if not math.isfinite(value):
        raise EvaluationError(f"the evaluator gave {value}, but a fraction was wanted")
    return None if value == -1 else float(value)


def _class_ap(precision: Fractions) -> float | None:
    """AP of one class from its precision at each IoU and recall; None without ground truth."""
    defined = precision[precision > -1]
    return float(defined.mean()) if defined.size else None


def _why(metric: str) -> str:
    size = _SIZES.get(metric[-1])
    of_size = "" if size is None else f" of {size}"
    return f"undefined: the evaluated images have no ground truth{of_size} that is not crowd"
