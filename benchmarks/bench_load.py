"""What a process pays before its first result."""

from __future__ import annotations

import time

import numpy as np

from benchmarks.measuring import Measure
from effd0.bench.subject import opened
from effd0.data.fixture import sample_inputs
from effd0.evaluation.model import ModelChoice
from effd0.types import Tensors

STEPS = ("open", "first inference", "close")


def bench_load(measure: Measure, choice: ModelChoice) -> None:
    """Open a model, run one image, close it; each step apart."""
    images = sample_inputs(1, choice.spec)
    seconds: dict[str, list[float]] = {step: [] for step in STEPS}
    with opened(choice) as subject:
        info = subject.runner.inputs[0]
    feed = {info.name: images.astype(info.dtype)}

    def load() -> Tensors:
        times = [time.perf_counter()]
        with choice.opened() as (runner, _):
            times.append(time.perf_counter())
            heads = runner.infer(feed)
            times.append(time.perf_counter())
        times.append(time.perf_counter())
        for step, taken in zip(STEPS, np.diff(times), strict=True):
            seconds[step].append(float(taken))
        return heads

    heads = measure(load, "open, first inference, close", images=1, on=subject, steps=seconds)
    assert all(np.isfinite(head).all() for head in heads.values())
