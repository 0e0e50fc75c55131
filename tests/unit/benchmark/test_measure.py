"""What is inside the clock, and what a row is made of."""

import time
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np

from effd0.benchmark.measure import rows_of, step_times, time_in_turn
from effd0.results.run import TimedRow
from tests.helpers import SMALL
from tests.helpers.runners import DeclaringRunner, DeviceRunner
from tests.helpers.runs import latency

PAUSE = 0.002


def test_turns_alternate() -> None:
    """Each round has a call of either, none is always first, and samples belong to their side."""
    order: list[str] = []

    def rival(index: int) -> None:
        order.append(f"B{index}")
        time.sleep(PAUSE)

    ours, theirs = time_in_turn([lambda n: order.append(f"A{n}"), rival], loop=3)
    assert order == ["A0", "B0", "B1", "A1", "A2", "B2"]
    assert len(ours.samples_ms) == len(theirs.samples_ms) == 3
    assert max(ours.samples_ms) < 1000 * PAUSE <= min(theirs.samples_ms)


def test_what_the_device_timed_before_does_not_count() -> None:
    """A warm-up's transfers are no sample of the run; a runner without a clock has no steps."""
    runner = DeviceRunner()
    feed = {"in": np.zeros((1, *SMALL.input_shape), np.float32)}
    runner.infer(feed)
    before = step_times(runner)
    assert step_times(runner, before) == {}
    runner.infer(feed)
    wanted = {"upload": [1.0], "compute": [2000.0], "download": [3.0]}
    assert step_times(runner, before) == wanted
    assert step_times(DeclaringRunner()) == {}


def test_rows_survive_pytest_benchmarks_json() -> None:
    """A session's rows come back whole; failed benchmarks and those of others leave none."""
    plain = latency(rival={"name": "peer", "samples_ms": [4.0] * 20}, notes=["a note"])
    benchmarks = [
        SimpleNamespace(has_error=False, extra_info=plain),
        SimpleNamespace(has_error=True, extra_info=plain),
        SimpleNamespace(has_error=False, extra_info={"figure": 1}),
    ]
    config: Any = SimpleNamespace(_benchmarksession=SimpleNamespace(benchmarks=benchmarks))
    assert rows_of(config) == [msgspec.convert(plain, TimedRow)]
    assert rows_of(SimpleNamespace()) == []
