"""Images read ahead in batches, by threads of the host, into memory that is used again."""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ..data.coco import Sample, other_size
from ..data.preprocess import ModelInput, input_scale, normalize, preprocess, probe_image
from ..detection.heads import HeadOutputs, split_heads
from ..detection.postprocess import Detections, postprocess
from ..errors import ImageError, RunnerError
from ..runners.base import DetectingRunner, Runner, make_feed, takes_pixels
from ..spec import ModelSpec
from ..timing import Latency
from ..types import Tensor, Tensors

F = TypeVar("F")
K = TypeVar("K")
T = TypeVar("T")

#: Images of a batch, each with its image_scale: what is kept of them until their heads are there.
Scaled = list[tuple[Sample, float]]
#: A batch: its images, their network input, and the array that holds the inputs' tensors.
Batch = tuple[Scaled, list[ModelInput], Tensor | None]


def batches_read_ahead(
    samples: Iterable[Sample],
    pool: ThreadPoolExecutor,
    read: Callable[[Path, Tensor | None], ModelInput],
    batch_size: int,
    take: Callable[[], Tensor] | None,
) -> Iterator[Batch]:
    """
    Batches of images with their network input, read at most one batch ahead.

    The inputs' tensors are rows of the array that *take* gives, where there is one.  Raises what
    *read* raises, and `ImageError` for an image that is not of the annotated size.
    """
    source = iter(samples)

    def begun() -> Iterator[tuple[list[Sample], list[Future[ModelInput]], Tensor | None]]:
        while taken := list(islice(source, batch_size)):
            rows = None if take is None else take()[: len(taken)]
            places = [None] * len(taken) if rows is None else rows
            pairs = zip(taken, places, strict=True)
            yield taken, [pool.submit(read, one.path, out) for one, out in pairs], rows

    for taken, reading, rows in ahead(begun()):
        inputs = [future.result() for future in reading]
        for sample, one in zip(taken, inputs, strict=True):
            if one.image_size != sample.size:
                raise ImageError(
                    f"{other_size(sample, one.image_size)}; "
                    "copy or download it again, or correct the annotation file"
                )
        images = [(sample, one.image_scale) for sample, one in zip(taken, inputs, strict=True)]
        yield images, inputs, rows


def ahead(begun: Iterable[T]) -> Iterator[T]:
    """Each of *begun* once the next one has begun too."""
    waiting = deque[T]()
    for one in begun:
        waiting.append(one)
        if len(waiting) > 1:
            yield waiting.popleft()
    yield from waiting


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
        """Stage -> its latency; none where nothing was run."""
        every = vars(self).items() if self.inference else ()
        return {stage: Latency.from_seconds(seconds) for stage, seconds in every}


def detect(path: Path, runner: Runner, spec: ModelSpec) -> Detections:
    """Detect in one image file; *runner* is open."""
    sample = Sample(0, path, probe_image(path))
    ((_, found),) = run_dataset([sample], runner, spec, batch_size=1)
    return found


def run_dataset(
    samples: Iterable[Sample],
    runner: Runner,
    spec: ModelSpec,
    *,
    batch_size: int,
    host_threads: int = 2,
    times: StageTimes | None = None,
    device: AbstractContextManager[object] | None = None,
    inputs: Mapping[str, Callable[[], npt.NDArray[Any]]] | None = None,
) -> Generator[tuple[Sample, Detections]]:
    """
    Yield the detections of every sample, in order, as they are done; *runner* is open.

    Raises what the stages raise.  *times*, where given, is filled.  *device*, where given, is
    entered once the first batch is read, and left once the last one is inferred.  *inputs*, where
    there are any, read the network input of an image, by its stem, in place of preprocessing.
    """
    times = StageTimes() if times is None else times
    pixels = takes_pixels(runner) or isinstance(runner, DetectingRunner)
    free: list[Tensor] = []  # arrays whose contents nobody needs any more
    held = contextlib.ExitStack()

    def read(path: Path, out: Tensor | None) -> ModelInput:
        with noted(times.preprocess):
            if not inputs:
                return preprocess(path, spec, normalized=not pixels, out=out)
            given, size = inputs[path.stem](), probe_image(path)
            if given.dtype == np.uint8 and not pixels:
                given = normalize(given, spec)
            if out is not None:
                out[...] = given
                given = out
            return ModelInput(given, 1.0 / input_scale(size, spec), size)

    def take() -> Tensor:
        return free.pop() if free else np.empty((batch_size, *spec.input_shape), np.float32)

    def on_device(batches: Iterator[Batch]) -> Iterator[Batch]:
        for first in islice(batches, 1):
            held.enter_context(device or contextlib.nullcontext())
            yield first
            del first
        yield from batches

    with ThreadPoolExecutor(host_threads, "effd0") as pool:
        batches = on_device(
            batches_read_ahead(samples, pool, read, batch_size, None if pixels else take)
        )
        try:
            if isinstance(runner, DetectingRunner):
                pictures = ((images, inputs) for images, inputs, _ in batches)
                with held:
                    for images, found in timed(runner.detect_stream, pictures, times.inference):
                        yield from zip((sample for sample, _ in images), found, strict=True)
            else:
                feeds = (
                    ((images, rows), make_feed(inputs, runner, rows))
                    for images, inputs, rows in batches
                )
                stream = timed(runner.infer_stream, feeds, times.inference)
                yield from _postprocessed(stream, held, pool, free, spec, times.postprocess)
        finally:
            pool.shutdown(cancel_futures=True)


def _postprocessed(
    stream: Iterable[tuple[tuple[Scaled, Tensor | None], Tensors]],
    held: contextlib.ExitStack,
    pool: ThreadPoolExecutor,
    free: list[Tensor],
    spec: ModelSpec,
    seconds: list[float],
) -> Iterator[tuple[Sample, Detections]]:
    """Each image with its detections: *pool* makes them of the heads of the batch before."""

    def detected(heads: HeadOutputs, scale: float, size: tuple[int, int]) -> Detections:
        with noted(seconds):
            return postprocess(heads, scale, size, spec)

    pending: list[tuple[Sample, Future[Detections]]] = []
    with held:
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


@contextlib.contextmanager
def noted(seconds: list[float]) -> Iterator[None]:
    """Add the time of the block to *seconds* once it has succeeded."""
    start = time.perf_counter()
    yield
    seconds.append(time.perf_counter() - start)


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
