"""
Batches on three streams: one goes up while another is computed and a third comes down.

A batch takes a slot of memory from upload to download.  With three slots the device always has
the next batch at hand, so that in the long run only the slowest of the three costs time.  Events
order the streams and measure them.  They are made anew for each batch, since to use one twice,
CANN 6 wants it reset and CANN 8.5 forbids just that.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from ..types import Tensors
from .acl_api import Held, acl_call
from .acl_memory import Slot
from .acl_model import AclModel
from .base import DeviceTimes

SLOTS = 3


@dataclass
class _Batch:
    """A batch on its way; *marks* are the events before and after each of its three steps."""

    slot: Slot
    rows: int
    host_s: float
    marks: list[int] = field(default_factory=list)
    held: Held = field(default_factory=Held)


class BatchStreams:
    """Three streams and three slots, *first* one of them, in the current context."""

    def __init__(self, model: AclModel, first: Slot, held: Held) -> None:
        more = (Slot(model, on_device=first.on_device, held=held) for _ in range(SLOTS - 1))
        self._free = deque([first, *more])
        self._streams = [_stream(held) for _ in range(3)]
        self._pending: deque[_Batch] = deque()

    def is_full(self) -> bool:
        """Whether a batch has to be collected before another can be submitted."""
        return not self._free

    def is_busy(self) -> bool:
        """Whether a batch is under way."""
        return bool(self._pending)

    def submit(self, feed: Tensors, rows: int) -> None:
        """Send *rows* images on their way; nothing is waited for."""
        slot = self._free.popleft()
        start = time.perf_counter()
        gear = slot.fill(feed, rows)
        batch = _Batch(slot, rows, time.perf_counter() - start)
        self._pending.append(batch)
        up, run, down = self._streams
        with _marked(batch, up):
            slot.upload(gear, up)
        acl_call("rt.stream_wait_event", run, batch.marks[-1])
        with _marked(batch, run):
            slot.execute(gear, run)
        acl_call("rt.stream_wait_event", down, batch.marks[-1])
        with _marked(batch, down):
            slot.download(rows, down)

    def collect(self, times: DeviceTimes) -> Tensors:
        """Wait for the oldest batch and return its outputs; *times* gets what it took."""
        batch = self._pending[0]
        acl_call("rt.synchronize_event", batch.marks[-1])
        pairs = zip(batch.marks[::2], batch.marks[1::2], strict=True)
        h2d, compute, d2h = [acl_call("rt.event_elapsed_time", *pair) for pair in pairs]
        start = time.perf_counter()
        outputs = batch.slot.take(batch.rows)
        host_s = batch.host_s + time.perf_counter() - start
        times.add(h2d, compute, d2h, 1000 * host_s)
        self._pending.popleft()
        self._free.append(batch.slot)
        batch.held.release(None)
        return outputs

    def drain(self, in_flight: BaseException | None) -> None:
        """Wait until nothing is under way, and drop what was; see `Held.release`."""
        held = Held()
        for batch in self._pending:
            self._free.append(batch.slot)
            held.take(partial(batch.held.release, None))
        self._pending.clear()
        for stream in self._streams:
            held.take_back("rt.synchronize_stream", stream)
        held.release(in_flight)


def _stream(held: Held) -> int:
    stream: int = acl_call("rt.create_stream")
    held.take_back("rt.destroy_stream", stream)
    return stream


@contextmanager
def _marked(batch: _Batch, stream: int) -> Iterator[None]:
    """Record an event of *batch* in *stream* before and after the block."""
    _mark(batch, stream)
    yield
    _mark(batch, stream)


def _mark(batch: _Batch, stream: int) -> None:
    event: int = acl_call("rt.create_event")
    batch.held.take_back("rt.destroy_event", event)
    acl_call("rt.record_event", event, stream)
    batch.marks.append(event)
