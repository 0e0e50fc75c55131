"""Tests for `effd0.timing`."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from effd0.timing import Latency, peak_rss_mb


def test_seconds_become_milliseconds() -> None:
    """Samples are kept one by one, in their order, in the unit that the name says."""
    assert Latency.from_seconds([0.25, 0.001, 2]).samples_ms == (250.0, 1.0, 2000.0)


def test_percentiles_of_a_hundred_and_one_samples() -> None:
    """Of 0, 1, ..., 100 ms, in whatever order, each percentile is its own number."""
    latency = Latency(tuple(float(n) for n in reversed(range(101))))
    assert (latency.mean_ms, latency.p50_ms, latency.p90_ms, latency.p99_ms) == (50, 50, 90, 99)


def test_percentile_between_two_samples_is_between_them() -> None:
    """The median of an even number of samples is the middle of the two inner ones."""
    assert Latency((1.0, 2.0, 4.0, 100.0)).p50_ms == 3.0


def test_nothing_measured_is_zero() -> None:
    """A stage that never ran has latency 0, not an error."""
    latency = Latency.from_seconds([])
    assert (latency.mean_ms, latency.p50_ms, latency.p90_ms, latency.p99_ms) == (0, 0, 0, 0)


@given(samples=st.lists(st.floats(0, 1e4), min_size=1, max_size=50))
def test_percentiles_rise_and_stay_among_the_samples(samples: list[float]) -> None:
    """The shortest sample <= p50 <= p90 <= p99 <= the longest."""
    latency = Latency(tuple(samples))
    rising = [min(samples), latency.p50_ms, latency.p90_ms, latency.p99_ms, max(samples)]
    # Interpolation between two equal samples may be off by their last bit.
    assert all(a <= b * (1 + 1e-15) for a, b in itertools.pairwise(rising))


def test_peak_memory_is_in_megabytes_and_never_falls() -> None:
    """Memory that was in use once counts on after it is freed, in units of 10^6 bytes."""
    before = peak_rss_mb()
    block = np.ones(25_000_000)  # 200 MB, each page of it written
    held = peak_rss_mb()
    del block
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6
    assert 200 < held < installed
    # The kernel counts pages in lots; measured 2026-11-25: lower by up to 0.23 MB.
    assert before <= held <= peak_rss_mb() + 1


def test_peak_memory_is_not_that_of_the_parent() -> None:
    """A process that a large one starts tells its own memory."""
    block = np.ones(50_000_000)  # 400 MB, each page of it written
    code = "from effd0.timing import peak_rss_mb; print(peak_rss_mb())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert 5 < float(told.stdout) < block.nbytes / 1e6


def test_latency_cannot_be_changed() -> None:
    """A measurement is a value."""
    with pytest.raises(AttributeError, match="cannot assign"):
        Latency((1.0,)).samples_ms = (2.0,)  # type: ignore[misc]  # that it fails is the law
