"""The suite run on one pipeline, in this process, and what its verdict says."""

from __future__ import annotations

import contextlib
import io
import re
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from effd0.cli.pytest_suite import RECORD
from effd0.results.check import Check
from effd0.results.verdict import verdict_of

from .fault import Fault, Good, Planted

ROOT = Path(__file__).parents[2]
#: Points below the good model's mAP at which the gate stands.
MARGIN = 0.1
#: What a user's artefact is held against; the rest of the suite tests effd0 itself.
CHECKS = ("tests/suite",)


@dataclass(frozen=True)
class Outcome:
    """The verdict of a run, its *seconds*, and the whole output for who looks into a surprise."""

    passed: bool
    broken: str | None
    check: str
    evidence: str
    suspicion: str
    seconds: float
    output: str


def run_suite(planted: Planted, *, first_only: bool = True) -> Outcome:
    """Run the checks on *planted*; with *first_only* no further than the first failure."""
    words = [
        *(str(ROOT / path) for path in CHECKS),
        f"--rootdir={ROOT}",
        "-p",
        "no:cacheprovider",
    ]
    # This process has run the suite before, and uses effd0 itself.
    words += ["-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning"]
    words += [
        "-q",
        "--threads=1",  # other runs go on beside this one
        *planted.options,
        *(["-x"] if first_only else []),
    ]
    ended, start = _Ended(), time.perf_counter()
    with planted.patched(), contextlib.redirect_stdout(io.StringIO()) as shown:
        code = pytest.main(words, plugins=[ended])
    seconds = time.perf_counter() - start
    if ended.checks is None:
        return Outcome(False, None, "usage", shown.getvalue()[-500:], "", seconds, shown.getvalue())
    verdict = verdict_of(ended.checks)
    return Outcome(
        # What stays undecided is no false alarm.
        passed=verdict.status in ("pass", "undecided") and code == pytest.ExitCode.OK,
        broken=verdict.stage,
        check=verdict.check.rpartition("::")[2],
        evidence=verdict.evidence if verdict.status == "fail" else "",
        suspicion=verdict.diagnosis,
        seconds=seconds,
        output=shown.getvalue(),
    )


class _Ended:
    """What a session found, taken from it at its end: None of one that did not begin."""

    checks: list[Check] | None = None

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Take the checks of *session*."""
        self.checks = session.config.stash[RECORD].checks


@dataclass(frozen=True)
class Row:
    """How a fault fared: whether it was caught, in the right stage, under the right name."""

    fault: Fault
    outcome: Outcome
    map_change: float | None

    @property
    def caught(self) -> bool:
        """Whether the suite failed."""
        return not self.outcome.passed

    @property
    def stage_right(self) -> bool:
        """Whether the first broken stage is the one that the fault was planted in."""
        return self.outcome.broken == self.fault.stage

    @property
    def suspicion_right(self) -> bool | None:
        """Whether the suspicion names the fault; None where no cause can be told."""
        if not self.fault.suspicion:
            return None
        return re.search(self.fault.suspicion, self.outcome.suspicion) is not None


def base_options(
    good: Good, *, root: Path | None = None, checkpoint: Path | None = None
) -> tuple[str, ...]:
    """The options by which a run is about the zoo's scenes, or others, and some weights."""
    return (
        f"--coco={good.root if root is None else root}",
        f"--checkpoint={good.checkpoint if checkpoint is None else checkpoint}",
        f"--min-map={good.points - MARGIN}",
    )
