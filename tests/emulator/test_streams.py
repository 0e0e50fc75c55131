"""The emulator of pyACL: work that happens late, its order, threads and virtual time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from .acl import Emulator, installed
from .host import Times
from .streams import Engine
from .user import D2D, D2H, H2D, User, code, host_view, ok

IMAGES = np.random.default_rng(3).random((2, 3, 8, 8), np.float32)
OTHERS = IMAGES + 1


def test_work_happens_when_somebody_waits(user: User, emulator: Emulator) -> None:
    """Before the wait the results are NaN, after it those of the synchronous way."""
    wanted = user.infer(IMAGES)
    user.queue_upload()
    user.queue_execution()
    user.queue_download()
    assert all(np.isnan(output).all() for output in user.results())
    user.wait()
    for got, want in zip(user.results(), wanted, strict=True):
        assert (got == want).all()
    assert not emulator.violations
    # What is read too early is poison, not an older result.
    user.queue_execution()
    assert np.isnan(user.download()[0]).all()
    assert "order" in emulator.rules_broken()


def test_a_source_is_read_late(user: User, emulator: Emulator) -> None:
    """Pinned memory that is refilled before the wait goes up as refilled, and is a violation."""
    wanted = user.infer(OTHERS)
    user.fill(IMAGES)
    user.queue_upload()
    user.fill(OTHERS)
    user.queue_execution()
    user.queue_download()
    user.wait()
    assert (user.results()[0] == wanted[0]).all()
    (violation,) = emulator.violations
    assert violation.rule == "order"
    assert "changed while a copy of it was pending" in violation.text


@pytest.mark.parametrize("what", ["upload", "model"])
def test_streams_are_ordered_by_events_only(user: User, emulator: Emulator, what: str) -> None:
    """A second stream waits for an event of the first; a model is in one stream at a time."""
    rt = user.acl.rt
    second, event = ok(rt.create_stream()), ok(rt.create_event())
    user.queue_upload()
    if what == "model":
        user.queue_execution()
    ok(rt.record_event(event, user.stream))
    ok(rt.stream_wait_event(second, event))
    user.queue_execution(second)
    if what == "model":
        assert "pending in another stream" in emulator.violations[0].text
    else:
        user.queue_download(second)
        ok(rt.synchronize_stream(second))
        assert not np.isnan(user.results()[0]).any()
        assert not emulator.violations
        user.queue_upload()
        user.queue_execution(second)
        assert "is not ordered after the copy of 1536 bytes" in emulator.violations[0].text
    assert [violation.rule for violation in emulator.violations] == ["order"]
    for stream in (second, user.stream):
        ok(rt.synchronize_stream(stream))
    assert (rt.destroy_event(event), rt.destroy_stream(second)) == (0, 0)


def test_pending_work_is_noticed_at_the_end(user: User, emulator: Emulator) -> None:
    """Work that nobody waits for is reported, and so is work on memory that was freed meanwhile."""
    user.queue_upload()
    with pytest.raises(AssertionError, match="nobody waited for the copy of 1536 bytes"):
        emulator.assert_clean()
    user.queue_execution()
    ok(user.acl.rt.free(user.inputs[0][0]))
    user.wait()
    texts = [violation.text for violation in emulator.violations]
    for words in ("is freed while", "freed before its copy", "freed before its execution"):
        assert any(words in text for text in texts), words


SLOTS, SIZE = 4, 64
#: What to do, in which stream, from which slot to which; even slots are the host's.
Step = tuple[str, int, int, int]
Steps = st.lists(
    st.tuples(
        st.sampled_from(["copy", "copy", "copy", "record", "wait", "synchronize"]),
        st.integers(0, 1),
        st.integers(0, SLOTS - 1),
        st.integers(0, SLOTS - 1),
    ),
    max_size=14,
)


@example([("copy", 0, 0, 1), ("copy", 0, 1, 0)])  # written while work before it still reads it
@given(Steps)
def test_work_in_order_is_as_good_as_work_at_once(steps: list[Step]) -> None:
    """Where no rule is broken, two streams leave what doing every step at once would leave."""
    emulator = Emulator()
    rt = emulator.module().rt
    ok(emulator.module().init())
    ok(rt.set_device(0))
    slots = [ok(rt.malloc(SIZE, 0) if n % 2 else rt.malloc_host(SIZE)) for n in range(SLOTS)]
    for number, slot in enumerate(slots):
        ok(rt.memset(slot, SIZE, number, SIZE))
    streams, event = [ok(rt.create_stream()), ok(rt.create_stream())], ok(rt.create_event())
    ok(rt.record_event(event, streams[0]))
    at_once = list(range(SLOTS))
    for what, stream, source, target in steps:
        if what == "copy" and (source % 2 or target % 2):
            kind = {(0, 1): H2D, (1, 0): D2H, (1, 1): D2D}[source % 2, target % 2]
            both = (slots[target], SIZE, slots[source], SIZE)
            ok(rt.memcpy_async(*both, kind, streams[stream]))
            at_once[target] = at_once[source]
        elif what == "record":
            ok(rt.record_event(event, streams[stream]))
        elif what == "wait":
            ok(rt.stream_wait_event(streams[stream], event))
        elif what == "synchronize":
            ok(rt.synchronize_stream(streams[stream]))
    for stream in streams:
        ok(rt.synchronize_stream(stream))
    for number in range(1, SLOTS, 2):
        back = ok(rt.malloc_host(SIZE))
        ok(rt.memcpy(back, SIZE, slots[number], SIZE, D2H))
        slots[number] = back
    broken = emulator.rules_broken()
    assert "order" in broken or [host_view(slot, 1)[0] for slot in slots] == at_once
    # What was never written is read only where something is out of order.
    assert broken in (set(), {"order"}, {"execute", "order"})


# Threads


def meanwhile(steps: list[Callable[[], object]]) -> None:
    """Run every second step in another thread, one after the other."""
    for number, step in enumerate(steps):
        if number % 2:
            thread = threading.Thread(target=step)
            thread.start()
            thread.join()
        else:
            step()


def test_two_threads_take_turns_as_a_whole(user: User, emulator: Emulator) -> None:
    """Upload and execution of two threads in turn are fine, interleaved they are not."""

    def elsewhere(step: Callable[[], object]) -> Callable[[], object]:
        return lambda: (ok(user.acl.rt.set_context(user.context)), step())

    user.execute()
    meanwhile([lambda: user.infer(IMAGES), elsewhere(lambda: user.infer(IMAGES)), user.upload])
    user.execute()
    assert not emulator.violations
    meanwhile([user.upload, elsewhere(user.upload), user.execute])
    (upload,) = emulator.violations
    assert "still holds what another thread uploaded" in upload.text
    meanwhile([user.execute, elsewhere(user.execute), user.download])
    assert "another thread's" in emulator.violations[-1].text
    assert emulator.rules_broken() == {"order"}


# Time


def test_work_takes_its_virtual_time(user: User, emulator: Emulator) -> None:
    """Copies and an execution add up; between two events lies what is queued between them."""
    rt, before = user.acl.rt, emulator.clock.now
    user.infer(IMAGES)
    sizes = sum(size for _, size in (*user.inputs, *user.outputs))
    assert emulator.clock.now - before == pytest.approx(3 + sizes / 1e6)
    first, second = ok(rt.create_event()), ok(rt.create_event())
    ok(rt.record_event(first, user.stream))
    user.queue_execution()
    user.queue_execution()
    ok(rt.record_event(second, user.stream))
    assert code(rt.event_elapsed_time(first, second)) == 107006
    emulator.clock.advance(1)
    ok(rt.synchronize_event(second))
    assert ok(rt.event_elapsed_time(first, second)) == pytest.approx(6)
    assert (rt.destroy_event(first), rt.destroy_event(second)) == (0, 0)


def test_copies_and_computing_overlap_(om: Path) -> None:
    """Two engines take the longer time, not the sum."""
    times = Times(h2d_gbps=1536e-6, d2h_gbps=1e6)
    with installed(times=times) as emulator, User(emulator.module(), om) as user:
        rt, (address, size) = user.acl.rt, user.inputs[0]
        user.fill(IMAGES)
        user.upload()
        # An upload takes 1 ms; the second one goes to a block of its own.
        spare, second, before = ok(rt.malloc(size, 0)), ok(rt.create_stream()), emulator.clock.now
        user.queue_upload()
        user.queue_execution()
        ok(rt.memcpy_async(spare, size, user.host[address], size, H2D, second))
        ok(rt.synchronize_stream(second))
        user.wait()
        assert emulator.clock.now - before == pytest.approx(2)
        ok(rt.free(spare))
        ok(rt.destroy_stream(second))
    emulator.assert_clean()


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9)), max_size=12))
def test_an_engine_does_one_thing_at_a_time(jobs: list[tuple[int, int]]) -> None:
    """No two reservations overlap, none begins before it may, and no fitting gap is left out."""
    engine = Engine()
    placed: list[tuple[int, int]] = []
    for ready, duration in jobs:
        start = engine.reserve(ready, duration, now=0)
        free = {n for n in range(200) if not any(a <= n < b for a, b in placed)}
        fitting = (n for n in range(ready, 200) if set(range(n, n + duration)) <= free)
        assert start == next(fitting)
        placed.append((int(start), int(start) + duration))
