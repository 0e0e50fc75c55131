"""Data buffers and datasets: raw objects of C++ that own no memory and check nothing but null."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .host import Thing
from .ledger import Fail
from .models import GEAR_INPUT
from .surface import api

if TYPE_CHECKING:
    from .host import Host


@dataclass(eq=False)
class DataBuffer(Thing):
    """An address and a size; who owns the memory is no affair of it."""

    address: int = 0
    size: int = 0
    dataset: Dataset | None = None


@dataclass(eq=False)
class Dataset(Thing):
    """Data buffers in the order of a model's inputs or outputs."""

    buffers: list[DataBuffer] = field(default_factory=list)
    #: The batch that was set, and whether it was since the last execution.
    gear: int | None = None
    gear_is_fresh: bool = False


class Datasets:
    """Calls that put addresses together for a model."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def dataset(self, handle: int) -> Dataset:
        """The living dataset behind *handle*."""
        return self.host.get(handle, Dataset, "dataset")

    def buffer(self, handle: int) -> DataBuffer:
        """The living data buffer behind *handle*."""
        return self.host.get(handle, DataBuffer, "data buffer")

    # Data buffers

    @api("create_data_buffer", "kk", "handle")
    def create_data_buffer(self, address: int, size: int) -> int:
        """Note an address and a size; both are 0 where the runtime shall allocate."""
        self._check_pair(address, size)
        buffer = self.host.add(DataBuffer, "data buffer")
        buffer.address, buffer.size = address, size
        return buffer.handle

    def _check_pair(self, address: int, size: int) -> None:
        if bool(address) != bool(size):
            text = f"a data buffer has address {address:#x} and size {size}; both or none may be 0"
            self.host.ledger.report(24, text)

    @api("update_data_buffer", "kkk", doubts=(0,))
    def update_data_buffer(self, handle: int, address: int, size: int) -> None:
        """Change what a buffer notes."""
        self._check_pair(address, size)
        buffer = self.buffer(handle)
        self._check_pending(buffer, "changed")
        buffer.address, buffer.size = address, size

    @api("destroy_data_buffer", "k", releases=True)
    def destroy_data_buffer(self, handle: int) -> None:
        """End a data buffer; the memory stays."""
        buffer = self.buffer(handle)
        self._check_pending(buffer, "destroyed")
        block = self.host.memory.block_at(buffer.address)
        if block is not None and block.by_runtime:
            text = f"{buffer} still notes what the runtime allocated; update it to (0, 0) first"
            self.host.ledger.report(25, text)
        buffer.alive = False

    def _check_pending(self, buffer: DataBuffer, what: str) -> None:
        for op in self.host.streams.queue.pending:
            if op.model is not None and buffer in op.objects:
                self.host.ledger.report(28, f"{buffer} is {what} while {op} is pending")

    @api("get_data_buffer_addr", "k", "number")
    def get_data_buffer_addr(self, handle: int) -> int:
        """The address that a buffer notes."""
        return self.buffer(handle).address

    @api("get_data_buffer_size", "k", "number", deprecated=True)
    def get_data_buffer_size(self, handle: int) -> int:
        """The size that a buffer notes, in 32 bits."""
        return self.buffer(handle).size % 2**32

    @api("get_data_buffer_size_v2", "k", "number", canns=("current", "future"))
    def get_data_buffer_size_v2(self, handle: int) -> int:
        """The size that a buffer notes."""
        return self.buffer(handle).size

    # Datasets

    @api("mdl.create_dataset", "", "handle")
    def create_dataset(self) -> int:
        """Make an empty dataset."""
        return self.host.add(Dataset, "dataset").handle

    @api("mdl.add_dataset_buffer", "kk", "pointer", doubts=(0,))
    def add_dataset_buffer(self, handle: int, buffer_handle: int) -> int:
        """Append a buffer."""
        dataset, buffer = self.dataset(handle), self.buffer(buffer_handle)
        if buffer.dataset is not None:
            self.host.ledger.report(26, f"{buffer} is in {buffer.dataset} already")
        buffer.dataset = dataset
        dataset.buffers.append(buffer)
        return handle

    @api("mdl.get_dataset_num_buffers", "k", "number")
    def get_dataset_num_buffers(self, handle: int) -> int:
        """How many buffers there are."""
        return len(self.dataset(handle).buffers)

    @api("mdl.get_dataset_buffer", "kk", "number")
    def get_dataset_buffer(self, handle: int, index: int) -> int:
        """A buffer's handle."""
        buffers = self.dataset(handle).buffers
        return buffers[index].handle if index < len(buffers) else 0

    @api("mdl.destroy_dataset", "k", releases=True)
    def destroy_dataset(self, handle: int) -> None:
        """End a dataset; its buffers stay."""
        dataset = self.dataset(handle)
        for op in self.host.streams.queue.pending:
            if op.model is not None and dataset in op.objects:
                self.host.ledger.report(28, f"{dataset} is destroyed while {op} is pending")
        for buffer in dataset.buffers:
            buffer.dataset = None
        dataset.alive = False

    @api("mdl.set_dynamic_batch_size", "IkkK", doubts=(1,))
    def set_dynamic_batch_size(self, number: int, handle: int, index: int, batch: int) -> None:
        """Choose the gear of the next execution of a dataset."""
        model, dataset = self.host.models.model(number), self.dataset(handle)
        if not model.om.gears:
            # That it fails is known, with which code is not.
            raise Fail(100000, "the model has no gears")
        if not batch or index >= len(dataset.buffers) or model.inputs[index] is not GEAR_INPUT:
            raise Fail(100000, f"batch {batch} is set at index {index}")
        buffer = dataset.buffers[index]
        if not buffer.address:
            raise Fail(100000, "the data buffer of the gear is empty")
        if batch not in model.om.gears:
            raise Fail(145013, f"{batch} is none of {model.om.gears}")
        span = self.host.memory.span(buffer.address, buffer.size, rule=24)
        self.host.streams.check_host_access((), (span,))
        span.target()[:] = np.frombuffer(np.int64(batch).tobytes(), np.uint8)[: span.size]
        dataset.gear, dataset.gear_is_fresh, model.gear = batch, True, batch
