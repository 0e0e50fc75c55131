"""
Units of items to worker processes: dealt out, given again after a fault, each counted once.

The driver knows what each worker has in hand, so a process that dies has its images.  They are
suspected, and run batch by batch with nothing beside them, on another worker where there is one.
"""

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from ..errors import Effd0Error, ImageError, RunnerError, listed
from ..evaluation.pipeline import StageTimes
from .ray_cluster import Cluster, Died
from .worker import CALLS, Opened, OpenModel, Reply

#: A unit that failed so often is given up; so is a worker that died so often in a row.
ATTEMPTS = 3
#: Batches of a unit: enough that the device waits for little at its beginning and end.
MOST_BATCHES = 16
#: Units that each worker could still get when one is cut: the last ones are small, so that all
#: workers end at about the same time.
UNITS_LEFT = 4
#: Failures and faults that a message shows.
SHOWN = 5
#: A worker that is so much slower than the median one is a straggler, after so many units.
STRAGGLES, FEW = 1.5, 2
#: Images whose times are kept: a million say no more than these.
MOST_TIMES = 100_000


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
        units.append(Unit(start, tuple(items[start : start + batches * batch_size])))
        start += batches * batch_size
    return units


@dataclass
class _Worker:
    """A worker as the driver knows it: its process, and the calls that it has in hand."""

    number: int
    name: str
    process: Any = None
    ready: bool = False
    deaths: int = 0
    calls: dict[Any, Unit | None] = field(default_factory=dict)

    @property
    def units(self) -> list[Unit]:
        """What it has in hand."""
        return [unit for unit in self.calls.values() if unit is not None]


class Dispatcher:
    """
    The workers of *cluster*, each a process in which *opens* opens a model on its own device.

    The model is a *file* of shared *data*; see `Worker.open`.  Workers end with the ``with`` block.
    One is left out, with its device, where the model does not open, where it differs from the first
    one, where it gives no answer, and where its process has ended `ATTEMPTS` times in a row; a
    device that fails costs the process.  *stages* are the times of the first images.
    """

    def __init__(
        self, cluster: Cluster, opens: OpenModel, file: str, data: Any, batch_size: int | None
    ) -> None:
        self.cluster, self._opens, self._file = cluster, opens, (file, data, batch_size)
        self.faults, self.stages = list[str](), StageTimes()
        self._opened: Opened | None = None
        self._workers = [_Worker(n, f"worker {n}") for n in range(cluster.pool.workers)]
        self._left_out: dict[str, Effd0Error] = {}
        self._fresh, self._suspects = deque[Unit](), deque[Unit]()
        self._failed: list[tuple[Unit, Effd0Error]] = []
        self._shares: dict[str, dict[str, Any]] = {}
        self._again, self._first = 0, 0.0
        self._made = self._begun = self._last = time.perf_counter()
        self._work: Callable[..., Any]
        self._name: Callable[[Any], str]
        self._remedy: str

    def __enter__(self) -> Self:
        for worker in self._workers:
            self._start(worker)
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            self.cluster.stop(worker.process)

    def open(self) -> Opened:
        """What the first worker to have its model open says of it; raise where none can."""
        while self._opened is None:
            self._next()
        return self._opened

    def run(
        self,
        items: Sequence[Any],
        work: Callable[..., Any],
        *,
        name: Callable[[Any], str],
        remedy: str,
        kept: str,
    ) -> Iterator[tuple[Unit, Reply]]:
        """
        Have workers do *work* on *items*: yield each unit that is done, in any order, once.

        Raises one error at the end for all that could not be done, which ends with *kept*: what
        there is of the others.  Messages *name* items; *remedy* is what to do about one that ends
        each process that takes it.
        """
        self._work, self._name, self._remedy = work, name, remedy
        self._fresh.extend(cut(items, self.open().batch_size, len(self._workers)))
        self._begun = self._last = time.perf_counter()
        self._deal()
        while self._fresh or self._suspects or any(worker.units for worker in self._workers):
            if (done := self._next()) is not None:
                yield done
        if self._failed:
            units, all_errors = zip(*self._failed, strict=True)
            images = sum(len(unit.items) for unit in units)
            errors = _some(list(dict.fromkeys(map(str, all_errors))))
            kind = ImageError if {*map(type, all_errors)} == {ImageError} else RunnerError
            what = f"{len(units)} units of work ({images} images) could not be done"
            faults = _some([fault for fault in self.faults if fault not in errors])
            raise kind("\n".join([f"{what}:\n  " + "\n  ".join(errors), *faults, kept]).rstrip())

    def summary(self) -> dict[str, Any]:
        """
        The whole run as plain values, with the workers in order of their names.

        *start_s* are the seconds until the first worker had its model open; *seconds* those from
        the first unit to the last reply; *faults* are sentences; *again* is how many units were
        given out once more.
        """
        shares = [self._shares[name] for name in sorted(self._shares)]
        for one in shares:
            one["rate"] = one["images"] / one["seconds"] if one["seconds"] else 0.0
        middle = statistics.median([one["rate"] for one in shares if one["units"] >= FEW] or [0.0])
        for one in shares:
            one["straggler"] = one["units"] >= FEW and one["rate"] * STRAGGLES < middle
        images, seconds = sum(one["images"] for one in shares), self._last - self._begun
        return {
            "workers": shares,
            "again": self._again,
            "start_s": self._first - self._made,
            "seconds": seconds,
            "images": images,
            "images_per_second": images / seconds if seconds else 0.0,
            "faults": list(dict.fromkeys(self.faults)),
        }

    def _start(self, worker: _Worker) -> None:
        worker.process, worker.ready = self.cluster.start(self._opens), False
        worker.calls[self.cluster.call(worker.process, "open", *self._file)] = None

    def _deal(self) -> None:
        """Give units to workers that have fewer than `CALLS`, one each before two."""
        ready = [worker for worker in self._workers if worker.ready]
        for wanted in range(1, CALLS + 1):
            for worker in ready:
                if len(worker.calls) < wanted and (unit := self._unit_for(worker, len(ready))):
                    call = self.cluster.call(worker.process, "run", self._work, unit.items)
                    worker.calls[call] = unit

    def _unit_for(self, worker: _Worker, ready: int) -> Unit | None:
        """The next unit of *worker*, one of so many *ready*; a suspect has it for itself."""
        if self._fresh and not any(unit.tries for unit in worker.units):
            return self._fresh.popleft()
        for unit in self._suspects if not worker.units else ():
            if ready == 1 or unit.tried_by != worker.number:
                self._suspects.remove(unit)
                return unit
        return None

    def _next(self) -> tuple[Unit, Reply] | None:
        """Wait for a call to end, and deal out more; the unit that it has done, if it has."""
        of = {call: worker for worker in self._workers for call in worker.calls}
        if not of:
            errors = {str(error): error for error in self._left_out.values()}
            if len(errors) == 1 and self._opened is None:
                raise next(iter(errors.values()))
            reasons = [f"{name}: {error}" for name, error in self._left_out.items()]
            lost = _some([fault for fault in self.faults if fault.startswith("worker lost")])
            raise RunnerError("\n  ".join(["no device works:", *reasons, *lost]))
        call, done = self.cluster.wait(list(of), self.cluster.pool.silence_s), None
        if call is None:
            self._silent()
        else:
            worker = of[call]
            try:
                reply: Reply = self.cluster.result(call)
                if worker.ready and isinstance(reply.error, RunnerError):
                    # What a device recalls of it ends with its process.
                    raise Died(str(reply.error))
                done = self._answered(worker, worker.calls.pop(call), reply)
            except Died as death:
                self._died(worker, death)
        self._deal()
        return done

    def _answered(
        self, worker: _Worker, unit: Unit | None, reply: Reply
    ) -> tuple[Unit, Reply] | None:
        """What is done by *reply*, which opened a model where it is of no *unit*."""
        worker.name = reply.worker
        if unit is None:
            try:
                if reply.error is not None:
                    raise reply.error
                self._opened = self._opened or reply.result
                reply.result.check_same(self._opened)
            except Effd0Error as error:
                self._leave_out(worker, error)
            else:
                worker.ready = True
                self._first = self._first or time.perf_counter()
                share = {"images": 0, "units": 0, "seconds": 0.0, "opened_s": reply.seconds}
                self._shares[worker.name] = {"worker": worker.name, **share}
        elif reply.error is None:
            worker.deaths, self._last = 0, time.perf_counter()
            share = self._shares[worker.name]
            share["images"] += len(unit.items)
            share["units"] += 1
            share["seconds"] += reply.seconds
            if len(self.stages.preprocess) < MOST_TIMES:
                for stage, seconds in vars(reply.stages).items():
                    vars(self.stages)[stage].extend(seconds)
            return unit, reply
        elif isinstance(reply.error, ImageError):
            self._failed.append((unit, reply.error))
        else:
            self.faults.append(f"{worker.name}: {reply.error}; tried again batch by batch")
            self._suspect(worker, unit, reply.error)
        return None

    def _died(self, worker: _Worker, death: Died) -> None:
        """Begin the process of *worker* again; give what it had in hand again, or give it up."""
        lost = worker.units
        worker.calls.clear()
        self.cluster.stop(worker.process)  # which may live, out of reach
        had = f" with {self._images(lost)} in hand" if lost else ""
        self.faults.append(f"worker lost: {worker.name}: {death}{had}")
        if death.node:  # no image is to blame
            self._fresh.extend(lost)
            self._again += len(lost)
        for unit in lost if not death.node else ():
            told = f"{ATTEMPTS} workers died over {self._images([unit])}; the last was "
            told += f"{worker.name}: {death}; {self._remedy}"
            self._suspect(worker, unit, RunnerError(told))
        # What has ended a process before is more suspected than the device.
        worker.deaths += not (death.node or any(unit.tries for unit in lost))
        if worker.deaths < ATTEMPTS:
            self._start(worker)
            return
        # A process that does nothing keeps its device from the others.
        worker.process = self.cluster.start(self._opens)
        why = f"its process ended {ATTEMPTS} times in a row, at last: {death}"
        self._leave_out(worker, RunnerError(why))

    def _suspect(self, worker: _Worker, unit: Unit, error: Effd0Error) -> None:
        """Give *unit* again, batch by batch; the last time it fails with *error*."""
        unit = replace(unit, tries=unit.tries + 1, tried_by=worker.number)
        if unit.tries == ATTEMPTS:
            self._failed.append((unit, error))
            return
        size = self.open().batch_size
        for start in range(0, len(unit.items), size):
            batch = unit.items[start : start + size]
            self._suspects.append(replace(unit, first=unit.first + start, items=batch))
            self._again += 1

    def _images(self, units: Sequence[Unit]) -> str:
        return f"images {listed(self._name(item) for unit in units for item in unit.items)}"

    def _silent(self) -> None:
        """Leave out all who were to answer."""
        for worker in (one for one in self._workers if one.calls):
            lost, what = worker.units, self._images(worker.units)
            if None in worker.calls.values():
                places = f"{self.cluster.capacity()} {self.cluster.kind or 'CPU'}"
                what = f"opening the model: none of the {places} is free, or none answers"
            worker.calls.clear()
            silence_s = self.cluster.pool.silence_s
            error = RunnerError(f"gave no answer for {silence_s:.0f} s at {what}")
            self._leave_out(worker, error)
            for unit in lost:
                self._suspect(worker, unit, error)

    def _leave_out(self, worker: _Worker, error: Effd0Error) -> None:
        """Give *worker* no more units; its process keeps its device from others."""
        worker.ready = False
        self._left_out[worker.name] = error
        self.faults.append(f"device left out: {worker.name}: {error}")


def _some(lines: Sequence[str]) -> list[str]:
    """Of many *lines*, the first few."""
    more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return [*lines[:SHOWN], *more]
