"""Streams and events: work that happens late, in the order that was asked for and in no other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from .host import Fail, Part, Thing, api
from .memory import Span


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
    happens when somebody waits for it.  *after* gives, for each stream, up to which index its
    work comes before this (a vector clock).
    """

    name: str
    stream: Stream
    index: int
    end: float
    after: dict[Stream, int]
    reads: tuple[Span, ...]
    writes: tuple[Span, ...]
    effect: Callable[[], None] | None
    stack: tuple[str, ...]
    model: Any
    #: Datasets and data buffers that must outlive it.
    objects: tuple[object, ...]

    def __str__(self) -> str:
        return f"the {self.name} queued at {' < '.join(self.stack)}"

    def touches(self, span: Span) -> bool:
        """Whether it reads or writes some of *span*."""
        return any(span.overlaps(mine) for mine in (*self.reads, *self.writes))

    def conflicts(self, reads: Iterable[Span], writes: Iterable[Span]) -> bool:
        """Whether it and something that *reads* and *writes* must not run at the same time."""
        read_late = any(read.overlaps(mine) for read in reads for mine in self.writes)
        return read_late or any(self.touches(write) for write in writes)


@dataclass(eq=False)
class Event(Thing):
    """A mark in a stream, once it is recorded."""

    op: Op | None = None


class Streams(Part):
    """Calls on streams and events, and the schedule behind them."""

    def begin(self) -> None:
        """Begin with nothing."""
        #: What the host does not know to be done, and up to where it knows each stream.
        self.pending: list[Op] = []
        self.known: dict[Stream, int] = {}
        #: When each engine of a device works: it does one thing at a time.
        self._busy: dict[tuple[int | None, str], list[tuple[float, float]]] = {}

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
        objects: tuple[object, ...] = (),
    ) -> Op:
        """Queue work behind all in *stream* (and *behind*); report what it may collide with."""
        before = [op for op in (stream.last, behind) if op is not None]
        after = _merged(self.known, *(op.after for op in before))
        ready = max([self.host.now, *(op.end for op in before)])
        start = self._reserve(stream.device, engine, ready, duration)
        stream.count += 1
        after[stream] = stream.count
        op = Op(
            name, stream, stream.count, start + duration, after, reads, writes, effect,
            self.host.calls[-1].stack, model, objects,
        )  # fmt: skip
        for other in self.pending:
            if other.index > after.get(other.stream, 0) and other.conflicts(reads, writes):
                self.host.report("order", f"the {name} is not ordered after {other}")
        # Read too early, what it will write is poison, unless work before it needs what is there.
        for span in writes:
            if not any(other.touches(span) for other in self.pending):
                span.forget()
        self.pending.append(op)
        stream.last = op
        return op

    def _reserve(self, device: int | None, engine: str, ready: float, duration: float) -> float:
        """Take the first free *duration* from *ready* on; the nameless engine is never busy."""
        every = self._busy.get((device, engine), ()) if engine else ()
        busy, start = sorted(span for span in every if span[1] > self.host.now), ready
        for begin, end in busy:
            if start + duration <= begin:
                break
            start = max(start, end)
        self._busy[device, engine] = [*busy, (start, start + duration)]
        return start

    def spend(self, device: int, engine: str, duration: float) -> None:
        """Do work at once: the clock then stands at its end."""
        self.host.now = self._reserve(device, engine, self.host.now, duration) + duration

    def complete(self, ops: Iterable[Op]) -> None:
        """Let everything before and including *ops* happen; the clock then stands at its end."""
        ops = tuple(ops)
        reached = _merged(*(op.after for op in ops))
        due = [op for op in self.pending if op.index <= reached.get(op.stream, 0)]
        self.known = _merged(self.known, reached)
        self.pending = [op for op in self.pending if op not in due]
        failures = []
        for op in due:
            try:
                if op.effect is not None:
                    op.effect()
            except Fail as error:
                failures.append(error)
        self.host.now = max([self.host.now, *(op.end for op in (*due, *ops))])
        if failures:
            raise failures[0]

    def abandon(self) -> None:
        """Drop all pending work: the device is gone, and no wait for it will end well."""
        self.known = _merged(self.known, *(op.after for op in self.pending))
        self.pending = []

    def check_host_access(self, reads: tuple[Span, ...], writes: tuple[Span, ...]) -> None:
        """Report pending work that collides with what the host does at once."""
        for op in self.pending:
            if op.conflicts(reads, writes):
                self.host.report("order", f"memory is used at once that {op} still needs")

    def check_object(self, thing: Thing, what: str) -> None:
        """Report pending work that needs *thing*, to which *what* happens."""
        for op in self.pending:
            if thing in op.objects:
                self.host.report("order", f"{thing} is {what} while {op} is pending")

    # Streams

    def stream(self, handle: int) -> Stream:
        """The stream behind *handle*; fails if it is of another context."""
        context = self.host.process.context()
        stream = self.host.get(handle, Stream, "stream", code=107017)
        if stream.context is not context:
            raise Fail(107003, "the stream is not of the current context")
        return stream

    @api("rt.create_stream", "", "pointer")
    def create_stream(self) -> int:
        """Make a stream of the current context."""
        self.host.process.context()
        return self.host.add(Stream, "stream").handle

    @api("rt.destroy_stream", "k", releases=True)
    def destroy_stream(self, handle: int) -> None:
        """End a stream; work that is pending is waited for, and reported."""
        stream = self.stream(handle)
        pending = [op for op in self.pending if op.stream is stream]
        if pending:
            self.host.report("order", f"{stream} is destroyed while {pending[0]} is pending")
            self.complete(pending[-1:])
        stream.alive = False

    @api("rt.synchronize_stream", "k")
    def synchronize_stream(self, handle: int) -> None:
        """Wait for all work in a stream."""
        stream = self.stream(handle)
        if stream.last is not None:
            self.complete([stream.last])

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
        if event.op is not None and event.op in self.pending:
            self.host.report("order", f"{event} is destroyed while {event.op} is pending")
        event.alive = False

    @api("rt.record_event", "kk")
    def record_event(self, handle: int, stream: int) -> None:
        """Mark the end of what is in a stream by now."""
        event = self._event(handle)
        event.op = self.enqueue(self.stream(stream), "event record")

    @api("rt.stream_wait_event", "kk")
    def stream_wait_event(self, stream: int, handle: int) -> None:
        """Let a stream's further work wait for an event, as it is recorded by now."""
        event = self._event(handle)
        if event.op is None:
            self.host.report("order", f"a stream waits for {event}, which was never recorded")
        self.enqueue(self.stream(stream), "event wait", behind=event.op)

    @api("rt.synchronize_event", "k")
    def synchronize_event(self, handle: int) -> None:
        """Wait for an event."""
        event = self._event(handle)
        if event.op is None:
            self.host.report("order", f"{event} is waited for, but was never recorded")
        else:
            self.complete([event.op])

    @api("rt.event_elapsed_time", "kk", "float")
    def event_elapsed_time(self, first: int, second: int) -> float:
        """Milliseconds between two events that somebody has waited for."""
        ends = []
        for handle in (first, second):
            op = self._event(handle).op
            if op is None or op.index > self.known.get(op.stream, 0):
                raise Fail(107006, "the event has no time stamp yet")
            ends.append(op.end)
        return ends[1] - ends[0]


def _merged(*clocks: dict[Stream, int]) -> dict[Stream, int]:
    result: dict[Stream, int] = {}
    for clock in clocks:
        for stream, index in clock.items():
            result[stream] = max(index, result.get(stream, 0))
    return result
