"""What is inside the clock, and what a row is made of."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from effd0.benchmark.measure import Accuracy, Rival, StepTimes, rows_of, time_calls, time_in_turn
from effd0.timing import Latency
from tests.helpers import SMALL
from tests.helpers.runners import DeclaringRunner, DeviceRunner

from .rows import row

PAUSE = 0.002


def test_each_call_is_a_sample() -> None:
    """Calls get their numbers, warm-up calls are not among the samples, no sample is too short."""
    seen: list[int] = []

    def call(index: int) -> None:
        seen.append(index)
        time.sleep(PAUSE)

    latency = time_calls(call, loop=3, warmup=2)
    assert seen == [0, 1, 0, 1, 2]
    assert len(latency.samples_ms) == 3
    assert min(latency.samples_ms) >= 1000 * PAUSE


def test_turns_alternate() -> None:
    """Each pair has one of either, none is always first, and samples belong to their side."""
    order: list[str] = []

    def rival(index: int) -> None:
        order.append(f"B{index}")
        time.sleep(PAUSE)

    ours, theirs = time_in_turn(lambda n: order.append(f"A{n}"), rival, loop=3, warmup=1)
    assert order == ["A0", "B0", "A0", "B0", "B1", "A1", "A2", "B2"]
    assert len(ours.samples_ms) == len(theirs.samples_ms) == 3
    assert max(ours.samples_ms) < min(theirs.samples_ms)


def test_what_the_device_timed_before_does_not_count() -> None:
    """A warm-up's transfers are no sample of the run; a runner without a clock has no steps."""
    runner = DeviceRunner()
    feed = {"in": np.zeros((1, *SMALL.input_shape), np.float32)}
    runner.infer(feed)
    steps = StepTimes(runner)
    assert steps.since() == {}
    runner.infer(feed)
    assert {step: one.samples_ms for step, one in steps.since().items()} == {
        "upload": (1.0,),
        "compute": (2000.0,),
        "download": (3.0,),
    }
    assert StepTimes(DeclaringRunner()).since() == {}


def test_rows_survive_pytest_benchmarks_json() -> None:
    """A session's rows come back whole; failed benchmarks and those of others leave none."""
    whole = replace(
        row([1.5, 2.5, 3.0]),
        steps={"upload": Latency((0.25, 0.5))},
        rival=Rival("peer", Latency((4.0, 5.0, 6.0))),
        accuracy=Accuracy("abc" * 20, None, 5, 5),
        notes=("a note",),
    )
    benchmarks = [
        SimpleNamespace(has_error=False, extra_info=whole.extra_info()),
        SimpleNamespace(has_error=True, extra_info=whole.extra_info()),
        SimpleNamespace(has_error=False, extra_info={}),
    ]
    config: Any = SimpleNamespace(_benchmarksession=SimpleNamespace(benchmarks=benchmarks))
    assert rows_of(config) == [whole]
    assert whole.extra_info()["p50_ms"] == 2.5
    assert rows_of(SimpleNamespace()) == []
