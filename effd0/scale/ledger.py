"""
What happens to the workers of a run, written down in one place that outlives each of them.

A worker that dies says nothing any more; what it had said before, that it was about to open the
model or to do a unit, tells what it died of.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import Protocol, TypeAlias

#: A unit, or a device, that ended its worker so often is left alone.
ATTEMPTS = 3
#: Who waits asks so often whether the round is over, in seconds.
ASK_EVERY_S = 1.0

#: A device of a node, by its number; or an actor there, which computes on its CPUs.
Place: TypeAlias = tuple[str, int | str]


@dataclass(frozen=True)
class WorkerId:
    """
    A process that runs a model: *device* is its number where it has one; *born* tells lives.

    Of devices that are not all visible to it, *opens* is the number by which it opens its own.
    A process that died and the one that replaces it are the same *actor*.
    """

    host: str
    node: str
    pid: int
    device: int | None
    born: float
    opens: int | None = None
    actor: str = ""

    @property
    def place(self) -> Place:
        """Where the process that replaces it comes to be; CPUs have no place but the actor's."""
        return self.node, self.actor if self.device is None else self.device

    def __str__(self) -> str:
        device = "" if self.device is None else f" device {self.device}"
        return f"{self.host}{device} pid {self.pid}"


@dataclass(frozen=True)
class Taken:
    """A worker that took a unit, and the images that it was about to run, if it said so."""

    worker: WorkerId
    images: tuple[object, ...] = ()


class Book(Protocol):
    """The ledger of a run, as a worker sees it; see `Ledger`."""

    def model(self) -> bytes:
        """The model file."""

    def enter(self, worker: WorkerId) -> str | None:
        """Say that *worker* is about to open the model; why it must not, or None."""

    def opened(self, worker: WorkerId, seconds: float) -> None:
        """Say that *worker* holds the open model."""

    def retire(self, worker: WorkerId, why: str) -> None:
        """Say that no worker shall be where *worker* is."""

    def is_over(self, worker: WorkerId) -> bool:
        """Whether *worker* need not wait any longer."""

    def take(self, worker: WorkerId, first: int) -> int:
        """Say that *worker* begins the unit at *first*; how many died of it before."""

    def about_to_run(self, first: int, images: tuple[object, ...]) -> None:
        """Say which *images* of a unit come next."""

    def give_back(self, first: int) -> None:
        """Say that a unit is done, or failed."""

    def last_lost(self, first: int) -> Taken | None:
        """Who died last over a unit."""


class Ledger:
    """The ledger of a run; one in the whole cluster.  Units are known by their first place."""

    def __init__(self, model: bytes) -> None:
        self._model = model
        self._opening: Counter[Place] = Counter()
        self._retired: dict[Place, str] = {}
        self._waiting: dict[WorkerId, float] = {}
        self._attempts: Counter[int] = Counter()
        self._held: dict[int, Taken] = {}
        self._lost: list[tuple[int, Taken]] = []
        self._opened: dict[WorkerId, float] = {}
        self._living: dict[tuple[object, str], WorkerId] = {}
        self._replaced: list[WorkerId] = []
        self._over = False

    def model(self) -> bytes:
        """The model file."""
        return self._model

    def begin(self) -> None:
        """Begin a round: nobody of the one before is left."""
        self._over = False
        self._waiting.clear()
        self._opening.clear()
        self._living.clear()

    def enter(self, worker: WorkerId) -> str | None:
        """Say that *worker* is about to open the model; why it must not, or None."""
        self._opening[worker.place] += 1
        before = self._living.get((worker.place, worker.actor))
        if before is not None and before.place not in self._retired:
            self._replaced.append(before)
        self._living[worker.place, worker.actor] = worker
        if self._opening[worker.place] > ATTEMPTS:
            self.retire(worker, f"opening the model there ended {ATTEMPTS} processes")
        return self._retired.get(worker.place)

    def opened(self, worker: WorkerId, seconds: float) -> None:
        """Say that *worker* holds the open model, after so many *seconds*."""
        self._opening[worker.place] = 0
        self._opened[worker] = seconds

    def retire(self, worker: WorkerId, why: str) -> None:
        """Say that no worker shall be where *worker* is."""
        self._retired.setdefault(worker.place, f"{worker}: {why}")

    def retire_silent(self, seconds: float) -> None:
        """Say that who holds a unit now gave no answer for so long; its device is left out."""
        for taken in self._held.values():
            worker = taken.worker
            living = self._living.get((worker.place, worker.actor))
            if worker.device is not None and living == worker:
                self.retire(worker, f"gave no answer for {seconds:.0f} s")

    def forgive(self) -> None:
        """Say that a round was ended from outside: no unit that is held has killed anybody."""
        self._held.clear()

    def is_over(self, worker: WorkerId) -> bool:
        """Whether *worker*, which has no device that works, need not wait any longer."""
        self._waiting[worker] = time.monotonic()
        return self._over

    def end(self) -> None:
        """End the round: who waits need not do so any longer."""
        self._over = True

    def end_if_hopeless(self, workers: int) -> list[str]:
        """End the round where all of so many *workers* only wait; why each of them does."""
        now = time.monotonic()
        waiting = [w for w, asked in self._waiting.items() if now - asked < 5 * ASK_EVERY_S]
        if len(waiting) < workers:
            return []
        self.end()
        return [self._retired.get(worker.place, str(worker)) for worker in waiting]

    def take(self, worker: WorkerId, first: int) -> int:
        """Say that *worker* begins the unit at *first*; how many died of it before."""
        if first in self._held:
            # Nobody gave it back: who held it is dead.
            self._attempts[first] += 1
            self._lost.append((first, self._held.pop(first)))
        self._held[first] = Taken(worker)
        return self._attempts[first]

    def about_to_run(self, first: int, images: tuple[object, ...]) -> None:
        """Say which *images* of the unit at *first* come next, where a unit has killed before."""
        self._held[first] = Taken(self._held[first].worker, images)

    def give_back(self, first: int) -> None:
        """Say that the unit at *first* is done, or failed without killing anyone."""
        self._held.pop(first, None)

    def last_lost(self, first: int) -> Taken | None:
        """Who died last over the unit at *first*."""
        return next((taken for at, taken in reversed(self._lost) if at == first), None)

    def state(self) -> LedgerState:
        """All of it."""
        return LedgerState(
            dict(self._opened),
            tuple(self._lost),
            tuple(self._held.items()),
            dict(self._retired),
            tuple(self._replaced),
        )


@dataclass(frozen=True)
class LedgerState:
    """
    Seconds that each worker took to open the model; units that were *lost* with their workers, and
    that are *held*, by first place; places that are *retired*, and why; workers that died and were
    *replaced*, whatever they did.
    """

    opened: dict[WorkerId, float]
    lost: tuple[tuple[int, Taken], ...]
    held: tuple[tuple[int, Taken], ...]
    retired: dict[Place, str]
    replaced: tuple[WorkerId, ...] = ()
