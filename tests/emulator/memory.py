"""Memory that knows what was written: blocks, poison, and copies."""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .host import UNMAPPED, Fail, Part, Thing, api, caller

Bytes = npt.NDArray[np.uint8]

#: NaN as float16 and as float32: fresh memory, and memory that was freed.
FRESH, FREED = 0xFFA5, 0xFFDE
ALIGNMENT = 64
#: Parts of a D0's buffers that nobody wrote are longer than this; see `Block.unwritten`.
STRIDE = 4096
#: The engine that does a copy, by its kind.
ENGINES = ("", "h2d", "d2h", "d2d")


@dataclass(eq=False)
class Block(Thing):
    """Memory on a device, or pinned on the host."""

    size: int = 0
    view: Bytes = field(default_factory=lambda: np.empty(0, np.uint8))

    @property
    def on_device(self) -> bool:
        """Whether it was allocated on the device."""
        return self.kind == "device memory"

    def unwritten(self, start: int, stop: int) -> bool:
        """Whether part of it still holds the poison that was there before anybody wrote."""
        # Of large ones, here and there.
        stride = STRIDE if stop - start > 16 * STRIDE else 64
        places = np.arange(start + (-start) % 8, stop - 8, stride)
        words = [self.view[places + n] == (FRESH >> 8 * (n % 2) & 0xFF) for n in range(8)]
        return bool(np.logical_and.reduce(words).any()) if len(places) else False


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
        return self.block.view[self.start : self.stop]

    def write(self, content: Bytes) -> None:
        """Write *content* now."""
        if self.block.alive:
            self.block.view[self.start : self.stop] = content

    def forget(self) -> None:
        """Make it read as poison until it is written: its time has not come."""
        if self.block.alive:
            poison(self.read(), FRESH)


def poison(view: Bytes, word: int) -> Bytes:
    """Fill *view* with the two bytes of *word*; return it."""
    whole = view[: len(view) // 2 * 2]
    if view.ctypes.data % 2 == 0:
        whole.view(np.uint16)[:] = word  # several times faster than byte by byte
    else:
        whole[::2], whole[1::2] = word & 0xFF, word >> 8
    view[len(whole) :] = word & 0xFF
    return view


class Memory(Part):
    """Calls that allocate, free and copy, and what lies at an address."""

    def begin(self) -> None:
        """Begin with nothing."""
        self._starts: list[int] = []
        #: All blocks that were ever allocated, by their address.
        self.blocks: dict[int, Block] = {}
        self._next = UNMAPPED | self.host.random.getrandbits(40) << 6
        self.used = 0

    # Allocation

    @api("rt.malloc", "ki", "pointer")
    def malloc(self, size: int, _policy: int) -> int:
        """Allocate on the device of the current context."""
        self.host.process.context()
        # A block takes its size in steps of 32, and 32 more.
        self.take(-(-size // 32) * 32 + 32)
        if self.host.profile.run_mode == "device":
            return self._keep("device memory", size, None)
        address = self._next
        self._next += size + self.host.random.randrange(2, 99) * 64
        self._next -= self._next % 64
        return self._keep("device memory", size, address)

    def take(self, size: int, code: int = 207001) -> None:
        """Count *size* bytes of the device as used; fail where there are not so many."""
        if self.used + size > self.host.profile.memory_bytes:
            raise Fail(code, f"{size} bytes are wanted")
        self.used += size

    @api("rt.malloc_host", "k", "pointer")
    def malloc_host(self, size: int) -> int:
        """Allocate on the host, pinned."""
        return self._keep("host memory", size, None)

    def _keep(self, kind: str, size: int, address: int | None) -> int:
        """Make fresh memory at *address*, which no program can read, or where it really lies."""
        context = self.host.process.context()
        if size == 0:
            raise Fail(100000, "the size is 0")
        whole = np.empty(size + 64, np.uint8)
        start = -whole.ctypes.data % 64
        view = poison(whole[start : start + size], FRESH)
        address = view.ctypes.data if address is None else address
        block = Block(kind, address, caller(), context.device, context, size=size, view=view)
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
        if block is None or block.kind != kind or not block.alive:
            report("free", f"{address:#x} is freed, but a living block of {source} is wanted")
            raise Fail(107000 if address else 100000, f"{address:#x} does not come from {source}")
        for op in self.host.streams.pending:
            if any(span.block is block for span in (*op.reads, *op.writes)):
                report("order", f"{block} is freed while {op} is pending")
        block.alive = False
        # It stays mapped, so that whoever still looks at it sees poison, not a crash.
        poison(block.view, FREED)
        if block.on_device:
            self.used -= -(-block.size // 32) * 32 + 32

    # Addresses

    def span(self, address: int, size: int, rule: str = "copy") -> Span:
        """
        What lies at *address*; reported under *rule* and cut where it is shorter than *size*.

        An address of nothing, or of something dead, fails with 107000.
        """
        if address == 0:
            raise Fail(100000, "the address is null")
        index = bisect.bisect_right(self._starts, address) - 1
        block = self.blocks[self._starts[index]] if index >= 0 else None
        start = 0 if block is None else address - block.handle
        if block is None or start >= block.size:
            rule, kind = ("host", "host") if address < UNMAPPED else (rule, "device")
            self.host.report(rule, f"{address:#x} is an unknown {kind} address")
            raise Fail(107000, f"{address:#x} is unknown")
        if not block.alive:
            self.host.report(rule, f"{block} is used after its end")
            raise Fail(107000, f"{address:#x} was freed")
        room = block.size - start
        if size > room:
            text = f"{size} bytes at {address:#x} reach beyond {block}, which has {room} from there"
            self.host.report(rule, text)
        return Span(block, start, min(size, room))

    # Copies

    @api("rt.memcpy", "kkkki")
    def memcpy(self, target: int, room: int, source: int, count: int, kind: int) -> None:
        """Copy at once."""
        device = self.host.process.context().device
        read, write, real = self._spans(target, room, source, count, kind)
        self.host.streams.check_host_access((read,), (write,))
        took = self.host.profile.times.copy_ms(ENGINES[real], count)
        self.host.streams.spend(device, ENGINES[real], took)
        self._move(read, write)

    @api("rt.memcpy_async", "kkkkik")
    def memcpy_async(
        self, target: int, room: int, source: int, count: int, kind: int, stream_handle: int
    ) -> None:
        """Queue a copy; its source is read when somebody waits for it."""
        streams = self.host.streams
        stream = streams.stream(stream_handle)
        if (target | source) % ALIGNMENT:
            self.host.report("copy", "an address is not aligned to 64 bytes")
            raise Fail(107008)
        read, write, real = self._spans(target, room, source, count, kind)
        if real == 0 and self.host.profile.run_mode == "host":
            raise Fail(207000, "an asynchronous copy from host to host")
        streams.enqueue(
            stream, f"copy of {count} bytes", ENGINES[real],
            self.host.profile.times.copy_ms(ENGINES[real], count),
            effect=lambda: self._move(read, write), reads=(read,), writes=(write,),
        )  # fmt: skip

    def _spans(
        self, target: int, room: int, source: int, count: int, kind: int
    ) -> tuple[Span, Span, int]:
        """What is read, what is written, and the real kind."""
        if not target or not source:
            raise Fail(100000, "an address is null")
        if not 0 <= kind <= 4:
            raise Fail(100000, f"the kind is {kind}")
        if count > room:
            raise Fail(107000, f"{count} bytes do not go into {room}")
        into = self.span(target, room)
        read = self.span(source, count)
        size = min(count, into.size, read.size)
        read, write = Span(read.block, read.start, size), Span(into.block, into.start, size)
        if read.overlaps(write):
            self.host.report("copy", "the ranges of a copy overlap")
        real = 2 * read.block.on_device + write.block.on_device
        if self.host.profile.run_mode == "host" and kind not in (real, 4):
            text = f"the kind is {kind}, but {read.block.kind} to {write.block.kind} is {real}"
            self.host.report("copy", text)
        return read, write, real

    def _move(self, read: Span, write: Span) -> None:
        if not (read.block.alive and write.block.alive):
            self.host.report("order", f"{read.block} or {write.block} was freed before its copy")
            return
        if read.block.unwritten(read.start, read.stop):
            self.host.report("execute", f"{read.block} is copied, but was never written")
        write.write(read.read())
