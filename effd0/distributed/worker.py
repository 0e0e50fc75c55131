"""
One worker: a process with one model open on its own device, and units of items through it.

Two calls run at a time: while the device computes one unit, the other reads its first batch.  An
error of the device costs one reopening of the model; what remains is the driver's to decide.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

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
    """
    What came of a call to *worker*: a *result*, or an *error*, after so many busy *seconds*.

    *notes* say what went wrong on the way.  A *broken* worker has no open model and cannot get one.
    """

    worker: str
    seconds: float
    result: Any = None
    stages: StageTimes = field(default_factory=StageTimes)
    notes: Sequence[str] = ()
    error: Effd0Error | None = None
    broken: bool = False


class Worker:
    """
    The worker that this process is, for a model file of *name* that has the bytes *data*.

    *place* gives the worker's name, with its host and device, and the number of its device.
    """

    def __init__(
        self,
        open_model: OpenModel,
        name: str,
        data: bytes,
        place: Callable[[], tuple[str, int | None]],
    ) -> None:
        self._open_model, self._file, self._data = open_model, name, data
        self.name, self._number = place()
        self.device = threading.Lock()  # held by who uses the runner
        self.openings, self.warm, self.batch_size = 0, False, 0
        self._stack = ExitStack()
        self._clock, self._done_at = threading.Lock(), 0.0
        self.runner: Runner

    def open(self, batch_size: int | None) -> Reply:
        """Open the model, to be fed *batch_size* images at a time if it takes them."""
        start = time.perf_counter()
        try:
            self._open()
            self.batch_size = choose_batch_size(self.runner, batch_size)
            description, inputs = self.runner.description, self.runner.inputs
            decides: dict[str, object] = {name: installed_version(name) for name in PACKAGES}
            decides |= {"backend": backend(description), "inputs": inputs}
        except Exception as error:  # whatever it is, this worker cannot work
            return Reply(self.name, 0.0, error=self._told(error), broken=True)
        opened = Opened(description, inputs, self.batch_size, decides)
        return Reply(self.name, time.perf_counter() - start, opened)

    def run(
        self, work: Callable[[Worker, Sequence[Any], StageTimes], Any], items: Sequence[Any]
    ) -> Reply:
        """Do *work* on *items*, once more after an error of the device; errors are in the reply."""
        start, openings, stages = time.perf_counter(), self.openings, StageTimes()
        result: Any = None
        error: Effd0Error | None = None
        notes, broken = list[str](), False
        try:
            try:
                result = work(self, items, stages)
            except RunnerError as first:
                with self.device:
                    if openings == self.openings:  # else the other call has opened it again
                        try:
                            self._reopen()
                        except Effd0Error as second:
                            broken = True
                            raise RunnerError(f"{first}; opened again, it gave: {second}") from None
                        notes.append(f"{self.name}: {first}; the model was opened again")
                stages = StageTimes()
                result = work(self, items, stages)
        except Exception as other:  # the driver decides what becomes of the items
            error = self._told(other)
        with self._clock:  # of two calls at a time, each second counts once
            now = time.perf_counter()
            seconds, self._done_at = now - max(start, self._done_at), now
        return Reply(self.name, seconds, result, stages, notes, error, broken)

    def _open(self) -> None:
        self.openings, self.warm = self.openings + 1, False
        # Once it is open, nothing of it is left on the host, however this process ends.
        with tempfile.TemporaryDirectory(prefix="effd0-") as folder:
            path = Path(folder, self._file)
            path.write_bytes(self._data)
            self.runner = self._stack.enter_context(self._open_model(path, self._number))

    def _reopen(self) -> None:
        """Open the model again, and run zeros: what fails on these is not an image's fault."""
        with suppress(Effd0Error):  # what is broken may not close
            self._stack.close()
        self._open()
        shapes = {one: [side or 1 for side in one.shape[1:]] for one in self.runner.inputs}
        self.runner.infer(
            {one.name: np.zeros([self.batch_size, *s], one.dtype) for one, s in shapes.items()}
        )

    def _told(self, error: Exception) -> Effd0Error:
        """*error* as one of this package, which Ray can bring to the driver."""
        if isinstance(error, Effd0Error):
            return error
        kind = "" if isinstance(error, OSError) else f"{type(error).__name__}: "
        return RunnerError(f"{self.name}: {kind}{error}")
