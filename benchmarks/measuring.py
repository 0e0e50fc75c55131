"""A benchmark's calls through pytest-benchmark, and the row that they become."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from effd0.bench.rows import Rival, Row
from effd0.bench.subject import Subject
from effd0.bench.targets import Target
from effd0.bench.timing import Apart, seconds_of
from effd0.results.environment import fingerprint
from effd0.timing import Latency

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Budget:
    """How long a row may take, in seconds of timed calls, and how many calls that may be."""

    seconds: float
    least: int
    most: int = 100

    def rounds(self, seconds: float) -> int:
        """The number of calls of *seconds* each."""
        return max(self.least, min(self.most, int(self.seconds / seconds)))


@dataclass(frozen=True)
class Measure:
    """
    Times calls one by one and leaves a row in the benchmark's ``extra_info``.

    The first call warms up; its time says how many calls the *budget* allows.
    """

    benchmark: Any  # pytest-benchmark's fixture, which is half typed
    dataset: str
    budget: Budget

    def __call__(
        self,
        call: Callable[[], T],
        timed: str,
        *,
        images: int,
        on: Subject | str,
        batch: int | None = None,
        steps: Mapping[str, list[float]] | None = None,
    ) -> T:
        """
        Time *call*, of so many real *images*, on a model or a library; return its result.

        *steps* are filled by *call*: the seconds of parts of it, call by call.
        """
        if self.benchmark.disabled:
            only: T = self.benchmark.pedantic(call)
            return only
        seconds = seconds_of(lambda _: call())
        rounds = self.budget.rounds(seconds)
        watched = None if isinstance(on, str) else Apart(on.runner)
        result: T = self.benchmark.pedantic(call, rounds=rounds, iterations=1)
        apart = {} if watched is None else watched.since()
        for step, taken in (steps or {}).items():
            apart[step] = Latency.from_seconds(taken[-rounds:])
        row = replace(self._row(timed, images, on), batch=batch, apart=apart)
        self.benchmark.extra_info.update(row.extra_info())
        return result

    def note(self, line: Callable[[Row], str]) -> None:
        """Add a *line* to the notes of the row that was left, if one was."""
        info = self.benchmark.extra_info
        if info:
            row = Row.from_json({"fullname": self.benchmark.fullname, "extra_info": info})
            info["notes"] = [*row.notes, line(row)]

    def _row(self, timed: str, images: int, on: Subject | str) -> Row:
        samples = Latency.from_seconds(self.benchmark.stats.stats.data)
        row = Row(
            name=self.benchmark.fullname,
            timed=timed,
            images=images,
            samples=samples,
            fingerprint=fingerprint(on) if isinstance(on, str) else on.fingerprint,
            dataset=self.dataset,
        )
        if isinstance(on, str):
            return row
        return replace(row, precision=on.precision, model_sha256=on.model_sha256, runner=on.label)


class Versus(Measure):
    """Times calls in turn with a rival's, A B A B, and leaves both in one row."""

    def in_turn(
        self,
        ours: Callable[[], T],
        rival: Callable[[], R],
        timed: str,
        *,
        name: str,
        images: int,
        on: Subject | str,
        target: Target | None = None,
    ) -> tuple[T, R]:
        """Time *ours* and the *rival* called *name*; return the results of both, to be compared."""
        theirs = rival()
        if self.benchmark.disabled:
            return self.benchmark.pedantic(ours), theirs
        found = ours()
        seconds = seconds_of(lambda _: rival()) + seconds_of(lambda _: ours())
        samples: list[float] = []
        self.benchmark.pedantic(
            ours,
            setup=lambda: samples.append(seconds_of(lambda _: rival())),
            rounds=self.budget.rounds(seconds),
            iterations=1,
        )
        against = Rival(name, Latency.from_seconds(samples), target or Target())
        row = replace(self._row(timed, images, on), rival=against)
        self.benchmark.extra_info.update(row.extra_info())
        return found, theirs
