"""
Units of items to worker processes: dealt out, given again after a fault, each counted once.

The driver knows what each worker has in hand, so a process that dies has its images.  They are
suspected, and run batch by batch with nothing beside them, on another worker where there is one.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from ..errors import Effd0Error, ImageError, RunnerError, require
from ..evaluation.model import ModelChoice
from ..progress import OpenProgress
from .pool import Pool, accelerator
from .ray_cluster import Cluster, Died, started
from .summary import Tally
from .worker import CALLS, Opened, Reply, Work, WorkerModel

#: A unit that failed so often is given up; so is a worker that died so often in a row.
ATTEMPTS = 3
#: Batches of a unit: enough that the device waits for little at its beginning and end.
MOST_BATCHES = 16
#: Units that each worker could still get when one is cut: the last ones are small, so that all
#: workers end at about the same time.
UNITS_LEFT = 4
#: Failures, faults and images that a message shows.
SHOWN = 5
SHOWN_IMAGES = 8


@dataclass(frozen=True)
class Unit:
    """Neighbouring *items*, the first of them in place *first*; *tries* have failed."""

    first: int
    items: tuple[Any, ...]
    tries: int = 0
    tried_by: int | None = None


def cut(items: Sequence[Any], batch_size: int, workers: int) -> list[Unit]:
    """*items* in units of whole batches, so that each has the neighbours that it has elsewhere."""
    units, start = [], 0
    while start < len(items):
        left = -(-(len(items) - start) // batch_size)
        batches = max(1, min(MOST_BATCHES, left // (workers * UNITS_LEFT)))
        stop = min(len(items), start + batches * batch_size)
        units.append(Unit(start, tuple(items[start:stop])))
        start = stop
    return units


@dataclass
class _Worker:
    """A worker as the driver knows it: its process, and the calls that it has in hand."""

    number: int
    process: Any = None
    name: str = ""
    ready: bool = False
    deaths: int = 0
    calls: dict[Any, Unit | None] = field(default_factory=dict)

    @property
    def units(self) -> list[Unit]:
        """What it has in hand."""
        return [unit for unit in self.calls.values() if unit is not None]

    def __str__(self) -> str:
        return self.name or f"worker {self.number}"


class Dispatcher:
    """
    The workers of *cluster*, each with *model*, whose file is *data*, open on its own device.

    They end with the ``with`` block.  A worker is left out, with its device, where the model does
    not open, where it differs from the first one, where it gives no answer, and where its process
    has ended `ATTEMPTS` times in a row.
    """

    def __init__(
        self, cluster: Cluster, model: WorkerModel, data: bytes, batch_size: int | None
    ) -> None:
        self._cluster, self._model, self._batch_size = cluster, model, batch_size
        self.tally, self.faults, self.again = Tally(), list[str](), 0
        self._left_out: dict[str, Effd0Error] = {}
        self._opened: Opened | None = None
        self._data = cluster.share(data)
        self._workers = [_Worker(number) for number in range(cluster.pool.workers)]
        self._fresh, self._suspects = deque[Unit](), deque[Unit]()
        self._failed: list[tuple[Unit, Effd0Error]] = []
        self._work: Work

    def __enter__(self) -> Self:
        for worker in self._workers:
            self._start(worker)
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            if worker.process is not None:
                self._cluster.stop(worker.process)

    def open(self) -> Opened:
        """What the first worker to have its model open says of it; raise where none can."""
        while self._opened is None:
            self._next()
        return self._opened

    def run(self, units: Sequence[Unit], work: Work, kept: str) -> Iterator[tuple[Unit, Reply]]:
        """
        Do *work* on *units*: yield each that is done, in any order, once, maybe in parts.

        Raises one error at the end for all that could not be done, which ends with *kept*: what
        there is of the others.  An error that ends the run before has the faults as notes.
        """
        self._work, self.tally.begun = work, time.perf_counter()
        self._fresh.extend(units)
        self._deal()
        try:
            while self._fresh or self._suspects or any(worker.units for worker in self._workers):
                if (done := self._next()) is not None:
                    yield done
        except RunnerError as error:
            for line in _some(self.faults):
                error.add_note(line)
            raise
        if self._failed:
            images = sum(len(unit.items) for unit, _ in self._failed)
            errors = _some(list(dict.fromkeys(str(error) for _, error in self._failed)))
            kinds = {type(error) for _, error in self._failed}
            kind = ImageError if kinds == {ImageError} else RunnerError
            what = f"{len(self._failed)} units of work ({images} images) could not be done"
            faults = _some([fault for fault in self.faults if fault not in errors])
            raise kind("\n".join([f"{what}:\n  " + "\n  ".join(errors), *faults, kept]).rstrip())

    def summary(self) -> dict[str, Any]:
        """Who did what, and all that went wrong; see `Tally.summary`."""
        return self.tally.summary(self.faults, self.again)

    def _start(self, worker: _Worker) -> None:
        worker.process, worker.ready = self._cluster.start(self._model, self._data), False
        call = self._cluster.call(worker.process, "open", self._batch_size)
        worker.calls[call] = None

    def _deal(self) -> None:
        """Give units to workers that have fewer than `CALLS`, one each before two."""
        ready = [worker for worker in self._workers if worker.ready]
        for wanted in range(1, CALLS + 1):
            for worker in ready:
                if len(worker.calls) < wanted and (unit := self._unit_for(worker, len(ready))):
                    call = self._cluster.call(worker.process, "run", self._work, unit.items)
                    worker.calls[call] = unit

    def _unit_for(self, worker: _Worker, ready: int) -> Unit | None:
        if any(unit.tries for unit in worker.units):
            return None  # which is run with nothing beside it
        if self._fresh:
            return self._fresh.popleft()
        if worker.units:
            return None
        for unit in self._suspects:
            if ready == 1 or unit.tried_by != worker.number:
                self._suspects.remove(unit)
                return unit
        return None

    def _next(self) -> tuple[Unit, Reply] | None:
        """Wait for a call to end, and deal out more; the unit that it has done, if it has."""
        of = {call: worker for worker in self._workers for call in worker.calls}
        if not of:
            self._raise_no_worker()
        call = self._cluster.wait(list(of), self._cluster.pool.silence_s)
        if call is None:
            self._silent()
            return None
        worker, done = of[call], None
        unit = worker.calls.pop(call)
        try:
            reply: Reply = self._cluster.result(call)
        except Died as death:
            self._died(worker, unit, death)
        else:
            worker.name = reply.worker
            self.faults.extend(reply.notes)
            done = self._answered(worker, unit, reply)
        self._deal()
        return done

    def _answered(
        self, worker: _Worker, unit: Unit | None, reply: Reply
    ) -> tuple[Unit, Reply] | None:
        if unit is None and reply.error is None:
            try:
                self._opened = reply.result if self._opened is None else self._opened
                reply.result.check_same(self._opened)
            except RunnerError as error:
                self._leave_out(worker, error)
            else:
                worker.ready = True
                self.tally.add_worker(reply)
        elif reply.error is None:
            assert unit is not None
            worker.deaths = 0
            self.tally.add(reply, len(unit.items))
            return unit, reply
        elif reply.broken:
            self._leave_out(worker, reply.error)
            if unit is not None:  # which is not to blame
                self._give_again([unit])
        elif unit is not None and isinstance(reply.error, ImageError):
            self._failed.append((unit, reply.error))
        elif unit is not None:
            self.faults.append(f"{worker}: {reply.error}; tried again batch by batch")
            self._suspect(worker, unit, reply.error)
        return None

    def _died(self, worker: _Worker, unit: Unit | None, death: Died) -> None:
        """Begin the process of *worker* again; give what it had in hand again, or give it up."""
        lost = [*([] if unit is None else [unit]), *worker.units]
        worker.calls.clear()
        self._cluster.stop(worker.process)  # which may live, out of reach
        images = [item for one in lost for item in one.items]
        had = f" with images {self._named(images)} in hand" if images else ""
        self.faults.append(f"worker lost: {worker}: {death}{had}")
        if death.node:
            self._give_again(lost)
        for one in () if death.node else lost:
            named = self._named(one.items)
            error = RunnerError(
                f"{ATTEMPTS} workers died over images {named}; the last was {worker}: {death}; "
                f"{self._work.remedy}"
            )
            self._suspect(worker, one, error)
        # What has ended a process before is more suspected than the device.
        worker.deaths += not (death.node or any(one.tries for one in lost))
        if worker.deaths < ATTEMPTS:
            self._start(worker)
            return
        # A process that does nothing keeps its device from the others.
        worker.process = self._cluster.start(self._model, self._data)
        self._leave_out(worker, RunnerError(f"its process ended {ATTEMPTS} times in a row"))

    def _give_again(self, units: Sequence[Unit]) -> None:
        """Give *units* again, which are not to blame for what happened."""
        self._fresh.extend(units)
        self.again += len(units)

    def _suspect(self, worker: _Worker, unit: Unit, error: Effd0Error) -> None:
        """Give *unit* again, batch by batch; the last time it fails with *error*."""
        unit = replace(unit, tries=unit.tries + 1, tried_by=worker.number)
        if unit.tries == ATTEMPTS:
            self._failed.append((unit, error))
            return
        size = self._work.batch_size
        for start in range(0, len(unit.items), size):
            batch = unit.items[start : start + size]
            self._suspects.append(replace(unit, first=unit.first + start, items=batch))
            self.again += 1

    def _silent(self) -> None:
        """Leave out all who were to answer."""
        for worker in self._workers:
            if not worker.calls:
                continue
            lost, opening = worker.units, None in worker.calls.values()
            what = "images " + self._named([item for unit in lost for item in unit.items])
            if opening:
                places = f"{self._cluster.capacity()} {self._cluster.kind or 'CPU'}"
                what = f"opening the model: none of the {places} is free, or none answers"
            worker.calls.clear()
            silence_s = self._cluster.pool.silence_s
            error = RunnerError(f"gave no answer for {silence_s:.0f} s at {what}")
            self._leave_out(worker, error)
            for unit in lost:
                self._suspect(worker, unit, error)
        self._deal()

    def _leave_out(self, worker: _Worker, error: Effd0Error) -> None:
        """Give *worker* no more units; its process keeps its device from others."""
        worker.ready = False
        self._left_out[str(worker)] = error
        self.faults.append(f"device left out: {worker}: {error}")

    def _raise_no_worker(self) -> None:
        """Raise the one error of all workers, or one that names each."""
        errors = {str(error): error for error in self._left_out.values()}
        if len(errors) == 1 and self._opened is None:
            raise next(iter(errors.values()))
        reasons = [f"{name}: {error}" for name, error in self._left_out.items()]
        raise RunnerError("no device works:\n  " + "\n  ".join(reasons))

    def _named(self, items: Sequence[Any]) -> str:
        more = " ..." if len(items) > SHOWN_IMAGES else ""
        return self._work.named(items[:SHOWN_IMAGES]) + more if items else ""


@contextlib.contextmanager
def opened_workers(
    pool: Pool,
    choice: ModelChoice,
    batch_size: int | None,
    open_progress: OpenProgress,
    cluster: Cluster | None = None,
) -> Iterator[tuple[Dispatcher, Path]]:
    """
    Yield workers that open the model of *choice*, and its file, exported if need be.

    Without a *cluster* that runs, Ray is started for *pool*, or joined.
    """
    runner = choice.checked_runner()
    kind = accelerator(runner, choice.options)
    with contextlib.ExitStack() as stack:
        if cluster is None:
            require("ray", extra="ray")  # which is said before an export, not after it
        with open_progress("preparing the model", 1) as advance:
            path = stack.enter_context(choice.file(batch_size))
            advance(1)
        if cluster is None:
            what = "starting Ray" if pool.address is None else f"joining Ray at {pool.address}"
            with open_progress(what, 1) as advance:
                cluster = stack.enter_context(started(pool, kind))
                advance(1)
        elif kind is None:
            cluster = cluster.on_cpu()
        model = WorkerModel(runner, choice.spec, choice.options, path.name)
        yield stack.enter_context(Dispatcher(cluster, model, path.read_bytes(), batch_size)), path


def _some(lines: Sequence[str]) -> list[str]:
    """Of many *lines*, the first few."""
    more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return [*lines[:SHOWN], *more]
