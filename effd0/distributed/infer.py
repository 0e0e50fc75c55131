"""One inference over files by worker processes, which write results into the folder of all."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from ..errors import OutputError, RunnerError
from ..evaluation.infer import (
    InferJob,
    InferSettings,
    Performance,
    check_fits,
    infer_files,
    summary_of,
)
from ..evaluation.pipeline import StageTimes
from ..progress import OpenProgress
from ..runners.base import only_input
from ..tensors.inputs import InputFiles, open_inputs
from ..tensors.writer import ResultWriter, check_free, results_whole
from .dispatch import cut, opened_workers
from .pool import Pool, check_pool
from .worker import Worker


@dataclass(frozen=True)
class InferWork:
    """
    How workers infer files, and where results go: as *writer* does, if there is one.

    Items are files with their entries in the manifest of *inputs*, if there is one.  Each runner is
    warmed up by the first batch that it gets.
    """

    batch_size: int
    settings: InferSettings
    inputs: InputFiles
    writer: ResultWriter | None

    remedy = "try each by itself with 'effd0 infer --input', and write it again or leave it out"

    def named(self, items: Sequence[tuple[Path, Any]]) -> str:
        """The names of the files."""
        return ", ".join(file.name for file, _ in items)

    def run(
        self, worker: Worker, items: Sequence[tuple[Path, Any]], stages: StageTimes
    ) -> tuple[int, Performance]:
        """How many outputs each of *items* has, and what they took; as `infer_files`."""
        del stages  # batches are timed, as ais_bench does, and not images
        if self.writer is not None and not self.writer.place.is_dir():
            raise OutputError(
                f"{self.writer.place} is not there on a worker's host; "
                "give --output a folder that all hosts share"
            )
        files, entries = zip(*items, strict=True)
        manifest = self.inputs.manifest
        if manifest is not None:
            manifest = msgspec.structs.replace(manifest, images=entries)
        inputs = replace(self.inputs, files=files, manifest=manifest)
        # The names of results are for the driver to note, in order.
        writer = None if self.writer is None else replace(self.writer, filesinfo={})
        with worker.device:
            warmup = 0 if worker.warm else self.settings.warmup
            settings = replace(self.settings, batch_size=self.batch_size, warmup=warmup)
            performance = infer_files(worker.runner, inputs, writer, settings)
            worker.warm = True
            return len(worker.runner.outputs), performance


def infer_on_pool(
    job: InferJob, pool: Pool, open_progress: OpenProgress
) -> tuple[Performance, dict[str, Any]]:
    """
    Run *job* on *pool*: what it took, all workers together, and what each of them did.

    The results are those of one process.  Raises what its stages raise, and one error at the end
    for all files that could not be run.
    """
    check_pool(pool, {job.choice.checked_runner(): job.choice.options})
    inputs = _inputs(job)
    if job.results is not None:
        check_free(job.results, overwrite=job.overwrite)
    with contextlib.ExitStack() as stack:
        size = job.settings.batch_size
        workers, path = stack.enter_context(opened_workers(pool, job.choice, size, open_progress))
        opened = workers.open()
        check_fits(inputs, only_input(opened.inputs))
        writer = shared = None
        if job.results is not None:
            whole = results_whole(job.results, job.outfmt, overwrite=job.overwrite)
            writer = stack.enter_context(whole)
            shared = replace(writer, place=writer.place.absolute())
        files = [file.absolute() for file in inputs.files]
        manifest, entries = inputs.manifest, list[Any]([None] * len(files))
        if manifest is not None:  # its images are in the order of the files
            entries = list(manifest.images)
            manifest = msgspec.structs.replace(manifest, images=())
        bare = replace(inputs, files=(), manifest=manifest)
        work = InferWork(opened.batch_size, job.settings, bare, shared)
        units = cut(list(zip(files, entries, strict=True)), opened.batch_size, pool.workers)
        parts: dict[int, tuple[str, Performance]] = {}
        advance = stack.enter_context(open_progress("inferring", len(files)))
        outputs = 0
        kept = "no result is kept, since a folder of results is whole or not there"
        for unit, reply in workers.run(units, work, kept):
            outputs, performance = reply.result
            parts[unit.first] = reply.worker, performance
            advance(len(unit.items))
            if writer is not None:
                for file, _ in unit.items:
                    _check_there(writer, file.stem, outputs, reply.worker)
        summary = workers.summary()
        ordered = [part for _, part in sorted(parts.items())]
        performance = together(ordered, workers.tally.seconds, pool.workers)
        if writer is not None:
            for file in inputs.files:
                writer.name(file.stem, outputs, file)
            runner = f"{opened.description}, {pool.workers} workers"
            content = summary_of(job, runner, path, inputs, opened.batch_size, performance)
            content["effd0"]["pool"] = summary
            writer.close(content, inputs.manifest)
    return performance, summary


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


def _inputs(job: InferJob) -> InputFiles:
    """The inputs of *job*; raise `RunnerError` where there is nothing to deal out."""
    if job.inputs is None:
        raise RunnerError(
            "workers share the files of --input, but none is given; give --input, or leave "
            "--workers and --devices out to run zeros in this process"
        )
    if job.settings.loop != 1:
        raise RunnerError(
            f"--loop is {job.settings.loop}, but workers run each batch once; leave --loop out, "
            "or leave --workers and --devices out to time this process"
        )
    return open_inputs(job.inputs, job.choice.spec)


def _check_there(writer: ResultWriter, stem: str, outputs: int, worker: str) -> None:
    """Raise `OutputError` where a result that *worker* wrote is not to be seen from here."""
    for path in (writer.path(stem, output) for output in range(outputs)):
        if not path.is_file():
            raise OutputError(
                f"{worker} wrote {path.name} to {path.parent}, but it is not there on the "
                "driver's host; give --output a folder that all hosts share"
            )
