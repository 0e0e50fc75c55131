"""Durations as values."""

from __future__ import annotations

import re
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_STATUS = Path("/proc/self/status")


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
    # getrusage's peak is inherited from whoever started the process, and may be all of it.
    if _STATUS.is_file():
        peak = re.search(r"^VmHWM:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
        if peak is not None:
            return int(peak[1]) * 1024 / 1e6
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return peak_kib * (1 if sys.platform == "darwin" else 1024) / 1e6
