"""
An .om model on an Ascend NPU, through pyACL alone.

What a runner holds (context, model, memory, streams) is its own, so that any number of them live
in one process and any thread may use one; a lock lets one batch at a time in.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from ..errors import RunnerError
from ..types import Tensors
from .acl_api import ON_DEVICE, Held, acl_call, acl_has
from .acl_memory import Slot
from .acl_model import AclModel, load_acl_model
from .acl_session import acl_device
from .acl_stream import BatchStreams
from .base import DeviceTimes, TensorInfo, check_feed


class AclRunner:
    """
    One model on NPU *device*, of one batch size or with several gears.

    `infer` goes step by step; `infer_stream` overlaps the transfers of one batch with the
    computing of another, unless *overlap* is False.  A thread that uses a runner is left in its
    context.  Raises `AclError` for any pyACL call that fails, with its name and code.
    """

    def __init__(self, model: Path, *, device: int = 0, overlap: bool = True) -> None:
        self.model, self.device, self.overlap = model, device, overlap
        self.description = f"ACL, device {device}"
        self.device_times = DeviceTimes()
        self._lock = threading.RLock()
        self._held = Held()
        self._context = 0
        self._loaded: AclModel | None = None
        self._slot: Slot | None = None
        self._streams: BatchStreams | None = None

    def __enter__(self) -> Self:
        if not self.model.is_file():
            raise RunnerError(f"{self.model} does not exist; make it with 'effd0 compile'")
        try:
            self._open()
        except BaseException as error:
            self._close(error)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._close(error)

    @property
    def inputs(self) -> list[TensorInfo]:
        """The model's inputs, with its largest batch size."""
        return [port.info for port in self._opened().inputs]

    @property
    def outputs(self) -> list[TensorInfo]:
        """The model's outputs, in its own order."""
        return [port.info for port in self._opened().outputs]

    def infer(self, feed: Tensors) -> Tensors:
        """Run the model on *feed*; see `Runner.infer`."""
        with self._lock:
            rows = check_feed(feed, self.inputs)
            self._activate()
            if self._streams is not None and self._streams.is_busy():
                raise RunnerError(
                    f"{self.model} has batches under way, but runs one thing at a time; "
                    "finish or close its infer_stream first"
                )
            return self._step_by_step(feed, rows)

    def infer_stream(self, feeds: Iterable[Tensors]) -> Iterator[Tensors]:
        """Yield the outputs of each feed, in order; up to three are under way at a time."""
        if not self.overlap:
            yield from map(self.infer, feeds)
            return
        streams = self._open_streams()
        try:
            for feed in feeds:
                with self._in_context():
                    streams.submit(feed, check_feed(feed, self.inputs))
                if streams.is_full():
                    yield self._collect(streams)
            while streams.is_busy():
                yield self._collect(streams)
        except BaseException as error:
            with self._lock:
                if self._loaded is not None:
                    # Whoever stops early hears of a failure too; others hear of theirs first.
                    self._drain(streams, None if isinstance(error, GeneratorExit) else error)
            raise

    def _open_streams(self) -> BatchStreams:
        with self._in_context():
            if self._streams is None:
                self._streams = BatchStreams(self._opened(), self._memory(), self._held)
            if self._streams.is_busy():
                raise RunnerError(
                    f"{self.model} has batches under way, but has one stream of them; "
                    "finish or close the other infer_stream first"
                )
            return self._streams

    def _drain(self, streams: BatchStreams, in_flight: BaseException | None) -> None:
        held = Held()
        held.take(functools.partial(streams.drain, None))
        held.take_back("rt.set_context", self._context)
        held.release(in_flight)

    def _collect(self, streams: BatchStreams) -> Tensors:
        with self._in_context():
            return streams.collect(self.device_times)

    def _step_by_step(self, feed: Tensors, rows: int) -> Tensors:
        slot, clock = self._memory(), time.perf_counter
        stamps = [clock()]
        gear = slot.fill(feed, rows)
        stamps.append(clock())
        for step in (
            functools.partial(slot.upload, gear),
            functools.partial(slot.execute, gear),
            functools.partial(slot.download, rows),
        ):
            step()
            stamps.append(clock())
        outputs = slot.take(rows)
        stamps.append(clock())
        fill, h2d, compute, d2h, take = (
            1000 * (end - start) for start, end in itertools.pairwise(stamps)
        )
        self.device_times.add(h2d, compute, d2h, fill + take)
        return outputs

    def _open(self) -> None:
        held = self._held
        device = acl_device(self.device)
        device.__enter__()
        held.take(lambda: device.__exit__(None, None, None))
        self._context = acl_call("rt.create_context", self.device)
        held.take_back("rt.destroy_context", self._context)
        on_device = acl_call("rt.get_run_mode") == ON_DEVICE
        self._loaded = load_acl_model(self.model, held)
        self._slot = Slot(self._loaded, on_device=on_device, held=held)
        version = acl_call("get_version") if acl_has("get_version") else ()
        chip = acl_call("get_soc_name") if acl_has("get_soc_name") else "unknown chip"
        numbers = ".".join(str(part) for part in version) or "of unknown version"
        self.description = f"ACL {numbers}, {chip}, device {self.device}"

    def _close(self, in_flight: BaseException | None) -> None:
        held, streams, context = self._held, self._streams, self._context
        self._held, self._loaded = Held(), None
        self._slot = self._streams = None
        self._context = 0
        if streams is not None and streams.is_busy():
            held.take(functools.partial(streams.drain, None))
        if context:
            held.take_back("rt.set_context", context)
        held.release(in_flight)

    def _activate(self) -> None:
        """Make this runner's context the calling thread's; each thread has its own."""
        acl_call("rt.set_context", self._context)

    @contextlib.contextmanager
    def _in_context(self) -> Iterator[None]:
        with self._lock:
            self._opened()
            self._activate()
            yield

    def _opened(self) -> AclModel:
        if self._loaded is None:
            raise RunnerError(f"{self.model} is not open; use the runner in a 'with' block")
        return self._loaded

    def _memory(self) -> Slot:
        self._opened()
        assert self._slot is not None
        return self._slot
