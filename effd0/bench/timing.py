"""Calls timed one by one, alone or in turn with another's."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from ..runners.base import DeviceTimes, Runner, TimedRunner
from ..timing import Latency

#: Does the n-th piece of work; what it returns is there when it returns.
Call = Callable[[int], Any]


def _ignore(_: int) -> None:
    """Tell nobody."""


def seconds_of(call: Call, index: int = 0) -> float:
    """How long one *call* takes."""
    start = time.perf_counter()
    call(index)
    return time.perf_counter() - start


def time_calls(
    call: Call, loop: int, warmup: int, advance: Callable[[int], None] = _ignore
) -> Latency:
    """Time *loop* calls one by one, after *warmup* calls that are not timed."""
    for index in range(warmup):
        call(index)
    samples = []
    for index in range(loop):
        samples.append(seconds_of(call, index))
        advance(1)
    return Latency.from_seconds(samples)


def time_in_turn(
    ours: Call, rival: Call, loop: int, warmup: int, advance: Callable[[int], None] = _ignore
) -> tuple[Latency, Latency]:
    """
    Time *loop* pairs of calls, after *warmup* pairs: A B A B.

    The two change places every second pair, so that coming first is nobody's advantage.
    """
    for index in range(warmup):
        ours(index)
        rival(index)
    samples: tuple[list[float], list[float]] = ([], [])
    for index in range(loop):
        for side in (0, 1) if index % 2 == 0 else (1, 0):
            samples[side].append(seconds_of((ours, rival)[side], index))
        advance(1)
    return Latency.from_seconds(samples[0]), Latency.from_seconds(samples[1])


class Apart:
    """The times that an open *runner* takes by itself, from now on; none where it takes none."""

    def __init__(self, runner: Runner) -> None:
        self._times = runner.device_times if isinstance(runner, TimedRunner) else DeviceTimes()
        self._before = {f.name: len(getattr(self._times, f.name)) for f in fields(self._times)}

    def since(self) -> dict[str, Latency]:
        """Step -> what it took in each batch since the beginning."""
        taken = {name: getattr(self._times, name)[n:] for name, n in self._before.items()}
        return DeviceTimes(**taken).latencies()
