"""Throughput of each stage of the run line on real images; ``pytest benchmarks`` prints a table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from effd0.arrays import Tensor, Tensors
from effd0.dataset import Dataset
from effd0.heads import split_heads
from effd0.pipeline import run_dataset
from effd0.postprocess import postprocess
from effd0.preprocess import preprocess
from effd0.runners.base import Runner, batch_size_of
from effd0.spec import ModelSpec

BATCH_SIZES = (1, 4, 8)


@pytest.fixture
def open_runner(request: pytest.FixtureRequest, runner_name: str) -> Iterator[Runner]:
    """The open runner of the artefact under test: opening it is not timed."""
    with ExitStack() as stack:
        yield stack.enter_context(request.getfixturevalue("open_under_test")(runner_name))


def bench_preprocess(
    benchmark: BenchmarkFixture, embedded_dataset: Dataset, spec: ModelSpec
) -> None:
    """Image files to network input, one thread."""
    samples = embedded_dataset.samples[:8]
    inputs = benchmark(lambda: [preprocess(sample.path, spec) for sample in samples])
    benchmark.extra_info["images"] = len(samples)
    assert [i.image_size for i in inputs] == [sample.size for sample in samples]


def bench_postprocess(benchmark: BenchmarkFixture, torch_heads: Tensors, spec: ModelSpec) -> None:
    """Trained heads to detections, one thread."""
    heads = split_heads(torch_heads, spec)
    size = (spec.image_size, spec.image_size)
    found = benchmark(lambda: [postprocess(head, 1.0, size, spec) for head in heads])
    benchmark.extra_info["images"] = len(heads)
    assert all(0 < len(detections) <= spec.max_detections for detections in found)


@pytest.mark.parametrize("batch", BATCH_SIZES, ids=lambda n: f"batch={n}")
def bench_inference(
    benchmark: BenchmarkFixture, open_runner: Runner, images: Tensor, batch: int
) -> None:
    """Network input to heads; every row is a real image."""
    fixed = batch_size_of(open_runner.inputs)
    if fixed is not None and batch > fixed:
        pytest.skip(f"--model takes batches of {fixed}: give one that takes {batch}")
    rows = np.concatenate([images] * 2)[:batch]
    feed = {open_runner.inputs[0].name: rows}
    heads = benchmark(open_runner.infer, feed)
    benchmark.extra_info["images"] = batch
    assert all(head.shape[0] == batch and np.isfinite(head).all() for head in heads.values())


def bench_pipeline(
    benchmark: BenchmarkFixture, open_runner: Runner, embedded_dataset: Dataset, spec: ModelSpec
) -> None:
    """Image files to detections, stages overlapping."""
    samples = embedded_dataset.samples[:16]
    found = benchmark(lambda: list(run_dataset(samples, open_runner, spec, batch_size=1)))
    benchmark.extra_info["images"] = len(samples)
    assert [sample.image_id for sample, _ in found] == [s.image_id for s in samples]
