"""The emulator of pyACL: each misuse gives its code, and is reported under its rule."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from .acl import Emulator
from .memory import Intervals
from .user import D2D, D2H, H2D, User, code, host_view, ok

Misuse = Callable[[User], Any]


def copy(
    u: User, kind: int = H2D, *, to: int = 0, source: int = 0, size: int = 0, room: int = 0
) -> Any:
    """Copy the image up, or the first output down, shifted, and with *size* and *room* changed."""
    return u.rt.memcpy(u.image + to, u.size + room, u.pinned + source, u.size + size, kind)


def note(u: User, index: int, address: int, size: int) -> Any:
    """Have data buffer *index* note another address and size, and execute."""
    ok(u.acl.update_data_buffer(u.buffers[index], address, size))
    return u.mdl.execute(u.model, u.input_set, u.output_set)


def resized(u: User, difference: int) -> Any:
    """Execute with an input buffer of another size, in memory that has room for it."""
    room = ok(u.rt.malloc(u.size + 64, 0))
    ok(u.rt.memset(room, u.size + 64, 0, u.size + 64))
    return note(u, 0, room, u.size + difference)


def after(*steps: Any) -> Any:
    """What the last of *steps* gave."""
    return steps[-1]


def dataset(u: User) -> int:
    """A new dataset that is given back at the end."""
    made: int = u.mdl.create_dataset()
    u.later(u.mdl.destroy_dataset, made)
    return made


def elsewhere(u: User, call: Callable[..., Any], *args: int) -> Any:
    """What *call* gives in another context; the user's is the current one again afterwards."""
    other = ok(u.rt.create_context(0))
    given = code(call(*args))
    ok(u.rt.destroy_context(other))
    ok(u.rt.set_context(u.context))
    return given


def beside(u: User, place: int) -> Any:
    """Write a byte beside pinned memory and free it."""
    pinned = ok(u.rt.malloc_host(64))
    host_view(pinned + place, 1)[:] = 7
    return u.rt.free_host(pinned)


def half_filled(u: User) -> Any:
    """Upload pinned memory of which half was written."""
    half = ok(u.rt.malloc_host(u.size))
    u.later(u.rt.free_host, half)
    host_view(half, u.size // 2)[:] = 1
    return u.rt.memcpy(u.image, u.size, half, u.size, H2D)


def event(u: User) -> int:
    """A new event that is given back at the end."""
    made: int = ok(u.rt.create_event())
    u.later(u.rt.destroy_event, made)
    return made


def twice(call: Callable[..., Any], *args: int) -> Any:
    """What *call* gives the second time."""
    return after(code(call(*args)), call(*args))


def at_work(u: User) -> Any:
    """Unload a model whose execution is pending."""
    u.queue_execution()
    return u.mdl.unload(u.model)


ARRAY = np.zeros(2048, np.uint8)
#: Rule -> misuse -> (what is done, its code).  "" is no rule: hardware refuses it by itself.
MISUSES: dict[str, dict[str, tuple[Misuse, int]]] = {
    "": {
        "malloc-nothing": (lambda u: u.rt.malloc(0, 0), 100000),
        "malloc-host-nothing": (lambda u: u.rt.malloc_host(0), 100000),
        "malloc-too-much": (lambda u: u.rt.malloc(9 << 30, 0), 207001),
        "copy-null": (lambda u: u.rt.memcpy(0, 64, u.image, 64, D2H), 100000),
        "copy-unknown-kind": (lambda u: copy(u, 5), 100000),
        "copy-without-room": (lambda u: copy(u, room=-1), 107000),
        "copy-nothing": (lambda u: copy(u, size=-u.size), 0),
        "late-host-to-host": (
            lambda u: u.rt.memcpy_async(u.pinned, 64, u.host[u.outputs[0][0]], 32, 0, u.stream),
            207000,
        ),
        "device-beyond-the-last": (lambda u: u.rt.set_device(2), 107001),
        "device-negative": (lambda u: u.rt.set_device(-1), 107001),
        "context-null": (lambda u: u.rt.set_context(0), 100000),
        "stream-elsewhere": (lambda u: elsewhere(u, u.rt.destroy_stream, u.stream), 107003),
        "late-copy-elsewhere": (
            lambda u: elsewhere(u, u.rt.memcpy_async, 64, 64, 64, 64, 1, u.stream),
            107003,
        ),
        "model-elsewhere": (lambda u: elsewhere(u, u.mdl.execute, u.model, 1, 2), 107004),
        "unload-elsewhere": (lambda u: elsewhere(u, u.mdl.unload, u.model), 107004),
        "unknown-model": (lambda u: u.mdl.unload(77), 145003),
        "no-dataset": (lambda u: u.mdl.execute(u.model, 0, u.output_set), 100000),
        "no-buffers": (lambda u: u.mdl.execute(u.model, u.input_set, dataset(u)), 145000),
        "buffer-much-too-small": (lambda u: resized(u, -65), 145000),
        "gear-of-static-model": (
            lambda u: u.mdl.set_dynamic_batch_size(u.model, u.input_set, 0, 2),
            100000,
        ),
        "destroy-default-stream": (lambda u: u.rt.destroy_stream(0), 107000),
        "time-before-its-events": (lambda u: u.rt.event_elapsed_time(event(u), event(u)), 107006),
    },
    "wrap": {
        "negative": (lambda u: u.rt.memset(64, -1, 0, 0), 0),
        "64-bits": (lambda u: u.rt.memset(64, 2**63, 0, 0), 0),
        "65-bits": (lambda u: u.rt.memset(64, 2**64 + 64, 0, 0), 0),
        "negative-id": (lambda u: u.mdl.unload(-1), 145003),
    },
    "memory": {
        "policy": (lambda u: after(a := ok(u.rt.malloc(64, 6)), u.rt.free(a)), 0),
        "before-a-block": (lambda u: beside(u, -1), 0),
        "behind-a-block": (lambda u: beside(u, 64), 0),
    },
    "free": {
        "null": (lambda u: u.rt.free(0), 100000),
        "host-null": (lambda u: u.rt.free_host(0), 100000),
        "inside": (lambda u: u.rt.free(u.image + 64), 107000),
        "unknown": (lambda u: u.rt.free(u.image + 10**7), 107000),
        "device-as-host": (lambda u: u.rt.free_host(u.image), 107000),
        "host-as-device": (lambda u: u.rt.free(u.pinned), 107000),
        "twice": (lambda u: twice(u.rt.free, u.image), 107000),
    },
    "copy": {
        "room-too-large": (lambda u: copy(u, room=1), 0),
        "target-shifted": (lambda u: copy(u, to=64), 0),
        "source-shifted": (lambda u: copy(u, source=64), 0),
        "kind-reversed": (lambda u: copy(u, D2H), 0),
        "kind-host-to-host": (lambda u: copy(u, 0), 0),
        "overlapping": (lambda u: u.rt.memcpy(u.image + 64, 128, u.image, 128, D2D), 0),
        "freed": (lambda u: after(ok(u.rt.free(u.image)), copy(u)), 107000),
        "unknown": (lambda u: copy(u, to=10**7), 107000),
    },
    "host": {
        "of-numpy": (lambda u: u.rt.memcpy(u.image, 64, ARRAY.ctypes.data, 64, H2D), 107000),
    },
    "async": {
        "unaligned": (
            lambda u: u.rt.memcpy_async(u.image + 32, 64, u.pinned, 64, H2D, u.stream),
            107008,
        ),
    },
    "execute": {
        "data-buffer-for-dataset": (
            lambda u: u.mdl.execute(u.model, u.buffers[0], u.output_set),
            100000,
        ),
        "64-bytes-too-small": (lambda u: resized(u, -64), 0),
        "one-byte-too-small": (lambda u: resized(u, -1), 0),
        "one-byte-too-large": (lambda u: resized(u, 1), 0),
        "host-memory": (lambda u: note(u, 0, u.pinned, u.size), 0),
        "beyond-its-end": (lambda u: note(u, 0, u.image + 64, u.size), 0),
        "new": (lambda u: note(u, 0, ok(u.rt.malloc(u.size, 0)), u.size), 0),
        "freed": (lambda u: after(ok(u.rt.free(u.image)), note(u, 0, u.image, u.size)), 107000),
        "empty-output": (lambda u: note(u, 1, 0, 0), 100000),
        "one-memory-for-two-outputs": (lambda u: note(u, 3, u.outputs[0][0], u.outputs[2][1]), 0),
        "download-of-nothing": (
            lambda u: u.rt.memcpy(u.host[u.outputs[0][0]], 32, u.outputs[0][0], 32, D2H),
            0,
        ),
        "upload-half-filled": (half_filled, 0),
    },
    "handle": {
        "empty-description": (lambda u: u.mdl.get_num_outputs(u.mdl.create_desc()), 0),
        "use-after-destroy": (
            lambda u: after(code(u.mdl.destroy_desc(u.desc)), u.mdl.get_desc(u.desc, u.model)),
            100000,
        ),
        "destroyed-twice": (lambda u: twice(u.mdl.destroy_desc, u.desc), 100000),
        "of-another-kind": (lambda u: u.acl.destroy_data_buffer(u.input_set), 100000),
        "of-nothing": (lambda u: u.mdl.destroy_dataset(12345), 100000),
        "stream-of-nothing": (lambda u: u.rt.synchronize_stream(12345), 107017),
        "buffer-in-two-datasets": (lambda u: u.mdl.add_dataset_buffer(dataset(u), u.buffers[1]), 0),
        "buffer-gone-before-its-dataset": (
            lambda u: after(
                ok(u.acl.destroy_data_buffer(u.buffers[0])),
                u.mdl.execute(u.model, u.input_set, u.output_set),
            ),
            100000,
        ),
    },
    "context": {
        "of-nothing": (lambda u: u.rt.set_context(4096), 107002),
        "default-asked-for": (lambda u: after(ok(u.rt.set_device(0)), u.rt.get_context()), 0),
        "waiting-elsewhere": (lambda u: elsewhere(u, u.rt.synchronize_stream, u.stream), 0),
    },
    "reset": {
        "context-before-its-stream": (lambda u: u.rt.destroy_context(u.context), 0),
        "device-before-its-context": (lambda u: u.rt.reset_device(0), 0),
        "device-that-nobody-set": (lambda u: u.rt.reset_device(1), 0),
    },
    "unload": {"at-work": (at_work, 107037)},
    "order": {
        "wait-for-no-record": (lambda u: u.rt.stream_wait_event(u.stream, event(u)), 0),
        "synchronize-no-record": (lambda u: u.rt.synchronize_event(event(u)), 0),
        "event-gone-before-its-record": (
            lambda u: after(
                e := ok(u.rt.create_event()),
                ok(u.rt.record_event(e, u.stream)),
                u.rt.destroy_event(e),
            ),
            0,
        ),
    },
}


@pytest.mark.parametrize(
    ("rule", "misuse", "wanted"),
    [
        pytest.param(rule, misuse, wanted, id=f"{rule or 'refused'}-{name}")
        for rule, misuses in MISUSES.items()
        for name, (misuse, wanted) in misuses.items()
    ],
)
def test_each_misuse_has_its_code_and_its_rule(
    rule: str, misuse: Misuse, wanted: int, om: Path
) -> None:
    """The code is hardware's; what hardware lets pass or leaves undefined is a violation too."""
    emulator = Emulator()
    with User(emulator.module(), om) as user:
        user.fill(np.ones((2, 3, 8, 8), np.float32))
        user.upload()
        assert not emulator.violations
        assert code(misuse(user)) == wanted
        assert emulator.rules_broken() == ({rule} if rule else set())


@pytest.mark.parametrize(
    ("misuse", "words"),
    [
        (lambda u: u.rt.free(u.image), "is freed while"),
        (lambda u: u.rt.free_host(u.pinned), "is freed while"),
        (lambda u: u.rt.destroy_stream(u.stream), "is destroyed while"),
        (lambda u: u.acl.destroy_data_buffer(u.buffers[0]), "is destroyed"),
        (lambda u: u.acl.update_data_buffer(u.buffers[0], u.image, u.size), "is changed while"),
        (lambda u: u.mdl.destroy_dataset(u.input_set), "is destroyed"),
        (lambda u: u.rt.memset(u.image, 64, 0, 64), "used at once"),
        (
            lambda u: u.rt.memcpy(u.host[u.outputs[0][0]], 16, u.outputs[0][0], 16, D2H),
            "used at once",
        ),
    ],
    ids=[
        "free", "free-host", "destroy-stream", "destroy-buffer", "update-buffer",
        "destroy-dataset", "memset", "download",
    ],
)  # fmt: skip
def test_pending_work_keeps_what_it_needs(om: Path, misuse: Misuse, words: str) -> None:
    """Whatever pending work needs is neither given back nor touched before somebody waits."""
    emulator = Emulator()
    with User(emulator.module(), om) as user:
        user.fill(np.ones((2, 3, 8, 8), np.float32))
        user.queue_upload()
        user.queue_execution()
        assert misuse(user) == 0
        found = [violation for violation in emulator.violations if words in violation.text]
        assert {violation.rule for violation in found} == {"order"}


def test_the_board_copies_within_itself() -> None:
    """In run mode 0, memory is the host's too, and copies are of kind 3."""
    emulator = Emulator(run_mode="device")
    rt = emulator.module().rt
    ok(emulator.module().init())
    ok(rt.set_device(0))
    assert ok(rt.get_run_mode()) == 0
    device, host = ok(rt.malloc(64, 0)), ok(rt.malloc_host(64))
    host_view(host, 64)[:] = np.arange(64)
    assert rt.memcpy(device, 64, host, 64, D2D) == 0
    assert (host_view(device, 64) == np.arange(64)).all()
    assert not emulator.violations
    assert rt.memcpy(device, 64, host, 64, H2D) == 0
    assert emulator.rules_broken() == {"board"}


@pytest.mark.parametrize("kind", ["f2", "f4"], ids=["float16", "float32"])
def test_fresh_and_freed_memory_is_nan(user: User, emulator: Emulator, kind: str) -> None:
    """Who reads before anybody wrote, or after the end, sees NaN; a write into the grave shows."""
    rt = user.acl.rt
    fresh = ok(rt.malloc_host(256))
    view = host_view(fresh, 256).view(kind)
    assert np.isnan(view).all()
    view[:] = 1
    ok(rt.free_host(fresh))
    assert np.isnan(view).all()
    view[3] = 1
    with pytest.raises(AssertionError, match=r"rule memory: .* was written after it was freed"):
        emulator.assert_clean()


def test_addresses_and_sizes_are_a_devices(user: User, emulator: Emulator) -> None:
    """Blocks begin at multiples of 64, a card's where no program can read; memory comes back."""
    rt = user.acl.rt
    used = emulator.memory.used
    for _ in range(20):
        device, host = ok(rt.malloc(33, 0)), ok(rt.malloc_host(33))
        assert (device % 64, host % 64) == (0, 0)
        assert 2**47 < device < 2**63
        # A block takes its size in steps of 32, and 32 more.
        assert emulator.memory.used == used + 96
        ok(rt.free(device))
        ok(rt.free_host(host))
    assert emulator.memory.used == used


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40), st.integers(0, 40)), max_size=12))
def test_intervals_know_every_byte(steps: list[tuple[bool, int, int]]) -> None:
    """Adding and removing ranges leaves the same gaps as doing so byte by byte."""
    intervals, known = Intervals(), np.zeros(40, bool)
    for adds, one, other in steps:
        start, stop = min(one, other), max(one, other)
        (intervals.add if adds and start < stop else intervals.remove)(start, stop)
        known[start:stop] = adds
    gaps = [n for start, stop in intervals.gaps(5, 33) for n in range(start, stop)]
    assert gaps == [n for n in range(5, 33) if not known[n]]
    covered = [n for start, stop in intervals.spans for n in range(start, stop)]
    assert covered == [n for n in range(40) if known[n]]
