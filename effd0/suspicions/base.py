"""Suspicion: a fault with a name, tested by taking it back."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Suspicion:
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
