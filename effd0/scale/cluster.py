"""
Ray as a run sees it: a pool of actors that units go through, by Ray Data.

Ray Data deals the units out, holds back what nobody takes yet, and replaces a process that dies.
What such a process was doing is not repeated by Ray, which would do so for ever, or wait for ever
for a node that is gone: it is simply missing, and the next round asks for it again.
"""

from __future__ import annotations

import pickle
import queue
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import Effd0Error, RunnerError
from . import nodes
from .ledger import ASK_EVERY_S, Ledger, LedgerState
from .line import CALLS
from .pool import GPU, NPU, Pool
from .ray_process import BookAbroad, PoolWorker, probe
from .rounds import Hopeless
from .stream import End, drain, last_line, let_go_of_actors
from .subject import Opened, Subject
from .unit import Unit
from .worker import UnitReport, Work

#: Blocks of units: Ray keeps a record of each.
_MOST_BLOCKS = 10_000
_ASK_S = 0.5
#: Those who only wait have let go by then, and are back otherwise.
_LET_GO_S = 5 * ASK_EVERY_S


class Cluster:
    """Ray as it runs now; see `ray_start.cluster`.  *heard* are the lines that Ray had to say."""

    def __init__(self, pool: Pool, kind: str | None, heard: list[str]) -> None:
        self.pool, self.kind, self.heard = pool, kind, heard
        self._ledger: Any = None
        self._long_dead: frozenset[str] = frozenset()

    def on_cpu(self) -> Cluster:
        """The same, for workers that compute on CPUs."""
        return Cluster(self.pool, None, self.heard)

    def capacity(self) -> int:
        """How many workers have a place now."""
        return nodes.resource(self.kind or "CPU")

    def dead_nodes(self) -> dict[str, str]:
        """The nodes that are gone since the run began, and what Ray knows of why."""
        dead = nodes.dead()
        return {id_: why for id_, why in dead.items() if id_ not in self._long_dead}

    def begin(self, model: bytes) -> None:
        """Begin a run of the *model* file: its ledger lives on the driver's node."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        let_go_of_actors()
        self._long_dead = frozenset(nodes.dead())
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor: Any = ray.remote(Ledger)
        self._ledger = actor.options(num_cpus=0, scheduling_strategy=here).remote(ray.put(model))

    def probe(self, subject: Subject, batch_size: int | None) -> Opened:
        """Open the model where workers will, on a device that works; raise what that raises."""
        asked = (BookAbroad(self._ledger), subject, batch_size, self.pool.devices)
        result = self._first(asked, 1)
        if isinstance(result, Effd0Error) and self.kind is not None and self._size() > 1:
            # It may be the fault of that device alone.
            result = self._first(asked, self._size())
        if isinstance(result, Effd0Error):
            raise result
        return result

    def _first(self, asked: tuple[Any, ...], places: int) -> Opened | Effd0Error:
        """The answer of that of so many *places* where the model is open first."""
        import ray

        remote: Any = nodes.untyped(ray.remote)(probe)
        task = remote.options(**self._needs(), max_retries=1)
        ray.get(self._ledger.begin.remote())
        tasks = [task.remote(*asked, hold=places > 1) for _ in range(places)]
        end = time.monotonic() + self.pool.silence_s
        while not (ready := ray.wait(tasks, timeout=_ASK_S)[0]):
            self._check_hope(places)
            if time.monotonic() > end:
                break
        answer: Opened | Effd0Error = self._answer(ready)
        # Who holds a device lets go.  Cancelling tasks can end the driver (Ray 2.60).
        ray.get(self._ledger.end.remote())
        ray.wait(tasks, num_returns=places, timeout=_LET_GO_S)
        return answer

    def _check_hope(self, workers: int) -> None:
        """Raise `Hopeless`, with the reasons, where all of so many *workers* only wait."""
        import ray

        if why := ray.get(self._ledger.end_if_hopeless.remote(workers)):
            raise Hopeless("no device works:\n  " + "\n  ".join(sorted(set(why))))

    def state(self) -> LedgerState:
        """What the ledger holds."""
        import ray

        state: LedgerState = ray.get(self._ledger.state.remote())
        return state

    def run(
        self, units: Sequence[Unit], subject: Subject, work: Work, expected: Opened
    ) -> Iterator[UnitReport]:
        """
        One round over *units*: yield reports as they come, in any order.

        Units whose workers die have none.  Raises `RunnerError` where the round ends early.
        """
        import ray

        let_go_of_actors()
        ray.get(self._ledger.begin.remote())
        made = pickle.dumps((subject, work, expected, self.pool.devices))
        dataset = self._dataset(units, made)
        came: queue.SimpleQueue[UnitReport | End] = queue.SimpleQueue()
        threading.Thread(target=drain, args=(dataset, came), daemon=True).start()
        del dataset
        while True:
            try:
                item = came.get(timeout=_ASK_S)
            except queue.Empty:
                self._check_hope(min(self._actors(len(units)), max(1, self.capacity())))
                continue
            if isinstance(item, End):
                self._check_end(item)
                return
            yield item

    def _check_end(self, end: End) -> None:
        """Raise `RunnerError` where a round ended before its time."""
        import ray

        if not (end.silent or end.why):
            return
        silence = self.pool.silence_s
        if end.silent:
            ray.get(self._ledger.retire_silent.remote(silence))
        # Who still worked did not die of what it had in hand.
        ray.get(self._ledger.forgive.remote())
        if end.silent:
            raise RunnerError(f"no worker said anything for {silence:.0f} s")
        raise RunnerError(f"the round ended early: {end.why}")

    def _size(self) -> int:
        """How many workers there can be now."""
        return min(self.pool.workers, max(1, self.capacity()))

    def _actors(self, units: int) -> int:
        """How many workers a round of so many *units* has."""
        # Of devices some may have been left out, so that all are needed even for few units.
        return self.pool.workers if self.kind else min(self.pool.workers, units)

    def _dataset(self, units: Sequence[Unit], made: bytes) -> Any:
        """The units on their way through the pool, as Ray Data runs them."""
        import ray.data

        rows = [{"unit": pickle.dumps(unit)} for unit in units]
        size = self._actors(len(units))
        with warnings.catch_warnings():
            # Retries have no named parameter yet, and Ray 2.60 warns of what it sets itself.
            warnings.simplefilter("ignore")
            context = ray.data.DataContext.get_current()
            context.enable_progress_bars = self.pool.verbose
            context.print_on_execution_start = self.pool.verbose
            context.max_errored_blocks = -1
            context.execution_no_progress_timeout_s = self.pool.silence_s
            blocks = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MOST_BLOCKS))
            return blocks.map_batches(
                PoolWorker,
                batch_size=1,
                fn_constructor_args=(made, self._ledger),
                compute=ray.data.ActorPoolStrategy(
                    size=size,
                    # One unit on the device, one coming or going, and one at the door.
                    max_concurrent_calls_per_actor=CALLS,
                    max_tasks_in_flight_per_actor=CALLS + 1,
                    enable_true_multi_threading=True,
                ),
                max_restarts=-1,
                max_task_retries=0,
                **self._needs(),
            )

    def _needs(self) -> dict[str, Any]:
        """What Ray sets aside for each worker."""
        if self.kind == GPU:
            return {"num_cpus": 1, "num_gpus": 1}
        return {"num_cpus": 1, **({"resources": {NPU: 1}} if self.kind == NPU else {})}

    def _answer(self, ready: Sequence[Any]) -> Any:
        import ray

        if not ready:
            raise RunnerError(
                f"no worker could open the model within {self.pool.silence_s:.0f} s: none of the "
                f"{self.capacity()} {self.kind or 'CPU'} of the cluster is free, or none answers"
            )
        try:
            return ray.get(ready[0])
        except ray.exceptions.RayError as error:
            raise RunnerError(f"no worker could open the model: {last_line(error)}") from error
