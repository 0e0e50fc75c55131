"""Copies: at once, or late in a stream; what they may touch and what they must not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .ledger import Fail
from .memory import Span, this_thread
from .surface import api

if TYPE_CHECKING:
    from .host import Host

ALIGNMENT = 64
#: (source on the device, target on the device) -> kind, and the engine that does it.
KINDS = {(False, False): 0, (False, True): 1, (True, False): 2, (True, True): 3}
ENGINES = ("", "h2d", "d2h", "d2d")


class Copies:
    """`acl.rt.memcpy` and `acl.rt.memcpy_async`."""

    def __init__(self, host: Host) -> None:
        self.host = host

    @api("rt.memcpy", "kkkki", doubts=(0,))
    def memcpy(self, target: int, room: int, source: int, count: int, kind: int) -> None:
        """Copy at once."""
        device = self.host.process.context().device
        pair = self._spans(target, room, source, count, kind)
        if pair is None:
            return
        read, write = pair
        self.host.streams.check_host_access((read,), (write,))
        engine = ENGINES[KINDS[read.block.on_device, write.block.on_device]]
        took = self.host.profile.times.copy_ms(engine, count)
        now = self.host.clock.now
        start = self.host.streams.engine(device, engine).reserve(now, took, now)
        self.host.clock.reach(start + took)
        self._note_threads(read, write)
        self._move(read, write)

    @api("rt.memcpy_async", "kkkkik", doubts=(0,))
    def memcpy_async(
        self, target: int, room: int, source: int, count: int, kind: int, stream_handle: int
    ) -> None:
        """Queue a copy; its source is read when somebody waits for it."""
        stream = self.host.streams.stream(stream_handle)
        if (target | source) % ALIGNMENT:
            self.host.ledger.report(20, "an address is not aligned to 64 bytes")
            raise Fail(107008)
        pair = self._spans(target, room, source, count, kind)
        if pair is None:
            return
        read, write = pair
        on_device = read.block.on_device, write.block.on_device
        if not any(on_device) and self.host.profile.run_mode == "host":
            raise Fail(207000, "an asynchronous copy from host to host")
        self._note_threads(read, write)
        pageable = read.block.pageable or write.block.pageable
        if pageable and self.host.profile.cann == "old":
            self.host.ledger.report(20, "pageable memory is copied asynchronously")
        engine = ENGINES[KINDS[on_device]]
        is_hosts_own = not self.host.streams.will_be_written(read)
        before = _fingerprint(read)

        def effect() -> None:
            if is_hosts_own and before != _fingerprint(read):
                self.host.ledger.report(28, f"{read.block} changed while a copy of it was pending")
            self._move(read, write)

        op = self.host.streams.enqueue(
            stream,
            f"copy of {count} bytes",
            engine,
            self.host.profile.times.copy_ms(engine, count),
            effect=effect,
            reads=(read,),
            writes=(write,),
        )
        if pageable and self.host.profile.cann != "old":
            self.host.streams.complete([op])

    def _spans(
        self, target: int, room: int, source: int, count: int, kind: int
    ) -> tuple[Span, Span] | None:
        """What is read and what is written; None where there is nothing to do."""
        if not target or not source:
            raise Fail(100000, "an address is null")
        if not 0 <= kind <= 4:
            raise Fail(100000, f"the kind is {kind}")
        if count > room:
            raise Fail(107000, f"{count} bytes do not go into {room}")
        if count == 0 or target == source:
            return None
        into = self.host.memory.span(target, room)
        read = self.host.memory.span(source, count)
        size = min(count, into.size, read.size)
        write = Span(into.block, into.start, size)
        read = Span(read.block, read.start, size)
        if read.overlaps(write):
            self.host.ledger.report(17, "the ranges of a copy overlap")
        if not write.block.writable:
            self.host.ledger.report(18, f"{write.block} is read-only for Python, but is written")
        self._check_kind(read, write, kind)
        return read, write

    def _check_kind(self, read: Span, write: Span, kind: int) -> None:
        if self.host.profile.run_mode == "device":
            if kind in (1, 2):
                text = f"the kind is {kind} on the board itself, where copies are 3 (or 0)"
                self.host.ledger.report(21, text)
            return
        real = KINDS[read.block.on_device, write.block.on_device]
        if kind not in (real, 4):
            text = f"the kind is {kind}, but {read.block.kind} to {write.block.kind} is {real}"
            self.host.ledger.report(17, text)

    def _note_threads(self, read: Span, write: Span) -> None:
        """Report an upload over another thread's, and a download of another's outputs."""
        me = this_thread()
        if write.block.on_device and not read.block.on_device:
            if write.block.uploader not in (None, me):
                text = f"{write.block} still holds what another thread uploaded and nobody executed"
                self.host.ledger.report(28, text)
            write.block.uploader = me
        if read.block.on_device:
            if me in read.block.losers:
                text = f"the outputs in {read.block} are another thread's: it executed in between"
                self.host.ledger.report(28, text)
            read.block.losers.discard(me)
            read.block.executor = None

    def _move(self, read: Span, write: Span) -> None:
        if not (read.block.alive and write.block.alive):
            self.host.ledger.report(28, f"{read.block} or {write.block} was freed before its copy")
            return
        if read.block.unwritten(read.start, read.stop):
            self.host.ledger.report(24, f"{read.block} is copied, but was never written")
        write.target()[:] = read.read()


def _fingerprint(span: Span) -> int | None:
    """A number for what the host could change behind a copy's back."""
    if not (span.block.host_readable and span.block.alive):
        return None
    whole = span.block.view[span.start : span.start + span.size // 8 * 8]
    # Addresses of asynchronous copies are aligned, so that this is a view.
    return int(np.bitwise_xor.reduce(whole.view(np.uint64))) if len(whole) else 0
