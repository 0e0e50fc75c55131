"""
What all edits of a graph share: their description, how one is run, and small steps on nodes.

An edit works on onnx_ir's form of a graph, where a tensor knows which node gives it and which read
it; files and callers keep ONNX's ``ModelProto``.
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
    is left is float32 rounding.  *apply* takes an ``onnx_ir.Graph`` with inferred shapes, changes
    it in place and returns how many places it changed.
    """

    name: str
    apply: Callable[[Any], int]
    explanation: str
    benefit: str
    exact: bool = True

    def run(self, model: Any) -> GraphChange:
        """
        Edit *model*, a ``ModelProto``, in place and remove what nothing reads any more.

        Raises `GraphError` for a graph that the edit cannot take; *model* stays as it was.
        """
        onnx, ir = require("onnx", extra="onnx"), require("onnx_ir", extra="onnx")
        edited = ir.from_proto(onnx.shape_inference.infer_shapes(model))
        matches = self.apply(edited.graph)
        if matches:
            require("onnx_ir.passes.common", extra="onnx").RemoveUnusedNodesPass()(edited)
            model.CopyFrom(ir.to_proto(edited))
        return GraphChange(self, matches)


@dataclass(frozen=True)
class GraphChange:
    """What an edit did to a graph."""

    edit: GraphEdit
    matches: int

    def __str__(self) -> str:
        if self.matches == 0:
            return f"{self.edit.name}: nothing to do"
        return f"{self.edit.name}: {self.matches} matches"


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


def make(op: str, inputs: Sequence[Any], **attributes: Any) -> Any:
    """A node of operator *op* on the tensors *inputs*, in no graph yet."""
    return require("onnx_ir", extra="onnx").node(op, inputs, attributes)


def set_attribute(node: Any, name: str, value: Any) -> None:
    """Give *node* the attribute *name*, whether it had one or not."""
    convert = require("onnx_ir", extra="onnx").convenience.convert_attribute
    node.attributes.add(convert(name, value))


def replace(node: Any, *new: Any) -> None:
    """Put the nodes *new* where *node* was; the last one gives what *node* gave, by its name."""
    convenience = require("onnx_ir", extra="onnx").convenience
    convenience.replace_nodes_and_values(
        node.graph, node, [node], new, node.outputs, new[-1].outputs
    )


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
