"""Memory with fences: blocks that know what was written, poison, and graves that stay closed."""

from __future__ import annotations

import bisect
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .host import UNMAPPED, Thing
from .ledger import Fail, caller
from .surface import api

if TYPE_CHECKING:
    from .host import Host

Bytes = npt.NDArray[np.uint8]

#: NaN as float16 and as float32: fresh memory, and memory that was freed.
FRESH, FREED = 0xFFA5, 0xFFDE
GUARD, GUARD_BYTE = 64, 0xFD
#: Rests of a D0's buffers that nobody wrote are longer than this; see `Block.unwritten`.
STRIDE = 4096


class Intervals:
    """Disjoint ranges of numbers, in order."""

    def __init__(self) -> None:
        self.spans: list[tuple[int, int]] = []

    def add(self, start: int, stop: int) -> None:
        """Add a range."""
        touching = [s for s in self.spans if s[0] <= stop and start <= s[1]]
        apart = [s for s in self.spans if not (s[0] <= stop and start <= s[1])]
        lowest, highest = (
            min([start, *(s[0] for s in touching)]),
            max([stop, *(s[1] for s in touching)]),
        )
        self.spans = sorted([*apart, (lowest, highest)])

    def remove(self, start: int, stop: int) -> None:
        """Take a range away."""
        kept = []
        for a, b in self.spans:
            kept += [(a, min(b, start)), (max(a, stop), b)]
        self.spans = [(a, b) for a, b in kept if a < b]

    def gaps(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Parts of a range that are not covered."""
        found, reached = [], start
        for a, b in self.spans:
            if a >= stop:
                break
            if a > reached:
                found.append((reached, a))
            reached = max(reached, b)
        if reached < stop:
            found.append((reached, stop))
        return found


@dataclass(eq=False)
class Block(Thing):
    """Memory between two guards: on a device, pinned on the host, or somebody's object."""

    size: int = 0
    view: Bytes = field(default_factory=lambda: np.empty(0, np.uint8))
    #: The block with its guards, where there are any.
    whole: Bytes | None = None
    host_readable: bool = False
    pageable: bool = False
    writable: bool = True
    written: Intervals = field(default_factory=Intervals)
    #: A view by `ptr_to_numpy` exists.
    as_numpy: bool = False
    #: The runtime made it for an empty output buffer.
    by_runtime: bool = False
    #: Thread whose upload no execution has read yet (rule 28).
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
        if self.pageable:
            return False
        if not self.host_readable:
            return bool(self.written.gaps(start, stop))
        # The caller writes such memory himself: look for the poison, here and there.
        stride = STRIDE if stop - start > 16 * STRIDE else 64
        first = start + (-start) % 8
        places = np.arange(first, stop - 8, stride)
        words = (self.view[places + n] == (FRESH >> 8 * (n % 2) & 0xFF) for n in range(8))
        return bool(np.logical_and.reduce(list(words)).any()) if len(places) else False

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

    @property
    def address(self) -> int:
        """Where it begins."""
        return self.block.handle + self.start

    def overlaps(self, other: Span) -> bool:
        """Whether the two share a byte."""
        same = self.block is other.block
        return same and self.start < other.stop and other.start < self.stop

    def read(self) -> Bytes:
        """Its bytes; those that were never written, or freed, are poison."""
        if not self.block.alive:
            return poison(np.empty(self.size, np.uint8), FREED)
        view = self.block.view[self.start : self.stop]
        gaps = [] if self.block.host_readable else self.block.written.gaps(self.start, self.stop)
        for start, stop in gaps:
            poison(self.block.view[start:stop], FRESH)
        return view

    def target(self) -> Bytes:
        """Its bytes, to be written now."""
        if not self.block.alive:
            return np.empty(self.size, np.uint8)
        self.block.written.add(self.start, self.stop)
        return self.block.view[self.start : self.stop]

    def forget(self) -> None:
        """Make it read as poison until it is written: its time has not come."""
        self.block.written.remove(self.start, self.stop)
        if self.block.host_readable and self.block.alive:
            poison(self.block.view[self.start : self.stop], FRESH)


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
    """Calls that take and give back memory, and what lies at an address."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._starts: list[int] = []
        self._blocks: dict[int, Block] = {}
        self._next = UNMAPPED | host.random.getrandbits(40) << 6
        self.used = 0

    def blocks(self) -> Iterator[Block]:
        """All blocks that were ever allocated."""
        return iter(self._blocks.values())

    # Allocation

    @api("rt.malloc", "ki", "pointer")
    def malloc(self, size: int, policy: int) -> int:
        """Allocate on the device of the current context."""
        self.host.process.context()
        if size == 0:
            raise Fail(100000, "the size is 0")
        if not 0 <= policy <= 5:
            self.host.ledger.report(15, f"the policy is {policy}, but there are 0 to 5")
        return self.allocate(size).handle

    def allocate(self, size: int) -> Block:
        """Take *size* bytes of the device."""
        # A block takes its size in steps of 32, and 32 more.
        self.take(-(-size // 32) * 32 + 32)
        if self.host.profile.run_mode == "device":
            return self._pinned("device memory", size)
        address, self._next = self._next, self._next + size + self.host.random.randrange(2, 99) * 64
        self._next -= self._next % 64
        # Zeros cost nothing until they are written; reading gives poison.
        return self._keep(self._block("device memory", address, np.zeros(size, np.uint8)))

    def take(self, size: int, code: int | None = None) -> None:
        """Count *size* bytes of the device as used; fail where there are not so many."""
        if self.used + size > self.host.profile.memory_bytes:
            raise Fail(code or self.host.profile.oom_code, f"{size} bytes are wanted")
        self.used += size

    @api("rt.malloc_host", "k", "pointer")
    def malloc_host(self, size: int) -> int:
        """Allocate on the host, pinned."""
        self.host.process.context()
        if size == 0:
            raise Fail(100000, "the size is 0")
        return self._pinned("host memory", size).handle

    def _pinned(self, kind: str, size: int) -> Block:
        slack = 64 * self.host.random.randrange(1, 16)
        whole = np.full(size + 2 * GUARD + 64 + slack, GUARD_BYTE, np.uint8)
        start = GUARD + slack
        start += -(whole.ctypes.data + start) % 64
        view = poison(whole[start : start + size], FRESH)
        block = self._block(kind, view.ctypes.data, view)
        block.whole, block.host_readable = whole, True
        return self._keep(block)

    def _block(self, kind: str, address: int, view: Bytes) -> Block:
        context = self.host.process.context()
        return Block(kind, address, caller(), context.device, context, size=len(view), view=view)

    def _keep(self, block: Block) -> Block:
        bisect.insort(self._starts, block.handle)
        self._blocks[block.handle] = block
        return block

    @api("rt.free", "k", releases=True)
    def free(self, address: int) -> None:
        """Give device memory back; it needs no context."""
        self._free(address, "device memory", "malloc")

    @api("rt.free_host", "k", releases=True)
    def free_host(self, address: int) -> None:
        """Give pinned memory back."""
        self._free(address, "host memory", "malloc_host")

    def _free(self, address: int, kind: str, source: str) -> None:
        report = self.host.ledger.report
        if address == 0:
            report(16, "null is freed")
            raise Fail(100000, "the address is null")
        block = self._blocks.get(address)
        if block is None:
            inside = self.find(address)
            what = f"inside {inside[0]}" if inside else "nothing that was allocated"
            report(16, f"{address:#x} is freed, but it is {what}")
        elif block.kind != kind:
            report(16, f"{block} is freed as if {source} had given it")
        elif not block.alive:
            report(16, f"{block} is freed twice")
        else:
            return self._bury(block)
        raise Fail(107000, f"{address:#x} does not come from {source}")

    def _bury(self, block: Block) -> None:
        report = self.host.ledger.report
        for op in self.host.streams.touching(block):
            report(28, f"{block} is freed while {op} is pending")
        if block.as_numpy:
            report(19, f"{block} is freed, but an array of ptr_to_numpy may own it: a double free")
        if not block.guards_hold():
            report(15, f"somebody wrote beside {block}")
        block.alive = False
        if block.on_device:
            self.used -= -(-block.size // 32) * 32 + 32
        if block.host_readable:
            # It stays mapped, so that whoever still looks at it sees poison, not a crash.
            poison(block.view, FREED)
        else:
            block.view = np.empty(0, np.uint8)

    def check_graves(self) -> None:
        """Report writes beside blocks, and into freed ones."""
        for block in self.blocks():
            if block.alive and not block.guards_hold():
                self.host.ledger.report(15, f"somebody wrote beside {block}")
            if not block.alive and block.host_readable:
                words = block.view[: block.size // 2 * 2].view(np.uint16)
                if not (words == FREED).all():
                    self.host.ledger.report(19, f"{block} was written after it was freed")

    # Addresses

    def find(self, address: int) -> tuple[Block, int] | None:
        """The block that *address* lies in, alive or not, and how far in."""
        index = bisect.bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        block = self._blocks[self._starts[index]]
        inside = address - block.handle
        return (block, inside) if inside < block.size else None

    def block_at(self, address: int) -> Block | None:
        """The block that begins at *address*."""
        return self._blocks.get(address)

    def span(self, address: int, size: int, rule: int = 17) -> Span:
        """
        What lies at *address*; reported by *rule* and cut where it is shorter than *size*.

        An address of nothing, or of something dead, fails with 107000.
        """
        if address == 0:
            raise Fail(100000, "the address is null")
        found = self.host.pointers.find(address) or self.find(address)
        if found is None:
            unknown_host = address < UNMAPPED
            kind = "host" if unknown_host else "device"
            report_as = 18 if unknown_host else rule
            self.host.ledger.report(report_as, f"{address:#x} is an unknown {kind} address")
            raise Fail(107000, f"{address:#x} is unknown")
        block, start = found
        if not block.alive:
            self.host.ledger.report(
                18 if block.pageable else rule, f"{block} is used after its end"
            )
            raise Fail(107000, f"{address:#x} was freed")
        room = block.size - start
        if size > room:
            text = f"{size} bytes at {address:#x} reach beyond {block}, which has {room} from there"
            self.host.ledger.report(18 if block.pageable else rule, text)
        return Span(block, start, min(size, room))

    # Clearing and asking

    @api("rt.memset", "kkik", doubts=(0,))
    def memset(self, address: int, room: int, value: int, count: int) -> None:
        """Fill memory with a byte, at once."""
        self.host.process.context()
        if count > room:
            raise Fail(107000, f"{count} bytes do not go into {room}")
        if not count:
            return
        self.span(address, room)
        span = self.span(address, count)
        self.host.streams.check_host_access((), (span,))
        span.target()[:] = value & 0xFF

    @api("rt.get_mem_info", "i", "counts")
    def get_mem_info(self, attribute: int) -> tuple[int, int]:
        """Free and total bytes; memory of a kind that the chip lacks has none."""
        self.host.process.context()
        kinds = (1, 4, 5) if "910" in self.host.profile.soc else (0, 2, 3)
        if attribute not in kinds:
            return 0, 0
        total = self.host.profile.memory_bytes
        return total - self.used, total


def this_thread() -> int:
    """The calling thread."""
    return threading.get_ident()
