"""
One worker: a process with one model open on its own device, and units of items through it.

Two calls run at a time: while the device computes one unit, the other reads its first batch.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from ..data.preprocess import resizes_as_pillow
from ..errors import Effd0Error, RunnerError
from ..evaluation.pipeline import StageTimes
from ..evaluation.run_dir import backend
from ..results.environment import installed_version
from ..runners.base import Runner, TensorInfo, choose_batch_size
from ..runners.registry import RunnerOptions, open_runner
from ..spec import ModelSpec
from .pool import worker_options

#: Units that a worker has in hand at a time: one on the device, one that is prepared.
CALLS = 2
#: Must be the same in all workers, since they decide what is found.
PACKAGES = ("effd0", "numpy", "pillow", "torch", "onnxruntime", "openvino", "effdet")
#: Opens the model file at a path on the device of a number.
OpenModel: TypeAlias = Callable[[Path, int | None], AbstractContextManager[Runner]]


def open_on(
    runner: str, spec: ModelSpec, options: RunnerOptions, path: Path, number: int | None
) -> AbstractContextManager[Runner]:
    """The *runner* of the model file *path*, on the device *number*."""
    return open_runner(runner, path, spec, worker_options(runner, options, number))


@dataclass(frozen=True)
class Opened:
    """What a runner says of itself once it is open; *decides* must be the same in all workers."""

    description: str
    inputs: Sequence[TensorInfo]
    batch_size: int
    decides: Mapping[str, object]

    def check_same(self, first: Opened) -> None:
        """Raise `RunnerError` where this worker differs from the *first*: results would mix."""
        for name, wanted in first.decides.items():
            if self.decides[name] != wanted:
                raise RunnerError(
                    f"it has {name} {self.decides[name]}, but the first worker has {wanted}; all "
                    "hosts must give the same results: install the same on each"
                )


@dataclass(frozen=True)
class Reply:
    """What came of a call to *worker*: a *result*, or an *error*, after so many busy *seconds*."""

    worker: str
    seconds: float
    result: Any = None
    stages: StageTimes = field(default_factory=StageTimes)
    error: Effd0Error | None = None


class Worker:
    """
    The worker that this process is, whose model *open_model* opens.

    *place* gives its name, with host and device, and the number of its device.
    """

    def __init__(self, open_model: OpenModel, place: Callable[[], tuple[str, int | None]]) -> None:
        self._open_model = open_model
        self.name, self._number = place()
        self.device = threading.Lock()  # held by who uses the runner
        self.batch_size, self.warm = 1, False
        self._stack = ExitStack()
        self._clock, self._done_at = threading.Lock(), 0.0
        self.runner: Runner

    def open(self, file: str, data: bytes, batch_size: int | None) -> Reply:
        """
        Open the model of *data*, a file of the name *file*; the result is an `Opened`.

        It is fed *batch_size* images at a time if it takes them.
        """
        start = time.perf_counter()
        try:
            # Once it is open, nothing of it is left on the host, however this process ends.
            with tempfile.TemporaryDirectory(prefix="effd0-") as folder:
                resizes_as_pillow()  # compiles the kernels, before anything is timed
                path = Path(folder, file)
                path.write_bytes(data)
                self.runner = self._stack.enter_context(self._open_model(path, self._number))
            self.batch_size = choose_batch_size(self.runner, batch_size)
            description, inputs = self.runner.description, self.runner.inputs
            own = {"backend": backend(description), "inputs": inputs}
            decides = {name: installed_version(name) for name in PACKAGES} | own
        except Exception as error:  # whatever it is, this worker cannot work
            return Reply(self.name, 0.0, error=self._told(error))
        opened = Opened(description, inputs, self.batch_size, decides)
        return Reply(self.name, time.perf_counter() - start, opened)

    def run(
        self, work: Callable[[Worker, Sequence[Any], StageTimes], Any], items: Sequence[Any]
    ) -> Reply:
        """Do *work* on *items*; errors are in the reply."""
        start, stages, result, error = time.perf_counter(), StageTimes(), None, None
        try:
            result = work(self, items, stages)
        except Exception as other:  # the driver decides what becomes of the items
            error = self._told(other)
        with self._clock:  # of two calls at a time, each second counts once
            now = time.perf_counter()
            seconds, self._done_at = now - max(start, self._done_at), now
        return Reply(self.name, seconds, result, stages, error)

    def _told(self, error: Exception) -> Effd0Error:
        """*error* as one of this package, which Ray can bring to the driver."""
        if isinstance(error, Effd0Error):
            return error
        kind = "" if isinstance(error, OSError) else f"{type(error).__name__}: "
        return Effd0Error(f"{self.name}: {kind}{error}")
