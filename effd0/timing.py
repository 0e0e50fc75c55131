"""Durations as values."""

from __future__ import annotations

import os
import re
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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


def children_peak_rss_mb() -> float:
    """The largest resident memory of a process that this one started and waited for, in MB."""
    return _mb(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)


def peak_rss_mb() -> float:
    """The largest resident memory this process has had so far, in MB (10^6 bytes)."""
    # getrusage's peak is inherited from whoever started the process, and may be all of it.
    status = Path("/proc/self/status")
    peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text() if status.is_file() else "")
    if peak is not None:
        return int(peak[1]) * 1024 / 1e6
    return _mb(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _mb(peak: int) -> float:
    # Linux counts in KiB, macOS in bytes.
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def cores() -> int:
    """How many processors this process may use."""
    known = hasattr(os, "sched_getaffinity")  # not there on every system
    return len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1


def let_threads_sleep() -> None:
    """
    Ask OpenMP, before PyTorch loads it, to let threads sleep that have nothing to do for long.

    By default they spin for some milliseconds.  One image in PyTorch on two cores (2026-11-25),
    alone and beside one other busy process: by default 0.11 s and 4.4 s, so 0.12 s and 0.35 s,
    with OMP_WAIT_POLICY=PASSIVE 0.19 s and 0.20 s.  What the user has set of either stands.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        # Turns of the waiting loop: about 50 us, some operators of the network long.
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
