"""What an inference run took: ais_bench's figures, and images a second as a user meets them."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ..errors import FeedError, RunnerError
from ..io import sha256
from ..progress import OpenProgress
from ..runners.base import (
    Runner,
    TensorInfo,
    TimedRunner,
    batch_size_of,
    choose_batch_size,
    infer_stream,
    only_input,
    stacked,
)
from ..tensors.inputs import InputFiles, open_inputs
from ..tensors.writer import PURE, ResultWriter, check_free, results_whole
from ..types import Tensors
from .model import ModelChoice

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Performance:
    """
    One run after its warm-up, in milliseconds a batch and seconds in all.

    *rows* are the rows of each batch with its padding, *images* the real images, both once for
    each loop.  *compute_ms* is the device's own time if the runner measures it, else the wall
    time of ``infer``; the copies' times are empty where nobody measured them.  *infer_s* is wall
    time in ``infer``, copies included, of several *workers* that of the one that took longest;
    *total_s* adds files read and written.
    """

    images: int
    rows: tuple[int, ...]
    compute_ms: tuple[float, ...]
    h2d_ms: tuple[float, ...]
    d2h_ms: tuple[float, ...]
    infer_s: float
    total_s: float
    workers: int = 1

    @property
    def ais_bench_throughput(self) -> float:
        """Rows a second while the device computes: padded ones count, copies do not."""
        return 1000 * float(np.mean(self.rows)) / float(np.mean(self.compute_ms))

    @property
    def images_per_second(self) -> float:
        """Real images a second of ``infer``, copies to and from the device included."""
        return self.images / self.infer_s

    @property
    def images_per_second_with_files(self) -> float:
        """Real images a second, files read and written."""
        return self.images / self.total_s

    def lines(self) -> list[str]:
        """Both figures for the terminal, and why they differ."""
        batch, latency = float(np.mean(self.rows)), float(np.mean(self.compute_ms))
        formula = f"1000*batchsize.mean({batch:g})/NPU_compute_time.mean({latency:.4f})"
        files = self.images_per_second_with_files
        one = "" if self.workers == 1 else f" on one of {self.workers} workers"
        return [
            f"[INFO] throughput {formula}: {self.ais_bench_throughput:.4f}",
            f"images/s {self.images_per_second:.2f}, copies included; {files:.2f} with the files",
            f"the first, as ais_bench counts, is of computing alone{one}, and padding counts too",
        ]

    def ais_bench_summary(self) -> dict[str, Any]:
        """The figures under the keys of ais_bench's summary; null where nothing was measured."""
        return {
            "NPU_compute_time": _statistics(self.compute_ms),
            "H2D_latency": _statistics(self.h2d_ms),
            "D2H_latency": _statistics(self.d2h_ms),
            "npu_compute_time_list": list(self.compute_ms),
            "throughput": self.ais_bench_throughput,
        }


def together(
    parts: Sequence[tuple[Hashable, Performance]], seconds: float, workers: int
) -> Performance:
    """*parts* of one run, each with the worker that did it; it took so many *seconds* in all."""
    infer_s: dict[Hashable, float] = defaultdict(float)
    for worker, part in parts:
        infer_s[worker] += part.infer_s

    def every(of: Callable[[Performance], Sequence[Number]]) -> tuple[Number, ...]:
        return tuple(itertools.chain.from_iterable(of(part) for _, part in parts))

    return Performance(
        images=sum(part.images for _, part in parts),
        rows=every(lambda part: part.rows),
        compute_ms=every(lambda part: part.compute_ms),
        h2d_ms=every(lambda part: part.h2d_ms),
        d2h_ms=every(lambda part: part.d2h_ms),
        infer_s=max(infer_s.values()),
        total_s=seconds,
        workers=workers,
    )


def _statistics(samples_ms: Sequence[float]) -> dict[str, float | int | None]:
    if not samples_ms:
        keys = ("min", "max", "mean", "median", "percentile(99%)")
        return {**dict.fromkeys(keys), "count": 0}
    return {
        "min": float(np.min(samples_ms)),
        "max": float(np.max(samples_ms)),
        "mean": float(np.mean(samples_ms)),
        "median": float(np.median(samples_ms)),
        "percentile(99%)": float(np.percentile(samples_ms, 99)),
        "count": len(samples_ms),
    }


Times = tuple[list[float], list[float], list[float]]


class Clock:
    """Times an open *runner* from now on; *reading* is what its feeds have waited for, seconds."""

    def __init__(self, runner: Runner) -> None:
        self.runner, self.reading, self._images = runner, 0.0, 0
        self._infer: list[float] = []
        self._rows: list[int] = []
        # What the device has timed so far is the warm-up.
        self._warm = [len(times) for times in self._device_times()]
        self._start = time.perf_counter()

    def timed(
        self, feeds: Iterable[Tensors], batches: Iterable[Sequence[Path]], loop: int
    ) -> Iterator[tuple[Sequence[Path], Tensors]]:
        """Run *feeds*, *loop* for each of *batches*; yield each batch and its last outputs."""
        fixed = batch_size_of(self.runner.inputs)
        # Batches side by side would each take longer than alone: a runner streams what it times.
        timed = isinstance(self.runner, TimedRunner)
        alone = (self.runner.infer(feed) for feed in feeds)
        with contextlib.closing(infer_stream(self.runner, feeds) if timed else alone) as stream:
            for batch in batches:
                outputs: Tensors = {}
                for _ in range(loop):
                    start, reading = time.perf_counter(), self.reading
                    outputs = next(stream)
                    waited = self.reading - reading
                    self._infer.append(time.perf_counter() - start - waited)
                    self._rows.append(len(batch) if fixed is None else fixed)
                    self._images += len(batch)
                rows = {name: tensor.shape[0] for name, tensor in outputs.items()}
                if set(rows.values()) != {len(batch)}:
                    raise RunnerError(f"the model gave {rows} rows, but {len(batch)} were fed")
                yield batch, outputs
            next(stream, None)  # lets a streaming runner end

    def performance(self) -> Performance:
        """All that was timed; the device's own times where the runner has them."""
        times = zip(self._device_times(), self._warm, strict=True)
        h2d, compute, d2h = (tuple(each[warm:]) for each, warm in times)
        if not isinstance(self.runner, TimedRunner):
            compute = tuple(1000 * seconds for seconds in self._infer)
        # A streaming runner computes while files are written, too.
        seconds = max(sum(self._infer), sum(compute) / 1000)
        return Performance(
            images=self._images,
            rows=tuple(self._rows),
            compute_ms=compute,
            h2d_ms=h2d,
            d2h_ms=d2h,
            infer_s=seconds,
            total_s=time.perf_counter() - self._start,
        )

    def _device_times(self) -> Times:
        if not isinstance(self.runner, TimedRunner):
            return ([], [], [])
        times = self.runner.device_times
        return (times.h2d_ms, times.compute_ms, times.d2h_ms)


Array = npt.NDArray[Any]


@dataclass(frozen=True)
class InferSettings:
    """
    How files are run: images a batch (None: the model's own, or 1), runs of each batch.

    *warmup* runs of the first batch come before and are not counted.
    """

    batch_size: int | None = None
    loop: int = 1
    warmup: int = 1
    host_threads: int = 2


def infer_files(
    runner: Runner,
    inputs: InputFiles,
    writer: ResultWriter | None,
    settings: InferSettings,
    advance: Callable[[int], None] = lambda _: None,
) -> Performance:
    """
    Run *inputs* through the open *runner*; save the outputs of each by *writer*, if there is one.

    Raises `FeedError` where the model takes other inputs, and what reading, running and writing
    raise.  A batch's padding is never saved.
    """
    info = only_input(runner.inputs)
    check_fits(inputs, info)
    size = choose_batch_size(runner, settings.batch_size)
    batches = [inputs.files[i : i + size] for i in range(0, len(inputs.files), size)]
    order = [output.name for output in runner.outputs]
    with ThreadPoolExecutor(settings.host_threads, "effd0") as pool:
        try:
            read = inputs.read
            _warm_up(runner, stacked([read(file) for file in batches[0]], info), settings.warmup)
            clock = Clock(runner)
            feeds = _feeds(pool, inputs, batches, info, settings.loop, clock)
            writing: list[Future[None]] = []
            for batch, outputs in clock.timed(feeds, batches, settings.loop):
                for future in writing:
                    future.result()
                writing = [] if writer is None else _save(pool, writer, batch, outputs, order)
                advance(len(batch))
            for future in writing:
                future.result()
            return clock.performance()
        finally:
            pool.shutdown(cancel_futures=True)


def infer_nothing(
    runner: Runner, writer: ResultWriter | None, settings: InferSettings
) -> Performance:
    """
    Run zeros through the open *runner*, ``settings.loop`` times: what a batch takes, no files.

    Where there is a *writer*, it saves the last outputs as ``pure_infer_data_{i}``.
    """
    info = only_input(runner.inputs)
    size = choose_batch_size(runner, settings.batch_size)
    if None in info.shape[1:]:
        raise FeedError(f"{info.name} is {info}, but only its batch may be free; give --input")
    shape = [size, *(side for side in info.shape[1:] if side is not None)]
    feed = {info.name: np.zeros(shape, info.dtype)}
    _warm_up(runner, feed, settings.warmup)
    clock = Clock(runner)
    batch = (Path(PURE),) * size
    feeds = (feed for _ in range(settings.loop))
    ((_, outputs),) = deque(clock.timed(feeds, [batch] * settings.loop, 1), maxlen=1)
    performance = clock.performance()
    if writer is not None:
        order = [output.name for output in runner.outputs]
        writer.name(PURE, len(order), None)
        writer.save(PURE, outputs, order)
    return performance


def check_fits(inputs: InputFiles, info: TensorInfo) -> None:
    """Raise `FeedError` unless *inputs*, or their values in another float, are what *info* asks."""
    alike = inputs.dtype.kind == info.dtype.kind
    sides = info.shape[1:]
    fits = len(sides) == len(inputs.shape) and all(
        side in (None, of) for side, of in zip(sides, inputs.shape, strict=True)
    )
    if not (alike and fits):
        raise FeedError(
            f"inputs are {inputs.dtype} {inputs.shape}, but the model's {info.name} is {info}; "
            "preprocess for this model, or choose the model that they were made for"
        )


def _warm_up(runner: Runner, feed: Tensors, runs: int) -> None:
    for _ in range(runs):
        runner.infer(feed)


def _feeds(
    pool: ThreadPoolExecutor,
    inputs: InputFiles,
    batches: Sequence[Sequence[Path]],
    info: TensorInfo,
    loop: int,
    clock: Clock,
) -> Iterator[Tensors]:
    """Each batch *loop* times, the next one being read; what is waited for is noted."""
    reading: deque[list[Future[Array]]] = deque()
    for index in range(len(batches)):
        start = time.perf_counter()
        while len(reading) < min(2, len(batches) - index):
            ahead = batches[index + len(reading)]
            reading.append([pool.submit(inputs.read, file) for file in ahead])
        feed = stacked([future.result() for future in reading.popleft()], info)
        clock.reading += time.perf_counter() - start
        for _ in range(loop):
            yield feed


def _save(
    pool: ThreadPoolExecutor,
    writer: ResultWriter,
    batch: Sequence[Path],
    outputs: Tensors,
    order: Sequence[str],
) -> list[Future[None]]:
    saving = []
    for row, file in enumerate(batch):
        heads = {name: outputs[name][row : row + 1] for name in order}
        writer.name(file.stem, len(order), file)
        saving.append(pool.submit(writer.save, file.stem, heads, order))
    return saving


@dataclass(frozen=True)
class InferJob:
    """
    Everything that an inference depends on.

    Without *inputs* zeros are run; without *results*, the folder to write, nothing is kept.
    *args* are the words of the command, for the summary.
    """

    choice: ModelChoice
    inputs: Path | None = None
    results: Path | None = None
    settings: InferSettings = field(default_factory=InferSettings)
    outfmt: str = "BIN"
    overwrite: bool = False
    args: tuple[str, ...] = ()


def run_infer_job(job: InferJob, open_progress: OpenProgress) -> Performance:
    """Run *job*; raise what its stages raise."""
    # What can be known to be wrong is said before anything is opened.
    job.choice.checked_runner()
    if job.results is not None:
        check_free(job.results, overwrite=job.overwrite)
    inputs = None if job.inputs is None else open_inputs(job.inputs, job.choice.spec)
    with contextlib.ExitStack() as stack:
        with open_progress("opening the model", 1) as advance:
            runner, path = stack.enter_context(job.choice.opened(job.settings.batch_size))
            advance(1)
        writer = None
        if job.results is not None:
            whole = results_whole(job.results, job.outfmt, overwrite=job.overwrite)
            writer = stack.enter_context(whole)
        if inputs is None:
            performance = infer_nothing(runner, writer, job.settings)
        else:
            with open_progress("inferring", len(inputs.files)) as advance:
                performance = infer_files(runner, inputs, writer, job.settings, advance)
        if writer is not None:
            size = choose_batch_size(runner, job.settings.batch_size)
            summary = summary_of(job, runner.description, path, inputs, size, performance)
            writer.close(summary, None if inputs is None else inputs.manifest)
    return performance


def summary_of(
    job: InferJob,
    runner: str,
    model: Path,
    inputs: InputFiles | None,
    batch_size: int,
    performance: Performance,
) -> dict[str, Any]:
    """
    What ais_bench's summary says but for its files, and more under a key of our own.

    *runner* describes what computed, in batches of *batch_size*; *model* is the file that it ran.
    """
    manifest = None if inputs is None else inputs.manifest
    return {
        "args": list(job.args),
        **performance.ais_bench_summary(),
        "pid": os.getpid(),
        "effd0": {
            "runner": runner,
            "model": None if job.choice.model is None else str(job.choice.model),
            "checkpoint": None if job.choice.checkpoint is None else str(job.choice.checkpoint),
            "model_sha256": sha256(model),
            "manifest_sha256": None if manifest is None else manifest.sha256,
            "images": performance.images,
            "images_per_second": performance.images_per_second,
            "images_per_second_with_files": performance.images_per_second_with_files,
            "infer_s": performance.infer_s,
            "total_s": performance.total_s,
            "batch_size": batch_size,
            "settings": asdict(job.settings),
            "spec": asdict(job.choice.spec),
        },
    }
