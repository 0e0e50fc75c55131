"""The emulator of pyACL: work that happens late, and its order (rules 20 and 28)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from .fakes.acl import Emulator, Times, installed
from .fakes.ascend.rules import rule
from .fakes.ascend.tiny import tiny_om
from .fakes.ascend.user import D2D, D2H, H2D, User, host_view, ok

IMAGES = np.random.default_rng(3).random((1, 3, 8, 8), np.float32)
OTHERS = IMAGES + 1


@pytest.fixture(scope="module")
def om(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model."""
    return tiny_om(tmp_path_factory.mktemp("om") / "tiny.om")


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    """A host on which copies take 1 ms a megabyte and executions 3 ms."""
    with installed(times=Times(h2d_gbps=1, d2h_gbps=1, compute_ms=3)) as host:
        yield host


@pytest.fixture
def user(emulator: Emulator, om: Path) -> Iterator[User]:
    """An open model, with an image in pinned memory."""
    with User(emulator.module(), om) as user:
        user.fill(IMAGES)
        yield user


# Late work


@rule(20)
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


@rule(20, 28)
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
    assert violation.rule == 28
    assert "changed while a copy of it was pending" in violation.text


@rule(20)
def test_late_copies_are_aligned_and_not_within_the_host(user: User, emulator: Emulator) -> None:
    """Host to host gives 207000; an address off 64 bytes 107008, and a violation."""
    rt, (address, _), host = user.acl.rt, user.inputs[0], user.host
    spare = ok(rt.malloc_host(64))
    assert rt.memcpy_async(spare, 64, host[address], 64, 0, user.stream) == 207000
    assert not emulator.violations
    assert rt.memcpy_async(address + 32, 64, host[address], 64, H2D, user.stream) == 107008
    assert emulator.rules_broken() == {20}
    assert rt.free_host(spare) == 0


@rule(20)
def test_late_copies_stay_in_their_context(user: User) -> None:
    """The stream of another context gives 107003."""
    address, size = user.inputs[0]
    other = ok(user.acl.rt.create_context(0))
    late = (address, size, user.host[address], size, H2D, user.stream)
    assert user.acl.rt.memcpy_async(*late) == 107003
    ok(user.acl.rt.destroy_context(other))
    ok(user.acl.rt.set_context(user.context))


@rule(20)
@pytest.mark.parametrize("cann", ["old", "current"])
def test_late_copies_want_pinned_memory(om: Path, cann: str) -> None:
    """Pageable memory is a violation in old versions; current ones copy before they return."""
    with installed(cann=cann) as emulator, User(emulator.module(), om) as user:
        address, size = user.inputs[0]
        whole = np.empty(size + 64, np.uint8)
        offset = -whole.ctypes.data % 64
        image = whole[offset : offset + size]
        image[:] = IMAGES.reshape(-1).view(np.uint8)
        name = "numpy_to_ptr"
        if cann == "current":
            with pytest.warns(DeprecationWarning, match=name):
                source = user.acl.util.numpy_to_ptr(image)
        else:
            source = user.acl.util.numpy_to_ptr(image)
        ok(user.acl.rt.memcpy_async(address, size, source, size, H2D, user.stream))
        image[:] = 0
        user.execute() if cann == "current" else user.wait()
        assert emulator.rules_broken() == ({20, 28} if cann == "old" else set())


# Order


@rule(28)
def test_streams_are_ordered_by_events_only(user: User, emulator: Emulator) -> None:
    """Execution in a second stream is a violation, until it waits for an event of the first."""
    rt = user.acl.rt
    second, event = ok(rt.create_stream()), ok(rt.create_event())
    user.queue_upload()
    ok(rt.record_event(event, user.stream))
    ok(rt.stream_wait_event(second, event))
    user.queue_execution(second)
    user.queue_download(second)
    ok(rt.synchronize_stream(second))
    assert not np.isnan(user.results()[0]).any()
    assert not emulator.violations
    user.queue_upload()
    user.queue_execution(second)
    (violation,) = emulator.violations
    assert violation.rule == 28
    assert "is not ordered after the copy of 768 bytes" in violation.text
    for stream in (second, user.stream):
        ok(rt.synchronize_stream(stream))
    assert (rt.destroy_event(event), rt.destroy_stream(second)) == (0, 0)


@rule(28)
@pytest.mark.parametrize(
    ("misuse", "words"),
    [
        pytest.param(
            lambda u: u.acl.rt.free(u.inputs[0][0]), "is freed while", id="free-device-memory"
        ),
        pytest.param(
            lambda u: u.acl.rt.free_host(u.host[u.inputs[0][0]]), "is freed while", id="free-pinned"
        ),
        pytest.param(
            lambda u: u.acl.rt.destroy_stream(u.stream), "is destroyed while", id="destroy-stream"
        ),
        pytest.param(
            lambda u: u.acl.destroy_data_buffer(u.buffers[0]), "is destroyed", id="destroy-buffer"
        ),
        pytest.param(
            lambda u: u.acl.update_data_buffer(u.buffers[0], *u.inputs[0]),
            "is changed while",
            id="update-buffer",
        ),
        pytest.param(
            lambda u: u.acl.mdl.destroy_dataset(u.input_set), "is destroyed", id="destroy-dataset"
        ),
        pytest.param(
            lambda u: u.acl.rt.memset(u.inputs[0][0], 64, 0, 64), "used at once", id="memset"
        ),
        pytest.param(
            lambda u: u.acl.rt.memcpy(u.host[u.outputs[0][0]], 16, u.outputs[0][0], 16, D2H),
            "used at once",
            id="download-before-the-wait",
        ),
    ],
)
def test_pending_work_keeps_what_it_needs(
    om: Path, misuse: Callable[[User], int], words: str
) -> None:
    """Whatever pending work needs is neither given back nor touched before somebody waits."""
    emulator = Emulator()
    with User(emulator.module(), om) as user:
        user.fill(IMAGES)
        user.queue_upload()
        user.queue_execution()
        assert misuse(user) == 0
        found = [violation for violation in emulator.violations if words in violation.text]
        assert found
        assert {violation.rule for violation in found} == {28}


@rule(28)
def test_work_on_freed_memory_is_noticed_when_it_happens(om: Path) -> None:
    """A copy into memory, and an execution of it, that was freed meanwhile are violations too."""
    emulator = Emulator()
    with User(emulator.module(), om) as user:
        user.fill(IMAGES)
        user.queue_upload()
        user.queue_execution()
        ok(user.acl.rt.free(user.inputs[0][0]))
        user.wait()
        texts = [violation.text for violation in emulator.violations]
        for words in ("is freed while", "freed before its copy", "freed before its execution"):
            assert any(words in text for text in texts), words


@rule(28)
def test_an_event_outlives_its_record(user: User, emulator: Emulator) -> None:
    """To destroy an event whose record is pending is a violation."""
    event = ok(user.acl.rt.create_event())
    ok(user.acl.rt.record_event(event, user.stream))
    ok(user.acl.rt.destroy_event(event))
    assert emulator.rules_broken() == {28}


@rule(28)
def test_outputs_read_too_early_are_poison(user: User, emulator: Emulator) -> None:
    """A download at once, before the execution is waited for, brings NaN, not older results."""
    user.infer(OTHERS)
    user.fill(IMAGES)
    user.queue_upload()
    user.queue_execution()
    assert np.isnan(user.download()[0]).all()
    assert 28 in emulator.rules_broken()


@rule(28)
def test_a_model_runs_in_one_stream_at_a_time(user: User, emulator: Emulator) -> None:
    """The same model id in two streams is a violation, though an event puts them in order."""
    rt = user.acl.rt
    second, event = ok(rt.create_stream()), ok(rt.create_event())
    user.queue_upload()
    user.queue_execution()
    ok(rt.record_event(event, user.stream))
    ok(rt.stream_wait_event(second, event))
    user.queue_execution(second)
    (violation,) = emulator.violations
    assert violation.rule == 28
    assert "pending in another stream" in violation.text
    ok(rt.synchronize_stream(second))
    assert (rt.destroy_event(event), rt.destroy_stream(second)) == (0, 0)


@rule(28)
def test_work_that_nobody_waits_for_is_reported(emulator: Emulator, user: User) -> None:
    """What is pending at the end is part of the report."""
    user.queue_upload()
    with pytest.raises(AssertionError, match="nobody waited for the copy of 768 bytes"):
        emulator.assert_clean()


@rule(28)
def test_events_are_recorded_before_they_are_waited_for(user: User, emulator: Emulator) -> None:
    """To wait for an event that was never recorded is no wait, and a violation."""
    event = ok(user.acl.rt.create_event())
    assert user.acl.rt.stream_wait_event(user.stream, event) == 0
    assert user.acl.rt.synchronize_event(event) == 0
    assert [violation.rule for violation in emulator.violations] == [28, 28]
    assert user.acl.rt.destroy_event(event) == 0


SLOTS, SMALL_SIZE = 4, 64
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


def _late(steps: list[Step]) -> tuple[np.ndarray, set[int]]:
    """What lies in each slot after *steps* in two streams, and the rules that were broken."""
    emulator = Emulator()
    rt = emulator.module().rt
    ok(emulator.module().init())
    ok(rt.set_device(0))
    slots = [
        ok(rt.malloc(SMALL_SIZE, 0) if n % 2 else rt.malloc_host(SMALL_SIZE)) for n in range(SLOTS)
    ]
    for number, slot in enumerate(slots):
        ok(rt.memset(slot, SMALL_SIZE, number, SMALL_SIZE))
    streams, event = [ok(rt.create_stream()), ok(rt.create_stream())], ok(rt.create_event())
    ok(rt.record_event(event, streams[0]))
    for what, stream, source, target in steps:
        if what == "copy" and (source % 2 or target % 2):
            kind = {(0, 1): H2D, (1, 0): D2H, (1, 1): D2D}[source % 2, target % 2]
            sizes = (slots[target], SMALL_SIZE, slots[source], SMALL_SIZE)
            ok(rt.memcpy_async(*sizes, kind, streams[stream]))
        elif what == "record":
            ok(rt.record_event(event, streams[stream]))
        elif what == "wait":
            ok(rt.stream_wait_event(streams[stream], event))
        elif what == "synchronize":
            ok(rt.synchronize_stream(streams[stream]))
    ok(rt.synchronize_device())
    for number in range(1, SLOTS, 2):
        back = ok(rt.malloc_host(SMALL_SIZE))
        ok(rt.memcpy(back, SMALL_SIZE, slots[number], SMALL_SIZE, D2H))
        slots[number] = back
    return np.array([host_view(slot, 1)[0] for slot in slots]), emulator.rules_broken()


def _at_once(steps: list[Step]) -> np.ndarray:
    """What lies in each slot if every step is done when it is called."""
    slots = np.arange(SLOTS)
    for what, _, source, target in steps:
        if what == "copy" and (source % 2 or target % 2):
            slots[target] = slots[source]
    return slots


@rule(28)
@example([("copy", 0, 0, 1), ("copy", 0, 1, 0)])  # written while work before it still reads it
@given(Steps)
def test_work_in_order_is_as_good_as_work_at_once(steps: list[Step]) -> None:
    """Where no rule is broken, two streams leave what doing every step at once would leave."""
    slots, broken = _late(steps)
    assert 28 in broken or slots.tolist() == _at_once(steps).tolist()
    # What was never written is read only where something is out of order.
    assert broken in (set(), {28}, {24, 28})
