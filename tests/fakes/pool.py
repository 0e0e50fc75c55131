"""A backend for worker processes: takes its time, and fails as files in a folder tell it to."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from effd0.data.preprocess import ModelInput
from effd0.detection.postprocess import Detections
from effd0.distributed.worker import WorkerModel
from effd0.errors import RunnerError
from effd0.runners.base import Runner
from effd0.types import Tensors

from .runner import FakeRunner


class ToldRunner(FakeRunner):
    """
    A `FakeRunner` that looks into the folder *plan* before each batch.

    A file ``die-*``, ``error-*`` or ``hang-*`` there is taken away, once in all processes, and the
    process ends, a `RunnerError` is raised, or no answer comes.  ``broken-N`` stays: each batch on
    device N fails, and so does opening it.  ``deadly-C`` stays too: a batch with an image of red
    level C ends the process.
    """

    def __init__(self, plan: Path, latency_s: float, number: int | None) -> None:
        super().__init__()
        self.description = "told" if number is None else f"told, device {number}"
        self._plan, self._latency_s, self._number = plan, latency_s, number

    def infer(self, feed: Tensors) -> Tensors:
        """Return the fake's heads, after all that the folder asks for."""
        start = time.perf_counter()
        if self._claimed("die-*"):
            os._exit(1)
        if self._claimed("error-*"):
            raise RunnerError("the device forgot what it was doing")
        if self._claimed("hang-*"):
            time.sleep(3600)
        self.check()
        heads = super().infer(feed)
        for path in self._plan.glob("deadly-*"):
            level = int(path.name.partition("-")[2])
            if any(head[level, 0, 0] > 0 for head in heads["class_p7"]):
                os._exit(1)
        # A device keeps its own time: what the host did meanwhile comes off.
        time.sleep(max(0.0, self._latency_s - (time.perf_counter() - start)))
        return heads

    def check(self) -> None:
        """Raise `RunnerError` where the device is broken."""
        if (self._plan / f"broken-{self._number}").exists():
            raise RunnerError(f"device {self._number} does not answer")

    def _claimed(self, pattern: str) -> bool:
        """Whether this process is the one that took a file of *pattern* away."""
        for path in sorted(self._plan.glob(pattern)):
            try:
                path.unlink()
            except FileNotFoundError:
                continue
            return True
        return False


class ToldDetector(ToldRunner):
    """A `ToldRunner` that goes on to detections: one box, whose class is the image's red level."""

    def detect_stream(self, batches: Iterable[Sequence[ModelInput]]) -> Generator[list[Detections]]:
        """Yield the detections of each batch of pixels, each in the time of the device."""
        for batch in batches:
            start = time.perf_counter()
            found = [_red_box(image) for image in batch]
            time.sleep(max(0.0, self._latency_s - (time.perf_counter() - start)))
            yield found


def _red_box(image: ModelInput) -> Detections:
    level = round(float(image.tensor[0, 0, 0]) / 50)
    box = np.array([[0, 0, *image.image_size]], np.float32)
    return Detections(box, np.array([0.5], np.float32), np.array([level + 1], np.int64))


@dataclass(frozen=True)
class ToldModel(WorkerModel):
    """What each worker opens: a `ToldRunner` of *latency_s* a batch; the model file is not read."""

    plan: Path = Path()
    latency_s: float = 0.0
    detects: bool = False

    @contextmanager
    def opened(self, path: Path, number: int | None) -> Iterator[Runner]:
        """The runner on the device *number*; ``together-N`` has N processes wait for each other."""
        assert path.is_file()
        kind = ToldDetector if self.detects else ToldRunner
        runner = kind(self.plan, self.latency_s, number)
        runner.check()
        for together in self.plan.glob("together-*"):
            (self.plan / f"here-{os.getpid()}").touch()
            while len(list(self.plan.glob("here-*"))) < int(together.name.partition("-")[2]):
                time.sleep(0.01)
        yield runner
