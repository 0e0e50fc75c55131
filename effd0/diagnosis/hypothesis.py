"""One engine for all diagnoses: plant a fault on purpose, and see what it leaves unexplained."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ..results.check import Broken

T = TypeVar("T")
#: A later hypothesis has to leave less than this part of an earlier one's error: not by rounding.
_BETTER = 0.999


@dataclass(frozen=True)
class Hypothesis:
    """
    A fault that may have been made: *apply* plants it in what is right.

    *inverse* follows "the error falls if"; its ``{}`` is a detail that planting found out.  *stage*
    is where the fault lies and *part* what it changes: faults of two parts may come together.
    """

    name: str
    inverse: str
    apply: Callable[..., Any]
    stage: str = ""
    part: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """
    What explains a difference: *name* of the fault, *explanation* in the words of its inverse.

    *error_before* and *error_after* are relative L2 (norm of the difference over that of the
    reference), or the share of detections that differ, as they came and with the fault accounted
    for.
    """

    name: str
    explanation: str
    error_before: float
    error_after: float

    def __str__(self) -> str:
        return (
            f"{self.name}: the error falls from {self.error_before:.2g} to "
            f"{self.error_after:.2g} if {self.explanation}"
        )


def best(
    hypotheses: Iterable[T], error_with: Callable[[T], float], limit: float, enough: float = 0.0
) -> tuple[T, float] | None:
    """
    Return the hypothesis that leaves the least error, and that error; None above *limit*.

    *error_with* plants a hypothesis and measures what is left.  The first of those that leave the
    same is taken; the search ends where no more than *enough* is left.
    """
    found: tuple[T, float] | None = None
    for hypothesis in hypotheses:
        left = error_with(hypothesis)
        if left <= limit and (found is None or left < _BETTER * found[1]):
            found = hypothesis, left
            if left <= enough:
                break
    return found


def one_of(faults: Sequence[Broken]) -> Broken:
    """Return the first fault that has a diagnosis, else the first, with all as its details."""
    first = next((fault for fault in faults if fault.diagnosis), faults[0])
    details = [
        line
        for fault in faults
        for line in ("; ".join(filter(None, [fault.evidence, fault.diagnosis])), *fault.details)
    ]
    return Broken(first.evidence, first.diagnosis, first.stage, details)
