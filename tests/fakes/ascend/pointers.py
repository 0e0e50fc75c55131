"""Addresses of Python's own objects, and arrays over addresses: the functions of `acl.util`."""

from __future__ import annotations

import ctypes
import sys
import warnings
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .ledger import Fail, caller
from .memory import FREED, Block, Bytes, poison
from .surface import api

if TYPE_CHECKING:
    from .host import Host

NPY_TYPES = {
    0: np.bool_, 1: np.int8, 2: np.uint8, 3: np.int16, 5: np.int32, 7: np.int64,
    11: np.float32, 12: np.float64, 23: np.float16,
}  # fmt: skip
#: So many addresses are remembered after those who gave them have gone.
REMEMBERED = 64
#: References to an object that only this file holds: the entry's, and getrefcount's argument.
OURS = 2


class Loan:
    """An object whose address was given out; it is kept, so that its end is seen, not suffered."""

    def __init__(self, keeper: Any, block: Block) -> None:
        self.keeper, self.block = keeper, block

    def check(self) -> None:
        """Notice that nobody but us holds the object: on hardware it would be gone."""
        if self.block.alive and sys.getrefcount(self.keeper) <= OURS:
            self.block.alive = False


class Pointers:
    """Calls between Python's objects and addresses."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._loans: deque[Loan] = deque(maxlen=REMEMBERED)

    def find(self, address: int) -> tuple[Block, int] | None:
        """The object that *address* lies in, if its address was given out; the latest one first."""
        for loan in reversed(self._loans):
            inside = address - loan.block.handle
            if 0 <= inside < max(loan.block.size, 1):
                loan.check()
                return loan.block, inside
        return None

    def lend(self, keeper: Any, address: int, size: int, *, writable: bool) -> int:
        """Remember that *address* is that of *size* bytes of *keeper*."""
        for loan in self._loans:
            loan.check()
            if not loan.block.alive:
                loan.keeper = None
                loan.block.view = np.empty(0, np.uint8)
        view = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        block = Block("object of Python", address, caller(), None, size=size, view=view)
        block.host_readable = block.pageable = True
        block.writable = writable
        self._loans.append(Loan(keeper, block))
        return address

    @api("util.bytes_to_ptr", "O", "number", canns=("current", "future"))
    def bytes_to_ptr(self, content: Any) -> int:
        """The address of a bytes object's content."""
        if type(content) is not bytes:
            raise ValueError(f"bytes are wanted, not {type(content).__name__}")
        address = ctypes.cast(ctypes.c_char_p(content), ctypes.c_void_p).value or 0
        return self.lend(content, address, len(content), writable=False)

    @api("util.ptr_to_bytes", "kk", "number", canns=("current", "future"))
    def ptr_to_bytes(self, address: int, size: int) -> bytes:
        """A copy of memory that the host can read."""
        return self._readable(address, size).tobytes()

    def _readable(self, address: int, size: int) -> Bytes:
        span = self.host.memory.span(address, size)
        if not span.block.host_readable:
            self.host.ledger.report(17, f"{span.block} is read as if it were the host's")
            return poison(np.empty(size, np.uint8), FREED)
        self.host.streams.check_host_access((span,), ())
        return span.block.view[span.start : span.stop]

    @api("util.numpy_to_ptr", "O", "number", deprecated=True)
    def numpy_to_ptr(self, array: Any) -> int:
        """The address of an array's first element, in whatever order the rest lies."""
        if not isinstance(array, np.ndarray):
            raise TypeError(f"a numpy array is wanted, not {type(array).__name__}")
        if not array.flags.c_contiguous:
            warnings.warn("the array is not contiguous", UserWarning, stacklevel=6)
            self.host.ledger.report(18, "the array is not C-contiguous, its bytes lie elsewhere")
        return self._lend_array(array)

    @api("util.numpy_contiguous_to_ptr", "O", "number", deprecated=True)
    def numpy_contiguous_to_ptr(self, array: Any) -> tuple[int, npt.NDArray[Any]]:
        """The address of an array or of a contiguous copy, and whose address it is."""
        whole = np.ascontiguousarray(array)
        return self._lend_array(whole), whole

    def _lend_array(self, array: npt.NDArray[Any]) -> int:
        owner: Any = array
        while isinstance(owner, np.ndarray) and owner.base is not None:
            owner = owner.base
        address, size = array.ctypes.data, array.nbytes
        if not array.flags.c_contiguous and isinstance(owner, np.ndarray):
            size = max(0, owner.ctypes.data + owner.nbytes - address)
        writable = bool(array.flags.writeable)
        del array
        return self.lend(owner, address, size, writable=writable)

    @api("util.ptr_to_numpy", "kOi", "number", deprecated=True)
    def ptr_to_numpy(self, address: int, shape: Any, kind: int) -> npt.NDArray[Any]:
        """An array over memory that the host can read; who frees it then is not agreed."""
        if not isinstance(shape, tuple):
            raise TypeError("the shape must be a tuple")
        if kind not in NPY_TYPES:
            raise Fail(100000, f"{kind} is no type of numpy")
        dtype = np.dtype(NPY_TYPES[kind])
        view = self._readable(address, int(np.prod(shape)) * dtype.itemsize)
        found = self.host.memory.find(address)
        if found is not None:
            found[0].as_numpy = True
        return view.view(dtype).reshape(shape)
