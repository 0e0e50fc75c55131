"""
A check: what was measured at a stage of the pipeline, what was allowed, and what came of it.

The stages are in their order. What a stage gets from a broken one before it cannot be right, so the
first failure is the one to look at.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol, TypeAlias, get_args

import msgspec

from ..errors import Effd0Error

Stage: TypeAlias = Literal[
    "dataset", "preprocess", "checkpoint", "export", "graph", "runner", "decode", "nms",
    "evaluate", "gate",
]  # fmt: skip
#: From the images on disk to the gate.
STAGES: tuple[Stage, ...] = get_args(Stage)
#: ``undecided``: it was measured, but that says neither; ``skipped``: nothing is compared.
Status: TypeAlias = Literal["passed", "failed", "undecided", "skipped"]
#: How a test that is skipped says that its check is undecided.
UNDECIDED = "undecided: "
#: Names of a test's properties that its check has too.
FIGURES = ("figure", "tolerance", "unit")
EVIDENCE_LENGTH = 300
#: A diagnosis may name a node of a graph, whose name is a path.
DIAGNOSIS_LENGTH = 600


class Broken(AssertionError):
    """
    A check that failed: *evidence* says what was measured and what was allowed, in one line.

    *diagnosis* is what explains it, tested by planting that fault; *stage* is where the diagnosis
    lies, if that is another stage than the check's own. *details* are further lines for a reader.
    """

    def __init__(
        self,
        evidence: str,
        diagnosis: object = None,
        stage: str | None = None,
        details: Sequence[str] = (),
    ) -> None:
        self.evidence, self.stage, self.details = evidence, stage, tuple(details)
        self.diagnosis = "" if diagnosis is None else str(diagnosis)
        named = [f"diagnosis: {self.diagnosis}"] if self.diagnosis else []
        super().__init__("\n".join([evidence, *named, *details]))

    @property
    def suspicion(self) -> str:
        """The diagnosis."""
        return self.diagnosis


class Check(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    A check of a *stage* and its *status*; the only carrier of a verdict.

    *evidence* says what was measured and what was allowed, or why the check was skipped.
    *diagnosis* is empty where no tested cause explains a failure. *figure* is what was measured and
    *tolerance* what was allowed, in *unit*, where one number decides; *seconds* is the run time.
    """

    stage: Stage
    name: str
    status: Status
    evidence: str = ""
    diagnosis: str = ""
    figure: float | None = None
    tolerance: float | None = None
    unit: str = ""
    seconds: float | None = None


class Report(Protocol):
    """What pytest reports of a test."""

    @property
    def passed(self) -> bool:
        """Whether it passed."""

    @property
    def skipped(self) -> bool:
        """Whether it was skipped."""

    @property
    def longrepr(self) -> Any:
        """The failure, or (file, line, reason) of a skipped test."""

    @property
    def longreprtext(self) -> str:
        """The failure in full."""

    @property
    def duration(self) -> float:
        """Its seconds."""


def check_of(
    stage: Stage,
    name: str,
    error: BaseException | None,
    report: Report,
    properties: Iterable[tuple[str, object]] = (),
) -> Check:
    """The check that a test of *stage* is, with the last figures among its *properties*."""
    status: Status = "failed"
    evidence, diagnosis, broken_stage = "", "", None
    if report.passed:
        status = "passed"
    elif report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        reason = str(reason).removeprefix("Skipped: ")
        status = "undecided" if reason.startswith(UNDECIDED) else "skipped"
        evidence = reason.removeprefix(UNDECIDED)
    elif isinstance(error, Broken):
        evidence, broken_stage = error.evidence, error.stage
        diagnosis = first_line(error.diagnosis, DIAGNOSIS_LENGTH)
    elif isinstance(error, Effd0Error):
        # Its message names one fault, over as many lines as that takes.
        evidence = " ".join(str(error).split())
    else:
        crash = getattr(report.longrepr, "reprcrash", None)
        message = report.longreprtext if crash is None else crash.message
        evidence = message.removeprefix("Failed: ")
    figures: dict[str, Any] = {key: value for key, value in properties if key in FIGURES}
    return Check(
        stage if broken_stage is None else next(one for one in STAGES if one == broken_stage),
        name,
        status,
        first_line(evidence),
        diagnosis,
        figure=finite(figures.get("figure")),
        tolerance=finite(figures.get("tolerance")),
        unit=figures.get("unit", ""),
        seconds=round(report.duration, 6),
    )


def first_line(message: str, length: int = EVIDENCE_LENGTH) -> str:
    """The first line of what a failure says, at most *length* characters of it."""
    line = message.removeprefix("AssertionError: ").strip().partition("\n")[0]
    return line if len(line) <= length else f"{line[: length - 3]}..."


def finite(value: float | None) -> float | None:
    """The *value*, or None where it is not finite: JSON knows no infinity."""
    return float(value) if value is not None and math.isfinite(value) else None
