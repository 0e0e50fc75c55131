"""What a benchmark timed, as a run."""

from __future__ import annotations

from collections.abc import Sequence

from ..data import fixture
from ..results.check import Check, Status
from ..results.compare import FASTER, SAME, SLOWER, Speed
from ..results.run import EMBEDDED, Run, TimedRival, TimedRow, artefact_of, new_run
from .job import BenchmarkJob
from .measure import Row, dataset_name


def timed_row(row: Row) -> TimedRow:
    """A row as it stands in a run file."""
    rival = row.rival
    return TimedRow(
        name=row.name,
        runner=row.runner,
        precision=row.precision,
        batch=row.batch,
        dataset=EMBEDDED if row.dataset == dataset_name(None, "") else row.dataset,
        timed=row.timed,
        images=row.images,
        model_sha256=row.model_sha256 or None,
        fingerprint=row.fingerprint,
        images_per_second=row.images_per_second,
        p50_ms=row.samples.p50_ms,
        p90_ms=row.samples.p90_ms,
        p99_ms=row.samples.p99_ms,
        samples_ms=list(row.samples.samples_ms),
        map=None if row.accuracy is None else row.accuracy.ap,
        steps={step: list(latency.samples_ms) for step, latency in row.steps.items()},
        rival=None if rival is None else TimedRival(rival.name, list(rival.samples.samples_ms)),
        notes=list(row.notes),
    )


def benchmark_run(job: BenchmarkJob, rows: Sequence[Row]) -> Run:
    """What *job* timed; each row that was timed in turn with another is a check if it is gated."""
    checks = []
    for row in rows:
        ratio, allowed = row.against_rival, job.max_slowdown
        if ratio is not None and allowed is not None:
            slower = ratio.slower(allowed)
            checks.append(
                Check(
                    "gate",
                    f"{row.name}: no slower than --against",
                    "failed" if slower else "passed",
                    f"takes {ratio} times as long as {job.against}" if slower else "",
                    figure=100 * (ratio.value - 1),
                    tolerance=100 * allowed,
                    unit="% slower",
                )
            )
    model, checkpoint = job.choice.model, job.choice.checkpoint
    if model is None and checkpoint is None:
        checkpoint = fixture.checkpoint()
    return new_run(
        artefact_of(model, None if model is not None else checkpoint, None),
        exit_status=1 if job.regressed(rows) else 0,
        checks=checks,
        otherwise="times have no threshold",
        latency=[timed_row(row) for row in rows],
    )


def speed_check(speed: Speed, allowed: float) -> Check:
    """A row compared with its baseline; a row that cannot be compared is skipped."""
    statuses: dict[str, Status] = {SAME: "passed", FASTER: "passed", SLOWER: "failed"}
    status, ratio = statuses.get(speed.status, "skipped"), speed.ratio
    evidence = "" if status == "passed" else speed.reason
    if status == "failed":
        evidence = f"takes {ratio} times as long as in the baseline: {speed.reason}"
    if ratio is None:
        return Check("gate", speed.name, status, evidence)
    return Check(
        "gate",
        speed.name,
        status,
        evidence,
        figure=100 * (ratio.value - 1),
        tolerance=100 * allowed,
        unit="% slower",
    )
