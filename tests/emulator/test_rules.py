"""The emulator of pyACL: each misuse gives its code, and is reported under its rule."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .acl import Emulator
from .user import D2D, D2H, H2D, User, code, host_view, ok

Misuse = Callable[[User], Any]


def copy(u: User, kind: int = H2D, *, to: int = 0, room: int = 0) -> Any:
    """Copy the image up, shifted, and with another *room*."""
    return u.rt.memcpy(u.image + to, u.size + room, u.pinned, u.size, kind)


def note(u: User, index: int, address: int, size: int) -> Any:
    """Execute with another address and size for input 0, or for output *index* - 1."""
    sets = [dataset(u), dataset(u)]
    for number, (at, room) in enumerate((*u.inputs, *u.outputs)):
        where = (address, size) if number == index else (at, room)
        buffer = u.acl.create_data_buffer(*where)
        u.later(u.acl.destroy_data_buffer, buffer)
        ok(u.mdl.add_dataset_buffer(sets[number > 0], buffer))
    return u.mdl.execute(u.model, *sets)


def resized(u: User, difference: int) -> Any:
    """Execute with an input buffer of another size, in memory that has room for it."""
    room = ok(u.rt.malloc(u.size + 64, 0))
    pinned = ok(u.rt.malloc_host(u.size + 64))
    host_view(pinned, u.size + 64)[:] = 0
    ok(u.rt.memcpy(room, u.size + 64, pinned, u.size + 64, H2D))
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
        "malloc-too-much": (lambda u: u.rt.malloc(9 << 30, 0), 207001),
        "copy-null": (lambda u: u.rt.memcpy(0, 64, u.image, 64, D2H), 100000),
        "copy-unknown-kind": (lambda u: copy(u, 5), 100000),
        "copy-without-room": (lambda u: copy(u, room=-1), 107000),
        "late-host-to-host": (
            lambda u: u.rt.memcpy_async(u.pinned, 64, u.host[u.outputs[0][0]], 32, 0, u.stream),
            207000,
        ),
        "device-beyond-the-last": (lambda u: u.rt.set_device(2), 107001),
        "context-null": (lambda u: u.rt.set_context(0), 100000),
        "stream-elsewhere": (lambda u: elsewhere(u, u.rt.destroy_stream, u.stream), 107003),
        "model-elsewhere": (lambda u: elsewhere(u, u.mdl.execute, u.model, 1, 2), 107004),
        "unknown-model": (lambda u: u.mdl.unload(77), 145003),
        "no-dataset": (lambda u: u.mdl.execute(u.model, 0, u.output_set), 100000),
        "no-buffers": (lambda u: u.mdl.execute(u.model, u.input_set, dataset(u)), 145000),
        "buffer-much-too-small": (lambda u: resized(u, -65), 145000),
        "gear-of-static-model": (
            lambda u: u.mdl.set_dynamic_batch_size(u.model, u.input_set, 0, 2),
            100000,
        ),
        "time-before-its-events": (lambda u: u.rt.event_elapsed_time(event(u), event(u)), 107006),
    },
    "free": {
        "null": (lambda u: u.rt.free(0), 100000),
        "inside": (lambda u: u.rt.free(u.image + 64), 107000),
        "device-as-host": (lambda u: u.rt.free_host(u.image), 107000),
        "twice": (lambda u: twice(u.rt.free, u.image), 107000),
    },
    "copy": {
        "room-too-large": (lambda u: copy(u, room=1), 0),
        "target-shifted": (lambda u: copy(u, to=64), 0),
        "kind-reversed": (lambda u: copy(u, D2H), 0),
        "overlapping": (lambda u: u.rt.memcpy(u.image + 64, 128, u.image, 128, D2D), 0),
        "freed": (lambda u: after(ok(u.rt.free(u.image)), copy(u)), 107000),
        "unaligned": (
            lambda u: u.rt.memcpy_async(u.image + 32, 64, u.pinned, 64, H2D, u.stream),
            107008,
        ),
    },
    "host": {"of-numpy": (lambda u: u.rt.memcpy(u.image, 64, ARRAY.ctypes.data, 64, H2D), 107000)},
    "execute": {
        "data-buffer-for-dataset": (
            lambda u: u.mdl.execute(u.model, u.buffers[0], u.output_set),
            100000,
        ),
        "one-byte-too-small": (lambda u: resized(u, -1), 0),
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
        "of-another-kind": (lambda u: u.acl.destroy_data_buffer(u.input_set), 100000),
        "of-nothing": (lambda u: u.mdl.destroy_dataset(12345), 100000),
        "buffer-in-two-datasets": (lambda u: u.mdl.add_dataset_buffer(dataset(u), u.buffers[1]), 0),
        "buffer-gone-before-its-dataset": (
            lambda u: after(
                ok(u.acl.destroy_data_buffer(u.buffers[0])),
                u.mdl.execute(u.model, u.input_set, u.output_set),
            ),
            100000,
        ),
    },
    "context": {"of-nothing": (lambda u: u.rt.set_context(4096), 107002)},
    "reset": {
        "context-before-its-stream": (lambda u: u.rt.destroy_context(u.context), 0),
        "device-before-its-context": (lambda u: u.rt.reset_device(0), 0),
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
        (lambda u: u.rt.destroy_stream(u.stream), "is destroyed while"),
        (lambda u: u.acl.destroy_data_buffer(u.buffers[0]), "is destroyed"),
        (
            lambda u: u.rt.memcpy(u.host[u.outputs[0][0]], 16, u.outputs[0][0], 16, D2H),
            "used at once",
        ),
    ],
    ids=["free", "destroy-stream", "destroy-buffer", "download"],
)
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


@pytest.mark.parametrize(
    "kind", range(5), ids=["within-host", "up", "down", "within-device", "by-address"]
)
def test_the_board_copies_within_itself(kind: int) -> None:
    """In run mode 0, memory is the host's too, and each kind of copy is within the device."""
    emulator = Emulator(run_mode="device")
    rt = emulator.module().rt
    ok(emulator.module().init())
    ok(rt.set_device(0))
    assert ok(rt.get_run_mode()) == 0
    device, host = ok(rt.malloc(64, 0)), ok(rt.malloc_host(64))
    host_view(host, 64)[:] = np.arange(64)
    assert rt.memcpy(device, 64, host, 64, kind) == 0
    assert (host_view(device, 64) == np.arange(64)).all()
    assert not emulator.violations


@pytest.mark.parametrize("kind", ["f2", "f4"], ids=["float16", "float32"])
def test_fresh_and_freed_memory_is_nan(user: User, kind: str) -> None:
    """Who reads before anybody wrote, or after the end, sees NaN."""
    rt = user.acl.rt
    fresh = ok(rt.malloc_host(256))
    view = host_view(fresh, 256).view(kind)
    assert np.isnan(view).all()
    view[:] = 1
    ok(rt.free_host(fresh))
    assert np.isnan(view).all()


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
