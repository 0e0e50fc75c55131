"""One inference over files, or over zeros: results are written, and times are ais_bench's."""

import contextlib
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FeedError, RunnerError
from ..progress import OpenProgress
from ..runners import base
from ..tensors.inputs import InputFiles, Manifest, open_inputs
from ..tensors.writer import PURE, ResultWriter, check_free, results_whole
from ..types import OUTPUT, OVERWRITE, Tensors, option
from .engines import ModelEngine, OpenEngine
from .pipeline import ahead, timed

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
    One run after its warm-up, in milliseconds per batch and seconds in all.

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
        """Real images per second of ``infer``, copies to and from the device included."""
        return self.images / self.infer_s

    @property
    def images_per_second_with_files(self) -> float:
        """Real images per second, files read and written."""
        return self.images / self.total_s

    def lines(self) -> list[str]:
        """Both figures for the terminal, and why they differ."""
        batch, latency = float(np.mean(self.rows)), float(np.mean(self.compute_ms))
        formula = f"1000*batchsize.mean({batch:g})/NPU_compute_time.mean({latency:.4f})"
        both = self.images_per_second, self.images_per_second_with_files
        one = "" if self.workers == 1 else f" on one of {self.workers} workers"
        return [
            f"[INFO] throughput {formula}: {self.ais_bench_throughput:.4f}",
            "images/s {:.2f}, copies included; {:.2f} with the files".format(*both),
            f"the first, as ais_bench counts, is of computing alone{one}, and padding counts too",
        ]

    def ais_bench_summary(self) -> dict[str, Any]:
        """The figures under the keys of ais_bench's summary; null where nothing was measured."""
        names = ("NPU_compute_time", "H2D_latency", "D2H_latency")
        summary: dict[str, Any] = {}
        for name, ms in zip(names, (self.compute_ms, self.h2d_ms, self.d2h_ms), strict=True):
            known = {key: float(of(ms)) if ms else None for key, of in _STATISTICS.items()}
            summary[name] = {**known, "count": len(ms)}
        listed = {"npu_compute_time_list": list(self.compute_ms)}
        return {**summary, **listed, "throughput": self.ais_bench_throughput}


def together(parts: Sequence[tuple[str, Performance]], seconds: float, workers: int) -> Performance:
    """*parts* of one run, each with the worker that did it; it took so many *seconds* in all."""
    infer_s = dict.fromkeys((worker for worker, _ in parts), 0.0)
    for worker, part in parts:
        infer_s[worker] += part.infer_s
    rows, compute_ms, h2d_ms, d2h_ms = (
        tuple(chain.from_iterable(getattr(part, name) for _, part in parts))
        for name in ("rows", "compute_ms", "h2d_ms", "d2h_ms")
    )
    images = sum(part.images for _, part in parts)
    slowest = max(infer_s.values())
    return Performance(images, rows, compute_ms, h2d_ms, d2h_ms, slowest, seconds, workers)


@dataclass(frozen=True)
class InferJob:
    """
    The files that an inference runs, how, and where results go.

    Without *inputs* zeros are run; without *results*, the folder to write, nothing is kept.
    A batch has *batch_size* images, the model's own number or 1 where that is None, and is run
    *loop* times; *warmup* runs of the first batch come before and are not counted.  *args* are the
    words of the command, for the summary.
    """

    inputs: Path | None = None
    results: Path | None = None
    overwrite: bool = OVERWRITE
    batch_size: int | None = option("Images per batch.", shown="the model's, or 1")
    loop: int = option("Runs of each batch; the last is saved.", default=1)
    warmup: int = option("Warm-up runs, not timed.", default=1, min=0)
    outfmt: str = option(
        "Format of the results.", default="BIN", choices=("BIN", "NPY"), panel=OUTPUT
    )
    host_threads: int = 2
    args: tuple[str, ...] = ()


def infer_files(
    runner: base.Runner,
    inputs: InputFiles | None,
    writer: ResultWriter | None,
    job: InferJob,
    advance: Callable[[int], None] = lambda _: None,
) -> Performance:
    """
    Run *inputs*, or a batch of zeros, through the open *runner*; save the outputs by *writer*.

    A batch's padding is never saved; the outputs of zeros are, as ``pure_infer_data_{i}``.
    Raises `FeedError` where the model takes other inputs, and what reading, running and writing
    raise.
    """
    info, loop = base.only_input(runner.inputs), job.loop
    size, fixed = base.choose_batch_size(runner, job.batch_size), base.batch_size_of(runner.inputs)
    files, read = _zeros(info, size) if inputs is None else (inputs.files, inputs.checked)
    if inputs is not None:
        check_fits(inputs, info)
    batches = [files[i : i + size] for i in range(0, len(files), size)]
    order, infer_s = [output.name for output in runner.outputs], list[float]()
    device = runner.device_times or base.DeviceTimes()
    with ThreadPoolExecutor(job.host_threads, "effd0") as pool:
        try:
            first = base.stacked([read(file) for file in batches[0]], info)
            for _ in range(job.warmup):
                runner.infer(first)
            warm, start = len(device.compute_ms), time.perf_counter()
            writing: list[Future[None]] = []
            for batch, outputs in _timed(pool, runner, batches, read, loop, infer_s):
                while writing:
                    writing.pop().result()
                # Of zeros, which are of no file, all rows go under one name.
                parts = [(file.stem, slice(row, row + 1)) for row, file in enumerate(batch)]
                for stem, rows in parts if inputs is not None else [(PURE, slice(None))]:
                    if writer is not None:
                        heads = {name: outputs[name][rows] for name in order}
                        writing.append(pool.submit(writer.save, stem, heads, order))
                advance(len(batch))
            while writing:
                writing.pop().result()
            total_s = time.perf_counter() - start
        finally:
            pool.shutdown(cancel_futures=True)
    lists = (device.compute_ms, device.h2d_ms, device.d2h_ms)
    compute, h2d, d2h = (tuple(times[warm:]) for times in lists)
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
    runner: base.Runner,
    batches: Sequence[Sequence[Path]],
    read: Callable[[Path], Any],
    loop: int,
    infer_s: list[float],
) -> Iterator[tuple[Sequence[Path], Tensors]]:
    """Each batch with its last outputs; *infer_s* is given the seconds of each of its runs."""

    def feeds() -> Iterator[tuple[tuple[Sequence[Path], bool], Tensors]]:
        """Each batch, as often as it runs; the next one is being read meanwhile."""
        reading = ((batch, [pool.submit(read, file) for file in batch]) for batch in batches)
        info = base.only_input(runner.inputs)
        for batch, futures in ahead(reading):
            feed = base.stacked([future.result() for future in futures], info)
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


def check_fits(inputs: InputFiles, info: base.TensorInfo) -> None:
    """Raise `FeedError` unless *inputs*, or their values in another float, are what *info* asks."""
    row = base.laid_out(np.zeros((1, *inputs.shape), info.dtype), info)
    if inputs.dtype.kind != info.dtype.kind or not info.takes(row):
        raise FeedError(
            f"inputs are {inputs.dtype} {inputs.shape}, but the model's {info.name} is {info}; "
            "preprocess for this model, or choose the model that they were made for"
        )


def _zeros(info: base.TensorInfo, count: int) -> tuple[tuple[Path, ...], Callable[[Path], Any]]:
    """Stand-ins for *count* files of zeros, and what reads them."""
    sides = [side for side in info.shape[1:] if side is not None]
    if len(sides) < len(info.shape) - 1:
        raise FeedError(f"{info.name} is {info}, but only its batch may be free; give --input")
    row = np.zeros(sides, info.dtype)
    return (Path(PURE),) * count, lambda _: row


def run_infer_job(
    job: InferJob, engine: ModelEngine, open_progress: OpenProgress
) -> tuple[Performance, OpenEngine]:
    """
    Run *job* on *engine*: what it took, and what ran it, which is closed.

    Raises what its stages raise, what can be known early before anything is opened.
    """
    engine.check()
    unshared = {
        "workers share the files of --input, but none is given; give --input": job.inputs is None,
        f"--loop is {job.loop}, but workers run each batch once; leave --loop out": job.loop > 1,
    }
    for message, found in unshared.items():
        if engine.on_workers and found:
            raise RunnerError(f"{message}, or leave --workers and --devices out")
    if job.results is not None:
        check_free(job.results, overwrite=job.overwrite)
    inputs = None if job.inputs is None else open_inputs(job.inputs, engine.choice.spec)
    files = () if inputs is None else inputs.files
    with contextlib.ExitStack() as stack:
        opened = engine.open(None, job.host_threads, open_progress)
        source, writer = stack.enter_context(opened), None
        if job.results is not None:
            whole = results_whole(job.results, job.outfmt, overwrite=job.overwrite)
            writer = stack.enter_context(whole)
        sized = replace(job, batch_size=source.settings["batch_size"])
        with open_progress("inferring", len(files) or source.settings["batch_size"]) as advance:
            assert source.infer is not None, "a model runs"
            performance, outputs = source.infer(infer_files, inputs, writer, sized, advance)
        if writer is not None:
            for file in files or [None]:
                writer.name(PURE if file is None else file.stem, len(outputs), file)
            manifest = None if inputs is None else inputs.manifest
            writer.close(_summary(job, source, manifest, performance, outputs), manifest)
    return performance, source


def _summary(
    job: InferJob,
    source: OpenEngine,
    manifest: Manifest | None,
    performance: Performance,
    outputs: base.Shapes,
) -> dict[str, Any]:
    """What ais_bench's summary says but for its files, and more under a key of our own."""
    how = ("batch_size", "loop", "warmup", "host_threads")
    rates = ("images_per_second", "images_per_second_with_files")
    figures = ("images", *rates, "infer_s", "total_s")
    own = ("model", "checkpoint", "model_sha256", "batch_size", "spec", "pool")
    return {
        "args": list(job.args),
        **performance.ais_bench_summary(),
        "pid": os.getpid(),
        "effd0": {
            "runner": source.description,
            "manifest_sha256": None if manifest is None else manifest.sha256,
            "outputs": outputs,
            **{name: getattr(performance, name) for name in figures},
            "settings": {name: getattr(job, name) for name in how},
            **{key: source.settings[key] for key in own if key in source.settings},
        },
    }
