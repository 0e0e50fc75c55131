"""An older run beside this one, or the reason why the two cannot be compared."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import RunFileError
from ..runfile import Run, RunComparison, compare_runs


@dataclass(frozen=True)
class Beside:
    """What the two runs say side by side; None where *reason* says that they cannot."""

    found: RunComparison | None
    reason: str = ""


def beside(baseline: Run, run: Run) -> Beside:
    """Hold *run* against *baseline*; what cannot be compared is told, and the page goes on."""
    try:
        return Beside(compare_runs(baseline, run))
    except RunFileError as error:
        return Beside(None, str(error))
