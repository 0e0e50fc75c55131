"""Detections -> metrics, verdict and record: what every evaluation ends with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .against import Against
from .dataset import Dataset
from .evaluate import evaluate
from .files import sha256
from .measure import Latency, peak_rss_mb
from .postprocess import Detections
from .reach import reachable_ap
from .report import Evaluation, judge
from .spec import ModelSpec
from .twins import check_twins


def score(
    dataset: Dataset,
    found: Mapping[int, Detections],
    spec: ModelSpec,
    *,
    evaluator: str,
    min_map: float | None,
    images_per_second: float,
    stages: Mapping[str, Latency],
    runner: str,
    model_sha256: str,
    settings: Mapping[str, Any],
    against: Against | None = None,
) -> Evaluation:
    """
    Score what was *found*, by image id; judge it as `judge` does.

    *settings* are added to those of the dataset.  Raises `EvaluationError` as `evaluate` and
    `check_twins` do.
    """
    metrics = evaluate(dataset, found, spec, evaluator=evaluator)
    check_twins(dataset.samples, found, spec)
    reachable = None
    if dataset.limited and min_map is not None:
        reachable = reachable_ap(dataset, found, spec)
    floor = judge(metrics, dataset.total, min_map, reachable=reachable)
    return Evaluation(
        metrics=metrics,
        verdict=judge(metrics, dataset.total, min_map, against, reachable),
        total_images=dataset.total,
        images_per_second=images_per_second,
        stages=stages,
        peak_rss_mb=peak_rss_mb(),
        runner=runner,
        model_sha256=model_sha256,
        settings={
            **_data_settings(dataset),
            "min_map": min_map,
            "evaluator": evaluator,
            **settings,
        },
        against=against,
        floor=floor,
    )


def _data_settings(dataset: Dataset) -> dict[str, Any]:
    return {
        "annotation_file": str(dataset.annotation_file),
        "annotations_sha256": sha256(dataset.annotation_file),
        "extra_files": len(dataset.extra_files),
    }
