"""The emulator of pyACL: work that happens late, its order, threads and virtual time."""

from __future__ import annotations

import numpy as np
import pytest

from .acl import Emulator
from .user import User, code, ok

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


def test_a_source_is_read_late(user: User) -> None:
    """Pinned memory that is refilled before the wait goes up as refilled."""
    wanted = user.infer(OTHERS)
    user.fill(IMAGES)
    user.queue_upload()
    user.fill(OTHERS)
    user.queue_execution()
    user.queue_download()
    user.wait()
    assert (user.results()[0] == wanted[0]).all()


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


# Time


def test_work_takes_its_virtual_time(user: User, emulator: Emulator) -> None:
    """Copies and an execution add up; between two events lies what is queued between them."""
    rt, before = user.acl.rt, emulator.now
    user.infer(IMAGES)
    sizes = sum(size for _, size in (*user.inputs, *user.outputs))
    assert emulator.now - before == pytest.approx(3 + sizes / 1e6)
    first, second = ok(rt.create_event()), ok(rt.create_event())
    ok(rt.record_event(first, user.stream))
    user.queue_execution()
    user.queue_execution()
    ok(rt.record_event(second, user.stream))
    assert code(rt.event_elapsed_time(first, second)) == 107006
    emulator.now += 1
    ok(rt.synchronize_event(second))
    assert ok(rt.event_elapsed_time(first, second)) == pytest.approx(6)
    assert (rt.destroy_event(first), rt.destroy_event(second)) == (0, 0)
