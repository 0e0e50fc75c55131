"""
The stages of the pipeline in their order, and the first of them that is broken.

What a stage gets from a broken one before it cannot be right, so the first failure is the one to
look at: a wrong mAP with a wrong preprocessing before it says nothing of the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .results.check import Broken

__all__ = ["STAGES", "Broken", "Check", "StageVerdict", "evidence_of", "stage_verdict"]
#: From the images on disk to the gate.
STAGES = (
    "dataset", "preprocess", "checkpoint", "export", "graph", "runner", "decode", "nms",
    "evaluate", "gate",
)  # fmt: skip
EVIDENCE_LENGTH = 300
#: A suspicion may name a node of a graph, whose name is a path.
SUSPICION_LENGTH = 600


@dataclass(frozen=True)
class Check:
    """
    A check: its *stage*, its name, and what it found if it failed, or why it was skipped.

    *passed* is None where it was skipped.  *suspicion* is empty where nothing that was tried
    explains the failure.  *figure* is what was measured and *tolerance* what was allowed, in
    *unit*, where it is one number that decides.
    """

    stage: str
    name: str
    passed: bool | None
    evidence: str = ""
    suspicion: str = ""
    figure: float | None = None
    tolerance: float | None = None
    unit: str = ""
    seconds: float | None = None

    @property
    def status(self) -> str:
        """``passed``, ``failed`` or ``skipped``."""
        return {True: "passed", False: "failed", None: "skipped"}[self.passed]


@dataclass(frozen=True)
class StageVerdict:
    """
    What all checks together say: *broken* is the first stage that fails, None if all hold.

    *first* is its first failing check; *held* and *untested* are stages; *later* counts the other
    failures, in this stage and behind it.
    """

    broken: str | None
    first: Check | None
    held: tuple[str, ...]
    untested: tuple[str, ...]
    later: int

    @property
    def passed(self) -> bool:
        """Whether all that was tested holds, and something was."""
        return self.first is None and bool(self.held)

    def lines(self) -> list[str]:
        """The verdict in words."""
        if self.first is None and not self.held:
            return ["NONE  nothing was tested, so nothing is known: no check of a stage was run"]
        untested = f"not tested: {', '.join(self.untested)}" if self.untested else ""
        if self.first is None:
            return [f"PASS  every stage tested holds: {', '.join(self.held)}", *_some(untested)]
        others = "no other check fails"
        if self.later:
            others = f"{self.later} more failed, which may follow from it"
        return [
            f"FAIL  the first broken stage is {self.broken}",
            f"check     {self.first.name}",
            f"evidence  {self.first.evidence}",
            *_some(f"suspicion {self.first.suspicion}" if self.first.suspicion else ""),
            f"before it {', '.join(self.held) or 'nothing'} held; {others}",
            *_some(untested),
        ]


def _some(line: str) -> list[str]:
    return [line] if line else []


def stage_verdict(checks: Sequence[Check]) -> StageVerdict:
    """
    Find the first broken stage among *checks*.

    In a broken stage, the check that failed first is its evidence.  *held* are the stages before
    the broken one whose checks all passed.  What was skipped says nothing.
    """
    failed = [check for check in checks if check.passed is False]
    tested = {check.stage for check in checks if check.passed is not None}
    first = min(failed, key=lambda check: STAGES.index(check.stage), default=None)
    end = len(STAGES) if first is None else STAGES.index(first.stage)
    return StageVerdict(
        broken=None if first is None else first.stage,
        first=first,
        held=tuple(stage for stage in STAGES[:end] if stage in tested),
        untested=tuple(stage for stage in STAGES if stage not in tested),
        later=max(len(failed) - 1, 0),
    )


def evidence_of(message: str, length: int = EVIDENCE_LENGTH) -> str:
    """The first line of what a failure says, at most *length* characters of it."""
    line = message.removeprefix("AssertionError: ").strip().partition("\n")[0]
    return line if len(line) <= length else f"{line[: length - 3]}..."
