"""A cluster without Ray: workers are objects of this process, which may die all the same."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from effd0.distributed.pool import Pool
from effd0.distributed.ray_cluster import Cluster, Died
from effd0.distributed.worker import Place, Worker, WorkerModel

_ORDER = itertools.count()


class Killed(BaseException):
    """Ends a worker of `HereCluster` as the system would end a process: nothing is reported."""


@dataclass(frozen=True)
class HereCluster(Cluster):
    """
    Calls run one after the other, when they are waited for; all that they take is pickled.

    *begun* are the first items of each unit, as often as it was begun; *silent* says of which
    worker processes, by their number, nothing is heard.
    """

    kind: str | None = None
    begun: list[Any] = field(default_factory=list)
    silent: set[int] = field(default_factory=set)
    processes: list[Worker | None] = field(default_factory=list)

    def on_cpu(self) -> HereCluster:
        """All its workers are on CPUs."""
        return self

    def capacity(self) -> int:
        """There is a place for each worker."""
        return self.pool.workers

    def share(self, data: bytes) -> Any:
        """Nothing has to be sent."""
        return data

    def start(self, model: WorkerModel, data: Any) -> Any:
        """A new worker; a device has the number of its worker, whatever process that is."""
        pid, device = len(self.processes), None
        if self.kind is not None:
            device = pid % self.pool.workers
        self.processes.append(Worker(model, data, lambda: Place("here", pid, device, device)))
        return pid

    def call(self, worker: Any, method: str, *args: Any) -> Any:
        """A call to be run later."""
        return next(_ORDER), worker, method, pickle.dumps(args)

    def wait(self, calls: Sequence[Any], timeout_s: float) -> Any | None:
        """The oldest of *calls* that is answered."""
        del timeout_s
        return min((call for call in calls if call[1] not in self.silent), default=None)

    def result(self, call: Any) -> Any:
        """Run *call*; a process that is `Killed` in one has ended for all."""
        _, number, method, args = call
        worker, values = self.processes[number], pickle.loads(args)  # noqa: S301  # our own
        if method == "run":
            self.begun.append(values[1][0])
        try:
            if worker is None:
                raise Killed
            return pickle.loads(pickle.dumps(getattr(worker, method)(*values)))  # noqa: S301
        except Killed:
            self.processes[number] = None
            raise Died("its process was killed or crashed") from None

    def stop(self, worker: Any) -> None:
        """End it."""
        self.processes[worker] = None

    @contextmanager
    def started(self, pool: Pool, kind: str | None) -> Iterator[HereCluster]:
        """Stand for `effd0.distributed.ray_cluster.started`."""
        yield HereCluster(pool, kind, self.begun, self.silent)
