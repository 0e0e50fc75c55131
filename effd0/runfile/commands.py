"""What the commands `evaluate`, `postprocess` and `benchmark` did, as runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..bench.accuracy import Accuracy
from ..bench.job import BenchmarkJob
from ..bench.rows import Row
from ..data import fixture as embedded
from ..evaluation.engines import UNKNOWN_MODEL, Engine, RecordedEngine
from ..evaluation.evaluate import Evaluation
from ..evaluation.model import ModelChoice
from ..results.check import UNDECIDED
from ..results.check import Check as GateCheck
from ..stages import Check
from .parts import accuracy_part, artefact_part, dataset_part, latency_part, new_run
from .schema import Run


def evaluation_run(evaluation: Evaluation, engine: Engine) -> Run:
    """The run of one *evaluation* by *engine*; recorded results name their model themselves."""
    digest = evaluation.settings["annotations_sha256"]
    images = evaluation.metrics.images
    dataset = dataset_part(evaluation.job.root, evaluation.job.split, images, digest)
    if isinstance(engine, RecordedEngine):
        name = (engine.results if engine.model is None else engine.model).name
        known = None if evaluation.model_sha256 == UNKNOWN_MODEL else evaluation.model_sha256
        artefact = {**artefact_part(None, None, dataset, name), "model_sha256": known}
    else:
        choice: ModelChoice = engine.choice  # type: ignore[attr-defined]  # of a model's engine
        artefact = artefact_part(*_files(choice), dataset)
    verdict = evaluation.verdict
    return new_run(
        artefact,
        exit_status=0 if verdict.ok else 1,
        checks=[_as_stage_check(check) for check in evaluation.checks if check.status != "skipped"],
        reason=evaluation.reason,
        accuracy=[accuracy_part(evaluation)],
    )


def _as_stage_check(check: GateCheck) -> Check:
    passed = {"passed": True, "failed": False}.get(check.status)
    said = check.evidence if passed is not None else f"{UNDECIDED}{check.evidence}"
    evidence = "" if passed else said
    return Check(
        "gate", check.name, passed, evidence, "", check.figure, check.tolerance, check.unit
    )


def benchmark_run(job: BenchmarkJob, rows: Sequence[Row], accuracy: Accuracy | None = None) -> Run:
    """
    What *job* timed.

    Its data set is told by each row alone: what is timed is no measure of accuracy.
    """
    return new_run(
        artefact_part(*_files(job.choice), None),
        exit_status=1 if job.regressed(rows) else 0,
        checks=_speed_checks(job, rows),
        reason=None if job.max_slowdown is not None else "times are not gated",
        latency=[latency_part(row, accuracy) for row in rows],
    )


def _speed_checks(job: BenchmarkJob, rows: Sequence[Row]) -> list[Check]:
    """Each row that was timed in turn with --against, where a slowdown is gated."""
    if job.max_slowdown is None:
        return []
    return [
        Check(
            stage="gate",
            name=f"{row.name}: no slower than --against",
            passed=not ratio.slower(job.max_slowdown),
            evidence=f"takes {ratio} times as long as {job.against}"
            if ratio.slower(job.max_slowdown)
            else "",
            figure=100 * (ratio.value - 1),
            tolerance=100 * job.max_slowdown,
            unit="% slower",
        )
        for row in rows
        if (ratio := row.against_rival) is not None
    ]


def _files(choice: ModelChoice) -> tuple[Path | None, Path | None]:
    """The model and the checkpoint of *choice*, of which one was run."""
    if choice.model is not None:
        return choice.model, None
    return None, embedded.checkpoint() if choice.checkpoint is None else choice.checkpoint
