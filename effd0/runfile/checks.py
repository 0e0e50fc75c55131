"""What a test of a stage found, as a check."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Protocol

from ..bench.baseline import NO_BASELINE, UNSURE, Comparison
from ..errors import Effd0Error
from ..stages import SUSPICION_LENGTH, Broken, Check, evidence_of

#: Names of a test's properties that its check has too.
FIGURES = ("figure", "tolerance", "unit")


class Report(Protocol):
    """What pytest says of a test, as far as it matters."""

    @property
    def passed(self) -> bool:
        """Whether it passed."""

    @property
    def skipped(self) -> bool:
        """Whether it was skipped."""

    @property
    def longrepr(self) -> Any:
        """The failure, or (file, line, reason) of what was skipped."""

    @property
    def longreprtext(self) -> str:
        """The failure in full."""

    @property
    def duration(self) -> float:
        """Its seconds."""


def check_of(
    stage: str,
    name: str,
    error: BaseException | None,
    report: Report,
    properties: Iterable[tuple[str, object]] = (),
) -> Check:
    """The check that a test of *stage* is, with the last figures among its *properties*."""
    stage, passed, evidence, suspicion = _found(stage, error, report)
    figures: dict[str, Any] = {key: value for key, value in properties if key in FIGURES}
    return Check(
        stage, name, passed, evidence, suspicion, **figures, seconds=round(report.duration, 6)
    )


def _found(
    stage: str, error: BaseException | None, report: Report
) -> tuple[str, bool | None, str, str]:
    """Stage, whether it passed, evidence and suspicion."""
    if report.passed:
        return stage, True, "", ""
    if report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        return stage, None, evidence_of(str(reason).removeprefix("Skipped: ")), ""
    if isinstance(error, Broken):
        suspicion = evidence_of(error.suspicion, SUSPICION_LENGTH)
        return error.stage or stage, False, evidence_of(error.evidence), suspicion
    if isinstance(error, Effd0Error):
        # It names one fault, over as many lines as that takes.
        return stage, False, evidence_of(" ".join(str(error).split())), ""
    crash = getattr(report.longrepr, "reprcrash", None)
    message = report.longreprtext if crash is None else crash.message
    # What pytest.fail says is told as it was written.
    return stage, False, evidence_of(message.removeprefix("Failed: ")), ""


def check_part(check: Check) -> dict[str, Any]:
    """A check as it stands in a run file."""
    return {
        "stage": check.stage,
        "name": check.name,
        "status": check.status,
        "evidence": check.evidence,
        "suspicion": check.suspicion,
        "figure": finite(check.figure),
        "tolerance": finite(check.tolerance),
        "unit": check.unit,
        "seconds": check.seconds,
    }


def finite(value: float | None) -> float | None:
    """The *value*, or None where it is not finite: JSON knows no infinity."""
    return float(value) if value is not None and math.isfinite(value) else None


def properties_of(check: Check) -> list[tuple[str, object]]:
    """What JUnit's XML tells of a *check* beside the figures that its test noted itself."""
    told = {"stage": check.stage, "evidence": check.evidence, "suspicion": check.suspicion}
    return [(key, value) for key, value in told.items() if value]


def speed_check(found: Comparison, allowed: float) -> Check:
    """A row held against its baseline; what has none is skipped."""
    ratio = found.ratio
    passed = None if found.status in (NO_BASELINE, UNSURE) else not found.regressed
    evidence = "" if passed else found.reason
    if found.regressed:
        evidence = f"takes {ratio} times as long as in the baseline: {found.reason}"
    figure = None if ratio is None else 100 * (ratio.value - 1)
    tolerance = None if ratio is None else 100 * allowed
    unit = "" if ratio is None else "% slower"
    return Check("gate", found.name, passed, evidence, "", figure, tolerance, unit)
