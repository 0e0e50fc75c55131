"""
Rounds: all units are asked for; those that did not come back are asked for again.

A unit counts once, however often it was begun.  What fails for good is kept apart and named in the
end, when everything else is done; so is what has failed too often.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from ..errors import Effd0Error, ImageError, RunnerError
from .ledger import ATTEMPTS
from .unit import Unit
from .worker import UnitReport

#: Runs units once and yields what comes back.
RunRound = Callable[[Sequence[Unit]], Iterator[UnitReport]]
#: Rounds in a row from which nothing comes back, until nothing is hoped for.
BARREN = 3
#: How many of many failures a message shows.
SHOWN = 5


class Hopeless(RunnerError):
    """No device of the pool works: another round would not do better."""


@dataclass
class Rounds:
    """What rounds went through: what was repeated, *done*, and what went wrong on the way."""

    rounds: int = 0
    again: int = 0
    notes: list[str] = field(default_factory=list)
    failed: dict[int, Effd0Error] = field(default_factory=dict)
    done: set[int] = field(default_factory=set)

    def run(self, units: Sequence[Unit], run_round: RunRound) -> Iterator[UnitReport]:
        """
        Yield the report of each unit that was done, once.

        Those that cannot be done are in *failed*, by first place.  Raises `RunnerError` where
        nothing comes back any more.
        """
        todo = {unit.first: unit for unit in units}
        failures: Counter[int] = Counter()
        barren = 0
        while todo:
            before = len(todo)
            self.again += before if self.rounds else 0
            self.rounds += 1
            ended = None
            try:
                for report in run_round(list(todo.values())):
                    if report.first in todo and self._settled(report, failures):
                        del todo[report.first]
                        if report.failure is None:
                            self.done.add(report.first)
                            yield report
            except Hopeless:
                raise
            except RunnerError as error:
                ended = error
                self.notes.append(str(error))
            barren = 0 if len(todo) < before else barren + 1
            if barren == BARREN:
                raise RunnerError(
                    f"{len(todo)} units of work came back from no worker in {BARREN} rounds"
                    + ("" if ended is None else f"; the last one ended with: {ended}")
                )

    def _settled(self, report: UnitReport, failures: Counter[int]) -> bool:
        """Whether *report* is the last word on its unit."""
        self.notes.extend(report.notes)
        if report.failure is None:
            return True
        failures[report.first] += 1
        if report.failure.again and failures[report.first] < ATTEMPTS:
            self.notes.append(f"{report.worker}: {report.failure.error}; tried again")
            return False
        self.failed[report.first] = report.failure.error
        return True

    def check(self, units: Sequence[Unit], kept: str) -> None:
        """Raise one error for all units that *failed*; *kept* says where the others are."""
        if not self.failed:
            return
        images = sum(len(unit.image_ids) for unit in units if unit.first in self.failed)
        errors = list(dict.fromkeys(str(error) for error in self.failed.values()))
        more = f"\n  and {len(errors) - SHOWN} more" if len(errors) > SHOWN else ""
        shown = "\n  ".join(errors[:SHOWN])
        alike = {type(error) for error in self.failed.values()}
        kind = ImageError if alike == {ImageError} else RunnerError
        raise kind(
            f"{len(self.failed)} units of work ({images} images) could not be done:\n  {shown}"
            f"{more}\n{kept}"
        )
