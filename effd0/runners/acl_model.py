"""A model in ACL: loaded, and what it says of its inputs, outputs and batch sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RunnerError
from .acl_api import Held, acl_call
from .base import TensorInfo

#: aclDataType -> numpy's.
DTYPES = {0: "float32", 1: "float16", 2: "int8", 3: "int32", 4: "uint8", 9: "int64"}
#: The input that ATC adds to a model with several batch sizes.
GEAR_INPUT = "ascend_mbatch_shape_data"
CHANNELS = 3


@dataclass(frozen=True)
class Port:
    """One input or output: *info* holds the largest batch, of *nbytes* bytes."""

    index: int
    info: TensorInfo
    nbytes: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the largest batch."""
        return tuple(side for side in self.info.shape if side is not None)

    @property
    def row_bytes(self) -> int:
        """Bytes of one image."""
        return self.nbytes // self.shape[0]


@dataclass(frozen=True)
class AclModel:
    """
    A loaded model.

    *gears* are its batch sizes, rising; *gear_input* is the index and size of the input through
    which ACL hears which one is meant, None for a model of one batch size.
    """

    model_id: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    gears: tuple[int, ...]
    gear_input: tuple[int, int] | None

    def gear_for(self, rows: int) -> int:
        """The smallest batch size that holds *rows* images."""
        return next(gear for gear in self.gears if gear >= rows)


def load_acl_model(path: Path, held: Held) -> AclModel:
    """
    Load *path* in the current context, to be unloaded by *held*.

    Raises `AclError` where ACL cannot load it, `RunnerError` for a model that is none of images.
    """
    model_id: int = acl_call("mdl.load_from_file", str(path))
    held.take_back("mdl.unload", model_id)
    desc: int = acl_call("mdl.create_desc")
    held.take_back("mdl.destroy_desc", desc)
    acl_call("mdl.get_desc", desc, model_id)
    gears = tuple(sorted(acl_call("mdl.get_dynamic_batch", desc)["batch"]))
    inputs, gear_input = [], None
    for index in range(acl_call("mdl.get_num_inputs", desc)):
        if acl_call("mdl.get_input_name_by_index", desc, index) == GEAR_INPUT:
            gear_input = (index, acl_call("mdl.get_input_size_by_index", desc, index))
        else:
            inputs.append(_port("input", desc, index, gears))
    outputs = [
        _port("output", desc, index, gears)
        for index in range(acl_call("mdl.get_num_outputs", desc))
    ]
    batches = {port.shape[0] for port in (*inputs, *outputs)}
    if not inputs or len(batches) != 1 or bool(gears) != (gear_input is not None):
        raise RunnerError(
            f"{path} has the inputs {[str(port.info) for port in inputs]}, the outputs "
            f"{[str(port.info) for port in outputs]} and the batch sizes {list(gears)}, but all "
            "must agree on the batch; compile the model again with 'effd0 compile'"
        )
    return AclModel(
        model_id=model_id,
        inputs=tuple(inputs),
        outputs=tuple(with_plain_names(outputs)),
        gears=gears or (batches.pop(),),
        gear_input=gear_input,
    )


def _port(kind: str, desc: int, index: int, gears: Sequence[int]) -> Port:
    """Input or output *index* as ACL describes it; its shape must account for its bytes."""
    name: str = acl_call(f"mdl.get_{kind}_name_by_index", desc, index)
    nbytes: int = acl_call(f"mdl.get_{kind}_size_by_index", desc, index)
    code: int = acl_call(f"mdl.get_{kind}_data_type", desc, index)
    if code not in DTYPES:
        raise RunnerError(
            f"{kind} {name} has ACL's data type {code}, but effd0 takes "
            f"{', '.join(DTYPES.values())}; compile the model with --output-type FP32"
        )
    dtype = np.dtype(DTYPES[code])
    # With AIPP one form tells the network's planes and the other the pixels that are fed; versions
    # of CANN differ in which, so what has the channels last is taken for the pixels.
    forms = ("get_input_dims_v2", "get_input_dims") if kind == "input" else ("get_output_dims",)
    shapes = [_shape(acl_call(f"mdl.{form}", desc, index), gears) for form in forms]
    shapes.sort(key=lambda shape: dtype == np.uint8 and shape[-1:] != (CHANNELS,))
    for shape in shapes:
        if shape and math.prod(shape) * dtype.itemsize == nbytes:
            return Port(index, TensorInfo(name, shape, dtype), nbytes)
    raise RunnerError(
        f"{kind} {name} is {dtype} {shapes[0]}, but takes {nbytes} bytes; "
        "compile the model with a fixed shape or with --dynamic-batch-size"
    )


def _shape(dims: dict[str, Any], gears: Sequence[int]) -> tuple[int, ...]:
    """Dimensions from ACL's dictionary, the batch that it leaves open being the largest gear."""
    shape = [int(side) for side in dims["dims"]]
    if gears and shape and shape[0] == -1:
        shape[0] = max(gears)
    return tuple(shape)


def with_plain_names(ports: list[Port]) -> list[Port]:
    """
    Name each output as its ONNX model did.

    ATC writes ``node:index:name``; a version that leaves the name out keeps all of its own.
    """
    names = [port.info.name.rpartition(":")[2] for port in ports]
    if len(set(names)) != len(names) or any(name.isdecimal() for name in names):
        return ports
    return [
        Port(port.index, TensorInfo(name, port.info.shape, port.info.dtype), port.nbytes)
        for name, port in zip(names, ports, strict=True)
    ]
