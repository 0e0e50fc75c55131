"""One evaluation by a pool of workers, from beginning to end; as `job.run_evaluation` in one."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from ..against import Against, hold_against
from ..data.coco import Dataset, annotation_path
from ..data.remote import load_remote, url_of
from ..detection.postprocess import Detections
from ..evaluate import check_evaluator, evaluate
from ..evaluation.evaluate import (
    EvaluationJob,
    Run,
    job_settings,
    opened_run_directory,
    reference_choice,
    score,
    score_matches,
)
from ..evaluation.model import ModelChoice
from ..evaluation.run_dir import RunDirectory, Say, images_sha256, under_test
from ..insight import insight
from ..report import Evaluation
from .cluster import Cluster
from .kept import kept_tables
from .pool import Pool, check_pool
from .quiet import quiet
from .run import PoolRun, detect_on_pool
from .start import Displays, prepared_model, started


def run_on_pool(job: EvaluationJob, pool: Pool, show: Displays, say: Say) -> Evaluation:
    """
    Run *job* on *pool*; raise what its stages raise.

    The twelve numbers are those of one process.  Where the evaluator is another's, and where
    pictures or a reference ask for them, detections come back to this process.
    """
    check_pool(pool, job.choice.checked_runner(), job.choice.options)
    check_evaluator(job.evaluator)
    reference = reference_choice(job.reference, job.choice)
    collect = job.insight or reference is not None or job.evaluator != "numpy"
    with (
        quiet(verbose=pool.verbose),
        opened_run_directory(job, say) as place,
        _loaded(job) as dataset,
    ):
        with (
            prepared_model(job.choice, job.batch_size, show) as path,
            started(pool, job.choice, show) as ray,
        ):
            run = _run(job, job.choice, path, dataset, ray, place, show, collect=collect)
            against, theirs = _against(job, reference, dataset, run, ray, show)
        with show.step("scoring", 1) as advance:
            evaluation = _scored(job, dataset, run, against)
            if job.insight:
                drawn = insight(dataset, run.what.found, theirs, job.choice.spec)
                evaluation = replace(evaluation, insight=drawn)
            advance(1)
        if place is not None:
            tables = kept_tables(place, run.seed, dataset, job.choice.spec)
            place.finish(tables, evaluation.to_json())
    return evaluation


@contextlib.contextmanager
def _loaded(job: EvaluationJob) -> Iterator[Dataset]:
    """The dataset, wherever its files lie; those that are broken show when they are read."""
    if job.root is None or url_of(job.root) is None:
        yield job.load()
        return
    with tempfile.TemporaryDirectory(prefix="effd0-") as cache:
        yield load_remote(job.root, job.split, job.image_limit, Path(cache))


def _run(
    job: EvaluationJob,
    choice: ModelChoice,
    path: Path,
    dataset: Dataset,
    ray: Cluster,
    place: RunDirectory | None,
    show: Displays,
    *,
    collect: bool,
) -> PoolRun:
    return detect_on_pool(
        dataset,
        under_test(choice, path),
        path,
        ray,
        batch_size=job.batch_size if choice is job.choice else None,
        host_threads=job.host_threads,
        place=place,
        collect=collect,
        open_progress=show.pool,
    )


def _against(
    job: EvaluationJob,
    reference: ModelChoice | None,
    dataset: Dataset,
    run: PoolRun,
    ray: Cluster,
    show: Displays,
) -> tuple[Against | None, Mapping[int, Detections] | None]:
    """The comparison with the reference, which runs on the CPUs of the same hosts; its finds."""
    if reference is None:
        return None, None
    with reference.file() as path:
        theirs = _run(job, reference, path, dataset, ray.on_cpu(), None, show, collect=True)
    with show.step("comparing", 1) as advance:
        against = hold_against(
            dataset,
            theirs.what.found,
            run.what.found,
            job.choice.spec,
            max_drop=job.max_drop,
            runner=theirs.runner,
            model_sha256=theirs.model_sha256,
            metrics=evaluate(dataset, theirs.what.found, job.choice.spec),
        )
        advance(1)
    return against, theirs.what.found


def _where_remote(root: Path, split: str) -> dict[str, str]:
    """The annotation file by its URL, where only a copy of it lies on this host."""
    url = url_of(annotation_path(root, split))
    return {} if url is None else {"annotation_file": url}


def _scored(
    job: EvaluationJob, dataset: Dataset, run: PoolRun, against: Against | None
) -> Evaluation:
    settings = {
        **job_settings(job, run.batch_size),
        **({} if job.root is None else _where_remote(job.root, job.split)),
        "images_sha256": images_sha256(run.what.sha256[id_] for id_ in dataset.image_ids),
        "pool": run.summary.to_json(),
    }
    shared: Run = {
        "min_map": job.floor(),
        "images_per_second": run.images_per_second,
        "stages": run.stages,
        "runner": run.runner,
        "model_sha256": run.model_sha256,
        "settings": settings,
        "against": against,
    }
    if job.evaluator != "numpy":
        return score(dataset, run.what.found, job.choice.spec, evaluator=job.evaluator, **shared)
    return score_matches(dataset, run.what.units, job.choice.spec, **shared)
