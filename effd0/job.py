"""
One evaluation from beginning to end: dataset, model, run line, score, verdict.

What is not given is the embedded default.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from . import embedded
from .choice import ModelChoice
from .dataset import Dataset, check_images, load_coco
from .detecting import Detected, detect_dataset
from .errors import DatasetError
from .evaluate import EVALUATORS, check_evaluator, to_coco_results
from .feed import choose_batch_size
from .identity import under_test
from .insight import insight
from .progress import OpenProgress
from .reference import reference_choice, run_against
from .remote import url_of
from .report import Evaluation
from .rundir import RunDirectory, Say, resume_without_out, run_directory
from .score import score
from .tolerances import MAX_DROP, TO_RECORD


@dataclass(frozen=True)
class EvaluationJob:
    """
    Everything that an evaluation depends on; *min_map* is in percent.

    *out* is the run directory, which *resume* goes on with; see `run_directory`.  *reference* is
    what the model may lose *max_drop* points of mAP against.  With *insight* the evaluation holds
    what pictures of it need.
    """

    choice: ModelChoice
    root: Path | None = None
    split: str = "val2017"
    batch_size: int | None = None
    image_limit: int | None = None
    min_map: float | None = None
    evaluator: str = EVALUATORS[0]
    host_threads: int = 2
    out: Path | None = None
    resume: bool = False
    reference: Path | None = None
    max_drop: float = MAX_DROP.limit
    insight: bool = False

    def floor(self) -> float | None:
        """
        The gate in percent: as given; else, for the embedded default alone, its own record.

        That is what effdet's own pipeline reaches, less `TO_RECORD`.
        """
        own = self.choice.model is None and self.choice.checkpoint is None and self.root is None
        if self.min_map is not None or not own or self.image_limit is not None:
            return self.min_map
        return 100 * embedded.reference_ap() - TO_RECORD.limit

    def load(self) -> Dataset:
        """The dataset, checked but for the inside of the image files."""
        root = embedded.coco_root() if self.root is None else self.root
        if url_of(root) is not None:
            raise DatasetError(
                f"--root is {url_of(root)}, which workers can read; say how many with --workers, "
                "or copy it to this host"
            )
        return load_coco(root, self.split, self.image_limit)


def _silent(line: str) -> None:
    """Tell nobody."""


def load_checked(job: EvaluationJob, open_progress: OpenProgress) -> Dataset:
    """The dataset of *job*, every image decoded once to see that it can be."""
    dataset = job.load()
    with open_progress("checking images", len(dataset.samples)) as advance:
        for _ in check_images(dataset.samples, job.host_threads):
            advance(1)
    return dataset


def run_evaluation(
    job: EvaluationJob, open_progress: OpenProgress, say: Say = _silent
) -> Evaluation:
    """Run *job*; raise what its stages raise.  *say* is told what a run directory holds."""
    # What can be known to be wrong is said before hours of work, not after.
    job.choice.checked_runner()
    check_evaluator(job.evaluator)
    reference = reference_choice(job.reference, job.choice)
    with opened_run_directory(job, say) as place:
        dataset = load_checked(job, open_progress)
        run = _run(job, dataset, place, open_progress)
        compared = run_against(
            reference, dataset, run.found, job.max_drop, job.host_threads, open_progress
        )
        with open_progress("scoring", 1) as advance:
            evaluation = score(
                dataset,
                run.found,
                job.choice.spec,
                evaluator=job.evaluator,
                min_map=job.floor(),
                images_per_second=run.images_per_second,
                stages=run.stages,
                runner=run.runner,
                model_sha256=run.model_sha256,
                settings=job_settings(job, run.batch_size),
                against=None if compared is None else compared.against,
            )
            if job.insight:
                reference_found = None if compared is None else compared.found
                drawn = insight(dataset, run.found, reference_found, job.choice.spec)
                evaluation = replace(evaluation, insight=drawn)
            advance(1)
        if place is not None:
            place.finish([to_coco_results(run.found, job.choice.spec)], evaluation.to_json())
    return evaluation


@contextlib.contextmanager
def opened_run_directory(job: EvaluationJob, say: Say) -> Iterator[RunDirectory | None]:
    """The run directory of *job* for the time of the block, if it has one."""
    if job.out is not None:
        with run_directory(job.out, resume=job.resume, say=say) as place:
            yield place
    elif job.resume:
        raise resume_without_out()
    else:
        yield None


def _run(
    job: EvaluationJob, dataset: Dataset, place: RunDirectory | None, open_progress: OpenProgress
) -> Detected:
    """Open the model of *job* and detect in what *place* does not hold yet."""
    with contextlib.ExitStack() as stack:
        with open_progress("opening the model", 1) as advance:
            runner, path = stack.enter_context(job.choice.opened(job.batch_size))
            advance(1)
        return detect_dataset(
            dataset,
            runner,
            under_test(job.choice, path),
            batch_size=choose_batch_size(runner, job.batch_size),
            place=place,
            host_threads=job.host_threads,
            open_progress=open_progress,
        )


def job_settings(job: EvaluationJob, batch_size: int) -> dict[str, Any]:
    """What a reader needs to repeat the run and to compare it with another."""
    choice = job.choice
    return {
        "image_limit": job.image_limit,
        "reference": None if job.reference is None else str(job.reference),
        "model": None if choice.model is None else str(choice.model),
        "checkpoint": None if choice.checkpoint is None else str(choice.checkpoint),
        "batch_size": batch_size,
        "runner": choice.checked_runner(),
        "runner_options": asdict(choice.options),
        "spec": asdict(choice.spec),
    }
