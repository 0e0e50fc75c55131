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
from .rewrite import add_constant, constant, new_node, set_attribute

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
    branches = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    for node in graph:
        if any(held.type in branches for held in node.attributes.values()):
            raise GraphError(
                f"{node.outputs[0].name} ({node.op_type}) has branches, but fp16 takes "
                "a graph without; run 'effd0 simplify' first"
            )
    _separate_scales(graph)
    count = 0
    for value in graph.initializers.values():
        if value.const_value.dtype == single and not _is_scale(value):
            value.const_value, value.dtype = _rounded(value.const_value, value.name), half
            count += 1
    for node in graph if count else ():
        if node.op_type == "Cast" and node.attributes.get_int("to") == single:
            set_attribute(node, "to", half)
        for value in node.outputs:
            if value.dtype == single and not (value.is_graph_output() or _is_scale(value)):
                value.dtype = half
    if count:
        _cast_borders(graph, single, half)
    return count


def _cast_borders(graph: Any, single: Any, half: Any) -> None:
    """Cast float32 inputs to float16 and outputs back; the names at the borders stay."""
    for value in [v for v in graph.inputs if v.dtype == single and not v.is_initializer()]:
        cast = new_node("Cast", [value], to=half)
        graph.insert_before(graph[0], cast)
        value.replace_all_uses_with(cast.outputs[0])
        cast.replace_input_with(0, value)
    for index, inner in enumerate(graph.outputs):
        if inner.dtype == single and inner.producer() is not None:
            cast = new_node("Cast", [inner], to=single)
            outer, name = cast.outputs[0], inner.name
            outer.type, outer.shape, inner.type, inner.shape = inner.type, inner.shape, None, None
            graph.outputs[index] = outer
            inner.name, outer.name = f"{name}_float16", name
            graph.append(cast)


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
