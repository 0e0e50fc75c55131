"""
What all edits of a graph share: their description, how one is run, and small steps on nodes.

An edit works on onnx_ir's form of a graph, where a tensor knows which node gives it and which read
it; files and callers keep ONNX's ``ModelProto``.  Patterns of onnxscript's rewriter do not fit: an
edit takes axes as attributes and as inputs, and leaves to other readers what they read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from ..errors import GraphError, require


@dataclass(frozen=True)
class GraphEdit:
    """
    A named change of a graph: what it does, why a compiler likes that, and the function.

    An *exact* edit computes the same real numbers, at most summed or scaled in another order; what
    is left is float32 rounding.  *apply* takes an ``onnx_ir.Graph`` with inferred shapes, whose
    constants are initializers, changes it in place and returns how many places it changed.
    """

    name: str
    apply: Callable[[Any], int]
    explanation: str
    benefit: str
    exact: bool = True

    def run(self, model: Any) -> int:
        """
        Edit *model*, a ``ModelProto``, in place, remove what nothing reads any more; count places.

        Raises `GraphError` for a graph that the edit cannot take; *model* stays as it was.
        """
        onnx, ir = require("onnx", extra="onnx"), require("onnx_ir", extra="onnx")
        passes = require("onnx_ir.passes.common", extra="onnx")
        edited = ir.from_proto(onnx.shape_inference.infer_shapes(model))
        passes.LiftConstantsToInitializersPass(size_limit=0)(edited)
        count = self.apply(edited.graph)
        if count:
            passes.RemoveUnusedNodesPass()(edited)
            model.CopyFrom(ir.to_proto(edited))
        return count


def each(op: str, change: Callable[[Any], Sequence[Any] | None]) -> Callable[[Any], int]:
    """
    Return what replaces the nodes of operator *op* in a graph by those that *change* gives.

    The last new node gives what the old one gave, by its name; None leaves a node as it is.
    """

    def apply(graph: Any) -> int:
        replace = require("onnx_ir", extra="onnx").convenience.replace_nodes_and_values
        count = 0
        for node in [node for node in graph if node.op_type == op]:
            if new := change(node):
                replace(graph, node, [node], new, node.outputs, new[-1].outputs)
                count += 1
        return count

    return apply


def save_graph(model: Any, path: Path) -> None:
    """Check *model* completely, then write it to *path*; raise `GraphError` if it is broken."""
    onnx = require("onnx", extra="onnx")
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GraphError(f"{path.name} would be an invalid graph: {error}") from error
    onnx.save(model, str(path))


def constant(value: Any) -> npt.NDArray[Any] | None:
    """The value of a tensor that is stored in the graph; None for others, and if it may be fed."""
    if value is None or value.is_graph_input():
        return None
    tensor = require("onnx_ir", extra="onnx").convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def add_constant(graph: Any, name: str, array: npt.NDArray[Any]) -> Any:
    """Add *array* to *graph* as an initializer; return its tensor, called *name* where it can."""
    ir = require("onnx_ir", extra="onnx")
    while name in graph.initializers:
        name += "_"
    value = ir.val(name, const_value=ir.tensor(array, name=name))
    graph.register_initializer(value)
    return value


def new_node(op: str, inputs: Sequence[Any], **attributes: Any) -> Any:
    """A node of operator *op* on the tensors *inputs*, in no graph yet."""
    return require("onnx_ir", extra="onnx").node(op, inputs, attributes)


def set_attribute(node: Any, name: str, value: Any) -> None:
    """Give *node* the attribute *name*, whether it had one or not."""
    convert = require("onnx_ir", extra="onnx").convenience.convert_attribute
    node.attributes.add(convert(name, value))


def axes_of(node: Any) -> list[int] | None:
    """The axes of *node*, an attribute or (later opsets) a constant input; None if not known."""
    given = node.attributes.get_ints("axes")
    if given is None and len(node.inputs) > 1 and (values := constant(node.inputs[1])) is not None:
        given = values.reshape(-1).tolist()
    return None if given is None else list(given)


def map_shape(value: Any) -> list[int | None] | None:
    """Shape (N, C, H, W) of a float tensor of rank 4, None for sides not known; None for others."""
    shape, dtype = value.shape, value.dtype
    if shape is None or dtype is None or dtype.name not in ("FLOAT", "FLOAT16"):
        return None
    sides = [side if isinstance(side, int) else None for side in shape]
    return sides if len(sides) == len("NCHW") else None
