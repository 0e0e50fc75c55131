"""
Memory for one batch: buffers on the device, their counterparts on the host, and ACL's datasets.

All of it is allocated once and is used for every batch.  Host memory is pinned, since only from
there can a copy overlap with computing.  Where this process runs on the device itself, both are
one: the host's view is the device's memory, and nothing is copied.
"""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt

from ..types import Tensors
from .acl_api import DEVICE_TO_HOST, HOST_TO_DEVICE, HUGE_FIRST, Held, acl_call
from .acl_model import AclModel, Port


class Buffer:
    """Device memory of one input or output, and the host's view of it."""

    def __init__(self, port: Port, dataset: int, *, on_device: bool, held: Held) -> None:
        self.port = port
        self.device = _device_memory(port.nbytes, dataset, held)
        if on_device:
            self.host = self.device
        else:
            self.host = acl_call("rt.malloc_host", port.nbytes)
            held.take_back("rt.free_host", self.host)
        memory = (ctypes.c_uint8 * port.nbytes).from_address(self.host)
        self._array: npt.NDArray[np.generic] = np.frombuffer(memoryview(memory), port.info.dtype)

    def rows(self, count: int) -> npt.NDArray[np.generic]:
        """The host's view of the first *count* images."""
        shape = (count, *self.port.shape[1:])
        return self._array[: count * self._array.size // self.port.shape[0]].reshape(shape)

    def upload(self, count: int, stream: int | None) -> None:
        """Copy *count* images to the device: now, or in the turn of *stream*."""
        size = count * self.port.row_bytes
        self._copy(self.device, self.host, size, HOST_TO_DEVICE, stream)

    def download(self, count: int, stream: int | None) -> None:
        """Copy *count* images from the device: now, or in the turn of *stream*."""
        size = count * self.port.row_bytes
        self._copy(self.host, self.device, size, DEVICE_TO_HOST, stream)

    def _copy(self, to: int, source: int, size: int, kind: int, stream: int | None) -> None:
        if stream is None:
            acl_call("rt.memcpy", to, self.port.nbytes, source, size, kind)
        else:
            acl_call("rt.memcpy_async", to, self.port.nbytes, source, size, kind, stream)


class Slot:
    """Everything that one batch needs on its way through the device."""

    def __init__(self, model: AclModel, *, on_device: bool, held: Held) -> None:
        self.model, self.on_device = model, on_device
        self.input_dataset = _dataset(held)
        self.output_dataset = _dataset(held)
        gear = {} if model.gear_input is None else {model.gear_input[0]: model.gear_input[1]}
        ports = {port.index: port for port in model.inputs}
        self.inputs: list[Buffer] = []
        # ACL finds a dataset's buffers by their order, so they are added in the model's.
        for index in sorted(ports.keys() | gear.keys()):
            if index in gear:
                _device_memory(gear[index], self.input_dataset, held)
            else:
                buffer = Buffer(ports[index], self.input_dataset, on_device=on_device, held=held)
                self.inputs.append(buffer)
        self.outputs = [
            Buffer(port, self.output_dataset, on_device=on_device, held=held)
            for port in model.outputs
        ]

    def fill(self, feed: Tensors, rows: int) -> int:
        """Put *feed* into the host's memory, padded by its first image; return the batch size."""
        gear = self.model.gear_for(rows)
        for buffer in self.inputs:
            tensor, view = feed[buffer.port.info.name], buffer.rows(gear)
            view[:rows] = tensor
            view[rows:] = tensor[:1]
        return gear

    def upload(self, gear: int, stream: int | None = None) -> None:
        """Bring the inputs of *gear* images to the device."""
        if not self.on_device:
            for buffer in self.inputs:
                buffer.upload(gear, stream)

    def execute(self, gear: int, stream: int | None = None) -> None:
        """Run the model on *gear* images: now, or in the turn of *stream*."""
        model_id, datasets = self.model.model_id, (self.input_dataset, self.output_dataset)
        if self.model.gear_input is not None:
            index = self.model.gear_input[0]
            acl_call("mdl.set_dynamic_batch_size", model_id, self.input_dataset, index, gear)
        if stream is None:
            acl_call("mdl.execute", model_id, *datasets)
        else:
            acl_call("mdl.execute_async", model_id, *datasets, stream)

    def download(self, rows: int, stream: int | None = None) -> None:
        """Bring the outputs of *rows* images to the host; those of padding stay behind."""
        if not self.on_device:
            for buffer in self.outputs:
                buffer.download(rows, stream)

    def take(self, rows: int) -> Tensors:
        """The outputs of *rows* images by name, copied, so that they are the caller's."""
        return {buffer.port.info.name: buffer.rows(rows).copy() for buffer in self.outputs}


def _dataset(held: Held) -> int:
    dataset: int = acl_call("mdl.create_dataset")
    held.take_back("mdl.destroy_dataset", dataset)
    return dataset


def _device_memory(nbytes: int, dataset: int, held: Held) -> int:
    """Allocate *nbytes* on the device and add them to *dataset*."""
    memory: int = acl_call("rt.malloc", nbytes, HUGE_FIRST)
    held.take_back("rt.free", memory)
    buffer: int = acl_call("create_data_buffer", memory, nbytes)
    held.take_back("destroy_data_buffer", buffer)
    acl_call("mdl.add_dataset_buffer", dataset, buffer)
    return memory
