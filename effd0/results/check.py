"""
A check: what was measured at a stage of the pipeline, what was allowed, and what came of it.

The stages are in their order. What a stage gets from a broken one before it cannot be right, so the
first failure is the one to look at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import msgspec

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


def first_line(message: str, length: int = EVIDENCE_LENGTH) -> str:
    """The first line of what a failure says, at most *length* characters of it."""
    line = message.removeprefix("AssertionError: ").strip().partition("\n")[0]
    return line if len(line) <= length else f"{line[: length - 3]}..."


def finite(value: float | None) -> float | None:
    """The *value*, or None where it is not finite: JSON knows no infinity."""
    return float(value) if value is not None and math.isfinite(value) else None
