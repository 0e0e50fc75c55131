"""A user of pyACL who does everything right, for tests of the emulator to build on."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

H2D, D2H, D2D = 1, 2, 3
Array = npt.NDArray[Any]


def ok(result: Any) -> Any:
    """Return what came beside the return code of *result*, which must be 0."""
    *values, ret = result if isinstance(result, tuple) else (result,)
    assert ret == 0, ret
    return values[0] if len(values) == 1 else tuple(values)


def code(result: Any) -> int:
    """Return the return code of *result*."""
    return int(result[-1] if isinstance(result, tuple) else result)


def host_view(address: int, size: int) -> npt.NDArray[np.uint8]:
    """The bytes at an address that the host can read."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))


class User:
    """
    One open model: a context and a stream, buffers on both sides, all given back at the end.

    The parts are public, so that a test can do one thing wrong with them.
    """

    def __init__(self, acl: Any, model: Path, kind: Any = np.float32) -> None:
        self.acl, self.rt, self.mdl = acl, acl.rt, acl.mdl
        self.path, self.kind = model, kind
        self._open = ExitStack()
        #: Address and size on the device of each input and output, and their pinned counterparts.
        self.inputs: list[tuple[int, int]] = []
        self.outputs: list[tuple[int, int]] = []
        self.host: dict[int, int] = {}
        self.buffers: list[int] = []

    def later(self, release: Callable[..., Any], *args: Any) -> None:
        """Give something back at the end, whatever it answers."""
        self._open.callback(release, *args)

    def __enter__(self) -> Self:
        acl = self.acl
        ok(acl.init())
        self.later(acl.finalize)
        ok(acl.rt.set_device(0))
        self.later(acl.rt.reset_device, 0)
        self.context = ok(acl.rt.create_context(0))
        self.later(acl.rt.destroy_context, self.context)
        self.stream = ok(acl.rt.create_stream())
        self.later(acl.rt.destroy_stream, self.stream)
        self.model = ok(acl.mdl.load_from_file(str(self.path)))
        self.later(acl.mdl.unload, self.model)
        self.desc = acl.mdl.create_desc()
        self.later(acl.mdl.destroy_desc, self.desc)
        ok(acl.mdl.get_desc(self.desc, self.model))
        self.input_set = self._dataset("input", self.inputs)
        self.output_set = self._dataset("output", self.outputs)
        #: The image's address on the device and in pinned memory, and its bytes.
        self.image, self.size = self.inputs[0]
        self.pinned = self.host[self.image]
        self.later(acl.rt.synchronize_stream, self.stream)
        return self

    def _dataset(self, side: str, pairs: list[tuple[int, int]]) -> int:
        acl, mdl = self.acl, self.mdl
        dataset: int = mdl.create_dataset()
        self.later(mdl.destroy_dataset, dataset)
        for index in range(getattr(mdl, f"get_num_{side}s")(self.desc)):
            size = getattr(mdl, f"get_{side}_size_by_index")(self.desc, index)
            address = ok(acl.rt.malloc(size, 0))
            self.later(acl.rt.free, address)
            self.host[address] = ok(acl.rt.malloc_host(size))
            self.later(acl.rt.free_host, self.host[address])
            self.buffers.append(acl.create_data_buffer(address, size))
            self.later(acl.destroy_data_buffer, self.buffers[-1])
            ok(mdl.add_dataset_buffer(dataset, self.buffers[-1]))
            pairs.append((address, size))
        return dataset

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._open.close()

    def fill(self, images: Array) -> None:
        """Put *images* into pinned memory."""
        content = np.ascontiguousarray(images).reshape(-1).view(np.uint8)
        host_view(self.host[self.inputs[0][0]], len(content))[:] = content

    def copy(self, pairs: list[tuple[int, int]], kind: int, stream: int | None = None) -> None:
        """Copy between the device and pinned memory: at once, or in *stream*."""
        for address, size in pairs:
            to, source = (address, self.host[address])[:: 1 if kind == H2D else -1]
            if stream is None:
                ok(self.acl.rt.memcpy(to, size, source, size, kind))
            else:
                ok(self.acl.rt.memcpy_async(to, size, source, size, kind, stream))

    def upload(self) -> None:
        """Copy the image to the device, at once."""
        self.copy(self.inputs[:1], H2D)

    def execute(self) -> None:
        """Run the model, at once."""
        ok(self.acl.mdl.execute(self.model, self.input_set, self.output_set))

    def download(self) -> list[Array]:
        """Copy the outputs from the device, at once."""
        self.copy(self.outputs, D2H)
        return self.results()

    def results(self) -> list[Array]:
        """What lies in the pinned memory of the outputs, flat."""
        views = (host_view(self.host[address], size) for address, size in self.outputs)
        return [view.view(self.kind).copy() for view in views]

    def infer(self, images: Array) -> list[Array]:
        """Outputs of *images*, flat, the synchronous way."""
        self.fill(images)
        self.upload()
        self.execute()
        return self.download()

    def queue_upload(self) -> None:
        """Queue the copy to the device."""
        self.copy(self.inputs[:1], H2D, self.stream)

    def queue_execution(self, stream: int | None = None) -> None:
        """Queue the model."""
        where = self.stream if stream is None else stream
        ok(self.acl.mdl.execute_async(self.model, self.input_set, self.output_set, where))

    def queue_download(self, stream: int | None = None) -> None:
        """Queue the copies from the device."""
        self.copy(self.outputs, D2H, self.stream if stream is None else stream)

    def wait(self) -> None:
        """Wait for the stream."""
        ok(self.acl.rt.synchronize_stream(self.stream))
