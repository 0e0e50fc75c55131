"""
One worker: a process with one model open on its own device, and units of items through it.

Two calls run at a time: while the device computes one unit, the other reads its first batch.  An
error of the device costs one reopening of the model; what remains is the driver's to decide.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from ..errors import Effd0Error, RunnerError
from ..evaluation.pipeline import StageTimes
from ..evaluation.run_dir import backend
from ..results.environment import installed_version
from ..runners.base import Runner, TensorInfo, choose_batch_size
from ..runners.registry import RunnerOptions, open_runner
from ..spec import ModelSpec
from ..types import Tensor
from .pool import worker_options

T = TypeVar("T")

#: Units that a worker has in hand at a time: one on the device, one that is prepared.
CALLS = 2
#: Must be the same in all workers, since they decide what is found.
PACKAGES = ("effd0", "numpy", "pillow", "torch", "onnxruntime", "openvino", "effdet")


@dataclass(frozen=True)
class Place:
    """
    Where a worker process is: *device* is its number on the host, None on a CPU.

    Of devices that are not all visible to it, *opens* is the number by which it opens its own.
    """

    host: str
    pid: int
    device: int | None = None
    opens: int | None = None

    def __str__(self) -> str:
        device = "" if self.device is None else f" device {self.device}"
        return f"{self.host}{device} pid {self.pid}"


@dataclass(frozen=True)
class WorkerModel:
    """What each worker opens: the model file called *name*, and how."""

    runner: str
    spec: ModelSpec
    options: RunnerOptions
    name: str

    def opened(self, path: Path, number: int | None) -> AbstractContextManager[Runner]:
        """The runner of the model file *path*, on the device *number*."""
        options = worker_options(self.runner, self.options, number)
        return open_runner(self.runner, path, self.spec, options)


@dataclass(frozen=True)
class Opened:
    """What a runner says of itself once it is open; all workers must say the same."""

    description: str
    inputs: Sequence[TensorInfo]
    batch_size: int
    packages: Mapping[str, str | None]

    def check_same(self, first: Opened) -> None:
        """Raise `RunnerError` where this worker differs from the *first*: results would mix."""
        mine, wanted = (
            {"backend": backend(one.description), "inputs": one.inputs, **one.packages}
            for one in (self, first)
        )
        for name in wanted:
            if mine[name] != wanted[name]:
                raise RunnerError(
                    f"it has {name} {mine[name]}, but the first worker has {wanted[name]}; all "
                    "hosts must give the same results: install the same on each"
                )


@dataclass(frozen=True)
class Reply:
    """
    What came of a call to *worker*: a *result*, or an *error*, after so many busy *seconds*.

    *stages* are the seconds of each stage; *notes* say what went wrong on the way.  A *broken*
    worker has no open model and cannot get one.
    """

    worker: str
    seconds: float
    result: Any = None
    stages: Mapping[str, Tensor] = field(default_factory=dict)
    notes: Sequence[str] = ()
    error: Effd0Error | None = None
    broken: bool = False


class Work(Protocol):
    """What workers do with the items of each unit."""

    @property
    def batch_size(self) -> int:
        """Items a batch; a unit is made of whole batches."""

    @property
    def remedy(self) -> str:
        """What to do about an item that ends each process that takes it."""

    def named(self, items: Sequence[Any]) -> str:
        """The ids or names of *items*, for messages."""

    def run(self, worker: Worker, items: Sequence[Any], stages: StageTimes) -> Any:
        """What *items* give on the open runner of *worker*, in its process, in any thread."""


class Worker:
    """The worker that this process is: the *runner* of *model*, whose file has the bytes *data*."""

    def __init__(self, model: WorkerModel, data: bytes, place: Callable[[], Place]) -> None:
        self._model, self._data, self._place = model, data, place()
        self.device = threading.Lock()  # held by who uses the runner
        self.openings, self.warm = 0, False
        self._stack = ExitStack()
        self._clock, self._done_at = threading.Lock(), 0.0
        self.runner: Runner

    def open(self, batch_size: int | None) -> Reply:
        """Open the model, to be fed *batch_size* images at a time if it takes them."""
        start = time.perf_counter()
        try:
            self._open()
            size = choose_batch_size(self.runner, batch_size)
            packages = {name: installed_version(name) for name in PACKAGES}
            opened = Opened(self.runner.description, self.runner.inputs, size, packages)
        except Exception as error:  # whatever it is, this worker cannot work
            return Reply(str(self._place), 0.0, error=self._told(error), broken=True)
        return Reply(str(self._place), time.perf_counter() - start, opened)

    def run(self, work: Work, items: Sequence[Any]) -> Reply:
        """Do *work* on *items*, once more after an error of the device; errors are in the reply."""
        start, openings, stages = time.perf_counter(), self.openings, StageTimes()
        result: Any = None
        error: Effd0Error | None = None
        notes, broken = list[str](), False
        try:
            try:
                result = work.run(self, items, stages)
            except RunnerError as first:
                with self.device:
                    if openings == self.openings:  # else the other call has opened it again
                        try:
                            self._reopen(work.batch_size)
                        except Effd0Error as second:
                            broken = True
                            raise RunnerError(f"{first}; opened again, it gave: {second}") from None
                        notes.append(f"{self._place}: {first}; the model was opened again")
                stages = StageTimes()
                result = work.run(self, items, stages)
        except Exception as other:  # the driver decides what becomes of the items
            error = self._told(other)
        with self._clock:  # of two calls at a time, each second counts once
            now = time.perf_counter()
            seconds, self._done_at = now - max(start, self._done_at), now
        times = {name: np.array(values, np.float32) for name, values in vars(stages).items()}
        return Reply(str(self._place), seconds, result, times, notes, error, broken)

    @contextmanager
    def turn(self, feeds: Iterable[T]) -> Iterator[tuple[Any, Iterator[T], float]]:
        """
        Have the device for the time of the block, once the first of *feeds* is there.

        Yields the runner, the feeds, and the seconds that were waited for the device.
        """
        source = iter(feeds)
        first = list(islice(source, 1))
        start = time.perf_counter()
        with self.device:
            yield self.runner, chain(first, source), time.perf_counter() - start

    def _open(self) -> None:
        self.openings, self.warm = self.openings + 1, False
        # Once it is open, nothing of it is left on the host, however this process ends.
        with tempfile.TemporaryDirectory(prefix="effd0-") as folder:
            path = Path(folder, self._model.name)
            path.write_bytes(self._data)
            opened = self._model.opened(path, self._place.opens)
            self.runner = self._stack.enter_context(opened)

    def _reopen(self, batch_size: int) -> None:
        """Open the model again, and run zeros: what fails on these is not an image's fault."""
        with suppress(Effd0Error):  # what is broken may not close
            self._stack.close()
        self._open()
        self.runner.infer(
            {
                info.name: np.zeros(
                    [batch_size, *(side or 1 for side in info.shape[1:])], info.dtype
                )
                for info in self.runner.inputs
            }
        )

    def _told(self, error: Exception) -> Effd0Error:
        """*error* as one of this package, which Ray can bring to the driver."""
        if isinstance(error, Effd0Error):
            return error
        kind = "" if isinstance(error, OSError) else f"{type(error).__name__}: "
        return RunnerError(f"{self._place}: {kind}{error}")
