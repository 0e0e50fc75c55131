"""
One evaluation from beginning to end: dataset, model, run line, score, verdict.

What is not given is the embedded default.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import embedded
from .choice import ModelChoice
from .dataset import Dataset, check_images, load_coco
from .evaluate import check_evaluator
from .feed import choose_batch_size
from .files import sha256
from .pipeline import StageTimes, run_dataset
from .postprocess import Detections
from .report import Evaluation
from .runners.base import Runner, TimedRunner
from .score import score

#: Opens a progress display: what is being done and how many pieces; gives ``advance(count)``.
OpenProgress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
#: The drawn scenes' floor is effd0's own record of the reference pipeline less this, in points.
EMBEDDED_MARGIN = 0.1


@dataclass(frozen=True)
class EvaluationJob:
    """Everything that an evaluation depends on; *min_map* is in percent."""

    choice: ModelChoice
    root: Path | None = None
    split: str = "val2017"
    batch_size: int | None = None
    image_limit: int | None = None
    min_map: float | None = None
    evaluator: str = "faster-coco-eval"
    workers: int = 2

    def floor(self) -> float | None:
        """The gate in percent: as given; else, for the embedded default alone, its own record."""
        own = self.choice.model is None and self.choice.checkpoint is None and self.root is None
        if self.min_map is not None or not own or self.image_limit is not None:
            return self.min_map
        return 100 * embedded.reference_ap() - EMBEDDED_MARGIN

    def load(self) -> Dataset:
        """The dataset, checked but for the inside of the image files."""
        root = embedded.coco_root() if self.root is None else self.root
        return load_coco(root, self.split, self.image_limit)


def load_checked(job: EvaluationJob, open_progress: OpenProgress) -> Dataset:
    """The dataset of *job*, every image decoded once to see that it can be."""
    dataset = job.load()
    with open_progress("checking images", len(dataset.samples)) as advance:
        for _ in check_images(dataset.samples, job.workers):
            advance(1)
    return dataset


def run_evaluation(job: EvaluationJob, open_progress: OpenProgress) -> Evaluation:
    """Run *job*; raise what its stages raise."""
    # What can be known to be wrong is said before hours of work, not after.
    job.choice.checked_runner()
    check_evaluator(job.evaluator)
    dataset = load_checked(job, open_progress)
    with contextlib.ExitStack() as stack:
        with open_progress("opening the model", 1) as advance:
            runner, path = stack.enter_context(job.choice.opened())
            advance(1)
        model_sha256 = sha256(path)
        batch_size = choose_batch_size(runner, job.batch_size)
        times, start = StageTimes(), time.perf_counter()
        found = _run(job, dataset, runner, batch_size, times, open_progress)
        seconds = time.perf_counter() - start
        description = runner.description
        stages = times.latencies()
        if isinstance(runner, TimedRunner):
            stages |= runner.device_times.latencies()
    with open_progress("scoring", 1) as advance:
        evaluation = score(
            dataset,
            found,
            job.choice.spec,
            evaluator=job.evaluator,
            min_map=job.floor(),
            seconds=seconds,
            stages=stages,
            runner=description,
            model_sha256=model_sha256,
            settings=_settings(job, batch_size),
        )
        advance(1)
    return evaluation


def _run(
    job: EvaluationJob,
    dataset: Dataset,
    runner: Runner,
    batch_size: int,
    times: StageTimes,
    open_progress: OpenProgress,
) -> dict[int, Detections]:
    found: dict[int, Detections] = {}
    with open_progress("detecting", len(dataset.samples)) as advance:
        for sample, detections in run_dataset(
            dataset.samples,
            runner,
            job.choice.spec,
            batch_size=batch_size,
            workers=job.workers,
            times=times,
        ):
            found[sample.image_id] = detections
            advance(1)
    return found


def _settings(job: EvaluationJob, batch_size: int) -> dict[str, Any]:
    """What a reader needs to repeat the run and to compare it with another."""
    choice = job.choice
    return {
        "image_limit": job.image_limit,
        "model": None if choice.model is None else str(choice.model),
        "checkpoint": None if choice.checkpoint is None else str(choice.checkpoint),
        "batch_size": batch_size,
        "runner": choice.checked_runner(),
        "runner_options": asdict(choice.options),
        "spec": asdict(choice.spec),
    }
