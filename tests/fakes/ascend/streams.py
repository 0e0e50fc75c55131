"""Streams and events: work that happens late, in the order that was asked for and in no other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .host import Thing
from .ledger import Fail
from .memory import Block, Span
from .process import Context
from .surface import api
from .times import Engine

if TYPE_CHECKING:
    from .host import Host


@dataclass(eq=False)
class Stream(Thing):
    """A queue of work."""

    count: int = 0
    last: Op | None = None


@dataclass(eq=False)
class Op:
    """
    One piece of work, the *index*-th of its stream (from 1).

    When it takes place in virtual time is settled when it is queued; what it does to memory
    happens when somebody waits for it.  *after* holds, for each stream, up to which index its
    work comes before this (a vector clock).
    """

    name: str
    stream: Stream
    index: int
    start: float
    end: float
    after: dict[Stream, int]
    reads: tuple[Span, ...]
    writes: tuple[Span, ...]
    effect: Callable[[], None] | None
    stack: tuple[str, ...] = ()
    model: Any = None
    #: Datasets and data buffers that must outlive it.
    objects: tuple[object, ...] = ()
    #: Its writes that still hold what work before it needs, and are not poison yet.
    exposed: tuple[Span, ...] = ()

    def touches(self, span: Span) -> bool:
        """Whether it reads or writes some of *span*."""
        return any(span.overlaps(mine) for mine in (*self.reads, *self.writes))

    def __str__(self) -> str:
        return f"the {self.name} queued at {' < '.join(self.stack)}"

    def conflicts(self, reads: Iterable[Span], writes: Iterable[Span]) -> bool:
        """Whether it and something that *reads* and *writes* must not run at the same time."""
        mine = (*self.reads, *self.writes)
        return any(w.overlaps(s) for w in writes for s in mine) or any(
            r.overlaps(w) for r in reads for w in self.writes
        )


@dataclass(eq=False)
class Event(Thing):
    """A mark in a stream, once it is recorded."""

    op: Op | None = None


@dataclass
class Queue:
    """What the host does not know to be done, and what it does know."""

    pending: list[Op] = field(default_factory=list)
    known: dict[Stream, int] = field(default_factory=dict)


class Streams:
    """Calls on streams and events, and the schedule behind them."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.queue = Queue()
        self._engines: dict[tuple[int | None, str], Engine] = {}
        self._defaults: dict[Context, Stream] = {}

    # The schedule

    def enqueue(
        self,
        stream: Stream,
        name: str,
        engine: str = "",
        duration: float = 0.0,
        *,
        effect: Callable[[], None] | None = None,
        reads: tuple[Span, ...] = (),
        writes: tuple[Span, ...] = (),
        behind: Op | None = None,
        model: Any = None,
    ) -> Op:
        """Queue work behind all in *stream* (and *behind*); report what it may collide with."""
        before = [op for op in (stream.last, behind) if op is not None]
        after = _merged(self.queue.known, *(op.after for op in before))
        ready = max([self.host.clock.now, *(op.end for op in before)])
        start = self.engine(stream.device, engine).reserve(ready, duration, self.host.clock.now)
        stream.count += 1
        after[stream] = stream.count
        stack = self.host.ledger.calls[-1].stack
        op = Op(
            name, stream, stream.count, start, start + duration, after, reads, writes, effect,
            stack, model,
        )  # fmt: skip
        for other in self.queue.pending:
            if other.index > after.get(other.stream, 0) and other.conflicts(reads, writes):
                self.host.ledger.report(28, f"the {name} is not ordered after {other}")
        self.queue.pending.append(op)
        stream.last, op.exposed = op, writes
        self._hide()
        return op

    def _hide(self) -> None:
        """Poison what pending work will write, as soon as no work before it needs it."""
        for number, op in enumerate(self.queue.pending):
            before = self.queue.pending[:number]
            still = [span for span in op.exposed if any(other.touches(span) for other in before)]
            for span in op.exposed:
                if span not in still:
                    span.forget()
            op.exposed = tuple(still)

    def engine(self, device: int | None, name: str) -> Engine:
        """The engine *name* of *device*; the nameless one is never busy."""
        return self._engines.setdefault((device, name), Engine()) if name else Engine()

    def complete(self, ops: Iterable[Op]) -> None:
        """Let everything before and including *ops* happen; the clock then stands at its end."""
        ops = tuple(ops)
        reached = _merged(*(op.after for op in ops))
        due = [op for op in self.queue.pending if op.index <= reached.get(op.stream, 0)]
        self.queue.known = _merged(self.queue.known, reached)
        self.queue.pending = [op for op in self.queue.pending if op not in due]
        failure: Fail | None = None
        for op in due:
            try:
                if op.effect is not None:
                    op.effect()
            except Fail as error:
                failure = failure or error
        self._hide()
        self.host.clock.reach(max((op.end for op in (*due, *ops)), default=0.0))
        self.host.wait_real(sum(op.model is not None for op in due))
        if failure is not None:
            raise failure

    def abandon(self) -> None:
        """Drop all pending work: the device is gone, and no wait for it will end well."""
        self.queue.known = _merged(self.queue.known, *(op.after for op in self.queue.pending))
        self.queue.pending = []

    def check_host_access(self, reads: tuple[Span, ...], writes: tuple[Span, ...]) -> None:
        """Report pending work that collides with what the host does at once."""
        for op in self.queue.pending:
            if op.conflicts(reads, writes):
                self.host.ledger.report(28, f"memory is used at once that {op} still needs")

    def will_be_written(self, span: Span) -> bool:
        """Whether pending work writes some of *span*."""
        return any(span.overlaps(w) for op in self.queue.pending for w in op.writes)

    def touching(self, block: Block) -> list[Op]:
        """Pending work on *block*."""
        return [
            op
            for op in self.queue.pending
            if any(span.block is block for span in (*op.reads, *op.writes))
        ]

    def finish_defaults(self, context: Context) -> None:
        """Wait for the default stream of a context that ends."""
        stream = self._defaults.pop(context, None)
        if stream is not None and stream.last is not None:
            self.complete([stream.last])

    # Streams

    def stream(self, handle: int) -> Stream:
        """The stream behind *handle*, 0 for the default one; fails if of another context."""
        context = self.host.process.context()
        if handle == 0:
            if context not in self._defaults:
                self._defaults[context] = Stream("default stream", 0, (), context.device, context)
            return self._defaults[context]
        stream = self.host.get(handle, Stream, "stream", code=107017)
        if stream.context is not context:
            raise Fail(107003)
        return stream

    @api("rt.create_stream", "", "pointer")
    def create_stream(self) -> int:
        """Make a stream of the current context."""
        self.host.process.context()
        return self.host.add(Stream, "stream").handle

    @api("rt.create_stream_with_config", "ii", "pointer")
    def create_stream_with_config(self, priority: int, _flag: int) -> int:
        """Make a stream; the board in the reference knew priority 0 only."""
        if priority != 0 and self.host.profile.cann == "old":
            raise Fail(107000, f"priority {priority}")
        return self.create_stream()

    @api("rt.destroy_stream", "k", releases=True)
    def destroy_stream(self, handle: int) -> None:
        """End a stream; work that is pending is waited for, and reported."""
        if handle == 0:
            raise Fail(107000, "the default stream goes with its context")
        stream = self.stream(handle)
        pending = [op for op in self.queue.pending if op.stream is stream]
        if pending:
            self.host.ledger.report(28, f"{stream} is destroyed while {pending[0]} is pending")
            self.complete(pending[-1:])
        stream.alive = False

    @api("rt.synchronize_stream", "k", waits=True, doubts=(0,))
    def synchronize_stream(self, handle: int) -> None:
        """Wait for all work in a stream."""
        self._synchronize(handle, -1)

    @api("rt.synchronize_stream_with_timeout", "ki", waits=True, doubts=(0,))
    def synchronize_stream_with_timeout(self, handle: int, timeout_ms: int) -> None:
        """Wait so long for all work in a stream."""
        self._synchronize(handle, timeout_ms)

    def _synchronize(self, handle: int, timeout_ms: int) -> None:
        try:
            stream = self.stream(handle)
        except Fail as failure:
            if failure.code != 107003:
                raise
            # The open runtime switches to the stream's context without a word.
            stream = self.host.get(handle, Stream, "stream", code=107017)
            self.host.ledger.report(12, f"{stream} is of another context than the current one")
        if stream.last is not None:
            self._wait_for(stream.last, timeout_ms, 507046)

    def _wait_for(self, op: Op, timeout_ms: int, code: int) -> None:
        if 0 <= timeout_ms < op.end - self.host.clock.now:
            self.host.clock.advance(timeout_ms)
            raise Fail(code)
        self.complete([op])

    @api("rt.synchronize_device", "", waits=True)
    def synchronize_device(self) -> None:
        """Wait for all work on the device of the current context."""
        device = self.host.process.context().device
        self.complete([op for op in self.queue.pending if op.stream.device == device])

    # Events

    def _event(self, handle: int) -> Event:
        self.host.process.context()
        return self.host.get(handle, Event, "event", code=107017)

    @api("rt.create_event", "", "pointer")
    def create_event(self) -> int:
        """Make an event."""
        self.host.process.context()
        return self.host.add(Event, "event").handle

    @api("rt.destroy_event", "k", releases=True)
    def destroy_event(self, handle: int) -> None:
        """End an event."""
        event = self._event(handle)
        if event.op is not None and event.op in self.queue.pending:
            self.host.ledger.report(28, f"{event} is destroyed while {event.op} is pending")
        event.alive = False

    @api("rt.record_event", "kk", doubts=(0,))
    def record_event(self, handle: int, stream: int) -> None:
        """Mark the end of what is in a stream by now."""
        event = self._event(handle)
        event.op = self.enqueue(self.stream(stream), "event record")

    @api("rt.stream_wait_event", "kk", doubts=(0,))
    def stream_wait_event(self, stream: int, handle: int) -> None:
        """Let a stream's further work wait for an event, as it is recorded by now."""
        event = self._event(handle)
        if event.op is None:
            self.host.ledger.report(28, f"a stream waits for {event}, which was never recorded")
        self.enqueue(self.stream(stream), "event wait", behind=event.op)

    @api("rt.synchronize_event", "k", waits=True, doubts=(0,))
    def synchronize_event(self, handle: int) -> None:
        """Wait for an event."""
        self._synchronize_event(handle, -1)

    @api("rt.synchronize_event_with_timeout", "ki", waits=True, doubts=(0,))
    def synchronize_event_with_timeout(self, handle: int, timeout_ms: int) -> None:
        """Wait so long for an event."""
        self._synchronize_event(handle, timeout_ms)

    def _synchronize_event(self, handle: int, timeout_ms: int) -> None:
        event = self._event(handle)
        if event.op is None:
            self.host.ledger.report(28, f"{event} is waited for, but was never recorded")
            return
        self._wait_for(event.op, timeout_ms, 507047)

    @api("rt.query_event", "k", "count", deprecated=True)
    def query_event(self, handle: int) -> int:
        """0 if the event has come, 1 if not."""
        return int(not self._has_come(self._event(handle)))

    def _has_come(self, event: Event) -> bool:
        op = event.op
        return op is not None and op.index <= self.queue.known.get(op.stream, 0)

    @api("rt.event_elapsed_time", "kk", "float")
    def event_elapsed_time(self, first: int, second: int) -> float:
        """Milliseconds between two events that somebody has waited for."""
        one, other = self._event(first), self._event(second)
        if (
            one.op is None
            or other.op is None
            or not (self._has_come(one) and self._has_come(other))
        ):
            raise Fail(107006)
        return other.op.end - one.op.end


def _merged(*clocks: dict[Stream, int]) -> dict[Stream, int]:
    result: dict[Stream, int] = {}
    for clock in clocks:
        for stream, index in clock.items():
            result[stream] = max(index, result.get(stream, 0))
    return result
