"""
Images through the run line: preprocess, infer, postprocess, overlapped and in bounded memory.

Worker threads read images ahead and turn finished heads into detections while the caller's
thread runs the network (PIL, numpy and the backends release the interpreter lock).  At most
two batches of inputs and two of heads exist at a time, whatever the size of the dataset.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from .arrays import Tensors
from .dataset import Sample
from .errors import FeedError, RunnerError
from .heads import HeadOutputs, split_heads
from .measure import Latency
from .postprocess import Detections, postprocess
from .preprocess import ModelInput, preprocess
from .runners.base import Runner, batch_size_of
from .spec import ModelSpec


@dataclass
class StageTimes:
    """Seconds spent in each stage: per image, but for inference, which is per batch."""

    preprocess: list[float] = field(default_factory=list)
    inference: list[float] = field(default_factory=list)
    postprocess: list[float] = field(default_factory=list)

    def latencies(self) -> dict[str, Latency]:
        """Stage name -> its latency."""
        return {name: Latency.from_seconds(values) for name, values in vars(self).items()}


def choose_batch_size(runner: Runner, asked: int | None) -> int:
    """
    The batch size to feed *runner*: *asked*, or the model's own, or 1.

    Raises `FeedError` where more is asked than a fixed-batch model takes.
    """
    fixed = batch_size_of(runner.inputs)
    if asked is None:
        return fixed if fixed is not None else 1
    if asked < 1:
        raise FeedError(f"--batch-size is {asked}, but must be at least 1")
    if fixed is not None and asked > fixed:
        raise FeedError(
            f"--batch-size is {asked}, but the model takes {fixed}; "
            f"export it with --batch-size {asked} or --dynamic-batch"
        )
    return asked


def detect(path: Path, runner: Runner, spec: ModelSpec) -> Detections:
    """Detect in one image file; *runner* is open."""
    model_input = preprocess(path, spec)
    outputs = runner.infer(make_feed([model_input], runner))
    return postprocess(
        split_heads(outputs, spec)[0], model_input.image_scale, model_input.image_size, spec
    )


def run_dataset(
    samples: Sequence[Sample],
    runner: Runner,
    spec: ModelSpec,
    *,
    batch_size: int,
    workers: int = 2,
    times: StageTimes | None = None,
) -> Iterator[tuple[Sample, Detections]]:
    """
    Yield the detections of every sample, in order, as they are done; *runner* is open.

    Raises what the stages raise.  *times*, where given, is filled.
    """
    times = StageTimes() if times is None else times
    pending: list[tuple[Sample, Future[Detections]]] = []
    with ThreadPoolExecutor(workers, "effd0") as pool:
        try:
            for batch, inputs in _batches(samples, pool, spec, batch_size, times):
                heads = _timed_infer(runner, inputs, spec, times)
                # The batch before ends here, so that its heads are freed before more come.
                done = [(sample, future.result()) for sample, future in pending]
                futures = _submit_postprocess(pool, heads, inputs, spec, times)
                pending = list(zip(batch, futures, strict=True))
                del heads, inputs
                yield from done
            for sample, future in pending:
                yield sample, future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def make_feed(inputs: Sequence[ModelInput], runner: Runner) -> Tensors:
    """Stack network inputs for *runner*, in its input's name and dtype."""
    if len(runner.inputs) != 1:
        names = [info.name for info in runner.inputs]
        raise RunnerError(f"the model has the inputs {names}, but an EfficientDet-D0 has one")
    info = runner.inputs[0]
    return {info.name: np.stack([i.tensor for i in inputs]).astype(info.dtype, copy=False)}


def _batches(
    samples: Sequence[Sample],
    pool: ThreadPoolExecutor,
    spec: ModelSpec,
    batch_size: int,
    times: StageTimes,
) -> Iterator[tuple[list[Sample], list[ModelInput]]]:
    """Batches of preprocessed images, read at most one batch ahead."""
    source = iter(samples)
    reading: deque[tuple[Sample, Future[ModelInput]]] = deque()

    def read_on(count: int) -> None:
        for sample in islice(source, count):
            reading.append((sample, pool.submit(_timed_preprocess, sample.path, spec, times)))

    read_on(batch_size)
    while reading:
        ready = list(reading)
        reading.clear()
        read_on(batch_size)
        yield [sample for sample, _ in ready], [future.result() for _, future in ready]


def _timed_preprocess(path: Path, spec: ModelSpec, times: StageTimes) -> ModelInput:
    start = time.perf_counter()
    result = preprocess(path, spec)
    times.preprocess.append(time.perf_counter() - start)
    return result


def _timed_infer(
    runner: Runner, inputs: Sequence[ModelInput], spec: ModelSpec, times: StageTimes
) -> list[HeadOutputs]:
    start = time.perf_counter()
    outputs = runner.infer(make_feed(inputs, runner))
    times.inference.append(time.perf_counter() - start)
    heads = split_heads(outputs, spec)
    if len(heads) != len(inputs):
        raise RunnerError(f"the model gave {len(heads)} rows for {len(inputs)} images")
    return heads


def _submit_postprocess(
    pool: ThreadPoolExecutor,
    heads: Sequence[HeadOutputs],
    inputs: Sequence[ModelInput],
    spec: ModelSpec,
    times: StageTimes,
) -> list[Future[Detections]]:
    """Hand each image's heads to *pool*; of the input only its geometry is kept."""
    return [
        pool.submit(_timed_postprocess, head, i.image_scale, i.image_size, spec, times)
        for head, i in zip(heads, inputs, strict=True)
    ]


def _timed_postprocess(
    heads: HeadOutputs,
    image_scale: float,
    image_size: tuple[int, int],
    spec: ModelSpec,
    times: StageTimes,
) -> Detections:
    start = time.perf_counter()
    result = postprocess(heads, image_scale, image_size, spec)
    times.postprocess.append(time.perf_counter() - start)
    return result
