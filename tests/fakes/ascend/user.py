"""A user of pyACL who does everything right, for tests of the emulator to build on."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

H2D, D2H, D2D = 1, 2, 3
Array = npt.NDArray[Any]


class Refused(Exception):
    """A call returned a code."""

    def __init__(self, code: int, name: str = "") -> None:
        super().__init__(code, name)
        self.code = code


def ok(result: Any, name: str = "") -> Any:
    """Return what came beside the return code of *result*; raise `Refused` if that is not 0."""
    *values, ret = result if isinstance(result, tuple) else (result,)
    if ret != 0:
        raise Refused(int(ret), name)
    return values[0] if len(values) == 1 else tuple(values)


def code(result: Any) -> int:
    """Return the return code of *result*, looked at."""
    return int(result[-1] if isinstance(result, tuple) else result)


def host_view(address: int, size: int) -> npt.NDArray[np.uint8]:
    """The bytes at an address that the host can read."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))


class User:
    """
    One open model: a context and a stream, buffers on both sides, all given back at the end.

    The parts are public, so that a test can do one thing wrong with them.
    """

    def __init__(self, acl: Any, model: Path, device: int = 0) -> None:
        self.acl, self.path, self.device = acl, model, device
        self._open = ExitStack()
        #: What the outputs' bytes are.
        self.kind: Any = np.float32
        #: Codes that giving back has met.
        self.passed_over: list[int] = []
        self.inputs: list[tuple[int, int]] = []
        self.outputs: list[tuple[int, int]] = []
        self.host: dict[int, int] = {}
        self.buffers: list[int] = []

    def later(self, release: Callable[..., Any], *args: Any) -> None:
        """Give something back at the end; what fails then is looked at and passed over."""
        self._open.callback(lambda: self.passed_over.append(int(release(*args))))

    def made(self, handle: int) -> int:
        """Return *handle*, unless nothing was made."""
        if handle == 0:
            raise Refused(0, "nothing was made")
        return handle

    def __enter__(self) -> Self:
        try:
            self._enter()
        except BaseException:
            self._open.close()
            raise
        return self

    def _enter(self) -> None:
        acl = self.acl
        ok(acl.init())
        self.later(acl.finalize)
        ok(acl.rt.set_device(self.device))
        self.later(acl.rt.reset_device, self.device)
        self.context = ok(acl.rt.create_context(self.device))
        self.later(acl.rt.destroy_context, self.context)
        self.stream = ok(acl.rt.create_stream())
        self.later(acl.rt.destroy_stream, self.stream)
        self.model = ok(acl.mdl.load_from_file(str(self.path)))
        self.later(acl.mdl.unload, self.model)
        self.desc = self.made(acl.mdl.create_desc())
        self.later(acl.mdl.destroy_desc, self.desc)
        ok(acl.mdl.get_desc(self.desc, self.model))
        self.input_set, self.output_set = self._dataset("input"), self._dataset("output")
        self.later(acl.rt.synchronize_stream, self.stream)

    def _dataset(self, side: str) -> int:
        acl, mdl = self.acl, self.acl.mdl
        dataset = self.made(mdl.create_dataset())
        self.later(mdl.destroy_dataset, dataset)
        pairs = self.inputs if side == "input" else self.outputs
        for index in range(getattr(mdl, f"get_num_{side}s")(self.desc)):
            size = getattr(mdl, f"get_{side}_size_by_index")(self.desc, index)
            address = ok(acl.rt.malloc(size, 0))
            self.later(acl.rt.free, address)
            pinned = ok(acl.rt.malloc_host(size))
            self.later(acl.rt.free_host, pinned)
            buffer = self.made(acl.create_data_buffer(address, size))
            self.later(acl.destroy_data_buffer, buffer)
            ok(mdl.add_dataset_buffer(dataset, buffer))
            self.buffers.append(buffer)
            pairs.append((address, size))
            self.host[address] = pinned
        return dataset

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def fill(self, images: npt.NDArray[Any]) -> None:
        """Put *images* into pinned memory."""
        content = np.ascontiguousarray(images).reshape(-1).view(np.uint8)
        address, _ = self.inputs[0]
        host_view(self.host[address], len(content))[:] = content

    def upload(self) -> None:
        """Copy pinned memory to the device, at once."""
        address, size = self.inputs[0]
        ok(self.acl.rt.memcpy(address, size, self.host[address], size, H2D))

    def execute(self) -> None:
        """Run the model, at once."""
        ok(self.acl.mdl.execute(self.model, self.input_set, self.output_set))

    def download(self) -> list[Array]:
        """Copy the outputs from the device, at once."""
        for address, size in self.outputs:
            ok(self.acl.rt.memcpy(self.host[address], size, address, size, D2H))
        return self.results()

    def results(self) -> list[Array]:
        """What lies in the pinned memory of the outputs, flat."""
        return [
            host_view(self.host[address], size).view(self.kind).copy()
            for address, size in self.outputs
        ]

    def infer(self, images: npt.NDArray[Any]) -> list[Array]:
        """Outputs of *images*, flat, the synchronous way."""
        self.fill(images)
        self.upload()
        self.execute()
        return self.download()

    def queue_upload(self, stream: int | None = None) -> None:
        """Queue the copy to the device."""
        address, size = self.inputs[0]
        where = self.stream if stream is None else stream
        ok(self.acl.rt.memcpy_async(address, size, self.host[address], size, H2D, where))

    def queue_execution(self, stream: int | None = None) -> None:
        """Queue the model."""
        where = self.stream if stream is None else stream
        ok(self.acl.mdl.execute_async(self.model, self.input_set, self.output_set, where))

    def queue_download(self, stream: int | None = None) -> None:
        """Queue the copies from the device."""
        where = self.stream if stream is None else stream
        for address, size in self.outputs:
            ok(self.acl.rt.memcpy_async(self.host[address], size, address, size, D2H, where))

    def wait(self) -> None:
        """Wait for the stream."""
        ok(self.acl.rt.synchronize_stream(self.stream))

    def infer_async(self, images: npt.NDArray[Any]) -> list[Array]:
        """Outputs of *images*, flat, through the stream."""
        self.fill(images)
        self.queue_upload()
        self.queue_execution()
        self.queue_download()
        self.wait()
        return self.results()
