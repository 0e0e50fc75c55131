"""The emulator of pyACL: memory, copies and Python's own objects (rules 15 to 19, and 21)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from .fakes.acl import Emulator
from .fakes.ascend.memory import Intervals
from .fakes.ascend.rules import rule
from .fakes.ascend.user import D2D, D2H, H2D, code, host_view, ok

SIZE = 256


class Bench:
    """A host that is ready for copies, with a block on each side."""

    def __init__(self, **options: Any) -> None:
        self.emulator = Emulator(**options)
        self.acl = self.emulator.module()
        ok(self.acl.init())
        ok(self.acl.rt.set_device(0))
        self.device = ok(self.acl.rt.malloc(SIZE, 0))
        self.host = ok(self.acl.rt.malloc_host(SIZE))
        host_view(self.host, SIZE)[:] = np.arange(SIZE)

    def copy(self, target: int, source: int, kind: int, size: int = SIZE, room: int = SIZE) -> int:
        """The code of a copy."""
        return code(self.acl.rt.memcpy(target, room, source, size, kind))

    @property
    def rules(self) -> set[int]:
        """Rules broken so far."""
        return self.emulator.rules_broken()


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A host that is ready for copies, all of whose codes were looked at."""
    bench = Bench()
    yield bench
    assert 5 not in bench.rules


# Allocation


@rule(15)
def test_allocations_have_limits() -> None:
    """Nothing is 100000, too much 207001 (or 207018), and what was freed can be had again."""
    bench = Bench(memory_bytes=1024, oom_code=207018)
    rt = bench.acl.rt
    assert [code(rt.malloc(0, 0)), code(rt.malloc_host(0))] == [100000, 100000]
    address = ok(rt.malloc(640, 0))
    assert code(rt.malloc(64, 0)) == 207018
    assert "EL0004" in bench.acl.get_recent_err_msg()
    ok(rt.free(address))
    assert ok(rt.malloc(640, 0)) != address
    free, total, ret = rt.get_mem_info(0)
    # Each block takes 32 bytes more than it has.
    assert (free, total, ret) == (1024 - 288 - 672, 1024, 0)


@rule(15)
def test_an_unknown_policy_is_noted(bench: Bench) -> None:
    """Hardware takes its default for a policy that does not exist."""
    assert [code(bench.acl.rt.malloc(64, policy)) for policy in (5, 6)] == [0, 0]
    assert bench.rules == {15}


@rule(15)
def test_addresses_are_aligned_and_the_devices_cannot_be_mapped(bench: Bench) -> None:
    """Blocks start at multiples of 64; addresses of a card are beyond what a program can have."""
    for _ in range(20):
        device, host = ok(bench.acl.rt.malloc(33, 0)), ok(bench.acl.rt.malloc_host(33))
        assert (device % 64, host % 64) == (0, 0)
        assert 2**47 < device < 2**63


@rule(15)
@pytest.mark.parametrize("kind", ["f2", "f4"], ids=["float16", "float32"])
def test_fresh_and_freed_memory_is_nan(bench: Bench, kind: str) -> None:
    """Who reads before anybody wrote, or after the end, sees NaN."""
    fresh = ok(bench.acl.rt.malloc_host(SIZE))
    view = host_view(fresh, SIZE).view(kind)
    assert np.isnan(view).all()
    view[:] = 1
    ok(bench.acl.rt.free_host(fresh))
    assert np.isnan(view).all()


@rule(15)
@pytest.mark.parametrize("place", [-1, SIZE], ids=["before", "behind"])
def test_guards_notice_writes_beside_a_block(bench: Bench, place: int) -> None:
    """A byte written beside pinned memory is reported when it is freed."""
    host_view(bench.host + place, 1)[:] = 7
    ok(bench.acl.rt.free_host(bench.host))
    assert bench.rules == {15}


@rule(15)
def test_guards_are_checked_at_the_end_too(bench: Bench) -> None:
    """A write beside a block that is still alive is part of the report."""
    host_view(bench.host + SIZE, 1)[:] = 7
    with pytest.raises(AssertionError, match="rule 15: somebody wrote beside host memory"):
        bench.emulator.assert_clean()


@rule(16)
@pytest.mark.parametrize(
    ("name", "offset", "wanted"),
    [
        pytest.param("free", None, 100000, id="free-null"),
        pytest.param("free", 64, 107000, id="free-inside"),
        pytest.param("free", 10**6, 107000, id="free-unknown"),
        pytest.param("free_host", None, 100000, id="free-host-null"),
        pytest.param("free_host", 0, 107000, id="free-host-of-device-memory"),
    ],
)
def test_only_what_was_allocated_is_freed(
    bench: Bench, name: str, offset: int | None, wanted: int
) -> None:
    """Anything else gives a code and is a violation; the block lives on."""
    address = 0 if offset is None else bench.device + offset
    assert code(getattr(bench.acl.rt, name)(address)) == wanted
    assert bench.rules == {16}
    assert bench.copy(bench.device, bench.host, H2D) == 0


@rule(16)
def test_memory_is_freed_once_and_by_its_own_function(bench: Bench) -> None:
    """The second free, and free of pinned memory, give 107000 and are violations."""
    rt = bench.acl.rt
    assert [code(rt.free(bench.device)), code(rt.free(bench.device))] == [0, 107000]
    assert code(rt.free(bench.host)) == 107000
    assert [violation.rule for violation in bench.emulator.violations] == [16, 16]


# Copies


@rule(17)
def test_copies_carry_bytes_over_and_back(bench: Bench) -> None:
    """What goes up comes down, through a second block of the device."""
    other, back = ok(bench.acl.rt.malloc(SIZE, 0)), ok(bench.acl.rt.malloc_host(SIZE))
    assert bench.copy(bench.device, bench.host, H2D) == 0
    assert bench.copy(other, bench.device, D2D) == 0
    assert bench.copy(back, other, D2H) == 0
    assert (host_view(back, SIZE) == np.arange(SIZE)).all()
    assert not bench.rules


@rule(17)
def test_copies_check_their_arguments(bench: Bench) -> None:
    """Null and unknown kinds give 100000, too little room 107000; nothing to do is no error."""
    assert bench.copy(0, bench.host, H2D) == 100000
    assert bench.copy(bench.device, 0, H2D) == 100000
    assert bench.copy(bench.device, bench.host, 5) == 100000
    assert bench.copy(bench.device, bench.host, H2D, size=SIZE, room=SIZE - 1) == 107000
    assert bench.copy(bench.device, bench.host, H2D, size=0) == 0
    assert bench.copy(bench.device, bench.device, D2D) == 0
    assert not bench.rules


@rule(17)
@pytest.mark.parametrize(
    "misuse",
    [
        pytest.param(lambda b: b.copy(b.device, b.host, H2D, room=SIZE + 1), id="room-too-large"),
        pytest.param(lambda b: b.copy(b.device + 64, b.host, H2D), id="target-shifted"),
        pytest.param(lambda b: b.copy(b.device, b.host + 64, H2D), id="source-shifted"),
        pytest.param(lambda b: b.copy(b.device, b.host, D2H), id="kind-reversed"),
        pytest.param(lambda b: b.copy(b.device, b.host, 0), id="kind-host-to-host"),
        pytest.param(
            lambda b: b.copy(b.host + 64, b.host, 0, size=128, room=128), id="overlapping"
        ),
    ],
)
def test_copies_stay_inside_and_say_what_they_are(bench: Bench, misuse: Any) -> None:
    """Hardware takes these or leaves them undefined; each is a violation."""
    assert misuse(bench) == 0
    assert bench.rules == {17}


@rule(17)
def test_copies_of_freed_or_unknown_memory_do_nothing(bench: Bench) -> None:
    """An address of nothing gives 107000 and is a violation."""
    ok(bench.acl.rt.free(bench.device))
    assert bench.copy(bench.device, bench.host, H2D) == 107000
    assert bench.copy(bench.device + 10**6, bench.host, H2D) == 107000
    assert [violation.rule for violation in bench.emulator.violations] == [17, 17]


@rule(17)
def test_device_memory_is_not_the_hosts(bench: Bench) -> None:
    """Reading a card's memory as the host's is a violation and gives poison."""
    content = bench.acl.util.ptr_to_bytes(bench.device, 4)
    assert np.isnan(np.frombuffer(content, np.float32)).all()
    assert bench.rules == {17}


@rule(24)
def test_what_was_never_written_is_not_copied(bench: Bench) -> None:
    """A download of fresh memory, and an upload of a pinned block half filled, are violations."""
    assert bench.copy(bench.host, bench.device, D2H) == 0
    assert np.isnan(host_view(bench.host, SIZE).view(np.float32)).all()
    assert bench.rules == {24}
    half = ok(bench.acl.rt.malloc_host(SIZE))
    host_view(half, SIZE // 2)[:] = 1
    before = len(bench.emulator.violations)
    assert bench.copy(bench.device, half, H2D) == 0
    assert len(bench.emulator.violations) == before + 1


# Objects of Python


@rule(18)
def test_bytes_that_live_can_be_read(bench: Bench) -> None:
    """The address of a bytes object is good as long as somebody holds the object."""
    content = bytes(range(256))
    address = bench.acl.util.bytes_to_ptr(content)
    assert bench.copy(bench.device, address, H2D) == 0
    assert bench.copy(bench.host, bench.device, D2H) == 0
    assert bench.acl.util.ptr_to_bytes(bench.host, SIZE) == content
    assert not bench.rules
    assert bench.copy(bench.device, address, H2D, size=SIZE + 1, room=SIZE) == 107000
    del content
    assert bench.copy(bench.device, address, H2D) == 107000
    assert bench.rules == {18}


@rule(18)
def test_an_address_of_something_already_gone(bench: Bench) -> None:
    """Bytes made in the call itself are gone when the copy begins."""
    address = bench.acl.util.bytes_to_ptr(np.arange(64, dtype=np.float32).tobytes())
    assert bench.copy(bench.device, address, H2D) == 107000
    assert bench.rules == {18}
    with pytest.raises(ValueError, match="bytes are wanted, not bytearray"):
        bench.acl.util.bytes_to_ptr(bytearray(4))


@rule(18)
def test_addresses_that_nobody_told_of(bench: Bench) -> None:
    """An address taken from numpy's own attributes is unknown."""
    array = np.zeros(SIZE, np.uint8)
    assert bench.copy(bench.device, array.ctypes.data, H2D) == 107000
    assert bench.rules == {18}


@rule(18)
def test_bytes_are_not_written_into(bench: Bench) -> None:
    """A download into a bytes object works, as on hardware, and is a violation."""
    target = bytes(SIZE)
    assert bench.copy(bench.device, bench.host, H2D) == 0
    assert bench.copy(bench.acl.util.bytes_to_ptr(target), bench.device, D2H) == 0
    assert target == bytes(range(256))
    assert bench.rules == {18}


@rule(18)
def test_arrays_by_their_address() -> None:
    """An array's address reaches its bytes; a view's dies with the array, not with the view."""
    bench = Bench(cann="old")
    array = np.arange(SIZE, dtype=np.uint8)
    address = bench.acl.util.numpy_to_ptr(array[:])
    assert bench.copy(bench.device, address, H2D) == 0
    assert not bench.rules
    assert bench.copy(bench.device, address, H2D, size=SIZE + 1, room=SIZE + 1) == 0
    assert bench.rules == {17, 18}
    del array
    assert bench.copy(bench.device, address, H2D) == 107000


@rule(18)
def test_arrays_must_lie_in_order() -> None:
    """A transposed array's address only warns; numpy_contiguous_to_ptr gives a copy with it."""
    bench = Bench(cann="old")
    array = np.arange(SIZE, dtype=np.uint8).reshape(16, 16)
    address, whole = bench.acl.util.numpy_contiguous_to_ptr(array.T)
    assert bench.copy(bench.device, address, H2D) == 0
    assert bench.copy(bench.host, bench.device, D2H) == 0
    assert (host_view(bench.host, SIZE) == array.T.ravel()).all()
    assert whole.flags.c_contiguous
    assert not bench.rules
    with pytest.warns(UserWarning, match="not contiguous"):
        bench.acl.util.numpy_to_ptr(array.T)
    assert bench.rules == {18}


@rule(19)
def test_arrays_over_acls_memory_do_not_outlive_it() -> None:
    """Freeing what ptr_to_numpy shows may free it twice; writing into the grave is noticed."""
    bench = Bench(cann="old")
    array = bench.acl.util.ptr_to_numpy(bench.host, (SIZE // 4,), 11)
    assert (array.dtype, array.shape) == (np.float32, (SIZE // 4,))
    ok(bench.acl.rt.free_host(bench.host))
    (twice,) = bench.emulator.violations
    assert (twice.rule, "double free" in twice.text) == (19, True)
    array[3] = 1
    with pytest.raises(AssertionError, match="was written after it was freed"):
        bench.emulator.assert_clean()


# The board itself


@rule(21)
def test_the_board_copies_within_itself() -> None:
    """In run mode 0, memory is the host's too, and copies are of kind 3."""
    bench = Bench(run_mode="device")
    assert ok(bench.acl.rt.get_run_mode()) == 0
    assert bench.copy(bench.device, bench.host, D2D) == 0
    assert (host_view(bench.device, SIZE) == np.arange(SIZE)).all()
    assert not bench.rules
    assert bench.copy(bench.device, bench.host, H2D) == 0
    assert bench.rules == {21}


# The emulator's own tools

Ranges = st.lists(st.tuples(st.booleans(), st.integers(0, 40), st.integers(0, 40)), max_size=12)


@given(Ranges)
def test_intervals_know_every_byte(steps: list[tuple[bool, int, int]]) -> None:
    """Adding and removing ranges leaves the same gaps as doing so byte by byte."""
    intervals, known = Intervals(), np.zeros(40, bool)
    for adds, one, other in steps:
        start, stop = min(one, other), max(one, other)
        (intervals.add if adds and start < stop else intervals.remove)(start, stop)
        known[start:stop] = adds
    missing = np.ones(40, bool)
    for start, stop in ((0, 40), *intervals.spans)[1:]:
        missing[start:stop] = False
    assert (missing == ~known).all()
    gaps = [n for start, stop in intervals.gaps(5, 33) for n in range(start, stop)]
    assert gaps == [n for n in range(5, 33) if not known[n]]
