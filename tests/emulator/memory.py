"""Memory with fences: blocks that know what was written, poison, graves, and copies."""

from __future__ import annotations

import bisect
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .host import UNMAPPED, Fail, Thing, api, caller

if TYPE_CHECKING:
    from .host import Host

Bytes = npt.NDArray[np.uint8]

#: NaN as float16 and as float32: fresh memory, and memory that was freed.
FRESH, FREED = 0xFFA5, 0xFFDE
GUARD, GUARD_BYTE = 64, 0xFD
ALIGNMENT = 64
#: Parts of a D0's buffers that nobody wrote are longer than this; see `Block.unwritten`.
STRIDE = 4096
#: The engine that does a copy, by its kind.
ENGINES = ("", "h2d", "d2h", "d2d")


class Intervals:
    """Disjoint ranges of numbers, in order."""

    def __init__(self) -> None:
        self.spans: list[tuple[int, int]] = []

    def add(self, start: int, stop: int) -> None:
        """Add a range."""
        touching = [s for s in self.spans if s[0] <= stop and start <= s[1]]
        others = [s for s in self.spans if s not in touching]
        lowest = min([start, *(s[0] for s in touching)])
        highest = max([stop, *(s[1] for s in touching)])
        self.spans = sorted([*others, (lowest, highest)])

    def remove(self, start: int, stop: int) -> None:
        """Take a range away."""
        parts = [p for a, b in self.spans for p in ((a, min(b, start)), (max(a, stop), b))]
        self.spans = [(a, b) for a, b in parts if a < b]

    def gaps(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Parts of a range that are not covered."""
        found, reached = [], start
        for a, b in [*self.spans, (stop, stop)]:
            if min(a, stop) > reached:
                found.append((reached, min(a, stop)))
            reached = max(reached, b)
        return found


@dataclass(eq=False)
class Block(Thing):
    """Memory on a device, or pinned on the host between two guards."""

    size: int = 0
    view: Bytes = field(default_factory=lambda: np.empty(0, np.uint8))
    #: The block with its guards, where the host can read it.
    whole: Bytes | None = None
    written: Intervals = field(default_factory=Intervals)
    #: Thread whose upload no execution has read yet.
    uploader: int | None = None
    #: Thread whose outputs lie here, and those whose outputs were overwritten unread.
    executor: int | None = None
    losers: set[int] = field(default_factory=set)

    @property
    def on_device(self) -> bool:
        """Whether it was allocated on the device."""
        return self.kind == "device memory"

    def unwritten(self, start: int, stop: int) -> bool:
        """Whether part of it still holds what was there before anybody wrote."""
        if self.whole is None:
            return bool(self.written.gaps(start, stop))
        # The caller writes such memory himself: look for the poison, here and there.
        stride = STRIDE if stop - start > 16 * STRIDE else 64
        places = np.arange(start + (-start) % 8, stop - 8, stride)
        words = [self.view[places + n] == (FRESH >> 8 * (n % 2) & 0xFF) for n in range(8)]
        return bool(np.logical_and.reduce(words).any()) if len(places) else False

    def guards_hold(self) -> bool:
        """Whether nobody wrote beside the block."""
        if self.whole is None:
            return True
        offset = self.handle - self.whole.ctypes.data
        around = (self.whole[offset - GUARD : offset], self.whole[offset + self.size :][:GUARD])
        return all((guard == GUARD_BYTE).all() for guard in around)


@dataclass(frozen=True)
class Span:
    """*size* bytes of *block* from *start*."""

    block: Block
    start: int
    size: int

    @property
    def stop(self) -> int:
        """The first byte behind it."""
        return self.start + self.size

    def overlaps(self, other: Span) -> bool:
        """Whether the two share a byte."""
        same = self.block is other.block
        return same and self.start < other.stop and other.start < self.stop

    def read(self) -> Bytes:
        """Its bytes; those that were never written, or freed, are poison."""
        if not self.block.alive:
            return poison(np.empty(self.size, np.uint8), FREED)
        if self.block.whole is None:
            for start, stop in self.block.written.gaps(self.start, self.stop):
                poison(self.block.view[start:stop], FRESH)
        return self.block.view[self.start : self.stop]

    def write(self, content: Bytes) -> None:
        """Write *content* now."""
        if self.block.alive:
            self.block.written.add(self.start, self.stop)
            self.block.view[self.start : self.stop] = content

    def forget(self) -> None:
        """Make it read as poison until it is written: its time has not come."""
        self.block.written.remove(self.start, self.stop)
        if self.block.whole is not None and self.block.alive:
            poison(self.block.view[self.start : self.stop], FRESH)

    def fingerprint(self) -> int | None:
        """A number for what the host could change behind a copy's back."""
        if self.block.whole is None or not self.block.alive:
            return None
        # Addresses of asynchronous copies are aligned, so that this is a view.
        words = self.block.view[self.start : self.start + self.size // 8 * 8].view(np.uint64)
        return int(np.bitwise_xor.reduce(words)) if len(words) else 0


def poison(view: Bytes, word: int) -> Bytes:
    """Fill *view* with the two bytes of *word*; return it."""
    whole = view[: len(view) // 2 * 2]
    if view.ctypes.data % 2 == 0:
        whole.view(np.uint16)[:] = word  # several times faster than byte by byte
    else:
        whole[::2], whole[1::2] = word & 0xFF, word >> 8
    view[len(whole) :] = word & 0xFF
    return view


class Memory:
    """Calls that allocate, free and copy, and what lies at an address."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._starts: list[int] = []
        #: All blocks that were ever allocated, by their address.
        self.blocks: dict[int, Block] = {}
        self._next = UNMAPPED | host.random.getrandbits(40) << 6
        self.used = 0

    # Allocation

    @api("rt.malloc", "ki", "pointer")
    def malloc(self, size: int, policy: int) -> int:
        """Allocate on the device of the current context."""
        self.host.process.context()
        if size == 0:
            raise Fail(100000, "the size is 0")
        if not 0 <= policy <= 5:
            self.host.report("memory", f"the policy is {policy}, but there are 0 to 5")
        # A block takes its size in steps of 32, and 32 more.
        self.take(-(-size // 32) * 32 + 32)
        if self.host.profile.run_mode == "device":
            return self._pinned("device memory", size)
        address = self._next
        self._next += size + self.host.random.randrange(2, 99) * 64
        self._next -= self._next % 64
        # Zeros cost nothing until they are written; reading gives poison.
        return self._keep("device memory", address, np.zeros(size, np.uint8), None)

    def take(self, size: int, code: int = 207001) -> None:
        """Count *size* bytes of the device as used; fail where there are not so many."""
        if self.used + size > self.host.profile.memory_bytes:
            raise Fail(code, f"{size} bytes are wanted")
        self.used += size

    @api("rt.malloc_host", "k", "pointer")
    def malloc_host(self, size: int) -> int:
        """Allocate on the host, pinned."""
        self.host.process.context()
        if size == 0:
            raise Fail(100000, "the size is 0")
        return self._pinned("host memory", size)

    def _pinned(self, kind: str, size: int) -> int:
        slack = 64 * self.host.random.randrange(1, 16)
        whole = np.full(size + 2 * GUARD + 64 + slack, GUARD_BYTE, np.uint8)
        start = GUARD + slack
        start += -(whole.ctypes.data + start) % 64
        view = poison(whole[start : start + size], FRESH)
        return self._keep(kind, view.ctypes.data, view, whole)

    def _keep(self, kind: str, address: int, view: Bytes, whole: Bytes | None) -> int:
        context = self.host.process.context()
        size, device = len(view), context.device
        block = Block(kind, address, caller(), device, context, size=size, view=view, whole=whole)
        bisect.insort(self._starts, address)
        self.blocks[address] = block
        return address

    @api("rt.free", "k", releases=True)
    def free(self, address: int) -> None:
        """Give device memory back; it needs no context."""
        self._free(address, "device memory", "malloc")

    @api("rt.free_host", "k", releases=True)
    def free_host(self, address: int) -> None:
        """Give pinned memory back."""
        self._free(address, "host memory", "malloc_host")

    def _free(self, address: int, kind: str, source: str) -> None:
        report, block = self.host.report, self.blocks.get(address)
        if address == 0:
            report("free", "null is freed")
            raise Fail(100000, "the address is null")
        if block is None or block.kind != kind or not block.alive:
            found = self.find(address)
            what = f"{found[0]}, {found[1]} bytes in" if found else "nothing that was allocated"
            wanted = f"a living block of {source} is wanted"
            report("free", f"{address:#x} is freed, which is {what}; {wanted}")
            raise Fail(107000, f"{address:#x} does not come from {source}")
        for op in self.host.streams.pending:
            if any(span.block is block for span in (*op.reads, *op.writes)):
                report("order", f"{block} is freed while {op} is pending")
        if not block.guards_hold():
            report("memory", f"somebody wrote beside {block}")
        block.alive = False
        if block.on_device:
            self.used -= -(-block.size // 32) * 32 + 32
        if block.whole is None:
            block.view = np.empty(0, np.uint8)
        else:
            # It stays mapped, so that whoever still looks at it sees poison, not a crash.
            poison(block.view, FREED)

    def check_graves(self) -> None:
        """Report writes beside blocks, and into freed ones."""
        for block in self.blocks.values():
            if block.alive and not block.guards_hold():
                self.host.report("memory", f"somebody wrote beside {block}")
            if not block.alive and block.whole is not None:
                words = block.view[: block.size // 2 * 2].view(np.uint16)
                if not (words == FREED).all():
                    self.host.report("memory", f"{block} was written after it was freed")

    # Addresses

    def find(self, address: int) -> tuple[Block, int] | None:
        """The block that *address* lies in, alive or not, and how far in."""
        index = bisect.bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        block = self.blocks[self._starts[index]]
        inside = address - block.handle
        return (block, inside) if inside < block.size else None

    def span(self, address: int, size: int, rule: str = "copy") -> Span:
        """
        What lies at *address*; reported under *rule* and cut where it is shorter than *size*.

        An address of nothing, or of something dead, fails with 107000.
        """
        if address == 0:
            raise Fail(100000, "the address is null")
        found = self.find(address)
        if found is None:
            rule, kind = ("host", "host") if address < UNMAPPED else (rule, "device")
            self.host.report(rule, f"{address:#x} is an unknown {kind} address")
            raise Fail(107000, f"{address:#x} is unknown")
        block, start = found
        if not block.alive:
            self.host.report(rule, f"{block} is used after its end")
            raise Fail(107000, f"{address:#x} was freed")
        room = block.size - start
        if size > room:
            text = f"{size} bytes at {address:#x} reach beyond {block}, which has {room} from there"
            self.host.report(rule, text)
        return Span(block, start, min(size, room))

    # Copies

    @api("rt.memset", "kkik", doubts=(0,))
    def memset(self, address: int, room: int, value: int, count: int) -> None:
        """Fill memory with a byte, at once."""
        self.host.process.context()
        if count > room:
            raise Fail(107000, f"{count} bytes do not go into {room}")
        if count:
            self.span(address, room)
            span = self.span(address, count)
            self.host.streams.check_host_access((), (span,))
            span.write(np.full(span.size, value & 0xFF, np.uint8))

    @api("rt.memcpy", "kkkki", doubts=(0,))
    def memcpy(self, target: int, room: int, source: int, count: int, kind: int) -> None:
        """Copy at once."""
        device = self.host.process.context().device
        pair = self._spans(target, room, source, count, kind)
        if pair is None:
            return
        read, write, real = pair
        self.host.streams.check_host_access((read,), (write,))
        took = self.host.profile.times.copy_ms(ENGINES[real], count)
        self.host.streams.spend(device, ENGINES[real], took)
        self._note_threads(read, write)
        self._move(read, write)

    @api("rt.memcpy_async", "kkkkik", doubts=(0,))
    def memcpy_async(
        self, target: int, room: int, source: int, count: int, kind: int, stream_handle: int
    ) -> None:
        """Queue a copy; its source is read when somebody waits for it."""
        streams = self.host.streams
        stream = streams.stream(stream_handle)
        if (target | source) % ALIGNMENT:
            self.host.report("async", "an address is not aligned to 64 bytes")
            raise Fail(107008)
        pair = self._spans(target, room, source, count, kind)
        if pair is None:
            return
        read, write, real = pair
        if real == 0 and self.host.profile.run_mode == "host":
            raise Fail(207000, "an asynchronous copy from host to host")
        self._note_threads(read, write)
        written = any(read.overlaps(w) for op in streams.pending for w in op.writes)
        before = read.fingerprint()

        def effect() -> None:
            if not written and before != read.fingerprint():
                text = f"{read.block} changed while a copy of it was pending"
                self.host.report("order", text)
            self._move(read, write)

        took = self.host.profile.times.copy_ms(ENGINES[real], count)
        streams.enqueue(
            stream, f"copy of {count} bytes", ENGINES[real], took,
            effect=effect, reads=(read,), writes=(write,),
        )  # fmt: skip

    def _spans(
        self, target: int, room: int, source: int, count: int, kind: int
    ) -> tuple[Span, Span, int] | None:
        """What is read, what is written, and the real kind; None where there is nothing to do."""
        if not target or not source:
            raise Fail(100000, "an address is null")
        if not 0 <= kind <= 4:
            raise Fail(100000, f"the kind is {kind}")
        if count > room:
            raise Fail(107000, f"{count} bytes do not go into {room}")
        if count == 0 or target == source:
            return None
        into = self.span(target, room)
        read = self.span(source, count)
        size = min(count, into.size, read.size)
        read, write = Span(read.block, read.start, size), Span(into.block, into.start, size)
        if read.overlaps(write):
            self.host.report("copy", "the ranges of a copy overlap")
        real = 2 * read.block.on_device + write.block.on_device
        if self.host.profile.run_mode == "device":
            if kind in (1, 2):
                text = f"the kind is {kind} on the board itself, where copies are 3 (or 0)"
                self.host.report("board", text)
        elif kind not in (real, 4):
            text = f"the kind is {kind}, but {read.block.kind} to {write.block.kind} is {real}"
            self.host.report("copy", text)
        return read, write, real

    def _note_threads(self, read: Span, write: Span) -> None:
        """Report an upload over another thread's, and a download of another's outputs."""
        me = threading.get_ident()
        if write.block.on_device and not read.block.on_device:
            if write.block.uploader not in (None, me):
                text = f"{write.block} still holds what another thread uploaded and nobody executed"
                self.host.report("order", text)
            write.block.uploader = me
        if read.block.on_device:
            if me in read.block.losers:
                text = f"the outputs in {read.block} are another thread's: it executed in between"
                self.host.report("order", text)
            read.block.losers.discard(me)
            read.block.executor = None

    def _move(self, read: Span, write: Span) -> None:
        if not (read.block.alive and write.block.alive):
            self.host.report("order", f"{read.block} or {write.block} was freed before its copy")
            return
        if read.block.unwritten(read.start, read.stop):
            self.host.report("execute", f"{read.block} is copied, but was never written")
        write.write(read.read())
