"""
A model in ACL: its tensors and batch sizes, and the memory and streams of its batches.

All memory is allocated once and serves every batch.  Host memory is pinned, since only from there
can a copy overlap with computing.  Where this process runs on the device itself, host and device
memory are the same and nothing is copied.
"""

import ctypes
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from ..errors import RunnerError
from ..runners.base import DeviceTimes, TensorInfo
from ..types import Tensors
from .acl_api import DEVICE_TO_HOST, HOST_TO_DEVICE, HUGE_FIRST, Held, acl_call

#: aclDataType -> numpy's.
DTYPES = {0: "float32", 1: "float16", 2: "int8", 3: "int32", 4: "uint8", 9: "int64"}
#: The input that ATC adds to a model with several batch sizes.
GEAR_INPUT = "ascend_mbatch_shape_data"
CHANNELS = 3
#: Batches that are on their way at once.
SLOTS = 3


@dataclass(frozen=True)
class AclModel:
    """
    A loaded model; its inputs and outputs are those of the largest batch, in ACL's order.

    *gears* are its batch sizes, rising; *gear_input* is the index and size of the input that sets
    one of them, None for a model of one batch size.
    """

    model_id: int
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    gears: tuple[int, ...]
    gear_input: tuple[int, int] | None


def load_acl_model(path: Path, held: Held) -> AclModel:
    """
    Load *path* in the current context, to be unloaded by *held*.

    Raises `AclError` where ACL cannot load it, `RunnerError` where its tensors are not batches.
    """
    model_id: int = acl_call("mdl.load_from_file", str(path))
    held.take_back("mdl.unload", model_id)
    desc: int = acl_call("mdl.create_desc")
    held.take_back("mdl.destroy_desc", desc)
    acl_call("mdl.get_desc", desc, model_id)
    gears = tuple(sorted(acl_call("mdl.get_dynamic_batch", desc)["batch"]))
    names = {
        kind: [
            str(acl_call(f"mdl.get_{kind}_name_by_index", desc, index))
            for index in range(acl_call(f"mdl.get_num_{kind}s", desc))
        ]
        for kind in ("input", "output")
    }
    gear_input = None
    if GEAR_INPUT in names["input"]:
        at = names["input"].index(GEAR_INPUT)
        gear_input = (at, int(acl_call("mdl.get_input_size_by_index", desc, at)))
    # ATC writes ``node:index:name``; names of a version that omits the last part stay as they are.
    last = [name.rpartition(":")[2] for name in names["output"]]
    if len(set(last)) == len(last) and not any(map(str.isdecimal, last)):
        names["output"] = last
    inputs, outputs = (
        [_info(kind, name, desc, index, gears)
         for index, name in enumerate(names[kind]) if name != GEAR_INPUT]
        for kind in ("input", "output")
    )  # fmt: skip
    batches = {int(info.shape[0] or 0) for info in (*inputs, *outputs)}
    if not inputs or len(batches) != 1 or bool(gears) != (gear_input is not None):
        raise RunnerError(
            f"{path} has the inputs {[str(info) for info in inputs]}, the outputs "
            f"{[str(info) for info in outputs]} and the batch sizes {list(gears)}, but all "
            "must agree on the batch; compile the model again with 'effd0 compile'"
        )
    return AclModel(model_id, tuple(inputs), tuple(outputs), gears or (*batches,), gear_input)


def _info(kind: str, name: str, desc: int, index: int, gears: Sequence[int]) -> TensorInfo:
    """Input or output *index* as ACL describes it; its shape must account for its bytes."""
    nbytes: int = acl_call(f"mdl.get_{kind}_size_by_index", desc, index)
    code: int = acl_call(f"mdl.get_{kind}_data_type", desc, index)
    if code not in DTYPES:
        raise RunnerError(
            f"{kind} {name} has ACL's data type {code}, but effd0 takes "
            f"{', '.join(DTYPES.values())}; compile the model with --output-type FP32"
        )
    dtype = np.dtype(DTYPES[code])
    # With AIPP one form gives the network's planes and the other the pixels that are fed; versions
    # of CANN differ in which, so the form with the channels last is taken for the pixels.
    forms = ("get_input_dims_v2", "get_input_dims") if kind == "input" else ("get_output_dims",)
    shapes = []
    for form in forms:
        batch, *rest = [int(side) for side in acl_call(f"mdl.{form}", desc, index)["dims"]] or [0]
        # The batch that ACL leaves open is the largest gear.
        shapes.append((max(gears) if gears and batch == -1 else batch, *rest))
    shapes.sort(key=lambda shape: dtype == np.uint8 and shape[-1:] != (CHANNELS,))
    for shape in shapes:
        if math.prod(shape) * dtype.itemsize == nbytes:
            return TensorInfo(name, shape, dtype)
    raise RunnerError(
        f"{kind} {name} is {dtype} {shapes[0]}, but takes {nbytes} bytes; "
        "compile the model with a fixed shape or with --dynamic-batch-size"
    )


class Buffer:
    """Device memory of one input or output, and the host's view of it."""

    def __init__(self, info: TensorInfo, dataset: int, *, on_device: bool, held: Held) -> None:
        self.info = info
        shape = [side for side in info.shape if side is not None]
        self.nbytes = math.prod(shape) * info.dtype.itemsize
        self.row_bytes = self.nbytes // shape[0]
        self.device = self.host = _device_memory(self.nbytes, dataset, held)
        if not on_device:
            self.host = acl_call("rt.malloc_host", self.nbytes)
            held.take_back("rt.free_host", self.host)
        memory = (ctypes.c_uint8 * self.nbytes).from_address(self.host)
        #: The host's view of all images.
        self.array = np.frombuffer(memoryview(memory), info.dtype).reshape(shape)

    def copy(self, kind: int, count: int, stream: int | None) -> None:
        """Copy *count* images to or from the device: now, or in the order of *stream*."""
        to, source = self.host, self.device
        if kind == HOST_TO_DEVICE:
            to, source = source, to
        name, where = ("rt.memcpy", ()) if stream is None else ("rt.memcpy_async", (stream,))
        acl_call(name, to, self.nbytes, source, count * self.row_bytes, kind, *where)


class Slot:
    """The buffers and datasets of one batch."""

    def __init__(self, model: AclModel, *, on_device: bool, held: Held) -> None:
        self.model, self.on_device = model, on_device
        self.datasets: list[int] = []
        for _ in range(2):
            self.datasets.append(acl_call("mdl.create_dataset"))
            held.take_back("mdl.destroy_dataset", self.datasets[-1])
        buffer = partial(Buffer, on_device=on_device, held=held)
        at, size = model.gear_input or (len(model.inputs), 0)
        # ACL finds a dataset's buffers by their order, so they are added in the model's.
        self.inputs = [buffer(info, self.datasets[0]) for info in model.inputs[:at]]
        if size:
            _device_memory(size, self.datasets[0], held)
        self.inputs += [buffer(info, self.datasets[0]) for info in model.inputs[at:]]
        self.outputs = [buffer(info, self.datasets[1]) for info in model.outputs]

    def fill(self, feed: Tensors, rows: int) -> int:
        """Put *feed* into the host's memory, padded by its first image; return the batch size."""
        gear = next(gear for gear in self.model.gears if gear >= rows)
        for buffer in self.inputs:
            tensor = feed[buffer.info.name]
            buffer.array[:rows] = tensor
            buffer.array[rows:gear] = tensor[:1]
        return gear

    def upload(self, gear: int, stream: int | None = None) -> None:
        """Copy the inputs of *gear* images to the device: now, or in the order of *stream*."""
        for buffer in () if self.on_device else self.inputs:
            buffer.copy(HOST_TO_DEVICE, gear, stream)

    def execute(self, gear: int, stream: int | None = None) -> None:
        """Run the model on *gear* images: now, or in the order of *stream*."""
        number, gear_input = self.model.model_id, self.model.gear_input
        if gear_input is not None:
            acl_call("mdl.set_dynamic_batch_size", number, self.datasets[0], gear_input[0], gear)
        name, where = ("mdl.execute", ()) if stream is None else ("mdl.execute_async", (stream,))
        acl_call(name, number, *self.datasets, *where)

    def download(self, rows: int, stream: int | None = None) -> None:
        """Copy the outputs of *rows* images to the host; those of padding stay behind."""
        for buffer in () if self.on_device else self.outputs:
            buffer.copy(DEVICE_TO_HOST, rows, stream)

    def take(self, rows: int) -> Tensors:
        """The outputs of *rows* images by name, copied, so that they are the caller's."""
        return {buffer.info.name: buffer.array[:rows].copy() for buffer in self.outputs}


def _device_memory(nbytes: int, dataset: int, held: Held) -> int:
    """Allocate *nbytes* on the device and add them to *dataset*."""
    memory: int = acl_call("rt.malloc", nbytes, HUGE_FIRST)
    held.take_back("rt.free", memory)
    buffer: int = acl_call("create_data_buffer", memory, nbytes)
    held.take_back("destroy_data_buffer", buffer)
    acl_call("mdl.add_dataset_buffer", dataset, buffer)
    return memory


@dataclass
class _Batch:
    """A batch on its way; *events* stand before and after each of its three steps."""

    slot: Slot
    rows: int
    host_s: float
    events: list[int] = field(default_factory=list)
    held: Held = field(default_factory=Held)

    def record(self, stream: int) -> None:
        """Queue an event in *stream*."""
        event: int = acl_call("rt.create_event")
        self.held.take_back("rt.destroy_event", event)
        acl_call("rt.record_event", event, stream)
        self.events.append(event)


class BatchStreams:
    """
    Three streams and three slots: one batch is uploaded, one computed, one downloaded.

    With three slots the device always has the next batch at hand, so that in the long run only the
    slowest step costs time.  Events order the streams and measure them.  They are made anew for
    each batch: to use one twice, CANN 6 wants it reset and CANN 8.5 forbids the reset.
    """

    def __init__(self, first: Slot, held: Held) -> None:
        more = [Slot(first.model, on_device=first.on_device, held=held) for _ in range(SLOTS - 1)]
        #: A batch has to be collected before another can be submitted where no slot is free.
        self.free = deque([first, *more])
        #: Batches that are under way, the oldest first.
        self.pending: deque[_Batch] = deque()
        self._streams: list[int] = []
        for _ in range(3):
            self._streams.append(acl_call("rt.create_stream"))
            held.take_back("rt.destroy_stream", self._streams[-1])

    def submit(self, feed: Tensors, rows: int) -> None:
        """Queue *rows* images without waiting."""
        slot = self.free.popleft()
        start = time.perf_counter()
        gear = slot.fill(feed, rows)
        batch = _Batch(slot, rows, time.perf_counter() - start)
        self.pending.append(batch)
        steps = ((slot.upload, gear), (slot.execute, gear), (slot.download, rows))
        for stream, (step, size) in zip(self._streams, steps, strict=True):
            if batch.events:
                acl_call("rt.stream_wait_event", stream, batch.events[-1])
            batch.record(stream)
            step(size, stream)
            batch.record(stream)

    def collect(self, times: DeviceTimes) -> Tensors:
        """Wait for the oldest batch, add its times to *times* and return its outputs."""
        batch = self.pending[0]
        acl_call("rt.synchronize_event", batch.events[-1])
        pairs = zip(batch.events[::2], batch.events[1::2], strict=True)
        h2d, compute, d2h = [acl_call("rt.event_elapsed_time", *pair) for pair in pairs]
        start = time.perf_counter()
        outputs = batch.slot.take(batch.rows)
        host_s = batch.host_s + time.perf_counter() - start
        times.add(h2d, compute, d2h, 1000 * host_s)
        self.pending.popleft()
        self.free.append(batch.slot)
        batch.held.release(None)
        return outputs

    def drain(self) -> None:
        """Wait until nothing is under way, and drop the outputs."""
        held = Held()
        for batch in self.pending:
            self.free.append(batch.slot)
            held.take(partial(batch.held.release, None))
        self.pending.clear()
        for stream in self._streams:
            held.take_back("rt.synchronize_stream", stream)
        held.release(None)
