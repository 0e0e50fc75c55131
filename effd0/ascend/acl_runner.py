"""
An .om model on an Ascend NPU, through pyACL alone.

A runner has its own context, model, memory and streams, so that any number of them live in one
process and any thread may use one; a lock lets one batch at a time in.
"""

import contextlib
import itertools
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import RunnerError
from ..runners.base import DeviceTimes, Runner, TensorInfo, check_feed
from ..types import Tensors
from .acl_api import ON_DEVICE, Held, acl_call, acl_has, open_device
from .acl_model import BatchStreams, Slot, load_acl_model


class AclRunner(Runner):
    """
    One model on NPU *device*, ``N`` or ``npu:N``, of one batch size or with several gears.

    `infer` goes step by step; `infer_stream` overlaps the transfers of one batch with the
    computing of another, unless *overlap* is False.  A thread that uses a runner is left in its
    context.  Raises `AclError` for any pyACL call that fails, with its name and code.
    """

    def __init__(self, model: Path, *, device: str | None = None, overlap: bool = True) -> None:
        kind, _, number = ("0" if device is None else device).rpartition(":")
        if kind not in ("", "npu") or not number.isdecimal():
            raise RunnerError(f"--device is {device!r}, but --runner acl takes a number, such as 0")
        self.device, self.overlap = int(number), overlap
        super().__init__(model, f"ACL, device {self.device}")
        self.device_times: DeviceTimes = DeviceTimes()
        self._lock = threading.RLock()
        self._held = Held()
        self._context = 0
        self._streams: BatchStreams | None = None

    def open(self) -> tuple[Any, Sequence[TensorInfo], Sequence[TensorInfo]]:
        """Load the model in a context of its own; inputs and outputs are of its largest batch."""
        if not self.model.is_file():
            raise RunnerError(f"{self.model} does not exist; make it with 'effd0 compile'")
        held = self._held
        try:
            open_device(self.device, held)
            self._context = acl_call("rt.create_context", self.device)
            held.take_back("rt.destroy_context", self._context)
            on_device = acl_call("rt.get_run_mode") == ON_DEVICE
            slot = Slot(load_acl_model(self.model, held), on_device=on_device, held=held)
            version = acl_call("get_version") if acl_has("get_version") else ()
            chip = acl_call("get_soc_name") if acl_has("get_soc_name") else "unknown chip"
        except BaseException as error:
            self._close(error)
            raise
        numbers = ".".join(str(part) for part in version) or "of unknown version"
        self.description = f"ACL {numbers}, {chip}, device {self.device}"
        return slot, slot.model.inputs, slot.model.outputs

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with self._lock:
            self._close(error)

    def infer(self, feed: Tensors) -> Tensors:
        """Run the model on *feed*; see `Runner.infer`."""
        with self._in_context() as slot:
            rows = check_feed(feed, self.inputs)
            self._check_idle()
            stamps = [time.perf_counter()]
            gear = slot.fill(feed, rows)
            stamps.append(time.perf_counter())
            for step, size in ((slot.upload, gear), (slot.execute, gear), (slot.download, rows)):
                step(size)
                stamps.append(time.perf_counter())
            outputs = slot.take(rows)
            stamps.append(time.perf_counter())
            fill, *steps, take = (1000 * (end - start) for start, end in itertools.pairwise(stamps))
            self.device_times.add(*steps, fill + take)
            return outputs

    def infer_stream(self, feeds: Iterable[Tensors]) -> Generator[Tensors]:
        """Yield the outputs of each feed, in order; up to three are under way at a time."""
        if not self.overlap:
            yield from map(self.infer, feeds)
            return
        with self._in_context() as slot:
            self._check_idle()
            streams = self._streams = self._streams or BatchStreams(slot, self._held)
        try:
            for feed in feeds:
                with self._in_context():
                    streams.submit(feed, check_feed(feed, self.inputs))
                if not streams.free:
                    yield self._collect(streams)
            while streams.pending:
                yield self._collect(streams)
        except BaseException as error:
            # Who stops early learns of a failure too; others learn of their own first.
            in_flight = None if isinstance(error, GeneratorExit) else error
            with self._lock:
                if self._opened is not None:
                    held = Held()
                    held.take(streams.drain)
                    held.take_back("rt.set_context", self._context)
                    held.release(in_flight)
            raise

    def _collect(self, streams: BatchStreams) -> Tensors:
        with self._in_context():
            return streams.collect(self.device_times)

    def _check_idle(self) -> None:
        if self._streams is not None and self._streams.pending:
            raise RunnerError(
                f"{self.model} has batches under way, but runs one thing at a time; "
                "finish or close its infer_stream first"
            )

    def _close(self, in_flight: BaseException | None) -> None:
        held, streams, context = self._held, self._streams, self._context
        self._held, self._context, self._opened, self._streams = Held(), 0, None, None
        if streams is not None and streams.pending:
            held.take(streams.drain)
        if context:
            held.take_back("rt.set_context", context)
        held.release(in_flight)

    @contextlib.contextmanager
    def _in_context(self) -> Iterator[Slot]:
        """Make this runner's context the calling thread's; each thread has its own."""
        with self._lock:
            slot, _, _ = self.opened()
            acl_call("rt.set_context", self._context)
            yield slot
