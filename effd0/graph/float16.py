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

from typing import Any

import numpy as np

from ..errors import GraphError, require
from .rewrite import add_constant, constant, make

FLOAT16_MAX = float(np.finfo(np.float16).max)
#: Inputs of Resize that are no data, float32 by definition.
RESIZE_INPUTS = {1: "region", 2: "scales"}


def to_float16(graph: Any) -> int:
    """
    Make every float32 tensor float16 and cast at the borders; count the weights.

    Raises `GraphError` for branches, for a Resize whose scales are computed while the model runs,
    and for a weight beyond float16.
    """
    ir = require("onnx_ir", extra="onnx")
    single, half = ir.DataType.FLOAT, ir.DataType.FLOAT16
    for node in graph:
        if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in
               node.attributes.values()):
            raise GraphError(
                f"{node.outputs[0].name} ({node.op_type}) has branches, but fp16 takes "
                "a graph without; run 'effd0 simplify' first"
            )
    _separate_scales(graph)
    count = 0
    for value in graph.initializers.values():
        if value.const_value.dtype == single and not _is_scale(value):
            value.const_value = _rounded(value.const_value, value.name)
            count += 1
    for node in graph:
        held = node.attributes.get("value")  # of a Constant or a ConstantOfShape
        if held is not None and held.type == ir.AttributeType.TENSOR:
            if held.value.dtype == single and not _is_scale(node.outputs[0]):
                half_held = _rounded(held.value, node.outputs[0].name)
                node.attributes["value"] = ir.AttrTensor("value", half_held)
                count += 1
    if not count:
        return 0
    for node in graph:
        if node.op_type == "Cast" and node.attributes.get_int("to") == single:
            node.attributes["to"] = ir.AttrInt64("to", half)
        for value in node.outputs:
            if not value.is_graph_output():
                value.type = value.shape = None
    for value in [v for v in graph.inputs if v.dtype == single and not v.is_initializer()]:
        cast = make("Cast", [value], to=half)
        value.replace_all_uses_with(cast.outputs[0])
        cast.replace_input_with(0, value)
        graph.insert_before(graph[0], cast)
    for index, value in enumerate(graph.outputs):
        if value.dtype == single and value.producer() is not None:
            cast = make("Cast", [value], to=single)
            outside = cast.outputs[0]
            outside.name, value.name = value.name, f"{value.name}_float16"
            outside.type, outside.shape, value.type = value.type, value.shape, None
            graph.outputs[index] = outside
            graph.append(cast)
    return count


def _is_scale(value: Any) -> bool:
    """Whether Resize alone reads *value*, and as a region or scales."""
    uses = value.uses()
    return bool(uses) and all(u.node.op_type == "Resize" and u.idx in RESIZE_INPUTS for u in uses)


def _separate_scales(graph: Any) -> None:
    """Let no Resize share its region or scales with a node that reads them as data."""
    for node in [node for node in graph if node.op_type == "Resize"]:
        for index, word in RESIZE_INPUTS.items():
            value = node.inputs[index] if index < len(node.inputs) else None
            if value is None:
                continue
            array = constant(value)
            if array is None:
                raise GraphError(
                    f"the scales of {node.outputs[0].name} are computed while the model runs, "
                    "but fp16 needs them constant; run 'effd0 simplify' first"
                )
            if not _is_scale(value):
                own = add_constant(graph, f"{node.outputs[0].name}_{word}", array)
                node.replace_input_with(index, own)


def _rounded(tensor: Any, name: str) -> Any:
    values = tensor.numpy()
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    lost = np.isinf(half) & np.isfinite(values)
    if lost.any():
        raise GraphError(
            f"{name} holds {values[lost].flat[0]:g}, but float16 ends at {FLOAT16_MAX:.0f}; "
            "leave fp16 out and let 'effd0 compile' choose what stays float32 (--precision-mode)"
        )
    return require("onnx_ir", extra="onnx").tensor(half, name=name)
