"""
Detections -> COCO's twelve numbers and the AP of each class.

pycocotools is the reference; faster-coco-eval gives the same numbers sooner (a test holds the
two within 1e-9 of each other).  All images of the dataset are scored: an image without a
detection costs recall, it does not vanish.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .dataset import Dataset
from .errors import EvaluationError
from .postprocess import Detections
from .spec import ModelSpec

#: COCO's twelve numbers, in the order of COCOeval's ``stats``.
METRICS = (
    "AP", "AP50", "AP75", "APs", "APm", "APl",
    "AR1", "AR10", "AR100", "ARs", "ARm", "ARl",
)  # fmt: skip
_SIZES = {"s": "small (area < 32²)", "m": "medium (32² to 96²)", "l": "large (area > 96²)"}

EVALUATORS = ("faster-coco-eval", "pycocotools")


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
    evaluator: str = "faster-coco-eval",
) -> CocoMetrics:
    """
    Score *detections* (by image id) on all images of *dataset*.

    Raises `EvaluationError` unless every image is there exactly once and none is foreign.
    """
    _check_complete(dataset, detections)
    results = to_coco_results(detections, spec)
    scored = _scored(dataset, results, evaluator)
    stats = dict(zip(METRICS, (_defined(v) for v in scored.stats[:12]), strict=True))
    precision = scored.eval["precision"]
    per_class = {
        dataset.categories[category]: _class_ap(precision[:, :, k, 0, -1])
        for k, category in enumerate(scored.params.catIds)
    }
    return CocoMetrics(
        values=stats,
        per_class=per_class,
        undefined={name: _why(name) for name, value in stats.items() if value is None},
        images=len(dataset.samples),
        detections=len(results),
    )


def to_coco_results(
    detections: Mapping[int, Detections], spec: ModelSpec
) -> npt.NDArray[np.float64]:
    """
    Detections as COCO's result table: image id, x, y, width, height, score, category id.

    Detections below the score floor are left out, as effdet's evaluator leaves them out.
    """
    tables = [np.empty((0, 7))]
    for image_id, found in detections.items():
        keep = found.scores >= spec.score_floor
        x1, y1, x2, y2 = found.boxes[keep].T
        columns = (np.full(x1.shape, image_id), x1, y1, x2 - x1, y2 - y1)
        tables.append(np.stack([*columns, found.scores[keep], found.classes[keep]], 1))
    return np.concatenate(tables)


def match_images(
    dataset: Dataset, detections: Mapping[int, Detections], spec: ModelSpec
) -> list[dict[str, Any]]:
    """
    COCOeval's record of each category and image that has an object or a detection of it.

    Objects of all sizes, at most 100 detections; by category, then by image, in the dataset's
    order.  Raises `EvaluationError` as `evaluate` does.
    """
    _check_complete(dataset, detections)
    scored = _prepared(dataset, to_coco_results(detections, spec), "pycocotools")
    scored.params.areaRng, scored.params.areaRngLbl = scored.params.areaRng[:1], ["all"]
    scored.params.maxDets = scored.params.maxDets[-1:]
    with contextlib.redirect_stdout(io.StringIO()):
        scored.evaluate()
    return [entry for entry in scored.evalImgs if entry is not None]


def _check_complete(dataset: Dataset, detections: Mapping[int, Detections]) -> None:
    wanted = set(dataset.image_ids)
    missing, foreign = sorted(wanted - detections.keys()), sorted(detections.keys() - wanted)
    if missing or foreign:
        raise EvaluationError(
            f"detections cover {len(detections)} images, but the dataset has {len(wanted)}: "
            f"{len(missing)} are missing {missing[:5]}, {len(foreign)} are foreign {foreign[:5]}"
        )


def _scored(dataset: Dataset, results: npt.NDArray[np.float64], evaluator: str) -> Any:
    """A COCOeval that has evaluated, accumulated and summarised, without printing."""
    scored = _prepared(dataset, results, evaluator)
    with contextlib.redirect_stdout(io.StringIO()):
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    return scored


def _prepared(dataset: Dataset, results: npt.NDArray[np.float64], evaluator: str) -> Any:
    """A COCOeval of all images of *dataset*."""
    coco_class, eval_class = _evaluator(evaluator)
    with contextlib.redirect_stdout(io.StringIO()):
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
    check_evaluator(name)
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
        annotations.append(defaults | {k: v for k, v in annotation.items() if k != "segmentation"})
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


def _class_ap(precision: npt.NDArray[np.float64]) -> float | None:
    """AP of one class from its precision at each IoU and recall; None without ground truth."""
    defined = precision[precision > -1]
    return float(defined.mean()) if defined.size else None


def _why(metric: str) -> str:
    size = _SIZES.get(metric[-1])
    of_size = "" if size is None else f" of {size}"
    return f"undefined: the evaluated images have no ground truth{of_size} that is not crowd"
