"""Rounds: what does not come back is asked for again, and no unit counts twice."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effd0.errors import ImageError, RunnerError
from effd0.scale.ledger import ATTEMPTS, WorkerId
from effd0.scale.rounds import BARREN, Hopeless, Rounds
from effd0.scale.unit import Unit
from effd0.scale.units import cut
from effd0.scale.worker import Failure, UnitReport

from .test_scale_units import dataset_of

SOMEBODY = WorkerId("host", "node", 1, None, 0.0)
UNITS = cut(dataset_of(40), 2, 1)


def report(unit: Unit, failure: Failure | None = None) -> UnitReport:
    """Return what a worker says of *unit*."""
    return UnitReport(unit.first, unit.stop, SOMEBODY, 1.0, b"", {}, failure)


@given(st.randoms(use_true_random=False))
def test_each_unit_counts_once_whatever_is_lost(chance: random.Random) -> None:
    """Lost, doubled, in any order, with rounds cut short: every unit comes out once."""

    def run_round(units: Sequence[Unit]) -> Iterator[UnitReport]:
        some = [unit for unit in units if chance.random() < 0.6] or list(units[:1])
        chance.shuffle(some)
        for unit in some:
            yield report(unit)
            if chance.random() < 0.3:
                yield report(unit)
        if chance.random() < 0.3:
            raise RunnerError("a node went away")

    rounds = Rounds()
    done = Counter(one.first for one in rounds.run(UNITS, run_round))
    assert done == Counter(unit.first for unit in UNITS)
    assert not rounds.failed


def test_what_passes_at_last_is_no_failure() -> None:
    """A unit that fails twice for a reason that may pass is done the third time."""
    asked: Counter[int] = Counter()

    def run_round(units: Sequence[Unit]) -> Iterator[UnitReport]:
        for unit in units:
            asked[unit.first] += 1
            again = Failure(RunnerError("busy"), again=True)
            yield report(unit, again if asked[unit.first] < ATTEMPTS else None)

    rounds = Rounds()
    assert len(list(rounds.run(UNITS, run_round))) == len(UNITS)
    assert rounds.rounds == ATTEMPTS
    assert "busy; tried again" in rounds.notes[0]


@pytest.mark.parametrize(
    ("failure", "times"),
    [
        (Failure(ImageError("torn.jpg is truncated"), again=False), 1),
        (Failure(RunnerError("the device is on fire"), again=True), ATTEMPTS),
    ],
    ids=["will-not-pass", "might-pass"],
)
def test_what_fails_is_named_when_the_rest_is_done(failure: Failure, times: int) -> None:
    """A failure stops nothing, is tried again only where that may help, and not for ever."""
    asked: Counter[int] = Counter()

    def run_round(units: Sequence[Unit]) -> Iterator[UnitReport]:
        for unit in units:
            asked[unit.first] += 1
            yield report(unit, failure if unit.first == 4 else None)

    rounds = Rounds()
    assert len(list(rounds.run(UNITS, run_round))) == len(UNITS) - 1
    assert asked == Counter({unit.first: times if unit.first == 4 else 1 for unit in UNITS})
    with pytest.raises(type(failure.error), match=str(failure.error)) as raised:
        rounds.check(UNITS, "the rest is kept")
    assert f"1 units of work ({len(UNITS[1].samples)} images)" in str(raised.value)
    assert str(raised.value).endswith("the rest is kept")


def test_a_pool_that_does_nothing_is_given_up() -> None:
    """Rounds from which nothing comes back end with the reason of the last."""

    def run_round(units: Sequence[Unit]) -> Iterator[UnitReport]:
        yield from ()
        raise RunnerError(f"nobody was there for {len(units)}")

    with pytest.raises(
        RunnerError, match=rf"in {BARREN} rounds.*nobody was there for {len(UNITS)}"
    ):
        list(Rounds().run(UNITS, run_round))


def test_a_pool_without_a_device_is_given_up_at_once() -> None:
    """Where no device works another round would not do better."""

    def run_round(units: Sequence[Unit]) -> Iterator[UnitReport]:
        yield report(units[0])
        raise Hopeless("no device works")

    rounds = Rounds()
    with pytest.raises(Hopeless, match="no device works"):
        list(rounds.run(UNITS, run_round))
    assert rounds.rounds == 1
