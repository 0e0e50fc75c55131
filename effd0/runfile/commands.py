"""What the commands `evaluate`, `postprocess` and `benchmark` did, as runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..bench.accuracy import Accuracy
from ..bench.job import BenchmarkJob
from ..bench.rows import Row
from ..data import fixture as embedded
from ..evaluation.evaluate import UNKNOWN_MODEL, EvaluationJob, ResultJob
from ..evaluation.model import ModelChoice
from ..report import Evaluation, Verdict, judge_drop
from ..stages import Check
from .parts import accuracy_part, artefact_part, dataset_part, latency_part, new_run
from .schema import Run
from .verdict import UNDECIDED


def evaluation_run(job: EvaluationJob, evaluation: Evaluation) -> Run:
    """What *job* came to."""
    artefact = artefact_part(*_files(job.choice), _dataset(job, evaluation))
    return _accuracy_run(artefact, evaluation, gate_checks(evaluation, "evaluate"))


def result_run(job: ResultJob, evaluation: Evaluation) -> Run:
    """What *job* came to; its model is known by what the results say of themselves."""
    name = job.results.name if job.model is None else job.model.name
    known = None if evaluation.model_sha256 == UNKNOWN_MODEL else evaluation.model_sha256
    artefact = artefact_part(None, None, _dataset(job, evaluation), name)
    checks = gate_checks(evaluation, "postprocess")
    if not evaluation.metrics.detections:
        nothing = Verdict("fail", evaluation.verdict.reason)
        told = "effd0 postprocess: something is detected"
        checks.insert(0, _gate(told, nothing, 0, 1, "detections"))
    return _accuracy_run({**artefact, "model_sha256": known}, evaluation, checks)


def _accuracy_run(
    artefact: Mapping[str, Any], evaluation: Evaluation, checks: Sequence[Check]
) -> Run:
    return new_run(
        artefact,
        exit_status=0 if evaluation.verdict.ok else 1,
        checks=checks,
        reason=evaluation.verdict.reason,
        accuracy=[accuracy_part(evaluation)],
    )


def _dataset(job: EvaluationJob | ResultJob, evaluation: Evaluation) -> dict[str, Any]:
    digest = evaluation.settings["annotations_sha256"]
    return dataset_part(job.root, job.split, evaluation.metrics.images, digest)


def gate_checks(evaluation: Evaluation, command: str) -> list[Check]:
    """The gates that *command* held *evaluation* against: its floor, and its reference."""
    checks, against, said = [], evaluation.against, f"effd0 {command}: mAP"
    floor, ap = evaluation.floor, evaluation.metrics.ap
    if floor is not None and floor.status != "not gated":
        points = None if ap is None else 100 * ap
        wanted = evaluation.settings["min_map"]
        checks.append(_gate(f"{said} reaches --min-map", floor, points, wanted, "%"))
    if against is not None:
        limited = evaluation.metrics.images < evaluation.total_images
        drop = judge_drop(against.drop, against.max_drop, limited=limited)
        name = f"{said} does not drop against --reference"
        checks.append(_gate(name, drop, against.drop.points, against.max_drop, "points"))
    return checks


def _gate(
    name: str, verdict: Verdict, figure: float | None, tolerance: float | None, unit: str
) -> Check:
    """A check of the gate by its *verdict*."""
    passed = {"pass": True, "fail": False}.get(verdict.status)
    open_ = f"{UNDECIDED}{verdict.reason}" if passed is None else verdict.reason
    evidence = "" if passed else open_
    return Check("gate", name, passed, evidence, "", figure, tolerance, unit)


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
