"""One measurement of the gate: a runner over a set of images, in this process or by workers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from effd0.data.coco import Dataset
from effd0.evaluate import EVALUATORS, to_coco_results
from effd0.evaluation.evaluate import Detected, Run, detect_dataset, score, score_matches
from effd0.evaluation.run_dir import RunDirectory, UnderTest
from effd0.progress import silent_pool
from effd0.report import Evaluation
from effd0.runners.base import Runner, choose_batch_size
from effd0.scale.cluster import Cluster
from effd0.scale.drive import begin
from effd0.scale.kept import kept_tables
from effd0.scale.run import PoolRun, detect_begun, subject_of

OpenRunner = Callable[[str], Runner]
#: The workers that run a runner of a name; None where it runs in this process.
WorkersFor = Callable[[str], Cluster | None]
#: Opens the run directory of a name, if runs are kept.
Kept = Callable[[str], AbstractContextManager[RunDirectory | None]]


@dataclass(frozen=True)
class Measured:
    """What a runner found, by image id, and its score."""

    run: Detected
    evaluation: Evaluation

    @property
    def points(self) -> float:
        """The mAP in percent."""
        metrics = self.evaluation.metrics
        assert metrics.ap is not None, metrics.undefined["AP"]
        return 100 * metrics.ap


@dataclass(frozen=True)
class Asked:
    """What is to be measured: *under_test* on *dataset*, of the name *images*."""

    images: str
    dataset: Dataset
    min_map: float | None
    under_test: UnderTest
    batch_size: int | None

    def folder(self, batch_size: int) -> str:
        """The name of its folder in --out."""
        return f"{self.images}-{self.under_test.runner}-batch{batch_size}"

    def told(self, run: Detected | PoolRun, **settings: object) -> Run:
        """What an evaluation says of the *run*."""
        return {
            "min_map": self.min_map,
            "images_per_second": run.images_per_second,
            "stages": run.stages,
            "runner": run.runner,
            "model_sha256": run.model_sha256,
            "settings": {
                "batch_size": run.batch_size,
                "runner": self.under_test.runner,
                **settings,
            },
        }


def measured_here(runner: Runner, what: Asked, kept: Kept) -> Measured:
    """Run the *runner*, which is opened, in this process."""
    spec = what.under_test.spec
    with runner:
        size = choose_batch_size(runner, what.batch_size)
        with kept(what.folder(size)) as place:
            run = detect_dataset(
                what.dataset, runner, what.under_test, batch_size=size, place=place
            )
            told = what.told(run)
            evaluation = score(what.dataset, run.found, spec, evaluator=EVALUATORS[0], **told)
            if place is not None:
                place.finish([to_coco_results(run.found, spec)], evaluation.to_json())
    return Measured(run, evaluation)


def measured_by(ray: Cluster, model: Path, what: Asked, kept: Kept) -> Measured:
    """Run the file *model* on the workers of *ray*; detections come back, to be compared."""
    spec = what.under_test.spec
    begun = begin(ray, subject_of(what.under_test, model), model, what.batch_size)
    with kept(what.folder(begun.opened.batch_size)) as place:
        run = detect_begun(
            what.dataset,
            what.under_test,
            begun,
            host_threads=2,
            place=place,
            collect=True,
            open_progress=silent_pool,
        )
        told = what.told(run, pool=run.summary.to_json())
        evaluation = score_matches(what.dataset, run.what.units, spec, **told)
        if place is not None:
            tables = kept_tables(place, run.seed, what.dataset, spec)
            place.finish(tables, evaluation.to_json())
    return Measured(_detected(run, what.dataset), evaluation)


def _detected(run: PoolRun, dataset: Dataset) -> Detected:
    """What a pool of workers found, as one process would have said it."""
    return Detected(
        found={id_: run.what.found[id_] for id_ in dataset.image_ids},
        images=run.images,
        seconds=run.summary.seconds,
        stages=run.stages,
        runner=run.runner,
        model_sha256=run.model_sha256,
        batch_size=run.batch_size,
    )
