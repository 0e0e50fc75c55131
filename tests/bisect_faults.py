"""Faults planted in single nodes of an ONNX graph, each in place, and the same graph renamed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import helper, numpy_helper

Array = npt.NDArray[Any]


def nodes_of(model: Any, op: str) -> list[Any]:
    """The nodes of *model* of operator *op*, in their order."""
    return [node for node in model.graph.node if node.op_type == op]


def change_weight(model: Any, node: Any, position: int, change: Callable[[Array], Array]) -> None:
    """Replace the initializer that *node* alone reads at *position* by *change* of it."""
    (tensor,) = [t for t in model.graph.initializer if t.name == node.input[position]]
    before = numpy_helper.to_array(tensor)
    value = change(before.copy()).astype(np.float32)
    assert not np.array_equal(before, value), f"{tensor.name} is as it was: no fault"
    own = f"{tensor.name}_of_{node.output[0]}"
    model.graph.initializer.append(numpy_helper.from_array(value, own))
    node.input[position] = own


def set_attribute(node: Any, name: str, value: Any) -> None:
    """Give *node* the attribute *name*, whether it had one or not."""
    for attribute in [a for a in node.attribute if a.name == name]:
        node.attribute.remove(attribute)
    node.attribute.append(helper.make_attribute(name, value))


def scaled(model: Any, node: Any) -> str:
    """All weights are 2 % too large."""
    change_weight(model, node, 1, lambda w: w * 1.02)
    return str(node.name)


def one_channel(model: Any, node: Any) -> str:
    """The weights of one output channel are gone."""

    def change(weight: Array) -> Array:
        weight[0] = 0
        return weight

    change_weight(model, node, 1, change)
    return str(node.name)


def moved_bias(model: Any, node: Any) -> str:
    """One value of the bias is moved by 0.1."""

    def change(bias: Array) -> Array:
        bias[0] += 0.1
        return bias

    change_weight(model, node, 2, change)
    return str(node.name)


def rounded(model: Any, node: Any) -> str:
    """The weights are rounded to float16."""
    change_weight(model, node, 1, lambda w: w.astype(np.float16))
    return str(node.name)


def left_out(model: Any, node: Any) -> str:
    """The node is removed: who read it reads what it read.  The first of those is to be named."""
    readers = [other for other in model.graph.node if node.output[0] in other.input]
    for reader in readers:
        reader.input[:] = [node.input[0] if n == node.output[0] else n for n in reader.input]
    model.graph.node.remove(node)
    return str(readers[0].name)


def linear(model: Any, node: Any) -> str:  # noqa: ARG001  # all faults are called alike
    """A Resize interpolates."""
    set_attribute(node, "mode", "linear")
    return str(node.name)


def other_corner(model: Any, node: Any) -> str:  # noqa: ARG001  # all faults are called alike
    """The padding of a MaxPool is at the other side."""
    (pads,) = [list(a.ints) for a in node.attribute if a.name == "pads"]
    set_attribute(node, "pads", pads[2:] + pads[:2])
    return str(node.name)


def swapped_edges(model: Any, node: Any) -> str:
    """The first two tensors that a fusion of the BiFPN joins are swapped before their weighing."""
    maker = {out: other for other in model.graph.node for out in other.output}
    one, other = (maker[name] for name in node.input[:2])
    while "Mul" not in (one.op_type, other.op_type):
        one, other = maker[one.input[0]], maker[other.input[0]]
    one.input[0], other.input[0] = other.input[0], one.input[0]
    order = [n.name for n in model.graph.node]
    return str(min(one.name, other.name, key=order.index))


#: Fault -> the operator whose nodes it is planted in.
FAULTS: dict[str, tuple[str, Callable[[Any, Any], str]]] = {
    "weights-scaled": ("Conv", scaled),
    "one-channel-gone": ("Conv", one_channel),
    "bias-moved": ("Conv", moved_bias),
    "weights-rounded-to-float16": ("Conv", rounded),
    "sigmoid-left-out": ("Sigmoid", left_out),
    "resize-mode": ("Resize", linear),
    "maxpool-padding": ("MaxPool", other_corner),
    "bifpn-edges-swapped": ("Concat", swapped_edges),
}


def renamed(model: Any, seed: int = 0) -> dict[str, str]:
    """Give each tensor and node of *model* a new name and its outputs another order; old -> new."""
    graph = model.graph
    rng = np.random.default_rng(seed)
    tensors = [t.name for t in graph.initializer] + [v.name for v in graph.input]
    tensors += [name for node in graph.node for name in node.output]
    numbers = rng.permutation(len(tensors))
    new = {old: f"t{number}" for old, number in zip(tensors, numbers, strict=True)}
    del graph.value_info[:]
    for value in (*graph.initializer, *graph.input, *graph.output):
        value.name = new[value.name]
    names = {}
    for index, node in enumerate(graph.node):
        names[node.name] = f"n{len(graph.node) - index}"
        node.name = names[node.name]
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new[name] for name in node.output]
    outputs = [graph.output[i] for i in rng.permutation(len(graph.output))]
    copies = [helper.make_tensor_value_info("", 1, []) for _ in outputs]
    for copy, output in zip(copies, outputs, strict=True):
        copy.CopyFrom(output)
    del graph.output[:]
    graph.output.extend(copies)
    return names


def halved_sides(model: Any) -> Any:
    """Let a simplified D0 take pictures of half its sides; return *model*."""
    sides = [v.type.tensor_type.shape.dim[2:] for v in (*model.graph.input, *model.graph.output)]
    for side in (side for pair in sides for side in pair):
        side.dim_value //= 2
    sizes = {node.input[3] for node in nodes_of(model, "Resize")}
    for tensor in [t for t in model.graph.initializer if t.name in sizes]:
        value = numpy_helper.to_array(tensor).copy()
        value[2:] //= 2
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    del model.graph.value_info[:]
    return model
