"""Sums of what workers report, as it comes in."""

from __future__ import annotations

import time

import numpy as np

from ..timing import Latency
from ..types import Tensor
from .summary import Shares
from .worker import UnitReport

#: Times of a stage that are kept: a million say no more than these.
MOST_TIMES = 100_000


class Tally:
    """Sums up a run as reports come in: shares of workers, times of stages, start and end."""

    def __init__(self, start: float) -> None:
        self.shares = Shares()
        self._start = self._last = start
        self._first: float | None = None
        self._stages: dict[str, list[Tensor]] = {}
        self._times = 0

    def add(self, report: UnitReport) -> None:
        """Count *report*, which has just come."""
        self._last = time.perf_counter()
        if self._first is None:
            # The first unit was begun when its worker was open.
            self._first = max(self._start, self._last - report.seconds)
        self.shares.add(report)
        if self._times < MOST_TIMES and report.stages is not None:
            self._times += report.stop - report.first
            for name, seconds in report.stages.items():
                self._stages.setdefault(name, []).append(seconds)

    @property
    def start_s(self) -> float:
        """Seconds until the first worker was at work; 0 where none had to."""
        return 0.0 if self._first is None else self._first - self._start

    @property
    def seconds(self) -> float:
        """Seconds from then to the last report."""
        return 0.0 if self._first is None else self._last - self._first

    def stages(self) -> dict[str, Latency]:
        """Stage -> its latency, of the first `MOST_TIMES` images or so."""
        return {
            name: Latency.from_seconds(np.concatenate(parts).tolist())
            for name, parts in self._stages.items()
        }
