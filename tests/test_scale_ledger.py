"""The ledger: who died of what, and which devices are left out."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import pytest

from effd0.scale.ledger import ASK_EVERY_S, ATTEMPTS, Ledger, Taken, WorkerId

A = WorkerId("host", "node", 1, 0, 1.0)
B = WorkerId("host", "node", 2, 1, 1.0)
#: What replaced A where A was.
A2 = WorkerId("host", "node", 3, 0, 2.0)
CPU = WorkerId("host", "node", 4, None, 1.0)


@pytest.fixture
def ledger() -> Ledger:
    """A ledger of a run that has begun."""
    ledger = Ledger(b"model")
    ledger.begin()
    return ledger


def test_the_ledger_brings_the_model(ledger: Ledger) -> None:
    """Workers get the model from it, as it was given."""
    assert ledger.model() == b"model"


def test_a_unit_that_was_given_back_has_killed_nobody(ledger: Ledger) -> None:
    """Taking again what was given back is no attempt that failed, whoever takes it."""
    for worker in (A, B, A):
        assert ledger.take(worker, 8) == 0
        ledger.give_back(8)
    assert ledger.state().lost == ledger.state().held == ()
    assert ledger.last_lost(8) is None


def test_a_unit_that_nobody_gave_back_was_its_workers_death(ledger: Ledger) -> None:
    """Each worker that takes such a unit is told how many it ended, and the last one is known."""
    for died, worker in enumerate((A, B, A2)):
        assert ledger.take(worker, 8) == died
    assert ledger.state().lost == ((8, Taken(A)), (8, Taken(B)))
    assert ledger.last_lost(8) == Taken(B)
    assert ledger.state().held == ((8, Taken(A2)),)


def test_units_are_told_apart(ledger: Ledger) -> None:
    """The deaths over one unit are not counted for another."""
    ledger.take(A, 0)
    ledger.take(B, 8)
    assert ledger.take(A2, 0) == 1
    assert ledger.last_lost(8) is None


def test_what_a_worker_was_about_to_run_outlives_it(ledger: Ledger) -> None:
    """The images that were announced last are those that a death is put down to."""
    ledger.take(A, 8)
    ledger.about_to_run(8, (10, 11))
    ledger.about_to_run(8, (12, 13))
    ledger.take(B, 8)
    assert ledger.last_lost(8) == Taken(A, (12, 13))


def test_who_enters_a_retired_place_is_told_why(ledger: Ledger) -> None:
    """The reason stays with the place, in later rounds too; other places are free."""
    ledger.enter(A)
    ledger.retire(A, "it smokes")
    ledger.retire(A, "it is dark")
    ledger.begin()
    why = ledger.enter(A2)
    assert why == f"{A}: it smokes"
    assert ledger.enter(B) is None
    assert ledger.state().retired == {A.place: why}


def test_a_place_where_opening_kills_is_left_alone(ledger: Ledger) -> None:
    """After so many processes that ended while the model was opened there, no other may try."""
    assert [ledger.enter(A) for _ in range(ATTEMPTS)] == [None] * ATTEMPTS
    why = ledger.enter(A2)
    assert why is not None
    assert f"ended {ATTEMPTS} processes" in why


def test_opening_at_last_clears_a_place(ledger: Ledger) -> None:
    """Only ends in a row count, since processes end for other reasons too."""
    for _ in range(3 * ATTEMPTS):
        assert ledger.enter(A) is None
        ledger.opened(A, 2.5)
    assert ledger.state().opened == {A: 2.5}


def test_a_round_is_hopeless_when_all_workers_wait(ledger: Ledger) -> None:
    """It ends when every worker holds a device that does not work, with the reason of each."""
    for worker in (A, B):
        ledger.retire(worker, f"{worker.pid} smokes")
    assert not ledger.is_over(A)
    assert ledger.end_if_hopeless(2) == []
    assert not ledger.is_over(B)
    assert ledger.end_if_hopeless(2) == [f"{A}: 1 smokes", f"{B}: 2 smokes"]
    assert ledger.is_over(A)


def test_who_no_longer_asks_does_not_wait(ledger: Ledger) -> None:
    """A worker that died while it waited is not counted among those that wait."""
    with mock.patch("time.monotonic") as clock:
        clock.return_value = 100.0
        ledger.is_over(A)
        clock.return_value += 10 * ASK_EVERY_S
        ledger.is_over(B)
        assert ledger.end_if_hopeless(2) == []
        assert ledger.end_if_hopeless(1) != []


def test_the_next_round_begins_with_nobody_waiting(ledger: Ledger) -> None:
    """Workers of an ended round are gone, and those of the next wait for its own end."""
    ledger.is_over(A)
    assert ledger.end_if_hopeless(1) != []
    ledger.begin()
    assert ledger.end_if_hopeless(1) == []
    assert not ledger.is_over(A)


def test_who_holds_a_unit_in_silence_is_left_out(ledger: Ledger) -> None:
    """Of workers, those that hold a unit are what a silent round waited for."""
    for worker, first in ((A, 0), (B, 8)):
        ledger.enter(worker)
        ledger.take(worker, first)
    ledger.give_back(0)
    ledger.retire_silent(60)
    assert ledger.state().retired == {B.place: f"{B}: gave no answer for 60 s"}


def test_a_dead_workers_silence_is_not_its_successors(ledger: Ledger) -> None:
    """A unit that a dead process still holds says nothing of the device, which has a new one."""
    ledger.enter(A)
    ledger.take(A, 0)
    ledger.enter(A2)
    ledger.retire_silent(60)
    assert ledger.state().retired == {}


def test_who_enters_as_the_same_actor_replaces_a_dead_process() -> None:
    """A process that died is known by its successor; a device that was given up is no death."""
    ledger, other = Ledger(b""), replace(CPU, pid=5, actor="another")
    for worker in (CPU, other, replace(CPU, pid=6)):
        ledger.enter(worker)
    ledger.enter(A)
    ledger.retire(A, "it smokes")
    ledger.enter(A2)
    ledger.begin()
    ledger.enter(CPU)
    assert ledger.state().replaced == (CPU,)


def test_the_place_of_a_worker_on_a_cpu_is_not_left_out_for_silence(ledger: Ledger) -> None:
    """Such a place is the whole host, where others work."""
    ledger.enter(CPU)
    ledger.take(CPU, 0)
    ledger.retire_silent(60)
    assert ledger.state().retired == {}


def test_a_round_that_is_ended_blames_no_unit() -> None:
    """Units in hand when a round is ended from outside have killed nobody."""
    ledger = Ledger(b"model")
    ledger.begin()
    for life in range(ATTEMPTS):
        worker = WorkerId("host", "node", life, None, float(life), actor="actor")
        assert ledger.take(worker, 8) == 0
        ledger.forgive()
    assert ledger.state().held == ledger.state().lost == ()
