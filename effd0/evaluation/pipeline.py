"""Images read ahead in batches, by threads of the host, into memory that is used again."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from ..data.coco import Sample, other_size
from ..data.preprocess import ModelInput, preprocess
from ..detection.heads import HeadOutputs, split_heads
from ..detection.postprocess import Detections, postprocess
from ..errors import ImageError, RunnerError
from ..runners.base import DetectingRunner, Runner, make_feed, takes_pixels
from ..spec import ModelSpec
from ..timing import Latency
from ..types import Tensor

#: Images of a batch, each with its image_scale: what is kept of them until their heads are there.
Scaled = list[tuple[Sample, float]]


def read_batches(
    samples: Iterable[Sample],
    pool: ThreadPoolExecutor,
    read: Callable[[Path, Tensor | None], ModelInput],
    batch_size: int,
    take: Callable[[], Tensor] | None,
) -> Iterator[tuple[Scaled, list[ModelInput], Tensor | None]]:
    """
    Batches of images with their network input, read at most one batch ahead.

    The third is the array that *take* gave, where there is one, for the inputs' tensors.  Raises
    what *read* raises, and `ImageError` for an image that is not of the annotated size.
    """
    source = iter(samples)

    def read_on() -> tuple[list[Sample], list[Future[ModelInput]], Tensor | None]:
        taken = list(islice(source, batch_size))
        array = take() if take is not None and taken else None
        places = [None] * len(taken) if array is None else array
        reading = [
            pool.submit(read, one.path, out) for one, out in zip(taken, places, strict=False)
        ]
        return taken, reading, array

    ahead = read_on()
    while ahead[0]:
        (taken, reading, rows), ahead = ahead, read_on()
        inputs = [future.result() for future in reading]
        for sample, one in zip(taken, inputs, strict=True):
            if one.image_size != sample.size:
                raise ImageError(
                    f"{other_size(sample, one.image_size)}; "
                    "copy or download it again, or correct the annotation file"
                )
        scales = (one.image_scale for one in inputs)
        images = list(zip(taken, scales, strict=True))
        yield images, inputs, rows


F = TypeVar("F")
K = TypeVar("K")
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

    def move(self, to: StageTimes) -> None:
        """Move what is here now *to* another, whatever is added meanwhile."""
        for name, values in vars(self).items():
            count = len(values)
            vars(to)[name].extend(values[:count])
            del values[:count]


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
    samples: Iterable[Sample],
    runner: Runner,
    spec: ModelSpec,
    *,
    batch_size: int,
    host_threads: int = 2,
    times: StageTimes | None = None,
) -> Generator[tuple[Sample, Detections]]:
    """
    Yield the detections of every sample, in order, as they are done; *runner* is open.

    Raises what the stages raise.  *times*, where given, is filled.
    """
    times = StageTimes() if times is None else times
    pixels = takes_pixels(runner) or isinstance(runner, DetectingRunner)
    with ThreadPoolExecutor(host_threads, "effd0") as pool:

        def read(path: Path, out: Tensor | None) -> ModelInput:
            normalized = not pixels
            return _noted(
                times.preprocess, lambda: preprocess(path, spec, normalized=normalized, out=out)
            )

        def take() -> Tensor:
            """An array whose contents nobody needs any more."""
            return free.pop() if free else np.empty((batch_size, *spec.input_shape), np.float32)

        free: list[Tensor] = []
        batches = read_batches(samples, pool, read, batch_size, None if pixels else take)
        try:
            if isinstance(runner, DetectingRunner):
                feeds = ((images, inputs) for images, inputs, _ in batches)
                for images, found in timed(runner.detect_stream, feeds, times.inference):
                    yield from zip((sample for sample, _ in images), found, strict=True)
            else:
                yield from _postprocessed(pool, runner, batches, free, spec, times)
        finally:
            pool.shutdown(cancel_futures=True)


def _noted(seconds: list[float], run: Callable[[], T]) -> T:
    """What *run* gives; how long it took is added to *seconds*."""
    start = time.perf_counter()
    result = run()
    seconds.append(time.perf_counter() - start)
    return result


def _postprocessed(
    pool: ThreadPoolExecutor,
    runner: Runner,
    batches: Iterable[tuple[Scaled, list[ModelInput], Tensor | None]],
    free: list[Tensor],
    spec: ModelSpec,
    times: StageTimes,
) -> Iterator[tuple[Sample, Detections]]:
    """Each image with its detections: *pool* makes them of the heads of the batch before."""

    def detected(heads: HeadOutputs, scale: float, size: tuple[int, int]) -> Detections:
        return _noted(times.postprocess, lambda: postprocess(heads, scale, size, spec))

    pending: list[tuple[Sample, Future[Detections]]] = []
    feeds = (
        ((images, rows), make_feed(inputs, runner, None if rows is None else rows[: len(inputs)]))
        for images, inputs, rows in batches
    )
    stream = timed(runner.infer_stream, feeds, times.inference)
    for (images, rows), outputs in stream:
        if rows is not None:
            free.append(rows)
        heads = split_heads(outputs, spec)
        if len(heads) != len(images):
            raise RunnerError(f"the model gave {len(heads)} rows for {len(images)} images")
        # The batch before ends here, so that its heads are freed before more come.
        done = [(sample, future.result()) for sample, future in pending]
        pending = [
            (sample, pool.submit(detected, head, scale, sample.size))
            for (sample, scale), head in zip(images, heads, strict=True)
        ]
        del heads, outputs
        yield from done
    for sample, future in pending:
        yield sample, future.result()


def timed(
    run: Callable[[Iterable[F]], Generator[T]], feeds: Iterable[tuple[K, F]], seconds: list[float]
) -> Generator[tuple[K, T]]:
    """
    Each key of *feeds* with what *run* makes of its feed, in order.

    *seconds* is given what each took of this thread, without what *feeds* took.
    """
    under_way: deque[K] = deque()
    reading_s = 0.0

    def taken() -> Iterator[F]:
        nonlocal reading_s
        start = time.perf_counter()
        for key, feed in feeds:
            under_way.append(key)
            reading_s += time.perf_counter() - start
            yield feed
            start = time.perf_counter()
        reading_s += time.perf_counter() - start

    with contextlib.closing(run(taken())) as results:
        while True:
            asked, reading_s = time.perf_counter(), 0.0
            done = list(islice(results, 1))
            if not done:
                return
            seconds.append(time.perf_counter() - asked - reading_s)
            yield under_way.popleft(), done.pop()  # so that it is not held here while it is used
