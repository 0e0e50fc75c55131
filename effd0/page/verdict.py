"""What a reader sees first: whether the artefact may ship, and each stage's part in that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..runfile import Run
from ..runfile.verdict import UNDECIDED
from ..stages import STAGES
from .text import count, figure, with_unit

#: A check as it stands in a run file.
Check = Mapping[str, Any]
#: Verdict -> its words in large, and what they mean.
HEADLINES = {
    "pass": ("MAY SHIP", "Every stage that was tested holds."),
    "fail": ("MUST NOT SHIP", "A stage is broken."),
    "undecided": ("UNDECIDED", "Nothing failed, but not enough was measured to let it pass."),
    "not gated": ("NOT GATED", "Nothing here was asked to hold, so this permits nothing."),
}
#: State of a stage -> the word that is shown.
WORDS = {
    "held": "holds",
    "broken": "broken",
    "later": "fails too",
    "undecided": "undecided",
    "untested": "not tested",
}


@dataclass(frozen=True)
class StageMark:
    """A stage in the line: its *state*, the *figure* that says most, and its *limit*."""

    stage: str
    state: str
    figure: str
    limit: str

    @property
    def word(self) -> str:
        """What the state is called."""
        return WORDS[self.state]


def headline(verdict: Mapping[str, Any]) -> tuple[str, str]:
    """The words in large, and the sentence under them."""
    words, meaning = HEADLINES[verdict["status"]]
    if verdict["status"] == "fail" and verdict["stage"] is not None:
        meaning = f"The first broken stage is {verdict['stage']}."
    return words, meaning


def stage_line(run: Run) -> list[StageMark]:
    """Every stage in order, as the verdict and the checks have it."""
    return [_mark(stage, run) for stage in STAGES]


def _mark(stage: str, run: Run) -> StageMark:
    checks = [check for check in run["checks"] if check["stage"] == stage]
    state = _state(stage, run["verdict"], checks)
    telling = _telling(checks)
    if state == "untested":
        return StageMark(stage, state, "", "")
    if telling is None:
        ran = sum(check["status"] != "skipped" for check in checks)
        return StageMark(stage, state, count(ran, "check") if ran else "", "")
    limit = telling["tolerance"]
    return StageMark(
        stage,
        state,
        with_unit(telling["figure"], telling["unit"]),
        "" if limit is None else f"limit {figure(limit)}",
    )


def _state(stage: str, verdict: Mapping[str, Any], checks: Sequence[Check]) -> str:
    if stage == verdict["stage"]:
        return "broken"
    if any(check["status"] == "failed" for check in checks):
        return "later"
    if any(is_undecided(check) for check in checks):
        return "undecided"
    held = any(check["status"] == "passed" for check in checks) or stage in verdict["held"]
    return "held" if held else "untested"


def is_undecided(check: Check) -> bool:
    """Whether *check* measured something that decides nothing."""
    return bool(check["status"] == "skipped" and check["evidence"].startswith(UNDECIDED))


def _telling(checks: Sequence[Check]) -> Check | None:
    """The check whose figure says most: one that failed, else the one closest to its limit."""
    measured = [check for check in checks if check["figure"] is not None]
    return max(measured, key=_closeness, default=None)


def _closeness(check: Check) -> tuple[bool, float]:
    failed = check["status"] == "failed"
    if check["tolerance"] is None:
        return failed, -1.0
    small, large = sorted((abs(check["figure"]), abs(check["tolerance"])))
    return failed, small / large if large else 1.0
