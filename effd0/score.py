"""Detections -> metrics, verdict and record: what every evaluation ends with."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict, Unpack

from .against import Against
from .complete import check_complete
from .dataset import Dataset
from .errors import EvaluationError
from .evaluate import EVALUATORS, CocoMetrics, evaluate, metrics_of_hits, to_coco_results
from .files import sha256
from .hits import category_hits
from .matches import UnitMatches, merged_hits
from .measure import Latency, peak_rss_mb
from .postprocess import Detections
from .reach import reachable_ap
from .report import Evaluation, judge
from .spec import ModelSpec
from .twins import check_twins, twin_key


class Run(TypedDict):
    """How detections came about, and what they are held against; *min_map* is in percent."""

    min_map: float | None
    images_per_second: float
    stages: Mapping[str, Latency]
    runner: str
    model_sha256: str
    settings: Mapping[str, Any]
    against: NotRequired[Against | None]


def score(
    dataset: Dataset,
    found: Mapping[int, Detections],
    spec: ModelSpec,
    *,
    evaluator: str,
    **run: Unpack[Run],
) -> Evaluation:
    """
    Score what was *found*, by image id; judge it as `judge` does.

    The settings are added to those of the dataset.  Raises `EvaluationError` as `evaluate` and
    `check_twins` do.
    """
    metrics = evaluate(dataset, found, spec, evaluator=evaluator)
    check_twins(dataset.samples, {id_: twin_key(one) for id_, one in found.items()}, spec)
    reachable = None
    if _may_be_lost(dataset, run):
        reachable = reachable_ap(dataset, category_hits(dataset, to_coco_results(found, spec)))
    return _judged(dataset, metrics, reachable, evaluator, run)


def score_matches(
    dataset: Dataset, units: Sequence[UnitMatches], spec: ModelSpec, **run: Unpack[Run]
) -> Evaluation:
    """
    Score what was matched in *units*, in any order: the same as `score` of all of it at once.

    Raises as `score` does, for images that came twice too.
    """
    _check_units(dataset, units)
    parts = [unit.matches for unit in units]
    detections = sum(unit.detections for unit in units)
    metrics = metrics_of_hits(dataset, merged_hits(dataset, parts), detections)
    keys = {
        id_: key for unit in units for id_, key in zip(unit.image_ids, unit.twin_keys, strict=True)
    }
    check_twins(dataset.samples, keys, spec)
    reachable = None
    if _may_be_lost(dataset, run):
        reachable = reachable_ap(dataset, merged_hits(dataset, parts))
    return _judged(dataset, metrics, reachable, EVALUATORS[0], run)


def _check_units(dataset: Dataset, units: Sequence[UnitMatches]) -> None:
    """Raise `EvaluationError` unless each image came once, in its place."""
    check_complete(dataset, itertools.chain.from_iterable(unit.image_ids for unit in units))
    ids = dataset.image_ids
    for unit in units:
        wanted = tuple(ids[unit.first : unit.first + len(unit.image_ids)])
        if unit.image_ids != wanted:
            raise EvaluationError(
                f"a unit came with images {unit.image_ids[:5]} from place {unit.first} on, where "
                f"the dataset has {wanted[:5]}; cut the dataset that is scored into the units"
            )


def _may_be_lost(dataset: Dataset, run: Run) -> bool:
    """Whether images were left out that may be unable to lift AP to its floor."""
    return dataset.limited and run["min_map"] is not None


def _judged(
    dataset: Dataset, metrics: CocoMetrics, reachable: float | None, evaluator: str, run: Run
) -> Evaluation:
    min_map, against = run["min_map"], run.get("against")
    return Evaluation(
        metrics=metrics,
        verdict=judge(metrics, dataset.total, min_map, against, reachable),
        total_images=dataset.total,
        images_per_second=run["images_per_second"],
        stages=run["stages"],
        peak_rss_mb=peak_rss_mb(),
        runner=run["runner"],
        model_sha256=run["model_sha256"],
        settings={
            **_data_settings(dataset),
            "min_map": min_map,
            "evaluator": evaluator,
            **run["settings"],
        },
        against=against,
        floor=judge(metrics, dataset.total, min_map, reachable=reachable),
    )


def _data_settings(dataset: Dataset) -> dict[str, Any]:
    return {
        "annotation_file": str(dataset.annotation_file),
        "annotations_sha256": sha256(dataset.annotation_file),
        "extra_files": len(dataset.extra_files),
    }
