"""A model in ACL: loading it, and its inputs, outputs and batch sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import RunnerError
from ..runners.base import TensorInfo
from .acl_api import Held, acl_call

#: aclDataType -> numpy's.
DTYPES = {0: "float32", 1: "float16", 2: "int8", 3: "int32", 4: "uint8", 9: "int64"}
#: The input that ATC adds to a model with several batch sizes.
GEAR_INPUT = "ascend_mbatch_shape_data"
CHANNELS = 3


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

    def gear_for(self, rows: int) -> int:
        """The smallest batch size that holds *rows* images."""
        return next(gear for gear in self.gears if gear >= rows)


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
    inputs, gear_input = [], None
    for index, name in enumerate(names["input"]):
        if name == GEAR_INPUT:
            gear_input = (index, int(acl_call("mdl.get_input_size_by_index", desc, index)))
        else:
            inputs.append(_info("input", name, desc, index, gears))
    outputs = [
        _info("output", name, desc, index, gears)
        for index, name in enumerate(plain_names(names["output"]))
    ]
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


def plain_names(names: Sequence[str]) -> list[str]:
    """
    Name each output as in its ONNX model.

    ATC writes ``node:index:name``; names of a version that omits the last part stay as they are.
    """
    last = [name.rpartition(":")[2] for name in names]
    unclear = len(set(last)) != len(last) or any(name.isdecimal() for name in last)
    return list(names) if unclear else last
