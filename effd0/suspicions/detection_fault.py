"""DetectionFault, and where it lies if no mistake that has a name explains it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .base import Suspicion
from .detection_mistake import Trial
from .detection_rows import EXACT, same_rows
from .detection_search import share_different

#: What differs -> what is then held against each other, and the stage at fault.
_FIELDS = {
    "boxes": ("classes and scores", "decode"),
    "scores": ("classes and boxes", "decode"),
    "classes": ("boxes and scores", "evaluate"),
}
#: The share of detections that have to be among the candidates for suppression alone to be wrong:
#: all are if it is, and of other heads 15 % with noise of 2.2e-3, measured 2026-11-25.
AMONG = 0.9


@dataclass(frozen=True)
class DetectionFault:
    """
    A fault of *stage*: what differs, and the mistake that explains it, if one does.

    *details* are further lines, for who looks closer.
    """

    stage: str
    text: str
    suspicion: Suspicion | None = None
    details: str = ""

    def __str__(self) -> str:
        line = self.text if self.suspicion is None else f"{self.suspicion}; {self.text}"
        return f"{line}\n  {self.details}" if self.details else line


def confined_fault(trials: Sequence[Trial], text: str) -> DetectionFault | None:
    """Return the fault of boxes, scores or classes alone: nothing else differs; else None."""
    before = share_different(trials, EXACT)
    for wrong, (others, stage) in _FIELDS.items():
        after = share_different(trials, EXACT, but=wrong)
        if after <= min(EXACT.explained, EXACT.fall * before):
            name, explanation = f"a fault of {wrong} alone", f"only {others} are compared"
            return DetectionFault(stage, text, Suspicion(name, explanation, before, after))
    return None


def unexplained_fault(trials: Sequence[Trial], text: str) -> DetectionFault:
    """Return the fault of detections that nothing explains, by whether they are candidates."""
    count = sum(len(trial.given) for trial in trials)

    def among(but: str = "") -> float:
        pairs = [(trial.given, trial.candidates()) for trial in trials]
        return sum(len(same_rows(*pair, EXACT, but)[0]) for pair in pairs) / count

    whole = among()
    if whole >= AMONG:
        return DetectionFault(
            "nms", f"{text}: {whole:.0%} are among effd0's candidates, but others are kept"
        )
    shares = {wrong: among(wrong) for wrong in _FIELDS}
    wrong = max(shares, key=lambda field: shares[field])
    if shares[wrong] >= AMONG:
        others, stage = _FIELDS[wrong]
        return DetectionFault(
            stage,
            f"{text}: {wrong} are wrong, {others} of {shares[wrong]:.0%} are those of candidates",
        )
    return DetectionFault(
        "decode",
        f"{text}: only {whole:.0%} are among effd0's candidates; boxes and scores are computed "
        "otherwise, or the heads were others: compare those first",
    )
