"""
What every edit of a graph shares: its description, files, and small questions about nodes.

A graph is an ONNX ``ModelProto``.  Edits change it in place; `GraphEdit.run` clears up behind them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from ..errors import GraphError, require

Constants = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class GraphEdit:
    """
    A named change of a graph: what it does, why a compiler likes that, and the function.

    An *exact* edit computes the same real numbers, at most summed or scaled in another order; what
    is left is float32 rounding.  *apply* returns how many places it changed.
    """

    name: str
    explanation: str
    benefit: str
    exact: bool
    apply: Callable[[Any], int]

    def run(self, model: Any) -> GraphChange:
        """Edit *model* in place and remove what nothing reads any more; raise `GraphError`."""
        matches = self.apply(model)
        if matches:
            prune(model)
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


def load_graph(path: Path) -> Any:
    """Read an ONNX file as a ``ModelProto``; raise `GraphError` if it is none."""
    onnx = require("onnx", extra="onnx")
    if not path.is_file():
        raise GraphError(f"{path} does not exist; make it with 'effd0 export'")
    try:
        model = onnx.load(str(path))
    except Exception as error:  # protobuf's DecodeError has no stable place to import it from
        raise GraphError(
            f"{path} is not an ONNX file, or not all of one: {error}; copy it again, or make it "
            "with 'effd0 export'"
        ) from error
    if not model.graph.node:
        raise GraphError(
            f"{path} is not an ONNX model: its graph has no node; make it with 'effd0 export'"
        )
    return model


def save_graph(model: Any, path: Path) -> None:
    """Check *model* completely, then write it to *path*; raise `GraphError` if it is broken."""
    onnx = require("onnx", extra="onnx")
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GraphError(f"{path.name} would be an invalid graph: {error}") from error
    onnx.save(model, str(path))


def constants(model: Any) -> Constants:
    """Values of the initializers and Constant nodes, by name."""
    numpy_helper = require("onnx.numpy_helper", extra="onnx")
    given = {value.name for value in model.graph.input}  # may be fed, so not constant
    tensors = [tensor for tensor in model.graph.initializer if tensor.name not in given]
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in tensors}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found


def add_constant(model: Any, name: str, value: npt.NDArray[Any]) -> str:
    """Add *value* to *model* as an initializer; return its name, *name*."""
    numpy_helper = require("onnx.numpy_helper", extra="onnx")
    model.graph.initializer.append(numpy_helper.from_array(value, name))
    return name


def producers(model: Any) -> dict[str, Any]:
    """The node that gives each tensor."""
    return {name: node for node in model.graph.node for name in node.output}


def attributes(node: Any) -> dict[str, Any]:
    """Attributes of *node* as Python values, by name."""
    helper = require("onnx.helper", extra="onnx")
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def optional_input(node: Any, index: int) -> str:
    """The name of an input that may be left out; empty where it is."""
    return node.input[index] if index < len(node.input) else ""


def axes_of(node: Any, known: Constants) -> list[int] | None:
    """The axes of *node*, an attribute or (later opsets) a constant input; None if not known."""
    given = attributes(node).get("axes")
    if given is not None:
        return list(given)
    name = optional_input(node, 1)
    return known[name].reshape(-1).tolist() if name in known else None


def feature_maps(model: Any) -> set[str]:
    """Names of the tensors known to be float of rank 4: rows of channels of maps."""
    return set(map_shapes(model))


def map_shapes(model: Any) -> dict[str, list[int | None]]:
    """Shapes of the `feature_maps`, by name; None is a side that is not known."""
    onnx = require("onnx", extra="onnx")
    kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    graph = onnx.shape_inference.infer_shapes(model).graph
    shapes = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        sides = value.type.tensor_type.shape.dim
        if value.type.tensor_type.elem_type in kinds and len(sides) == 4:  # noqa: PLR2004  # N, C, H, W
            shapes[value.name] = [
                side.dim_value if side.HasField("dim_value") else None for side in sides
            ]
    return shapes


def replace_nodes(model: Any, new: dict[str, list[Any]]) -> None:
    """Put the nodes ``new[name]`` where the one that gives *name* was, behind what they read."""
    set_nodes(model, [n for old in model.graph.node for n in new.get(old.output[0], [old])])


def prune(model: Any) -> None:
    """Remove nodes, initializers and notes on shapes that no output of *model* depends on."""
    graph = model.graph
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed |= _reads(node)
    set_nodes(model, kept[::-1])
    for values in (graph.initializer, graph.value_info):
        for value in [value for value in values if value.name not in needed]:
            values.remove(value)


def set_nodes(model: Any, nodes: list[Any]) -> None:
    """Let *nodes*, in order, be all nodes of *model*."""
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _reads(node: Any) -> set[str]:
    """All that *node* reads, by its branches (If, Loop) too."""
    names = set(node.input)
    for attribute in node.attribute:
        for branch in (attribute.g, *attribute.graphs):
            names |= {output.name for output in branch.output}
            names = names.union(*(_reads(inner) for inner in branch.node))
    return names
