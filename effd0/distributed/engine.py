"""Images, or files of inputs, through worker processes: an engine of `evaluation`."""

import contextlib
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from ..data.coco import Dataset, Sample, check_images, labelled
from ..data.remote import localized, url_of
from ..detection.postprocess import Detections
from ..errors import ImageError, OutputError, require_all
from ..evaluation import engines, infer
from ..evaluation.pipeline import StageTimes, run_dataset
from ..progress import OpenProgress
from ..runners.base import Shapes, only_input, shapes_of
from ..spec import ModelSpec
from ..tensors.inputs import InputFiles
from ..tensors.writer import ResultWriter
from .dispatch import Dispatcher
from .pool import Pool, accelerator, check_pool
from .ray_cluster import Cluster, started
from .worker import Worker, open_on


@dataclass(frozen=True)
class RayEngine(engines.ModelEngine):
    """
    Runs *choice* on the workers of *pool*; what it finds is what one process finds.

    Without a *cluster* that runs, Ray is started, or joined, for the time that the engine is open.
    """

    pool: Pool
    batch_size: int | None = None
    cluster: Cluster | None = None
    on_workers: ClassVar[bool] = True

    def check(self) -> None:
        """Raise as `ModelChoice.checked_runner`, and `RunnerError` for what workers cannot run."""
        if self.cluster is None:
            require_all(self.choice.needs() | {"ray": "ray"})
        check_pool(self.pool, {self.choice.checked_runner(): self.choice.options})

    @contextlib.contextmanager
    def open(
        self, dataset: Dataset | None, host_threads: int, open_progress: OpenProgress
    ) -> Iterator[engines.OpenEngine]:
        """Start the workers; raise what opening the model raises in all of them."""
        # Broken images show when workers read them.
        runner, spec, options = self.choice.checked_runner(), self.choice.spec, self.choice.options
        spec = spec if dataset is None else labelled(spec, dataset)
        kind, cluster = accelerator(runner, options), self.cluster
        with contextlib.ExitStack() as stack:
            with open_progress("preparing the model", 1) as advance:
                file = stack.enter_context(self.choice.file(self.batch_size))
                advance(1)
            if cluster is None:
                address = self.pool.address
                what = "starting Ray" if address is None else f"joining Ray at {address}"
                with open_progress(what, 1) as advance:
                    cluster = stack.enter_context(started(self.pool, kind))
                    advance(1)
            elif kind is None:
                cluster = cluster.on_cpu()
            opens, data = partial(open_on, runner, spec, options), cluster.share(file.read_bytes())
            made = Dispatcher(cluster, opens, file.name, data, self.batch_size)
            workers = stack.enter_context(made)
            with open_progress("opening the model", 1) as advance:
                opened = workers.open()
                advance(1)
            description = f"{opened.description}, {self.pool.workers} workers"
            settings = self.settings(file, opened.batch_size, spec)
            detect = partial(detect_by, workers, partial(detect_unit, spec, host_threads), settings)
            infers, stages = partial(infer_by, workers, settings), workers.stages.latencies
            yield engines.OpenEngine(spec, description, settings, detect, stages, infers)


def detect_by(
    workers: Dispatcher,
    work: Callable[..., list[Detections]],
    settings: dict[str, Any],
    samples: Sequence[Sample],
) -> Generator[tuple[Sample, Detections]]:
    """
    Yield each of *samples* with its detections, in the batches of one process.

    Raises one error at the end for all images that could not be run.
    """
    # Wherever a worker stands, a path must lead to the same file; a URL does.
    here = [
        replace(one, path=one.path.absolute()) if url_of(one.path) is None else one
        for one in samples
    ]
    done = workers.run(
        here,
        work,
        name=lambda sample: str(sample.image_id),
        remedy="try each by itself with 'effd0 detect', and mend it or take it out of the dataset",
        kept="what was done stays where --out is given; --resume then does the rest",
    )
    for unit, reply in done:
        yield from zip(unit.items, reply.result, strict=True)
    settings["pool"] = workers.summary()


def infer_by(
    workers: Dispatcher,
    settings: dict[str, Any],
    run: Callable[..., infer.Performance],
    inputs: InputFiles | None,
    writer: ResultWriter | None,
    job: infer.InferJob,
    advance: Callable[[int], None],
) -> tuple[infer.Performance, Shapes]:
    """See `OpenEngine.infer`; raise one error at the end for all files that were not run."""
    assert inputs is not None, "workers share files"
    infer.check_fits(inputs, only_input(workers.open().inputs))
    here = None if writer is None else replace(writer, place=writer.place.absolute())
    manifest, entries = inputs.manifest, tuple[Any, ...]([None] * len(inputs.files))
    if manifest is not None:  # its images are in the order of the files
        entries, manifest = manifest.images, msgspec.structs.replace(manifest, images=())
    bare = replace(inputs, files=(), manifest=manifest)
    done = workers.run(
        [(f.absolute(), entry) for f, entry in zip(inputs.files, entries, strict=True)],
        partial(infer_unit, run, job, bare, here),
        name=lambda item: str(item[0].name),
        remedy="try each by itself with 'effd0 infer --input', and write it again or leave it out",
        kept="no result is kept, since a folder of results is whole or not there",
    )
    parts, outputs = dict[int, tuple[str, infer.Performance]](), Shapes()
    for unit, reply in done:
        performance, outputs = reply.result
        parts[unit.first] = reply.worker, performance
        advance(len(unit.items))
        if writer is not None:
            files = [writer.path(f.stem, n) for f, _ in unit.items for n in range(len(outputs))]
            if lost := [file for file in files if not file.is_file()]:
                raise OutputError(
                    f"{reply.worker} wrote {lost[0].name} to {lost[0].parent}, but it is not "
                    "there on the driver's host; give --output a folder that all hosts share"
                )
    summary = settings["pool"] = workers.summary()
    in_order = [part for _, part in sorted(parts.items())]
    return infer.together(in_order, summary["seconds"], workers.cluster.pool.workers), outputs


def detect_unit(
    spec: ModelSpec, host_threads: int, worker: Worker, items: Sequence[Sample], stages: StageTimes
) -> list[Detections]:
    """The detections of *items* by *worker*; raise `ImageError` for all broken ones."""
    with localized(items, Path(tempfile.gettempdir())) as samples:
        stream = run_dataset(
            samples,
            worker.runner,
            spec,
            batch_size=worker.batch_size,
            host_threads=host_threads,
            times=stages,
            device=worker.device,
        )
        try:
            with contextlib.closing(stream):
                return [detections for _, detections in stream]
        except ImageError:
            for _ in check_images(samples):
                pass
            raise


def infer_unit(
    run: Callable[..., infer.Performance],
    job: infer.InferJob,
    inputs: InputFiles,
    writer: ResultWriter | None,
    worker: Worker,
    items: Sequence[tuple[Path, Any]],
    stages: StageTimes,
) -> tuple[infer.Performance, Shapes]:
    """
    What *items* took *worker*, files with their entries in the manifest of *inputs*, if any.

    Also the shape of each output by name.  Each runner is warmed up by the first batch that it
    gets.
    """
    del stages  # batches are timed, as ais_bench does, and not images
    if writer is not None and not writer.place.is_dir():
        raise OutputError(
            f"{writer.place} is not there on a worker's host; "
            "give --output a folder that all hosts share"
        )
    files, entries = zip(*items, strict=True)
    manifest = inputs.manifest
    if manifest is not None:
        manifest = msgspec.structs.replace(manifest, images=entries)
    part = replace(inputs, files=files, manifest=manifest)
    with worker.device:
        mine = replace(job, warmup=0 if worker.warm else job.warmup)
        performance = run(worker.runner, part, writer, mine)
        worker.warm = True
        return performance, shapes_of(worker.runner.outputs)
