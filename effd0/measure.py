"""Durations as values."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Latency:
    """Durations of one repeated piece of work, in milliseconds, kept one by one."""

    samples_ms: tuple[float, ...]

    @classmethod
    def from_seconds(cls, seconds: Sequence[float]) -> Latency:
        """Make a latency from durations in seconds, as ``perf_counter`` gives them."""
        return cls(tuple(1000 * value for value in seconds))

    @property
    def mean_ms(self) -> float:
        """Arithmetic mean; 0 where nothing was measured."""
        return float(np.mean(self.samples_ms)) if self.samples_ms else 0.0

    @property
    def p50_ms(self) -> float:
        """Median."""
        return self._percentile(50)

    @property
    def p90_ms(self) -> float:
        """90th percentile."""
        return self._percentile(90)

    @property
    def p99_ms(self) -> float:
        """99th percentile."""
        return self._percentile(99)

    def _percentile(self, q: float) -> float:
        return float(np.percentile(self.samples_ms, q)) if self.samples_ms else 0.0


def peak_rss_mb() -> float:
    """The largest resident memory this process has had so far, in MB (10^6 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6
