"""Tests for `effd0.bench.timing` and `effd0.bench.scenarios`: what is inside the clock."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from effd0.bench.scenarios import offline, read_queries, single_stream
from effd0.bench.timing import Apart, time_calls, time_in_turn
from effd0.data.coco import Sample, load_coco
from effd0.detection.heads import split_heads
from effd0.detection.postprocess import postprocess

from .fakes.recording import DeclaringRunner, DeviceRunner
from .helpers import SMALL, write_coco

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
    """Each pair has one of either, and nobody always goes first."""
    order: list[str] = []
    ours, rival = time_in_turn(
        lambda n: order.append(f"A{n}"), lambda n: order.append(f"B{n}"), loop=3, warmup=1
    )
    assert order == ["A0", "B0", "A0", "B0", "B1", "A1", "A2", "B2"]
    assert len(ours.samples_ms) == len(rival.samples_ms) == 3


def test_samples_belong_to_their_side() -> None:
    """The slow one is slow whichever place it has."""
    ours, rival = time_in_turn(lambda _: None, lambda _: time.sleep(PAUSE), loop=4, warmup=0)
    assert max(ours.samples_ms) < min(rival.samples_ms)


def test_what_the_device_timed_before_does_not_count() -> None:
    """A warm-up's transfers are no sample of the run."""
    runner = DeviceRunner()
    feed = {"in": np.zeros((1, *SMALL.input_shape), np.float32)}
    runner.infer(feed)
    apart = Apart(runner)
    assert apart.since() == {}
    runner.infer(feed)
    assert {step: one.samples_ms for step, one in apart.since().items()} == {
        "upload": (1.0,),
        "compute": (2000.0,),
        "download": (3.0,),
    }


def test_a_runner_without_a_clock_of_its_own_has_nothing_apart() -> None:
    """Its times are the wall's, and not told twice."""
    assert Apart(DeclaringRunner()).since() == {}


@pytest.fixture
def samples(tmp_path: Path) -> Sequence[Sample]:
    """Three pictures that differ."""
    return load_coco(write_coco(tmp_path, colours=(0, 50, 100))).samples


def test_queries_hold_every_image(samples: Sequence[Sample]) -> None:
    """Three images in batches of two are two batches, the second filled up by the first image."""
    queries = read_queries(samples, DeclaringRunner(), 2, SMALL)
    assert len(queries.feeds) == 2
    images = [feed["in"] for feed in queries.feeds]
    assert np.array_equal(images[1][1], images[0][0])
    assert not np.array_equal(images[0][0], images[0][1])
    assert queries.feed(2) is queries.feeds[0]


@pytest.mark.parametrize("batch", [1, 2], ids="batch={}".format)
def test_scenarios_find_what_the_run_line_finds(samples: Sequence[Sample], batch: int) -> None:
    """Both answer each image of each query with its detections, in order."""
    runner = DeclaringRunner()
    queries = read_queries(samples, runner, batch, SMALL)
    wanted = [
        postprocess(heads, image.image_scale, image.image_size, SMALL)
        for index in range(5)
        for heads, image in zip(
            split_heads(runner.infer(queries.feed(index)), SMALL),
            queries.images(index),
            strict=True,
        )
    ]
    at_once = offline(runner, queries, SMALL, loop=5, host_threads=2)(0)
    one = single_stream(runner, queries, SMALL)
    one_by_one = [found for index in range(5) for found in one(index)]
    for found in (at_once, one_by_one):
        assert len(found) == len(wanted) == 5 * batch
        assert all(np.array_equal(a.boxes, b.boxes) for a, b in zip(found, wanted, strict=True))
