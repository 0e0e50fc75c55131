"""
One evaluation from beginning to end: dataset, model, run line, score, verdict.

What is not given is the embedded default.  A checkpoint for ONNX Runtime is exported first, for
the time of the job.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from . import build, embedded
from .dataset import Dataset, check_images, load_coco
from .errors import CheckpointError, RunnerError
from .evaluate import check_evaluator, evaluate
from .files import sha256
from .measure import peak_rss_mb
from .pipeline import StageTimes, choose_batch_size, run_dataset
from .postprocess import Detections
from .report import Evaluation, judge
from .runners import RunnerOptions, open_runner
from .runners.base import Runner
from .spec import D0, ModelSpec

#: Opens a progress display: what is being done and how many pieces; gives ``advance(count)``.
OpenProgress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
#: The drawn scenes' floor is effd0's own record of the reference pipeline less this, in points.
EMBEDDED_MARGIN = 0.1


@dataclass(frozen=True)
class ModelChoice:
    """What is to be run: an ONNX model, or a checkpoint (the embedded one if neither is given)."""

    model: Path | None = None
    checkpoint: Path | None = None
    runner: str | None = None
    spec: ModelSpec = D0
    options: RunnerOptions = field(default_factory=RunnerOptions)

    def checked_runner(self) -> str:
        """The runner's name; raise `RunnerError` where the choices contradict each other."""
        runner = "ort" if self.runner is None else self.runner
        self.options.check_for(runner)
        if self.model is not None and self.checkpoint is not None:
            raise RunnerError(
                "both --model and --checkpoint are given, but one runs; leave one out"
            )
        if runner == "torch" and self.model is not None:
            raise RunnerError(
                f"--runner torch takes a checkpoint, but --model {self.model} is given; "
                "use --checkpoint, or --runner ort"
            )
        if self.model is not None and not self.model.is_file():
            raise RunnerError(f"{self.model} does not exist; make it with 'effd0 export'")
        if self.checkpoint is not None and not self.checkpoint.is_file():
            raise CheckpointError(
                f"{self.checkpoint} does not exist; get one with 'effd0 fetch checkpoint'"
            )
        return runner

    @contextlib.contextmanager
    def file(self) -> Iterator[Path]:
        """The file to run, exported for the time of the block if need be."""
        runner = self.checked_runner()
        if self.model is not None:
            yield self.model
            return
        checkpoint = embedded.checkpoint() if self.checkpoint is None else self.checkpoint
        if runner == "torch":
            yield checkpoint
            return
        with build.exported(checkpoint, self.spec) as path:
            yield path

    @contextlib.contextmanager
    def opened(self) -> Iterator[tuple[Runner, Path]]:
        """The open runner and the file that it runs."""
        with self.file() as path:
            name = self.checked_runner()
            with open_runner(name, path, self.spec, self.options) as runner:
                yield runner, path


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
    with open_progress("scoring", 1) as advance:
        metrics = evaluate(dataset, found, job.choice.spec, evaluator=job.evaluator)
        advance(1)
    return Evaluation(
        metrics=metrics,
        verdict=judge(metrics, dataset.total, job.floor()),
        total_images=dataset.total,
        images_per_second=len(found) / seconds,
        stages=times.latencies(),
        peak_rss_mb=peak_rss_mb(),
        runner=description,
        model_sha256=model_sha256,
        settings=_settings(job, dataset, batch_size),
    )


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


def _settings(job: EvaluationJob, dataset: Dataset, batch_size: int) -> dict[str, Any]:
    """What a reader needs to repeat the run and to compare it with another."""
    choice = job.choice
    return {
        "annotation_file": str(dataset.annotation_file),
        "annotations_sha256": sha256(dataset.annotation_file),
        "extra_files": len(dataset.extra_files),
        "image_limit": job.image_limit,
        "min_map": job.floor(),
        "model": None if choice.model is None else str(choice.model),
        "checkpoint": None if choice.checkpoint is None else str(choice.checkpoint),
        "batch_size": batch_size,
        "evaluator": job.evaluator,
        "runner": choice.checked_runner(),
        "runner_options": asdict(choice.options),
        "spec": asdict(choice.spec),
    }
