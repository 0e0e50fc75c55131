"""What a run says in the end, of its checks, or of several runs together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..report import GRAVITY
from ..stages import STAGES, Check, evidence_of, stage_verdict
from .schema import Run

#: How a check begins to say why it was skipped where its figures decide nothing.
UNDECIDED = "undecided: "


def verdict_part(checks: Sequence[Check], reason: str | None = None) -> dict[str, Any]:
    """
    The verdict on *checks*; *reason* is its evidence where nothing failed.

    A failure decides; then what stayed undecided; a pass needs something that held.
    """
    found = stage_verdict(checks)
    first = found.first
    open_ones = [one.evidence for one in checks if _is_undecided(one)]
    status, said = "not gated", "nothing was tested, so nothing is known"
    if first is not None:
        status, said = "fail", first.evidence
    elif open_ones:
        status, said = "undecided", open_ones[0].removeprefix(UNDECIDED)
    elif found.passed:
        status, said = "pass", ""
    return {
        "status": status,
        "stage": found.broken,
        "evidence": evidence_of(said if first is not None or reason is None else reason),
        "suspicion": "" if first is None else first.suspicion,
        "held": list(found.held),
        "untested": list(found.untested),
        "later": found.later,
    }


def _is_undecided(check: Check) -> bool:
    return check.passed is None and check.evidence.startswith(UNDECIDED)


def merged_verdict(runs: Sequence[Run]) -> dict[str, Any]:
    """The gravest verdict of *runs*; of failures, that of the first broken stage."""
    every = [run["verdict"] for run in runs]
    said = min(every, key=_gravity)
    failed = [one for one in every if one["status"] == "fail"]
    broken = {check["stage"] for run in runs for check in run["checks"] if _failed(check)}
    broken |= {one["stage"] for one in failed}
    end = STAGES.index(said["stage"]) if said["stage"] is not None else len(STAGES)
    held = {stage for one in every for stage in one["held"]} - broken
    untested = set.intersection(*(set(one["untested"]) for one in every))
    return {
        **said,
        "held": [stage for stage in STAGES[:end] if stage in held],
        "untested": [stage for stage in STAGES if stage in untested],
        # The first failure of all is in none of the others' counts.
        "later": sum(one["later"] + 1 for one in failed) - 1 if failed else 0,
    }


def _failed(check: dict[str, Any]) -> bool:
    return bool(check["status"] == "failed")


def _gravity(verdict: dict[str, Any]) -> tuple[int, int]:
    stage = verdict["stage"]
    return GRAVITY.index(verdict["status"]), len(STAGES) if stage is None else STAGES.index(stage)
