"""
The detections of a data set by an open runner, kept in a run directory if there is one.

`effd0 evaluate` and the test suite's gate run images in this way and in no other.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass

from .dataset import Dataset
from .identity import UnderTest, image_sha256, images_sha256, run_identity
from .measure import Latency
from .pipeline import StageTimes, run_dataset
from .postprocess import Detections
from .progress import OpenProgress, silent
from .rundir import RunDirectory
from .runners.base import Runner, TimedRunner


@dataclass(frozen=True)
class Detected:
    """What a model found, by image id; *images* of it in *seconds*, the rest was there already."""

    found: dict[int, Detections]
    images: int
    seconds: float
    stages: dict[str, Latency]
    runner: str
    model_sha256: str
    batch_size: int

    @property
    def images_per_second(self) -> float:
        """Of the images that were run: of those that were there already, this run knows no time."""
        return self.images / self.seconds


def detect_dataset(
    dataset: Dataset,
    runner: Runner,
    under_test: UnderTest,
    *,
    batch_size: int,
    place: RunDirectory | None,
    host_threads: int = 2,
    open_progress: OpenProgress = silent,
) -> Detected:
    """
    Detect in all images of *dataset* that *place* does not hold yet; *runner* is open.

    Each image's detections are written there as they come.  Raises what the stages raise, and
    `ResultError` where *place* was begun with something else.
    """
    found: dict[int, Detections] = {}
    if place is not None:
        identity = run_identity(under_test, dataset, runner.description, batch_size=batch_size)
        identity["images_sha256"] = images_sha256(map(image_sha256, dataset.samples))
        found = place.start(identity, dataset.image_ids, batch_size)
    samples = dataset.samples[len(found) :]
    times, start = StageTimes(), time.perf_counter()
    stream = run_dataset(
        samples,
        runner,
        under_test.spec,
        batch_size=batch_size,
        host_threads=host_threads,
        times=times,
    )
    with (
        contextlib.closing(stream),
        open_progress("detecting", len(samples)) as advance,
    ):
        for sample, detections in stream:
            if place is not None:
                place.append(sample.image_id, detections)
            found[sample.image_id] = detections
            advance(1)
    seconds = time.perf_counter() - start
    stages = times.latencies() if samples else {}
    if isinstance(runner, TimedRunner):
        stages |= runner.device_times.latencies()
    return Detected(
        found=found,
        images=len(samples),
        seconds=seconds,
        stages=stages,
        runner=runner.description,
        model_sha256=under_test.model_sha256,
        batch_size=batch_size,
    )
