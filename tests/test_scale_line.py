"""Units through one stream: each gets its own result, and nobody waits for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

import pytest

from effd0.scale import line as line_module
from effd0.scale.line import CALLS, Line
from effd0.scale.unit import Unit

BATCH = 4
#: Far more than any of this takes.
SOON_S = 20


@dataclass(frozen=True)
class Part:
    """Images without anything in them."""

    first: int
    stop: int
    remedy: str = ""

    @property
    def image_ids(self) -> tuple[int, ...]:
        """Their places."""
        return tuple(range(self.first, self.stop))


class Streams:
    """What runs units, some results *behind*, as the run line does, and notes those of a stream."""

    def __init__(self, behind: int = 1) -> None:
        self._behind = behind
        self.had: list[list[int]] = []
        self.deadly: set[int] = set()
        self.refuse: Callable[[Unit], object] = lambda _unit: None
        self.line = Line(self.flow, self.begin, BATCH)

    def begin(self, unit: Unit) -> bool:
        """Return whether *unit* may be among others."""
        self.refuse(unit)
        return unit.first not in self.deadly

    def flow(self, units: Iterable[Unit]) -> Iterator[str]:
        """Yield the name of each unit when those behind it have been taken."""
        had, ahead = list[int](), list[str]()
        self.had.append(had)
        for unit in units:
            had.append(unit.first)
            ahead.append(f"result of {unit.first}")
            if len(ahead) > self._behind:
                yield ahead.pop(0)
        yield from ahead


def whole(count: int) -> list[Part]:
    """Return so many units of whole batches."""
    return [Part(n * BATCH, (n + 1) * BATCH) for n in range(count)]


def run(streams: Streams, units: Iterable[Unit], callers: int = 2) -> list[object]:
    """Return what *units* gave, brought by so many callers at a time; errors as they are."""
    with ThreadPoolExecutor(callers) as pool:
        futures = [pool.submit(streams.line.run, unit) for unit in units]
        assert not wait(futures, SOON_S).not_done
    return [future.exception() or future.result() for future in futures]


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until *condition*, but not for ever."""
    end = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("callers", [1, 2, 3])
def test_each_gets_the_result_of_its_own_unit(callers: int) -> None:
    """However many bring units at a time, none is lost or given to another."""
    streams, units = Streams(), whole(20)
    assert run(streams, units, callers) == [f"result of {unit.first}" for unit in units]
    assert sorted(first for had in streams.had for first in had) == [u.first for u in units]


def test_units_that_come_together_are_one_stream() -> None:
    """The device does not stop between them."""
    streams = Streams()
    with ThreadPoolExecutor(5) as pool:
        with streams.line.alone():  # until all are there
            futures = [pool.submit(streams.line.run, unit) for unit in whole(5)]
            wait_for(lambda: streams.line._jobs.qsize() == len(futures))
        assert not wait(futures, SOON_S).not_done
    assert [len(had) for had in streams.had] == [5]


def test_nobody_is_waited_for_who_cannot_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all who bring units wait for results, those come at once."""
    monkeypatch.setattr(line_module, "LINGER_S", 10 * SOON_S)
    units = whole(CALLS)
    assert run(Streams(behind=CALLS), units, CALLS) == [f"result of {one.first}" for one in units]


def test_nothing_comes_behind_a_batch_that_is_not_full() -> None:
    """Images of two units are never one batch, so that the next one is a stream of its own."""
    streams, units = Streams(), [Part(0, BATCH - 1), Part(BATCH, 2 * BATCH)]
    assert run(streams, units) == ["result of 0", f"result of {BATCH}"]
    assert [len(had) for had in streams.had] == [1, 1]


def test_what_has_killed_is_not_among_others() -> None:
    """Its caller is told to do it alone, and those about it are done."""
    streams, units = Streams(), whole(6)
    streams.deadly = {units[2].first}
    found = run(streams, units)
    assert found[2] is None
    assert [one for one in found if one is not None] == [
        f"result of {unit.first}" for unit in units if unit is not units[2]
    ]


def test_an_error_reaches_whoever_waits_and_the_next_stream_works() -> None:
    """No caller waits for ever for a result that cannot come, wherever the stream broke."""

    def refuse(_unit: Unit) -> None:
        raise ConnectionError("the ledger is gone")

    streams = Streams()
    streams.refuse = refuse
    assert {str(error) for error in run(streams, whole(4))} == {"the ledger is gone"}
    streams.refuse = lambda _unit: None
    assert run(streams, whole(1)) == ["result of 0"]


def test_who_wants_to_be_alone_is_before_long() -> None:
    """A stream to which units come without end takes no more of them, and no other begins."""
    streams, over = Streams(), threading.Event()

    def bring() -> None:
        while not over.is_set():
            streams.line.run(whole(1)[0])

    def come_and_go() -> None:
        with streams.line.alone():
            before = sum(map(len, streams.had))
            time.sleep(0.1)
            assert sum(map(len, streams.had)) == before

    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            pool.submit(bring)
        try:
            wait_for(lambda: streams.had)
            pool.submit(come_and_go).result(SOON_S)
        finally:
            over.set()


def test_a_line_at_rest_has_no_thread() -> None:
    """Whoever opens many, one after the other, is left with nothing that runs."""
    streams = Streams()
    run(streams, whole(3))
    wait_for(lambda: not any(thread.name == "effd0-line" for thread in threading.enumerate()))
