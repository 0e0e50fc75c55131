"""A benchmark's calls through pytest-benchmark, and the row that they become."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from effd0.benchmark.measure import Subject, seconds_of, step_times, timed_row
from effd0.results.compare import MIN_SAMPLES
from effd0.results.run import TimedRival
from effd0.timing import Latency

T = TypeVar("T")
R = TypeVar("R")

#: Calls that a row has at most, whatever their number is by time.
MOST = 100


@dataclass(frozen=True)
class Measure:
    """
    Times calls one by one and leaves a row in the benchmark's ``extra_info``.

    The first call warms up; its time decides how many calls fit into 3 s, or 10 s in turn with
    another's; *quick* into 0.5 or 2 s, with too few of them for intervals.
    """

    benchmark: Any  # pytest-benchmark's fixture, which is half typed
    dataset: str
    quick: bool = False

    def __call__(
        self,
        call: Callable[[], T],
        timed: str,
        *,
        images: int,
        on: Subject | str,
        batch: int | None = None,
        rounds: int | None = None,
        steps: Mapping[str, list[float]] | None = None,
        note: Callable[[T], str] | None = None,
    ) -> T:
        """
        Time *call*, of so many real *images*, on a model or a library; return its result.

        *steps* are filled by *call*: the seconds of its parts, call by call; *note* explains the
        result.  Where *rounds* is given there is no call to warm up.
        """
        if self.benchmark.disabled:
            result: T = self.benchmark.pedantic(call)
            return result
        if rounds is None:
            rounds = self._rounds(seconds_of(lambda _: call()), 0.5 if self.quick else 3)
        before = {} if isinstance(on, str) else step_times(on.runner)
        result = self.benchmark.pedantic(call, rounds=rounds, iterations=1)
        taken = {} if isinstance(on, str) else step_times(on.runner, before)
        for step, seconds in (steps or {}).items():
            taken[step] = [1000 * one for one in seconds[-rounds:]]
        notes = [] if note is None else [note(result)]
        self._leave(timed, images, on, batch=batch, steps=taken, notes=notes)
        return result

    def in_turn(
        self,
        ours: Callable[[], T],
        rival: Callable[[], R],
        timed: str,
        *,
        name: str,
        images: int,
        on: Subject | str,
    ) -> tuple[T, R]:
        """
        Time *ours* and the *rival* called *name*, A B A B; return the results of both.

        Whoever calls this compares the results: times of a wrong result are no row.
        """
        theirs = rival()
        if self.benchmark.disabled:
            return self.benchmark.pedantic(ours), theirs
        found = ours()
        seconds = seconds_of(lambda _: rival()) + seconds_of(lambda _: ours())
        samples: list[float] = []
        self.benchmark.pedantic(
            ours,
            setup=lambda: samples.append(seconds_of(lambda _: rival())),
            rounds=self._rounds(seconds, 2 if self.quick else 10),
            iterations=1,
        )
        self._leave(timed, images, on, rival=TimedRival(name, [1000 * one for one in samples]))
        return found, theirs

    def _rounds(self, seconds: float, budget: float) -> int:
        """The number of calls of *seconds* each within *budget*."""
        return max(3 if self.quick else MIN_SAMPLES, min(MOST, int(budget / seconds)))

    def _leave(self, timed: str, images: int, on: Subject | str, **more: Any) -> None:
        """Leave the row of what pytest-benchmark has timed."""
        name, samples = self.benchmark.fullname, self.benchmark.stats.stats.data
        row = timed_row(
            name, timed, images, Latency.from_seconds(samples), on, dataset=self.dataset, **more
        )
        self.benchmark.extra_info.update(msgspec.to_builtins(row))
