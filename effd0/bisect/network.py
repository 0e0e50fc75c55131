"""
An ONNX graph as what it computes from images: its data nodes, and the constants that they read.

Whatever does not depend on the values of an input is a constant here, be it stored or computed
(the sides of a padding, from Shape): so a raw and a simplified export look alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import GraphError, require
from ..graph.onnx_info import constants
from ..runners.base import TensorInfo

#: What they give depends on the shape of their input, not on its values.
_SHAPES_ONLY = ("Shape", "Size")
#: What they read may stand in any order.
COMMUTATIVE = ("Add", "Mul", "Max", "Min", "Sum", "Mean")


@dataclass(frozen=True)
class Node:
    """
    One computation on data.

    *data* names the tensors that it reads and that depend on the images, *constants* its other
    inputs by position.
    """

    index: int
    name: str
    op: str
    data: tuple[str, ...]
    constants: Mapping[int, str]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    @property
    def output(self) -> str:
        """The tensor that stands for the node: its first output."""
        return self.outputs[0]


@dataclass(frozen=True)
class Network:
    """A ``ModelProto`` and its data nodes in topological order; *values* are its constants."""

    model: Any
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    values: dict[str, npt.NDArray[Any]]
    computed: tuple[str, ...]

    @property
    def producer(self) -> dict[str, Node]:
        """The data node that gives each tensor."""
        return {name: node for node in self.nodes for name in node.outputs}


def network_of(model: Any) -> Network:
    """
    Return the data nodes of *model*; the values of *computed* constants are still to be measured.

    Raises `GraphError` for a model without an input for images.
    """
    values = constants(model)
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(_info(value) for value in model.graph.input if value.name not in stored)
    if not inputs:
        raise GraphError("the model has no input, but images are to be fed; export it again")
    data, nodes = {info.name for info in inputs}, []
    for index, node in enumerate(model.graph.node):
        if node.op_type in _SHAPES_ONLY or not data & set(node.input):
            continue
        nodes.append(_node(index, node, data))
        data |= set(nodes[-1].outputs)
    read = dict.fromkeys(name for node in nodes for name in node.constants.values())
    computed = tuple(name for name in read if name not in values)
    outputs = tuple(output.name for output in model.graph.output)
    return Network(model, inputs, outputs, tuple(nodes), values, computed)


def _node(index: int, node: Any, data: set[str]) -> Node:
    helper, given = require("onnx.helper", extra="onnx"), dict(_given(node))
    return Node(
        index,
        node.name or f"{node.op_type} #{index}",
        node.op_type,
        tuple(name for name in given.values() if name in data),
        {position: name for position, name in given.items() if name not in data},
        tuple(name for name in node.output if name),
        {a.name: helper.get_attribute_value(a) for a in node.attribute},
    )


def _given(node: Any) -> Iterator[tuple[int, str]]:
    """Position and name of each input of *node* that is not left out."""
    return ((position, name) for position, name in enumerate(node.input) if name)


def _info(value: Any) -> TensorInfo:
    helper = require("onnx.helper", extra="onnx")
    kind = value.type.tensor_type
    sides = tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)
    return TensorInfo(value.name, sides, np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)))
