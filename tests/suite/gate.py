"""The gate's runs: each runner over each set of images once, kept in --out where that is given."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from effd0.data.coco import Dataset
from effd0.errors import CheckpointError
from effd0.evaluation.engines import Engine, LocalEngine
from effd0.evaluation.evaluate import Evaluation, EvaluationJob, evaluate
from effd0.evaluation.model import ModelChoice
from effd0.progress import OpenProgress, silent
from effd0.results.check import UNDECIDED, Broken, Check, reason_of, verdict_of
from effd0.runners.registry import RunnerOptions
from effd0.spec import ModelSpec

#: Images on which other architectures are tried where the threshold is missed.
TRIED = 24


@dataclass
class Gate:
    """
    What is run for the gate, and where it is kept.

    *engine_of* gives what runs a runner of a name at a batch size.  *say* prints a line, *keep*
    takes each evaluation.  A run that *resume* does not allow to be resumed is, if it was begun
    in this session.  *open_progress* shows how far a run is.
    """

    engine_of: Callable[[str, int | None], Engine]
    out: Path | None
    resume: bool
    say: Callable[[str], object]
    keep: Callable[[Evaluation], object] = lambda _evaluation: None
    open_progress: OpenProgress = silent
    overwrite: bool = False

    def __post_init__(self) -> None:
        self._begun: set[str] = set()

    def measure(
        self,
        images: str,
        dataset: Dataset,
        job: EvaluationJob,
        runner_name: str,
        batch_size: int | None,
    ) -> Evaluation:
        """Evaluate the runner on *dataset*, which *job* names; *images* is what it is called."""
        name = f"{images}-{runner_name}" + (f"-batch{batch_size}" if batch_size else "")
        if self.out is not None:
            resume = self.resume or name in self._begun
            job = replace(job, out=self.out / name, resume=resume, overwrite=self.overwrite)
            self._begun.add(name)
        engine = self.engine_of(runner_name, batch_size)
        evaluation = evaluate(
            job, engine, dataset=dataset, say=self.say, open_progress=self.open_progress
        )
        metrics = evaluation.metrics
        figures = ", ".join(
            f"{name} {_percent(metrics.values[name])}" for name in ("AP", "AP50", "AP75")
        )
        of = f"{metrics.images} of {dataset.total} images"
        accuracy = evaluation.accuracy
        self.say(f"{figures}  on {of}, batch {accuracy.batch}, {accuracy.backend}")
        self.keep(evaluation)
        return evaluation

    def measure_on(
        self, images: str, dataset: Dataset, job: EvaluationJob
    ) -> Callable[[str, int | None], Evaluation]:
        """Return a function that evaluates a runner at a batch size on *dataset*, once."""
        return functools.cache(functools.partial(self.measure, images, dataset, job))


def _percent(value: float | None) -> str:
    return "undefined" if value is None else f"{100 * value:.3f}"


def points(evaluation: Evaluation) -> float:
    """Return the mAP in percent."""
    metrics = evaluation.metrics
    assert metrics.ap is not None, metrics.undefined["AP"]
    return 100 * metrics.ap


def settle(
    checks: tuple[Check, ...],
    *,
    required: bool,
    diagnose: Callable[[], str | None] = lambda: None,
) -> str:
    """
    Return what the *checks* of a test say; skip it where they are undecided, unless *required*.

    Raises `Broken` where they fail; *diagnose* is asked for what explains that.
    """
    status, reason = verdict_of(checks).status, reason_of(checks)
    if status == "undecided" and not required:
        pytest.skip(f"{UNDECIDED}{reason}")
    if status in ("fail", "undecided", "not gated"):
        raise Broken(reason, diagnose() if status == "fail" else None)
    return reason


def points_in(
    dataset: Dataset, checkpoint: Path, options: RunnerOptions
) -> Callable[[ModelSpec], float | None]:
    """
    Return what gives the mAP of *checkpoint* in an architecture that it fits, on some images.

    *options* are those of torch.
    """
    samples = dataset.samples[:TRIED]
    ids = {sample.image_id for sample in samples}
    annotations = tuple(a for a in dataset.annotations if a["image_id"] in ids)
    few = replace(dataset, samples=samples, annotations=annotations, total=len(samples))

    def measured(spec: ModelSpec) -> float | None:
        choice = ModelChoice(None, checkpoint, "torch", spec, options)
        engine = LocalEngine(choice)
        try:
            ap = evaluate(EvaluationJob(), engine, dataset=few).metrics.ap
        except CheckpointError:
            return None
        return 0.0 if ap is None else 100 * ap

    return measured
