"""Units through the workers of a cluster, whatever is done with each: in rounds, and summed up."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import RunnerError
from ..progress import OpenPoolProgress
from ..timing import Latency
from .cluster import Cluster
from .ledger import LedgerState
from .rounds import Rounds
from .subject import Opened, Subject
from .summary import PoolSummary, faults
from .tally import Tally
from .unit import Unit
from .worker import UnitReport, Work

#: Faults that an error names.
FAULTS = 5


@dataclass(frozen=True)
class Begun:
    """A run of *subject* on *cluster*, begun at *start*; *opened* is what a worker said of it."""

    cluster: Cluster
    subject: Subject
    opened: Opened
    start: float

    @property
    def description(self) -> str:
        """What computes, and how many of it."""
        return f"{self.opened.description}, {self.cluster.pool.workers} workers"


def begin(cluster: Cluster, subject: Subject, model: Path, batch_size: int | None) -> Begun:
    """Begin a run of *subject*, which the file *model* is; raise what opening it raises."""
    start = time.perf_counter()
    cluster.begin(model.read_bytes())
    return Begun(cluster, subject, cluster.probe(subject, batch_size), start)


@dataclass(frozen=True)
class Shown:
    """How the progress of a run is shown: as *what*, on what *open_progress* opens."""

    what: str
    open_progress: OpenPoolProgress


def drive(
    run: Begun,
    units: Sequence[Unit],
    work: Work,
    take: Callable[[UnitReport], object],
    show: Shown,
    kept: str,
) -> tuple[PoolSummary, dict[str, Latency]]:
    """
    Do *units* on the workers of *run* and *take* each report; what that was like, stage by stage.

    Raises one error at the end for all units that could not be done, which ends with *kept*: what
    there is of the others.  An error that ends the run before has the faults so far as notes.
    """
    rounds, tally = Rounds(), Tally(run.start)
    images = sum(unit.stop - unit.first for unit in units)
    reports = rounds.run(units, lambda todo: run.cluster.run(todo, run.subject, work, run.opened))
    try:
        with show.open_progress(show.what, images) as advance:
            for report in reports:
                tally.add(report)
                take(report)
                advance(str(report.worker), report.stop - report.first)
    except RunnerError as error:
        for line in _shown(_told(run.cluster, run.cluster.state(), rounds)):
            error.add_note(line)
        raise
    state = run.cluster.state()
    told = _told(run.cluster, state, rounds)
    rounds.check(units, "\n".join([*_shown(told), *([kept] if kept else [])]))
    summary = PoolSummary(
        workers=tally.shares.all(state.opened),
        rounds=rounds.rounds,
        again=rounds.again,
        start_s=tally.start_s,
        seconds=tally.seconds,
        images=images,
        faults=told,
    )
    return summary, tally.stages()


def _told(cluster: Cluster, state: LedgerState, rounds: Rounds) -> tuple[str, ...]:
    """All that went wrong so far."""
    # That a unit was given back is not waited for, and may be heard of after its report.
    held = tuple((first, taken) for first, taken in state.held if first not in rounds.done)
    state = replace(state, held=held)
    return faults(state, cluster.dead_nodes(), rounds.notes, cluster.heard, rounds.again)


def _shown(told: Sequence[str]) -> list[str]:
    """What an error says of faults: of many, the first few."""
    more = [f"and {len(told) - FAULTS} more faults"] if len(told) > FAULTS else []
    return [*told[:FAULTS], *more]
