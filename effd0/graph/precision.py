"""
Float32 -> float16 inside a graph, while its inputs and outputs stay float32.

Every float32 tensor becomes float16, so that no cast is left but those at the borders.  Converters
of the ONNX world keep Resize and others in float32 between casts, which a compiler would have to
take as they are.

ONNX Runtime's CPU provider has few float16 kernels and keeps float32 between many nodes, so what
it shows is the error of rounded weights.  Float16 at every node differs about twice as much
(2026-11-23, embedded checkpoint: logits by 3.5e-2 instead of 2.1e-2).
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import GraphError, require
from .base import GraphEdit, add_constant, constants, optional_input, set_nodes

FLOAT16_MAX = float(np.finfo(np.float16).max)
#: Operators whose attribute ``value`` may hold a float32 tensor.
HOLDERS = ("Constant", "ConstantOfShape")
#: Inputs of Resize that are no data.
RESIZE_INPUTS = {1: "region", 2: "scales"}


def _to_float16(model: Any) -> int:
    """
    Make every float32 tensor float16 and cast at the borders; count the weights.

    Raises `GraphError` for branches, for a Resize whose scales are computed while the model runs,
    and for a weight beyond float16.
    """
    onnx = require("onnx", extra="onnx")
    _require_plain(model)
    weights = _weights(model, _resize_scales(model))
    for name, tensor in weights:
        half = _rounded(onnx.numpy_helper.to_array(tensor), name)
        tensor.CopyFrom(onnx.numpy_helper.from_array(half, tensor.name))
    if weights:
        _retarget_casts(model)
        _cast_borders(model)
        del model.graph.value_info[:]
    return len(weights)


def _require_plain(model: Any) -> None:
    for node in model.graph.node:
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise GraphError(
                f"{node.name or node.output[0]} ({node.op_type}) has branches, but fp16 takes "
                "a graph without; run 'effd0 simplify' first"
            )


def _resize_scales(model: Any) -> set[str]:
    """Names of constants that only Resize reads as its region or scales, float32 by definition."""
    known = constants(model)
    resizes = [node for node in model.graph.node if node.op_type == "Resize"]
    others = [node for node in model.graph.node if node.op_type != "Resize"]
    data = {name for node in others for name in node.input} | {n.input[0] for n in resizes}
    found = set()
    for node, index in product(resizes, RESIZE_INPUTS):
        name = optional_input(node, index)
        if name and name not in known:
            raise GraphError(
                f"the scales of {node.name or node.output[0]} are computed while the model runs, "
                "but fp16 needs them constant; run 'effd0 simplify' first"
            )
        if name in data:
            own = f"{node.output[0]}_{RESIZE_INPUTS[index]}"
            name = node.input[index] = add_constant(model, own, known[name])
        found.add(name)
    return found


def _weights(model: Any, scales: set[str]) -> list[tuple[str, Any]]:
    """Name and tensor of each float32 constant but *scales*."""
    onnx = require("onnx", extra="onnx")
    held = [(tensor.name, tensor) for tensor in model.graph.initializer]
    held += [
        (node.output[0], attribute.t)
        for node in model.graph.node
        for attribute in node.attribute
        if node.op_type in HOLDERS and attribute.name == "value"
    ]
    kind = onnx.TensorProto.FLOAT
    return [
        (name, tensor) for name, tensor in held if tensor.data_type == kind and name not in scales
    ]


def _rounded(values: npt.NDArray[Any], name: str) -> npt.NDArray[np.float16]:
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    lost = np.isinf(half) & np.isfinite(values)
    if lost.any():
        raise GraphError(
            f"{name} holds {values[lost].flat[0]:g}, but float16 ends at {FLOAT16_MAX:.0f}; "
            "leave fp16 out and let 'effd0 compile' choose what stays float32 (--precision-mode)"
        )
    return half


def _retarget_casts(model: Any) -> None:
    onnx = require("onnx", extra="onnx")
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == onnx.TensorProto.FLOAT:
                attribute.i = onnx.TensorProto.FLOAT16


def _cast_borders(model: Any) -> None:
    """Cast float32 inputs to float16 and outputs back; the names at the borders stay."""
    onnx = require("onnx", extra="onnx")
    graph, single, half = model.graph, onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
    held = {tensor.name for tensor in graph.initializer}
    made = {name for node in graph.node for name in node.output}
    inputs, outputs = (
        [value.name for value in values if value.type.tensor_type.elem_type == single]
        for values in (graph.input, graph.output)
    )
    inside = {name: f"{name}_float16" for name in (set(inputs) - held) | (set(outputs) & made)}
    for node in graph.node:
        node.input[:] = [inside.get(name, name) for name in node.input]
        node.output[:] = [inside.get(name, name) for name in node.output]
    nodes = [_cast(name, inside[name], half) for name in inputs if name in inside]
    nodes += [*graph.node]
    nodes += [_cast(inside[name], name, single) for name in outputs if name in inside]
    set_nodes(model, nodes)


def _cast(before: str, after: str, kind: int) -> Any:
    helper = require("onnx.helper", extra="onnx")
    return helper.make_node("Cast", [before], [after], name=f"{after}/Cast", to=kind)


EDITS = (
    GraphEdit(
        "fp16",
        "makes weights and arithmetic float16; inputs and outputs stay float32 (a CPU still "
        "computes much in float32, so the difference shown is the least to expect)",
        "half the weights, and float16 for compilers that keep the types they are given",
        exact=False,
        apply=_to_float16,
    ),
)
