"""
Images through the run line: preprocess, infer, postprocess, overlapped and in bounded memory.

Worker threads read images ahead and turn finished heads into detections while the caller's
thread runs the network (PIL, numpy and the backends release the interpreter lock).  At most
two batches of inputs and two of heads exist at a time, whatever the size of the dataset; a
runner that works on several batches at a time holds those in memory of its own.  Where a runner
gives detections by itself, pixels go to it and no heads come back.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

from .arrays import Tensors
from .dataset import Sample
from .errors import RunnerError
from .feed import make_feed, takes_pixels
from .heads import HeadOutputs, split_heads
from .measure import Latency
from .postprocess import Detections, postprocess
from .preprocess import ModelInput, preprocess
from .runners.base import DetectingRunner, Runner, infer_offline
from .spec import ModelSpec

T = TypeVar("T")


@dataclass
class StageTimes:
    """
    Seconds spent in each stage: per image, but for inference, which is per batch.

    A runner that gives detections by itself postprocesses within its inference.
    """

    preprocess: list[float] = field(default_factory=list)
    inference: list[float] = field(default_factory=list)
    postprocess: list[float] = field(default_factory=list)

    def latencies(self) -> dict[str, Latency]:
        """Stage name -> its latency."""
        return {name: Latency.from_seconds(values) for name, values in vars(self).items()}


def detect(path: Path, runner: Runner, spec: ModelSpec) -> Detections:
    """Detect in one image file; *runner* is open."""
    if isinstance(runner, DetectingRunner):
        (found,) = runner.detect_stream([[preprocess(path, spec, normalized=False)]])
        return found[0]
    model_input = preprocess(path, spec, normalized=not takes_pixels(runner))
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
) -> Generator[tuple[Sample, Detections]]:
    """
    Yield the detections of every sample, in order, as they are done; *runner* is open.

    Raises what the stages raise.  *times*, where given, is filled.
    """
    times = StageTimes() if times is None else times
    pixels = takes_pixels(runner) or isinstance(runner, DetectingRunner)
    with ThreadPoolExecutor(workers, "effd0") as pool:
        batches = _batches(
            samples, pool, partial(_timed_preprocess, spec, not pixels, times), batch_size
        )
        try:
            if isinstance(runner, DetectingRunner):
                for batch, found in _timed(runner.detect_stream, batches, times):
                    yield from zip((read.sample for read in batch), found, strict=True)
            else:
                yield from _postprocessed(pool, batches, runner, spec, times)
        finally:
            pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class _Read:
    """An image that was read, without its pixels: what its detections need."""

    sample: Sample
    image_scale: float
    image_size: tuple[int, int]


ReadBatch = tuple[list[_Read], list[ModelInput]]


def _batches(
    samples: Sequence[Sample],
    pool: ThreadPoolExecutor,
    read: Callable[[Path], ModelInput],
    batch_size: int,
) -> Iterator[ReadBatch]:
    """Batches of preprocessed images, read at most one batch ahead."""
    source = iter(samples)
    reading: deque[tuple[Sample, Future[ModelInput]]] = deque()

    def read_on(count: int) -> None:
        for sample in islice(source, count):
            reading.append((sample, pool.submit(read, sample.path)))

    read_on(batch_size)
    while reading:
        ready = list(reading)
        reading.clear()
        read_on(batch_size)
        inputs = [future.result() for _, future in ready]
        images = zip((sample for sample, _ in ready), inputs, strict=True)
        yield [_Read(sample, i.image_scale, i.image_size) for sample, i in images], inputs


def _timed_preprocess(
    spec: ModelSpec, normalized: bool, times: StageTimes, path: Path
) -> ModelInput:
    start = time.perf_counter()
    result = preprocess(path, spec, normalized=normalized)
    times.preprocess.append(time.perf_counter() - start)
    return result


def _postprocessed(
    pool: ThreadPoolExecutor,
    batches: Iterator[ReadBatch],
    runner: Runner,
    spec: ModelSpec,
    times: StageTimes,
) -> Iterator[tuple[Sample, Detections]]:
    """Each image with its detections: *pool* makes them of the heads of the batch before."""
    pending: list[tuple[Sample, Future[Detections]]] = []
    for batch, heads in _inferred(batches, runner, spec, times):
        # The batch before ends here, so that its heads are freed before more come.
        done = [(sample, future.result()) for sample, future in pending]
        pending = [
            (read.sample, pool.submit(_timed_postprocess, head, read, spec, times))
            for read, head in zip(batch, heads, strict=True)
        ]
        del heads
        yield from done
    for sample, future in pending:
        yield sample, future.result()


def _inferred(
    batches: Iterator[ReadBatch], runner: Runner, spec: ModelSpec, times: StageTimes
) -> Iterator[tuple[list[_Read], list[HeadOutputs]]]:
    """Each batch with its heads."""

    def infer(inputs: Iterable[Sequence[ModelInput]]) -> Generator[Tensors]:
        return infer_offline(runner, (make_feed(batch, runner) for batch in inputs))

    for batch, outputs in _timed(infer, batches, times):
        heads = split_heads(outputs, spec)
        if len(heads) != len(batch):
            raise RunnerError(f"the model gave {len(heads)} rows for {len(batch)} images")
        del outputs  # the heads are all that is to stay in memory
        yield batch, heads


def _timed(
    run: Callable[[Iterable[Sequence[ModelInput]]], Generator[T]],
    batches: Iterator[ReadBatch],
    times: StageTimes,
) -> Iterator[tuple[list[_Read], T]]:
    """Each batch with what *run* gives.  Inference is the time that it takes of this thread."""
    under_way: deque[list[_Read]] = deque()
    reading_s = 0.0

    def inputs_of() -> Iterator[list[ModelInput]]:
        nonlocal reading_s
        start = time.perf_counter()
        for batch, inputs in batches:
            under_way.append(batch)
            reading_s += time.perf_counter() - start
            yield inputs
            start = time.perf_counter()
        reading_s += time.perf_counter() - start

    with contextlib.closing(run(inputs_of())) as results:
        while True:
            asked, reading_s = time.perf_counter(), 0.0
            done = list(islice(results, 1))
            if not done:
                return
            times.inference.append(time.perf_counter() - asked - reading_s)
            yield under_way.popleft(), done.pop()  # so that it is not held here while it is used


def _timed_postprocess(
    heads: HeadOutputs, read: _Read, spec: ModelSpec, times: StageTimes
) -> Detections:
    start = time.perf_counter()
    result = postprocess(heads, read.image_scale, read.image_size, spec)
    times.postprocess.append(time.perf_counter() - start)
    return result
