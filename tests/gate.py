"""The gate's runs: each runner over each set of images once, kept in --out where that is given."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from effd0.against import Against, hold_against
from effd0.data.coco import Dataset
from effd0.errors import CheckpointError
from effd0.evaluate import CocoMetrics, evaluate
from effd0.evaluation.evaluate import Detected
from effd0.evaluation.pipeline import run_dataset
from effd0.evaluation.run_dir import RunDirectory, UnderTest, run_directory
from effd0.insight import insight
from effd0.io import folder_sha256, sha256
from effd0.report import Evaluation, Verdict, judge_drop
from effd0.runfile.suite import Draw
from effd0.runfile.verdict import UNDECIDED
from effd0.runners.registry import RunnerOptions, open_runner
from effd0.spec import ModelSpec
from effd0.stages import Broken

from .measured import Asked, Measured, OpenRunner, WorkersFor, measured_by, measured_here

#: Images on which other architectures are tried where the floor is missed.
TRIED = 24


@dataclass
class Gate:
    """
    What is run for the gate, and where it is kept.

    *file_of* and *open_under_test* give the file that a runner runs, and the runner, by its name.
    To *keep* comes each evaluation, with what makes that which pictures of it need.
    *workers_for* a runner are those that run it, if it does not run in this process.
    Of what *resume* does not allow to be continued, this gate continues what it began itself.
    """

    spec: ModelSpec
    checkpoint: Path
    file_of: Callable[[str], Path]
    open_under_test: OpenRunner
    own_model: bool
    out: Path | None
    resume: bool
    options_of: Callable[[str], RunnerOptions]
    say: Callable[[str], object]
    keep: Callable[[Evaluation, Draw], object] = lambda _evaluation, _draw: None
    workers_for: WorkersFor = lambda _name: None

    def __post_init__(self) -> None:
        self._begun: set[str] = set()

    def under_test(self, runner_name: str) -> UnderTest:
        """Return the identity of what *runner_name* runs."""
        path = self.file_of(runner_name)
        weights = self.checkpoint if runner_name == "torch" or not self.own_model else None
        return UnderTest(
            model_sha256=folder_sha256(path) if path.is_dir() else sha256(path),
            checkpoint_sha256=None if weights is None else sha256(weights),
            runner=runner_name,
            spec=self.spec,
            options=self.options_of(runner_name),
        )

    def measure(
        self,
        images: str,
        dataset: Dataset,
        min_map: float | None,
        runner_name: str,
        batch_size: int | None,
    ) -> Measured:
        """Run the runner on *dataset*, of the name *images*, and score it."""
        under_test = self.under_test(runner_name)
        what = Asked(images, dataset, min_map, under_test, batch_size)
        ray = self.workers_for(runner_name)
        if ray is None:
            measured = measured_here(self.open_under_test(runner_name), what, self._kept)
        else:
            measured = measured_by(ray, self.file_of(runner_name), what, self._kept)
        self._note(measured.evaluation, measured.run.batch_size)
        draw = functools.partial(insight, dataset, measured.run.found, None, self.spec)
        self.keep(measured.evaluation, draw)
        return measured

    @contextlib.contextmanager
    def _kept(self, name: str) -> Iterator[RunDirectory | None]:
        if self.out is None:
            yield None
            return
        resume = self.resume or name in self._begun
        with run_directory(self.out / name, resume=resume, say=self.say) as place:
            self._begun.add(name)
            yield place

    def _note(self, evaluation: Evaluation, batch_size: int) -> None:
        metrics = evaluation.metrics
        figures = ", ".join(
            f"{name} {_percent(metrics.values[name])}" for name in ("AP", "AP50", "AP75")
        )
        images = f"{metrics.images} of {evaluation.total_images} images"
        self.say(f"{figures}  on {images}, batch {batch_size}, {evaluation.runner}")

    def measure_on(
        self, images: str, dataset: Dataset, min_map: float | None = None
    ) -> Callable[[str, int | None], Measured]:
        """Return a function that measures a runner at a batch size on *dataset*, once."""
        return functools.cache(functools.partial(self.measure, images, dataset, min_map))


def _percent(value: float | None) -> str:
    return "undefined" if value is None else f"{100 * value:.3f}"


def against_reference(
    dataset: Dataset,
    reference: Detected,
    metrics: CocoMetrics,
    candidate: Detected,
    spec: ModelSpec,
    max_drop: float,
) -> Against:
    """Return what *candidate* lost against *reference*, of *metrics*, on the same images."""
    return hold_against(
        dataset,
        reference.found,
        candidate.found,
        spec,
        max_drop=max_drop,
        runner=reference.runner,
        model_sha256=reference.model_sha256,
        metrics=metrics,
    )


def drop_verdict(against: Against, dataset: Dataset) -> Verdict:
    """Return the verdict on *against*, and how far single detections differ as part of it."""
    verdict = judge_drop(against.drop, against.max_drop, limited=dataset.limited)
    return Verdict(verdict.status, f"{verdict.reason}; {against.parity}")


def settle(
    verdict: Verdict, *, required: bool, suspect: Callable[[], str | None] = lambda: None
) -> None:
    """
    Pass or fail a test by its *verdict*; skip it where that is undecided, unless *required*.

    *suspect* is asked for what explains a failure.
    """
    if verdict.status == "undecided" and not required:
        pytest.skip(f"{UNDECIDED}{verdict.reason}")
    if verdict.status != "pass":
        raise Broken(
            f"{verdict.status}: {verdict.reason}", suspect() if verdict.status == "fail" else None
        )


def points_in(dataset: Dataset, checkpoint: Path) -> Callable[[ModelSpec], float | None]:
    """Return what gives the mAP of *checkpoint* in an architecture that it fits, on some images."""
    samples = dataset.samples[:TRIED]
    ids = {sample.image_id for sample in samples}
    annotations = tuple(a for a in dataset.annotations if a["image_id"] in ids)
    few = replace(dataset, samples=samples, annotations=annotations, total=len(samples))

    def points(spec: ModelSpec) -> float | None:
        try:
            with open_runner("torch", checkpoint, spec, RunnerOptions()) as runner:
                found = dict(run_dataset(samples, runner, spec, batch_size=1))
        except CheckpointError:
            return None
        detections = {sample.image_id: one for sample, one in found.items()}
        ap = evaluate(few, detections, spec).ap
        return 0.0 if ap is None else 100 * ap

    return points
