"""Executing models, at once or in a stream: what must hold of their datasets."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .datasets import DataBuffer, Dataset
from .ledger import Fail
from .memory import Span, this_thread
from .models import GEAR_INPUT, Model, tensor_bytes
from .om import OmTensor
from .streams import Op
from .surface import api

if TYPE_CHECKING:
    from .host import Host

#: So many bytes may be missing from a buffer before the runtime refuses it.
TOLERATED = 64


@dataclass(frozen=True)
class Work:
    """A model with the memory that one execution reads and writes."""

    model: Model
    batch: int
    reads: tuple[Span, ...]
    writes: tuple[Span, ...]
    objects: tuple[object, ...]


class Execution:
    """`acl.mdl.execute` and `acl.mdl.execute_async`."""

    def __init__(self, host: Host) -> None:
        self.host = host

    @api("mdl.execute", "Ikk", doubts=(1, 2))
    def execute(self, number: int, inputs: int, outputs: int) -> None:
        """Compute at once; other Python threads stand still meanwhile."""
        device = self.host.process.context().device
        work = self._work(number, inputs, outputs, may_allocate=True)
        self._check_pending(work.model, None)
        self.host.streams.check_host_access(work.reads, work.writes)
        took, now = self._duration(work), self.host.clock.now
        start = self.host.streams.engine(device, "compute").reserve(now, took, now)
        self.host.clock.reach(start + took)
        self._compute(work)
        if self.host.profile.block_ms:
            # PyDLL keeps Python's own lock, as the real function does.
            ctypes.PyDLL(None).usleep(int(self.host.profile.block_ms * 1e3))

    @api("mdl.execute_async", "Ikkk", doubts=(1, 2))
    def execute_async(self, number: int, inputs: int, outputs: int, stream_handle: int) -> None:
        """Queue an execution; its outputs are poison until somebody waits for it."""
        stream = self.host.streams.stream(stream_handle)
        work = self._work(number, inputs, outputs, may_allocate=False)
        self._check_pending(work.model, stream)
        op: Op = self.host.streams.enqueue(
            stream,
            f"execution of {work.batch} images",
            "compute",
            self._duration(work),
            effect=lambda: self._compute(work),
            reads=work.reads,
            writes=work.writes,
            model=work.model,
        )
        op.objects = work.objects

    def _duration(self, work: Work) -> float:
        number, work.model.executions = work.model.executions, work.model.executions + 1
        return self.host.profile.times.execution_ms(number, work.batch)

    def _check_pending(self, model: Model, stream: object) -> None:
        for op in self.host.streams.queue.pending:
            if op.model is model and op.stream is not stream:
                text = f"{model} is executed while {op} is pending in another stream"
                self.host.ledger.report(28, text)

    # Datasets

    def _work(self, number: int, inputs: int, outputs: int, *, may_allocate: bool) -> Work:
        model = self.host.models.model_here(number)
        into, out = self._dataset(inputs), self._dataset(outputs)
        batch = self._batch(model, into)
        reads = tuple(
            self._input(buffer, tensor, batch)
            for buffer, tensor in self._paired(into, model.inputs, "inputs")
        )
        writes = tuple(
            self._output(buffer, tensor, batch, may_allocate=may_allocate)
            for buffer, tensor in self._paired(out, model.outputs, "outputs")
        )
        for index, span in enumerate(writes):
            for other in (*reads, *writes[:index]):
                if span.overlaps(other):
                    self.host.ledger.report(24, f"{span.block} is used twice in one execution")
        self._note_threads(reads, writes)
        return Work(model, batch, reads, writes, (into, out, *into.buffers, *out.buffers))

    def _dataset(self, handle: int) -> Dataset:
        thing = self.host.things.get(handle)
        if isinstance(thing, DataBuffer):
            self.host.ledger.report(24, f"a dataset is wanted, but {handle:#x} is a data buffer")
            raise Fail(100000, "no dataset")
        return self.host.datasets.dataset(handle)

    def _paired(
        self, dataset: Dataset, tensors: tuple[OmTensor, ...], side: str
    ) -> list[tuple[DataBuffer, OmTensor]]:
        if len(dataset.buffers) != len(tensors):
            count = len(dataset.buffers)
            raise Fail(
                145000, f"{count} buffers are given, but the model has {len(tensors)} {side}"
            )
        for buffer in dataset.buffers:
            if not buffer.alive:
                self.host.ledger.report(26, f"{buffer} was destroyed, but its dataset is executed")
                raise Fail(100000, "a data buffer was destroyed")
        return list(zip(dataset.buffers, tensors, strict=True))

    def _batch(self, model: Model, dataset: Dataset) -> int:
        if not model.om.gears:
            return model.om.inputs[0].shape[0]
        if not dataset.gear_is_fresh:
            text = f"set_dynamic_batch_size was not called for this execution of {dataset}"
            self.host.ledger.report(27, text)
        dataset.gear_is_fresh = False
        return dataset.gear or max(model.om.gears)

    def _input(self, buffer: DataBuffer, tensor: OmTensor, batch: int) -> Span:
        if not buffer.address:
            raise Fail(100000, f"the data buffer of {tensor.name} is empty")
        return self._sized(buffer, tensor, batch)

    def _output(
        self, buffer: DataBuffer, tensor: OmTensor, batch: int, *, may_allocate: bool
    ) -> Span:
        if not buffer.address:
            if not may_allocate:
                raise Fail(100000, f"the data buffer of {tensor.name} is empty")
            block = self.host.memory.allocate(tensor_bytes(tensor, batch))
            block.by_runtime = True
            buffer.address, buffer.size = block.handle, block.size
        elif (made := self.host.memory.block_at(buffer.address)) and made.by_runtime:
            self.host.ledger.report(25, f"{buffer} was not reset after the runtime filled it")
        return self._sized(buffer, tensor, batch)

    def _sized(self, buffer: DataBuffer, tensor: OmTensor, batch: int) -> Span:
        """The memory that *tensor* takes for *batch* images; its size and place are checked."""
        exact, full = tensor_bytes(tensor, batch), tensor_bytes(tensor)
        if buffer.size < exact - TOLERATED:
            raise Fail(145000, f"{tensor.name} has {buffer.size} bytes, but needs {exact}")
        if buffer.size not in (exact, full):
            text = f"the buffer of {tensor.name} has {buffer.size} bytes, but the model {full}"
            self.host.ledger.report(24, text)
        span = self.host.memory.span(buffer.address, buffer.size, rule=24)
        if not span.block.on_device:
            self.host.ledger.report(24, f"{tensor.name} lies in {span.block}, not on the device")
        return Span(span.block, span.start, min(exact, span.size))

    def _note_threads(self, reads: tuple[Span, ...], writes: tuple[Span, ...]) -> None:
        me = this_thread()
        for span in reads:
            span.block.uploader = None
        for span in writes:
            if span.block.executor not in (None, me):
                span.block.losers.add(span.block.executor)
            span.block.losers.discard(me)
            span.block.executor = me

    # Computing

    def _compute(self, work: Work) -> None:
        contents = []
        tensors = work.model.inputs
        for span, tensor in zip(work.reads, tensors, strict=True):
            if not span.block.alive:
                self.host.ledger.report(28, f"{span.block} was freed before its execution")
            elif span.block.unwritten(span.start, span.stop):
                text = f"the input {tensor.name} in {span.block} was never written as a whole"
                rule = 27 if tensor is GEAR_INPUT else 24
                self.host.ledger.report(rule, text)
            content = span.read()
            missing = tensor_bytes(tensor, work.batch) - len(content)
            contents.append(np.pad(content, (0, missing)) if missing else content)
        results = self.host.models.run(work.model, contents, work.batch)
        for span, result in zip(work.writes, results, strict=True):
            flat = np.ascontiguousarray(result).reshape(-1).view(np.uint8)
            span.target()[:] = flat[: span.size]
