"""
Operators that ONNX Runtime's CPU provider keeps in its blocked layout, in place of others.

It computes convolutions and what stands between them in blocks of channels (NCHWc), and reorders
a tensor before and after each node that it cannot take so: a multiplication by one number, or by
one number a channel.  The same products are written here as nodes that it can.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import require
from .base import GraphEdit, add_constant, constants, map_shapes, replace_nodes

Shape = list[int | None]


def _scale_convs(model: Any) -> int:
    """Replace each product of a feature map and one constant by a depthwise 1x1 convolution."""
    helper = require("onnx.helper", extra="onnx")
    known, shapes = constants(model), map_shapes(model)
    new = {}
    for product, source, factor in _products(model, shapes):
        channels = shapes[source][1]
        if factor not in known or known[factor].size != 1 or channels is None:
            continue
        name = product.output[0]
        weight = np.broadcast_to(known[factor].reshape(()), (channels, 1, 1, 1))
        inputs = [source, add_constant(model, f"{name}_scale", np.ascontiguousarray(weight))]
        sides = {"group": channels, "kernel_shape": [1, 1]}
        new[name] = [helper.make_node("Conv", inputs, [name], name=f"{name}/Conv", **sides)]
    replace_nodes(model, new)
    return len(new)


def _spread_gates(model: Any) -> int:
    """Repeat what is one number a channel over all rows and columns before it multiplies a map."""
    shapes = map_shapes(model)
    new = {}
    for product, source, gate in _products(model, shapes):
        map_shape, gate_shape = shapes[source], shapes.get(gate)
        if gate_shape is None or None in (*map_shape, *gate_shape):
            continue
        if gate_shape != [*map_shape[:2], 1, 1] or map_shape[2:] == [1, 1]:
            continue
        new[product.output[0]] = _spread(model, product, (source, gate), map_shape)
    replace_nodes(model, new)
    return len(new)


def _spread(model: Any, product: Any, factors: tuple[str, str], shape: Shape) -> list[Any]:
    """Nodes that repeat the second of *factors* over the *shape* of the first, and multiply."""
    helper = require("onnx.helper", extra="onnx")
    name = product.output[0]
    values = {
        f"{name}_region": np.empty(0, np.float32),
        f"{name}_repeats": np.array([1, 1, *shape[2:]], np.float32),
    }
    names = [add_constant(model, key, value) for key, value in values.items()]
    (source, gate), wide = factors, f"{name}_gates"
    nearest = {
        "mode": "nearest",
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    }
    return [
        helper.make_node("Resize", [gate, *names], [wide], name=f"{wide}/Resize", **nearest),
        helper.make_node("Mul", [source, wide], [name], name=product.name),
    ]


def _products(model: Any, shapes: dict[str, Shape]) -> Iterator[tuple[Any, str, str]]:
    """Each Mul of a feature map, with the map's name and the factor's, either way round."""
    for node in model.graph.node:
        if node.op_type == "Mul":
            for source, factor in (tuple(node.input), tuple(node.input)[::-1]):
                if source in shapes:
                    yield node, source, factor


EDITS = (
    GraphEdit(
        "scale-convs",
        "turns products of a feature map and one constant into depthwise 1x1 convolutions",
        "ONNX Runtime on a CPU computes them in its blocked layout and adds them in passing",
        exact=True,
        apply=_scale_convs,
    ),
    GraphEdit(
        "spread-gates",
        "repeats what multiplies whole channels over rows and columns (Resize), where sizes are "
        "fixed",
        "ONNX Runtime on a CPU multiplies in its blocked layout; two reorderings less each",
        exact=True,
        apply=_spread_gates,
    ),
)
