"""The detections of a data set by worker processes: an engine of `evaluation.evaluate`."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data.coco import Dataset, Sample, check_images
from ..data.preprocess import ModelInput
from ..data.remote import localized, url_of
from ..detection.postprocess import Detections
from ..errors import ImageError
from ..evaluation.engines import ModelEngine, choice_settings
from ..evaluation.pipeline import StageTimes, run_dataset
from ..io import sha256
from ..progress import OpenProgress
from ..runners.base import DetectingRunner
from ..spec import ModelSpec
from ..timing import Latency
from ..types import Tensors
from .dispatch import Dispatcher, cut, opened_workers
from .pool import Pool, check_pool
from .ray_cluster import Cluster
from .worker import Opened, Worker


@dataclass(frozen=True)
class RayEngine(ModelEngine):
    """
    Runs *choice* on the workers of *pool*; detections are those of one process.

    Without a *cluster* that runs, Ray is started, or joined, for the time that the engine is open.
    """

    pool: Pool
    batch_size: int | None = None
    cluster: Cluster | None = None
    reads_urls: bool = True

    def check(self) -> None:
        """Raise `RunnerError` for a choice that contradicts itself, or that workers cannot run."""
        check_pool(self.pool, self.choice.checked_runner(), self.choice.options)

    @contextlib.contextmanager
    def open(
        self, dataset: Dataset, root: Path, host_threads: int, open_progress: OpenProgress
    ) -> Iterator[RaySource]:
        """Start the workers; raise what opening the model raises in all of them."""
        del dataset, root  # broken images show when workers read them
        opening = opened_workers(
            self.pool, self.choice, self.batch_size, open_progress, self.cluster
        )
        with opening as (workers, path):
            with open_progress("opening the model", 1) as advance:
                opened = workers.open()
                advance(1)
            digest = sha256(path)
            settings = choice_settings(self.choice, digest, opened.batch_size)
            yield RaySource(self, workers, opened, digest, settings, host_threads)


@dataclass
class RaySource:
    """Open workers; see `evaluation.engines.Source`."""

    engine: RayEngine
    workers: Dispatcher
    opened: Opened
    model_sha256: str
    settings: dict[str, Any]
    host_threads: int

    @property
    def description(self) -> str:
        """What computes, and how many of it."""
        return f"{self.opened.description}, {self.engine.pool.workers} workers"

    @property
    def batch_size(self) -> int:
        """Images a batch."""
        return self.opened.batch_size

    def detect(self, samples: Sequence[Sample]) -> Generator[tuple[Sample, Detections]]:
        """
        Yield each of *samples* with its detections, in the batches of one process.

        Raises one error at the end for all images that could not be run.
        """
        work = DetectWork(self.engine.spec, self.batch_size, self.host_threads)
        # Wherever a worker stands, a path must lead to the same file; a URL does.
        here = [
            replace(one, path=one.path.absolute()) if url_of(one.path) is None else one
            for one in samples
        ]
        units = cut(here, self.batch_size, self.engine.pool.workers)
        kept = "what was done stays where --out is given; --resume then does the rest"
        for unit, reply in self.workers.run(units, work, kept):
            yield from zip(unit.items, unpacked(reply.result), strict=True)
        self.settings["pool"] = self.workers.summary()

    def stages(self) -> dict[str, Latency]:
        """Latency per image of each stage, per batch of inference."""
        return self.workers.tally.latencies()


@dataclass(frozen=True)
class DetectWork:
    """How workers detect in the samples of a unit: by the stages of one process."""

    spec: ModelSpec
    batch_size: int
    host_threads: int

    remedy = "try each by itself with 'effd0 detect', and mend it or take it out of the dataset"

    def named(self, items: Sequence[Sample]) -> str:
        """The ids of the images."""
        return ", ".join(str(sample.image_id) for sample in items)

    def run(self, worker: Worker, items: Sequence[Sample], stages: StageTimes) -> tuple[Any, ...]:
        """The `packed` detections of *items*; raise `ImageError` for all broken ones."""
        kind = _DetectingTurn if isinstance(worker.runner, DetectingRunner) else _Turn
        turn: Any = kind(worker)
        with localized(items, Path(tempfile.gettempdir())) as samples:
            stream = run_dataset(
                samples,
                turn,
                self.spec,
                batch_size=self.batch_size,
                host_threads=self.host_threads,
                times=stages,
            )
            try:
                with contextlib.closing(stream):
                    found = [detections for _, detections in stream]
            except ImageError:
                for _ in check_images(samples):
                    pass
                raise
        stages.inference[0] -= turn.waited_s
        return packed(found)


class _Turn:
    """
    The runner of *worker* for one unit: it has the device once its first batch is read.

    The other call's unit has it until then, so that the device does not wait for images.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker, self.waited_s = worker, 0.0
        runner = worker.runner
        self.description, self.inputs, self.outputs = (
            runner.description,
            runner.inputs,
            runner.outputs,
        )

    def infer_stream(self, feeds: Iterable[Tensors]) -> Generator[Tensors]:
        """Yield the outputs of each feed."""
        with self._worker.turn(feeds) as (runner, mine, self.waited_s):
            yield from runner.infer_stream(mine)


class _DetectingTurn(_Turn):
    def detect_stream(self, batches: Iterable[Sequence[ModelInput]]) -> Generator[list[Detections]]:
        """Yield the detections of each batch."""
        with self._worker.turn(batches) as (runner, mine, self.waited_s):
            yield from runner.detect_stream(mine)


def packed(found: Sequence[Detections]) -> tuple[Any, ...]:
    """*found* as few arrays: how many in each image, then boxes, scores and classes of all."""
    counts = np.array([len(one.scores) for one in found], np.int32)
    return counts, *(
        np.concatenate([getattr(one, name) for one in found])
        for name in ("boxes", "scores", "classes")
    )


def unpacked(arrays: tuple[Any, ...]) -> list[Detections]:
    """What `packed` was made of, in memory of this process."""
    counts, *columns = arrays
    ends = np.cumsum(counts)[:-1]
    parts = [[part.copy() for part in np.split(column, ends)] for column in columns]
    return [Detections(*one) for one in zip(*parts, strict=True)]
