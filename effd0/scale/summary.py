"""What a run on many workers was like: who did how much, who lagged, what went wrong."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .ledger import LedgerState, WorkerId
from .worker import UnitReport

#: A worker that is so much slower than the middle one is a straggler.
STRAGGLES = 1.5
#: Units from which a rate says anything.
FEW = 2


@dataclass
class WorkerShare:
    """What one worker did: images in so many busy *seconds*, and what opening the model took."""

    worker: str
    images: int = 0
    units: int = 0
    seconds: float = 0.0
    opened_s: float = 0.0
    straggler: bool = False

    @property
    def rate(self) -> float:
        """Images a second while it was busy."""
        return self.images / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class PoolSummary:
    """
    A whole run: *start_s* until the first worker was open, *seconds* of work after that.

    *faults* are sentences; *again* is how many units were asked for more than once.
    """

    workers: tuple[WorkerShare, ...]
    rounds: int
    again: int
    start_s: float
    seconds: float
    images: int
    faults: tuple[str, ...] = field(default=())

    @property
    def images_per_second(self) -> float:
        """Of all workers together, start-up left out."""
        return self.images / self.seconds if self.seconds else 0.0

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        workers = [asdict(one) | {"rate": one.rate} for one in self.workers]
        return {
            **asdict(self),
            "workers": workers,
            "faults": list(self.faults),
            "images_per_second": self.images_per_second,
        }


class Shares:
    """Sums up reports, one at a time, worker by worker."""

    def __init__(self) -> None:
        self._of: dict[WorkerId, WorkerShare] = {}

    def add(self, report: UnitReport) -> None:
        """Count what *report* says was done."""
        share = self._of.setdefault(report.worker, WorkerShare(str(report.worker)))
        share.images += report.stop - report.first
        share.units += 1
        share.seconds += report.seconds

    def all(self, opened: Mapping[WorkerId, float]) -> tuple[WorkerShare, ...]:
        """Each worker's share, those who did nothing included, by host, device and age."""
        every = {worker: self._of.get(worker, WorkerShare(str(worker))) for worker in opened}
        for worker, share in every.items():
            share.opened_s = opened[worker]
        rates = [share.rate for share in every.values() if share.units >= FEW]
        middle = statistics.median(rates) if rates else 0.0
        for share in every.values():
            share.straggler = share.units >= FEW and share.rate * STRAGGLES < middle
        order = sorted(every, key=lambda w: (w.host, w.node, w.device or 0, w.born))
        return tuple(every[worker] for worker in order)


def faults(
    state: LedgerState,
    dead_nodes: Mapping[str, str],
    notes: Iterable[str],
    heard: Sequence[str],
    again: int = 0,
) -> tuple[str, ...]:
    """Each fault of the run as a sentence: devices left out, nodes and workers lost, the rest."""
    held = {taken.worker for _, taken in (*state.lost, *state.held)}
    lost = dict.fromkeys([taken.worker for _, taken in (*state.lost, *state.held)])
    lost.update(dict.fromkeys(state.replaced))
    # Of a process that died between two units only Ray knows.
    lost.update((w, None) for w in state.opened if _said(w, heard) and w.place not in state.retired)
    gone = [f"a node was lost: {told}".rstrip(": ") for _, told in sorted(dead_nodes.items())]
    died = [_death(worker, heard, held=worker in held) for worker in lost]
    retired = [f"device left out: {why}" for why in state.retired.values()]
    told = tuple(dict.fromkeys([*retired, *gone, *died, *notes]))
    if again and not told:  # whose end nobody saw
        return (f"{again} units of work did not come back and were asked for again",)
    return told


def _said(worker: WorkerId, heard: Sequence[str]) -> str:
    """What Ray said of the end of *worker*'s process."""
    return next((line for line in heard if f"Worker PID: {worker.pid} " in line), "")


def _death(worker: WorkerId, heard: Sequence[str], *, held: bool) -> str:
    """What is known of how *worker* died; Ray may have said why."""
    _, _, detail = _said(worker, heard).partition("Worker exit detail: ")
    detail = detail.partition(". Some common causes")[0].strip()
    if "connection error" in detail:  # all that Ray saw of it
        detail = "its process was killed or crashed"
    memory = any("memory" in line and f"pid={worker.pid}" in line for line in heard)
    why = "out of memory" if memory else detail
    then = "its unit was asked for again" if held else "another took its place"
    return f"worker lost: {worker}{f': {why}' if why else ''}; {then}"
