"""
One worker: one runner, opened once, and units of images through it.

It knows nothing of Ray: its process is started, fed and replaced from outside.  What fails for a
reason that will not go away is reported; what may be the device's fault is tried again.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from ..errors import Effd0Error, ImageError, RunnerError
from ..evaluation.pipeline import StageTimes
from ..runners.base import Runner
from ..types import Tensor
from .ledger import ATTEMPTS, Book, Taken, WorkerId
from .line import Line, Raw
from .station import Station
from .unit import Unit

#: Says which images, by id or name, come next.
Announce = Callable[[Sequence[object]], object]
#: Images that a message names.
SHOWN = 8


class Work(Protocol):
    """What is done with each unit, the same for all workers."""

    @property
    def batch_size(self) -> int:
        """Images a batch."""

    def do(
        self, runner: Runner, unit: Unit, stages: StageTimes, announce: Announce | None
    ) -> bytes:
        """
        Do *unit* with the open *runner*; what it gives back.

        Where there is *announce*, batch by batch, each announced: a process has died of one.
        """


@runtime_checkable
class FlowingWork(Work, Protocol):
    """Work of which units can follow each other without a pause; see `Line`."""

    def brought(self, unit: Unit) -> AbstractContextManager[Unit]:
        """*unit* with all that it is made of on this host, for the time of the block."""

    def flow(self, runner: Runner, units: Iterable[Unit], stages: StageTimes) -> Iterator[Raw]:
        """Yield the raw result of each unit, in order; units are taken ahead of their results."""

    def keep(self, unit: Unit, raw: Raw) -> bytes:
        """What *unit* gives back, in any thread."""


@dataclass(frozen=True)
class Failure:
    """Why a unit was not done; *again* says whether another try may succeed."""

    error: Effd0Error
    again: bool


@dataclass(frozen=True)
class UnitReport:
    """
    What came of the unit from *first* to *stop*: what was *found*, or a *failure*.

    *stages* are the seconds of each stage; *notes* what went wrong on the way.
    """

    first: int
    stop: int
    worker: WorkerId
    seconds: float
    found: bytes
    stages: Mapping[str, Tensor]
    failure: Failure | None = None
    notes: tuple[str, ...] = ()


class DeadlyError(RunnerError):
    """A unit that ends each process that takes it."""


class UnitWorker:
    """The worker that this process is, on *station*; *book* is the ledger of the run."""

    def __init__(self, station: Station, work: Work, book: Book) -> None:
        self._station, self._work, self._book = station, work, book
        self._stages, self._clock, self._done_at = StageTimes(), threading.Lock(), 0.0
        self._line = None
        if isinstance(work, FlowingWork):
            self._line = Line(self._flow, self._begin, work.batch_size)
        self._device = threading.Lock()

    def __call__(self, unit: Unit) -> UnitReport:
        """Do *unit*, of which several may come at a time; what fails is in the report."""
        start, notes = time.perf_counter(), list[str]()
        found, stages, failure = b"", StageTimes(), None
        try:
            found = self._done(unit, stages, notes)
        except (ImageError, DeadlyError) as error:
            failure = Failure(error, again=False)
        except Effd0Error as error:
            failure = Failure(error, again=True)
        except Exception as error:  # Ray would lose it, and the unit with it
            failure = Failure(RunnerError(_unforeseen(self._station.worker, error)), again=True)
        self._book.give_back(unit.first)
        return UnitReport(
            unit.first,
            unit.stop,
            self._station.worker,
            self._busy_since(start),
            found,
            {name: np.array(values, np.float32) for name, values in vars(stages).items()},
            failure,
            tuple(notes),
        )

    def _busy_since(self, start: float) -> float:
        """Seconds since *start*, or since the unit before was done: of two, each counts once."""
        with self._clock:
            now = time.perf_counter()
            seconds, self._done_at = now - max(start, self._done_at), now
        return seconds

    def _done(self, unit: Unit, stages: StageTimes, notes: list[str]) -> bytes:
        """What *unit* gives: in line with others, or, where that fails, by itself."""
        opened, failed = self._station.opened, None
        if isinstance(self._work, FlowingWork) and self._line is not None:
            try:
                # In this thread, while others' units are in line.
                with self._work.brought(unit) as here:
                    raw = self._line.run(here)
                    if raw is not None:
                        found = self._work.keep(here, raw)
                        with self._clock:
                            self._stages.move(stages)
                        return found
            except Exception as error:
                failed = error
            self._book.give_back(unit.first)
        with self._device if self._line is None else self._line.alone():
            if isinstance(failed, RunnerError) and opened == self._station.opened:
                self._reopen(failed, unit, notes)
            died = self._book.take(self._station.worker, unit.first)
            if died >= ATTEMPTS:
                raise DeadlyError(_killed(unit, self._book.last_lost(unit.first)))
            return self._by_itself(unit, stages, notes, careful=died > 0)

    def _flow(self, units: Iterable[Unit]) -> Iterator[Raw]:
        assert isinstance(self._work, FlowingWork)
        return self._work.flow(self._station.runner, units, self._stages)

    def _begin(self, unit: Unit) -> bool:
        """Say that *unit* begins; whether it may be among others: nobody has died of it."""
        if not self._book.take(self._station.worker, unit.first):
            return True
        self._book.give_back(unit.first)
        return False

    def _by_itself(
        self, unit: Unit, stages: StageTimes, notes: list[str], *, careful: bool
    ) -> bytes:
        """What *unit* gives; once more after an error of the device."""

        def announce(images: Sequence[object]) -> None:
            self._book.about_to_run(unit.first, tuple(images))

        asked = announce if careful else None
        try:
            return self._work.do(self._station.runner, unit, stages, asked)
        except RunnerError as error:
            self._reopen(error, unit, notes)
            stages.move(StageTimes())
            return self._work.do(self._station.runner, unit, stages, asked)

    def _reopen(self, error: RunnerError, unit: Unit, notes: list[str]) -> None:
        """Open the model again after *error*; a device on which that fails is given up."""
        notes.append(f"{self._station.worker}: {error}; the model was opened again")
        try:
            self._station.reopen()
        except Effd0Error as second:
            if self._station.worker.device is None:
                raise
            self._book.give_back(unit.first)  # which is not what this process dies of
            why = f"{error}; opened again, it gave: {second}"
            self._book.retire(self._station.worker, why)
            os._exit(1)  # the process is replaced, and the new one will wait


def _unforeseen(worker: WorkerId, error: Exception) -> str:
    """The message for an *error* that is none of this package's."""
    kind = "" if isinstance(error, OSError) else f"{type(error).__name__}: "
    return f"{worker}: {kind}{error}"


def _killed(unit: Unit, last: Taken | None) -> str:
    """The message for a unit that ends each process that takes it."""
    images = last.images if last is not None and last.images else unit.image_ids
    named = ", ".join(map(str, images[:SHOWN])) + (" ..." if len(images) > SHOWN else "")
    who = "" if last is None else f"; the last was {last.worker}"
    one = "the image" if len(images) == 1 else "one of the images"
    by = "" if isinstance(images[0], str) else "of id "
    return f"{ATTEMPTS} workers died over {one} {by}{named}{who}; {unit.remedy}"
