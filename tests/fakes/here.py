"""A cluster without Ray: workers are objects of this process, which may die all the same."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from effd0.scale.cluster import Cluster
from effd0.scale.ledger import Ledger, LedgerState, WorkerId
from effd0.scale.pool import Pool
from effd0.scale.station import Station
from effd0.scale.subject import Opened, Subject, describe, model_file
from effd0.scale.unit import Unit
from effd0.scale.worker import UnitReport, UnitWorker, Work

T = TypeVar("T")


class Killed(BaseException):
    """Ends a worker of `HereCluster` as the system would end a process: nothing is reported."""


def travelled(thing: T) -> T:
    """Return *thing* as another process gets it."""
    copy: T = pickle.loads(pickle.dumps(thing))  # noqa: S301  # pickled in the same line
    return copy


class HereCluster(Cluster):
    """Units go to its workers in turn; all that they get and give is pickled, as with Ray."""

    def __init__(self, workers: int) -> None:
        super().__init__(Pool(workers), None, [])
        self._book = Ledger(b"")
        self._born = 0
        #: The first place of each unit, as often as it was begun.
        self.begun: list[int] = []

    def on_cpu(self) -> HereCluster:
        """All its workers are on CPUs."""
        return self

    def capacity(self) -> int:
        """There is a place for each worker."""
        return self.pool.workers

    def dead_nodes(self) -> dict[str, str]:
        """No node has died."""
        return {}

    def begin(self, model: bytes) -> None:
        """Begin a run of the *model* file."""
        self._book = Ledger(model)

    def probe(self, subject: Subject, batch_size: int | None) -> Opened:
        """Open the model once."""
        with model_file(subject, self._book) as path, subject.opened(path, None) as runner:
            return describe(runner, batch_size)

    def state(self) -> LedgerState:
        """What the ledger holds."""
        return self._book.state()

    def run(
        self, units: Sequence[Unit], subject: Subject, work: Work, expected: Opened
    ) -> Iterator[UnitReport]:
        """Do *units* one after the other; those whose workers are `Killed` have no report."""
        self._book.begin()
        workers: dict[int, UnitWorker] = {}
        for n, unit in enumerate(units):
            slot = n % self.pool.workers
            if slot not in workers:
                workers[slot] = self._worker(slot, *travelled((subject, work, expected)))
            self.begun.append(unit.first)
            try:
                yield travelled(workers[slot](travelled(unit)))
            except Killed:
                del workers[slot]

    def _worker(self, slot: int, subject: Subject, work: Work, expected: Opened) -> UnitWorker:
        self._born += 1
        me = WorkerId("here", "node", self._born, None, float(self._born), actor=str(slot))
        station = Station(subject, work.batch_size, self._book, me, expected)
        return UnitWorker(station, work, self._book)

    @contextmanager
    def started(self, pool: Pool, _kind: str | None) -> Iterator[HereCluster]:
        """Stand for `effd0.scale.ray_start.cluster`."""
        self.pool = pool
        yield self
