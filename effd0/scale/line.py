"""
Units through one runner without a pause between them.

While the device works on one unit, the images of the next are read, and what was found in the one
before is matched and written, each in the thread that brought it.  Without that the device would
wait at each unit's beginning and end.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, TypeAlias

from ..errors import RunnerError
from .unit import Unit

#: What was found in a unit, until it is kept; None where the unit is to be done by itself.
Raw: TypeAlias = Any
#: A unit, and who waits for it.
Job: TypeAlias = tuple[Unit, Future[Raw]]
#: How long a stream waits for one more unit before it ends, in seconds.
LINGER_S = 0.05
#: Units that are brought at a time; where all of them are in the stream no other can come.
CALLS = 2


class Line:
    """
    One stream of units at a time, in a thread of its own that ends when no more units come.

    *flow* gives the raw result of each of some units, in order, taking units ahead of results.
    *begin* is asked as each is about to begin: False is for one that must not be with others.
    """

    def __init__(
        self,
        flow: Callable[[Iterable[Unit]], Iterator[Raw]],
        begin: Callable[[Unit], bool],
        batch_size: int,
    ) -> None:
        self._flow, self._begin, self._batch_size = flow, begin, batch_size
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._turn = threading.Condition()
        self._pumping = self._busy = False
        self._waiting = 0

    def run(self, unit: Unit) -> Raw:
        """
        What is found in *unit*; None where it has to be done by itself.

        Raises what broke the stream, whichever of the units in it that was through.
        """
        future: Future[Raw] = Future()
        with self._turn:
            self._jobs.put((unit, future))
            if not self._pumping:
                self._pumping = True
                threading.Thread(target=self._pump, daemon=True, name="effd0-line").start()
        return future.result()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Have no stream run for the time of the block; one that does takes no more units."""
        with self._turn:
            self._waiting += 1
            self._turn.wait_for(lambda: not self._busy)
            self._waiting -= 1
            self._busy = True
        try:
            yield
        finally:
            self._free()

    def _free(self) -> None:
        with self._turn:
            self._busy = False
            self._turn.notify_all()

    def _pump(self) -> None:
        while (job := self._next()) is not None:
            self._stream(job)
            self._free()

    def _next(self) -> Job | None:
        """The unit that begins a stream; None where this thread is to end, for want of units."""
        with self._turn:
            # Who wants to be alone goes first, or might wait for as long as units come.
            self._turn.wait_for(lambda: not self._busy and not self._waiting)
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                self._pumping = False
                return None
            self._busy = True
            return job

    def _stream(self, job: Job) -> None:
        """Run *job* and all that come while it runs."""
        flying: deque[Future[Raw]] = deque()
        failed: BaseException | None = None
        try:
            for raw in self._flow(self._units(job, flying)):
                flying.popleft().set_result(raw)
        except BaseException as error:  # whoever waits must hear of it
            failed = error
        for future in flying:
            future.set_exception(failed or RunnerError("the runner gave fewer results than units"))

    def _units(self, job: Job, flying: deque[Future[Raw]]) -> Iterator[Unit]:
        while True:
            unit, future = job
            flying.append(future)  # first of all: whoever waits hears of what fails here too
            if self._begin(unit):
                yield unit
                # Batches of two units do not mix: the heads would be others than in one process.
                if (unit.stop - unit.first) % self._batch_size:
                    return
            else:
                flying.pop().set_result(None)
            if self._waiting:
                return
            try:
                job = self._jobs.get(timeout=LINGER_S if len(flying) < CALLS else 0)
            except queue.Empty:
                return
