"""One inference over files, or over zeros: results are written, and times are ais_bench's."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FeedError, RunnerError
from ..io import sha256
from ..progress import OpenProgress
from ..runners.base import (
    Runner,
    TensorInfo,
    batch_size_of,
    choose_batch_size,
    only_input,
    stacked,
)
from ..tensors.inputs import InputFiles, open_inputs
from ..tensors.writer import PURE, ResultWriter, check_free, results_whole
from ..types import Tensors
from .model import ModelChoice
from .pipeline import timed

_STATISTICS: dict[str, Callable[[Sequence[float]], Any]] = {
    "min": np.min,
    "max": np.max,
    "mean": np.mean,
    "median": np.median,
    "percentile(99%)": lambda samples_ms: np.percentile(samples_ms, 99),
}


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
        measured = {
            "NPU_compute_time": self.compute_ms,
            "H2D_latency": self.h2d_ms,
            "D2H_latency": self.d2h_ms,
        }
        return {
            **{
                name: {
                    **{key: float(of(ms)) if ms else None for key, of in _STATISTICS.items()},
                    "count": len(ms),
                }
                for name, ms in measured.items()
            },
            "npu_compute_time_list": list(self.compute_ms),
            "throughput": self.ais_bench_throughput,
        }


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
    inputs: InputFiles | None,
    writer: ResultWriter | None,
    settings: InferSettings,
    advance: Callable[[int], None] = lambda _: None,
) -> Performance:
    """
    Run *inputs*, or a batch of zeros, through the open *runner*; save the outputs by *writer*.

    A batch's padding is never saved; the outputs of zeros are, as ``pure_infer_data_{i}``.
    Raises `FeedError` where the model takes other inputs, and what reading, running and writing
    raise.
    """
    info, loop = only_input(runner.inputs), settings.loop
    size, fixed = choose_batch_size(runner, settings.batch_size), batch_size_of(runner.inputs)
    files, read = _zeros(info, size) if inputs is None else (inputs.files, inputs.read)
    if inputs is not None:
        check_fits(inputs, info)
    batches = [files[i : i + size] for i in range(0, len(files), size)]
    infer_s: list[float] = []
    with ThreadPoolExecutor(settings.host_threads, "effd0") as pool:
        try:
            first = stacked([read(file) for file in batches[0]], info)
            for _ in range(settings.warmup):
                runner.infer(first)
            warm = _device_times(runner)
            start = time.perf_counter()
            writing: list[Future[None]] = []
            for batch, outputs in _timed(pool, runner, batches, read, loop, infer_s):
                _finish(writing)
                if writer is not None:
                    writing = _save(pool, writer, runner, inputs, batch, outputs)
                advance(len(batch))
            _finish(writing)
            total_s = time.perf_counter() - start
        finally:
            pool.shutdown(cancel_futures=True)
    times = zip(_device_times(runner), warm, strict=True)
    h2d, compute, d2h = (every[len(before) :] for every, before in times)
    compute = compute or tuple(1000 * seconds for seconds in infer_s)
    return Performance(
        images=loop * len(files),
        rows=tuple(fixed or len(batch) for batch in batches for _ in range(loop)),
        compute_ms=compute,
        h2d_ms=h2d,
        d2h_ms=d2h,
        # A streaming runner computes while files are written, too.
        infer_s=max(sum(infer_s), sum(compute) / 1000),
        total_s=total_s,
    )


def _timed(
    pool: ThreadPoolExecutor,
    runner: Runner,
    batches: Sequence[Sequence[Path]],
    read: Callable[[Path], Any],
    loop: int,
    infer_s: list[float],
) -> Iterator[tuple[Sequence[Path], Tensors]]:
    """Each batch with its last outputs; *infer_s* is given the seconds of each of its runs."""
    info = only_input(runner.inputs)

    def feeds() -> Iterator[tuple[tuple[Sequence[Path], bool], Tensors]]:
        """Each batch, as often as it runs; the next one is being read meanwhile."""
        reading: deque[list[Future[Any]]] = deque()
        for index, batch in enumerate(batches):
            for ahead in batches[index + len(reading) : index + 2]:
                reading.append([pool.submit(read, file) for file in ahead])
            feed = stacked([future.result() for future in reading.popleft()], info)
            for again in reversed(range(loop)):
                yield (batch, again == 0), feed

    def run(feeds: Iterable[Tensors]) -> Generator[Tensors]:
        # Batches side by side would each take longer than alone: a runner streams what it times.
        if runner.device_times is not None:
            return runner.infer_stream(feeds)
        return (runner.infer(feed) for feed in feeds)

    with contextlib.closing(timed(run, feeds(), infer_s)) as results:
        for (batch, last), outputs in results:
            rows = {name: tensor.shape[0] for name, tensor in outputs.items()}
            if set(rows.values()) != {len(batch)}:
                raise RunnerError(f"the model gave {rows} rows, but {len(batch)} were fed")
            if last:
                yield batch, outputs


def _finish(writing: Sequence[Future[None]]) -> None:
    for future in writing:
        future.result()


def _save(
    pool: ThreadPoolExecutor,
    writer: ResultWriter,
    runner: Runner,
    inputs: InputFiles | None,
    batch: Sequence[Path],
    outputs: Tensors,
) -> list[Future[None]]:
    """Save the heads of each file of *batch*, or all outputs of zeros under one name."""
    order = [output.name for output in runner.outputs]
    if inputs is None:
        writer.name(PURE, len(order), None)
        return [pool.submit(writer.save, PURE, outputs, order)]
    saving = []
    for row, file in enumerate(batch):
        heads = {name: outputs[name][row : row + 1] for name in order}
        writer.name(file.stem, len(order), file)
        saving.append(pool.submit(writer.save, file.stem, heads, order))
    return saving


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


def _zeros(info: TensorInfo, count: int) -> tuple[tuple[Path, ...], Callable[[Path], Any]]:
    """Stand-ins for *count* files of zeros, and what reads them."""
    sides = [side for side in info.shape[1:] if side is not None]
    if len(sides) < len(info.shape) - 1:
        raise FeedError(f"{info.name} is {info}, but only its batch may be free; give --input")
    row = np.zeros(sides, info.dtype)
    return (Path(PURE),) * count, lambda _: row


def _device_times(runner: Runner) -> tuple[tuple[float, ...], ...]:
    """Milliseconds so far of uploads, of computing, of downloads; empty where none are told."""
    times = runner.device_times
    if times is None:
        return (), (), ()
    return tuple(times.h2d_ms), tuple(times.compute_ms), tuple(times.d2h_ms)


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
            performance = infer_files(runner, None, writer, job.settings)
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
