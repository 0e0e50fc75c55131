"""What a ratio was to reach, and whether it did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from .ratio import Ratio


@dataclass(frozen=True)
class Target:
    """
    A bound for the ratio to a rival: *goal*, and what was wanted *at_least* on the way to it.

    A ``speedup`` is the rival's time over ours and should be high; a ``cost`` is ours over the
    rival's and should be low.  A *goal* of None is a ratio to look at.
    """

    goal: float | None = None
    at_least: float | None = None
    kind: str = "speedup"

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read what `asdict` wrote."""
        return cls(content["goal"], content["at_least"], content["kind"])

    def __str__(self) -> str:
        if self.goal is None:
            return ""
        if self.kind == "cost":
            return f"<= {self.goal:g}"
        least = "" if self.at_least is None else f", at least {self.at_least:g}"
        return f">= {self.goal:g}{least}"

    def oriented(self, ours_over_rival: Ratio) -> Ratio:
        """The ratio as this target counts it."""
        return ours_over_rival if self.kind == "cost" else ours_over_rival.inverse()

    def verdict(self, ours_over_rival: Ratio) -> str:
        """Which bounds the whole interval meets or misses; empty where there is none."""
        if self.goal is None:
            return ""
        ratio = self.oriented(ours_over_rival)
        goal = self._held(ratio, self.goal)
        if goal == "met" or self.at_least is None:
            return goal
        return f"{goal}; at least {self.at_least:g} {self._held(ratio, self.at_least)}"

    def _held(self, ratio: Ratio, bound: float) -> str:
        if self.kind == "cost":
            # Of two inverse ratios against two inverse bounds, the same is true.
            ratio, bound = ratio.inverse(), 1 / bound
        if ratio.low >= bound:
            return "met"
        return "missed" if ratio.high < bound else "within the noise"
