"""
A graph that computes in 8 or 16 bits, read as the float32 graph that it stands for.

`in_float32` takes the rounding away: the nodes of the float32 network are left, with the weights
that are stored.  So a rounded graph is compared with its source node by node.  It reads ONNX's
pairs of QuantizeLinear and DequantizeLinear, operators on whole numbers (QLinearConv and ONNX
Runtime's own), ConvInteger behind DynamicQuantizeLinear, and float16.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import GraphError, require
from .onnx_info import FLOATS, Constants, constants

Array = npt.NDArray[Any]
#: Operator on whole numbers -> its float operator, and where its data stand.  Each is followed by
#: its scale and zero point; those of the output are what is left, before a bias.
WHOLE_NUMBERS: Mapping[str, tuple[str, Sequence[int]]] = {
    "QLinearConv": ("Conv", (0, 3)),
    "QLinearMatMul": ("MatMul", (0, 3)),
    "QLinearAdd": ("Add", (0, 3)),
    "QLinearMul": ("Mul", (0, 3)),
    "QLinearSigmoid": ("Sigmoid", (0,)),
    "QLinearLeakyRelu": ("LeakyRelu", (0,)),
    "QLinearAveragePool": ("AveragePool", (0,)),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", (0,)),
    "QLinearConcat": ("Concat", ()),
}
#: Half a step of float16 relative to a value, and where its numbers are no longer normal.
_HALF_STEP, _SMALLEST = 2.0**-11, 2.0**-25
_FLOAT, _FLOAT16 = 1, 10


@dataclass(frozen=True)
class Quantiser:
    """
    How the float tensor called *tensor* becomes whole numbers at *node*: x / scale + zero point.

    *scale* and *zero_point* are (1,), or (C,) along *axis*; *low* and *high* are the ends of the
    whole numbers.
    """

    node: str
    tensor: str
    scale: Array
    zero_point: Array
    axis: int
    low: int
    high: int

    def by_channel(self, values: Array, rank: int) -> Array:
        """*values*, (1,) or (C,), shaped so that they meet a tensor of *rank* along the axis."""
        return values.reshape([-1 if i == self.axis % max(rank, 1) else 1 for i in range(rank)])

    @property
    def ends(self) -> tuple[Array, Array]:
        """The smallest and the largest value that comes back, as (1,) or (C,)."""
        return (self.low - self.zero_point) * self.scale, (self.high - self.zero_point) * self.scale

    def half_step(self, rank: int) -> Array:
        """Half a step, shaped for a tensor of *rank*."""
        return self.by_channel(self.scale / 2, rank)

    def back(self, whole: Array) -> Array:
        """The float32 values of *whole* numbers."""
        zero, scale = (self.by_channel(a, whole.ndim) for a in (self.zero_point, self.scale))
        return ((whole.astype(np.float64) - zero) * scale).astype(np.float32)

    def rounded(self, values: Array) -> Array:
        """What is left of float *values* once they were whole numbers."""
        zero, scale = (self.by_channel(a, values.ndim) for a in (self.zero_point, self.scale))
        return self.back(np.clip(np.rint(values / scale) + zero, self.low, self.high))


@dataclass(frozen=True)
class InFloat32:
    """
    A graph without its rounding, and what that was.

    *model* is a ``ModelProto`` that computes in float32.  *steps* holds, by the name of a weight in
    it, half the step to which it was rounded, by channel.  *pairs* are what quantises a tensor of
    data and what turns it back; *rounded* is whether there was any rounding.
    """

    model: Any
    steps: Constants
    pairs: list[tuple[Quantiser, Quantiser]]

    @property
    def rounded(self) -> bool:
        """Whether anything was rounded."""
        return bool(self.steps or self.pairs)


def in_float32(model: Any) -> InFloat32:
    """
    Take quantisation and float16 away from *model*, a ``ModelProto``, which is not changed.

    Raises `GraphError` where a scale or a zero point is not stored in the file.
    """
    onnx = require("onnx", extra="onnx")
    onnx_infer = require("onnx.shape_inference", extra="onnx").infer_shapes
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    values = constants(copy)
    halves = {name: value for name, value in values.items() if value.dtype == np.float16}
    weights = {name: value.astype(np.float32) for name, value in halves.items()}
    steps = {name: np.maximum(abs(v) * _HALF_STEP, _SMALLEST) for name, v in weights.items()}
    typed = [*copy.graph.input, *onnx_infer(copy).graph.value_info]
    floats = {v.name for v in typed if v.type.tensor_type.elem_type in FLOATS}
    now: dict[str, str] = {}  # a tensor that is gone -> the one that it stands for
    made: dict[str, Quantiser] = {}
    pairs, left = [], []
    for node in _float_nodes(copy, values):
        names, result = list(node.input), node.output[0]
        source = now.get(names[0], names[0]) if names else ""
        cast = node.op_type == "Cast" and names[0] in floats and node.attribute[0].i in FLOATS
        if cast or node.op_type == "DynamicQuantizeLinear":
            now[result] = source
        elif node.op_type == "QuantizeLinear":
            made[result] = one = _quantiser(node, values, source)
            now[result] = source
            if source in values:
                weights[source] = one.rounded(values[source])
                steps[source] = one.half_step(values[source].ndim)
        elif node.op_type == "DequantizeLinear":
            one = _quantiser(node, values, source)
            if names[0] in values:
                weights[result] = one.back(values[names[0]])
                steps[result] = one.half_step(values[names[0]].ndim)
            else:
                now[result] = source
                if names[0] in made and source not in values:
                    pairs.append((made[names[0]], one))
        else:
            node.input[:] = [now.get(name, name) for name in names]
            left.append(node)
    called = _rebuild(copy, left, now, weights)

    def renamed(one: Quantiser) -> Quantiser:
        return replace(one, tensor=called.get(one.tensor, one.tensor))

    return InFloat32(copy, steps, [(renamed(one), renamed(back)) for one, back in pairs])


def _float_nodes(model: Any, values: Constants) -> Iterator[Any]:
    """The nodes of *model*; operators on whole numbers become float ones between pairs."""
    try:
        of_conv, gone = _convolutions(model, values)
    except (KeyError, StopIteration, ValueError) as error:
        raise GraphError(
            "a ConvInteger is not followed by Cast, Mul by both scales and Add, as ONNX Runtime "
            "writes it; quantise the model with ONNX Runtime"
        ) from error
    for node in model.graph.node:
        if node.output[0] in of_conv:
            yield from of_conv[node.output[0]]
        elif node.op_type in WHOLE_NUMBERS:
            yield from _whole_numbers(node, values)
        elif node.output[0] not in gone:
            yield node


def _convolutions(model: Any, values: Constants) -> tuple[dict[str, list[Any]], set[str]]:
    """
    What each ConvInteger is in float, by its output, and the outputs that are gone with it.

    Behind it are a Cast, a Mul by the product of both scales, and the bias as an Add.
    """
    helper = require("onnx.helper", extra="onnx")
    readers: dict[str, list[Any]] = {}
    maker: dict[str, Any] = {}
    for node in model.graph.node:
        maker |= dict.fromkeys(node.output, node)
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found: dict[str, list[Any]] = {}
    gone: set[str] = set()
    for node in model.graph.node:
        if node.op_type != "ConvInteger":
            continue
        (cast,) = readers[node.output[0]]
        (last,) = readers[cast.output[0]]
        scales = maker[next(n for n in last.input if n != cast.output[0])]
        (scale,) = (name for name in scales.input if name in values)
        behind, bias = [cast, last, scales], []
        (add,) = readers[last.output[0]]
        reshape = maker.get(next((n for n in add.input if n != last.output[0]), ""))
        if add.op_type == "Add" and reshape is not None and reshape.op_type == "Reshape":
            behind, last, bias = [*behind, add, reshape], add, [reshape.input[0]]
        gone |= {one.output[0] for one in behind}
        weight = f"{node.input[1]}_of_{node.output[0]}"
        stored = [node.input[1], scale, *node.input[3:4]]
        found[node.output[0]] = [
            helper.make_node("DequantizeLinear", stored, [weight], name=node.name, axis=0),
            _as_float(node, "Conv", [node.input[0], weight, *bias], last.output[0]),
        ]
    return found, gone


def _whole_numbers(node: Any, values: Constants) -> Iterator[Any]:
    """A node of `WHOLE_NUMBERS` as a float one, with what turns its data to float and back."""
    helper = require("onnx.helper", extra="onnx")
    op, places = WHOLE_NUMBERS[node.op_type]
    after = 3 * len(places)
    if op == "Concat":  # scale and zero point of the output come first
        places, after = range(2, len(node.input), 3), 0
    data = [list(node.input[place : place + 3]) for place in places]
    if op == "Conv" and len(node.input) > after + 2:
        bias = node.input[after + 2]
        scale = f"{bias}_scale_of_{node.output[0]}"
        values[scale] = np.ravel(values[node.input[1]] * values[node.input[4]])
        data.append([bias, scale])
    inputs = [f"{names[0]}_of_{node.output[0]}" for names in data]
    for names, name in zip(data, inputs, strict=True):
        yield helper.make_node("DequantizeLinear", names, [name], name=node.name, axis=0)
    result = f"{node.output[0]}_float"
    yield _as_float(node, op, inputs, result)
    ends = [result, *node.input[after : after + 2]]
    yield helper.make_node("QuantizeLinear", ends, node.output, name=node.name)


def _as_float(node: Any, op: str, inputs: list[str], output: str) -> Any:
    helper = require("onnx.helper", extra="onnx")
    made = helper.make_node(op, inputs, [output], name=node.name.removesuffix("_quant"))
    made.attribute.extend(node.attribute)
    return made


def _quantiser(node: Any, values: Constants, tensor: str) -> Quantiser:
    scale, *zero = node.input[1:]
    if lacking := {scale, *filter(None, zero)} - values.keys():
        raise GraphError(
            f"{node.op_type} {node.name} reads {lacking.pop()}, which is computed while the model "
            "runs; a scale and a zero point that are stored in the file were expected"
        )
    whole = values[zero[0]] if zero and zero[0] else np.zeros(1, np.uint8)
    ends = np.iinfo(whole.dtype if whole.dtype.kind in "iu" else np.int32)
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    name = node.name or node.output[0]
    scales, zeros = (np.ravel(a).astype(np.float64) for a in (values[scale], whole))
    return Quantiser(name, tensor, scales, zeros, axis, int(ends.min), int(ends.max))


def _rebuild(
    model: Any, nodes: list[Any], now: Mapping[str, str], weights: Constants
) -> dict[str, str]:
    """Put *nodes* and *weights* into *model*; a tensor that an output stands for takes its name."""
    numpy_helper = require("onnx.numpy_helper", extra="onnx")
    names = {now[out.name]: out.name for out in model.graph.output if out.name in now}
    for node in nodes:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    read = {name for node in nodes for name in node.input}
    old = [t for t in model.graph.initializer if t.name in read and t.name not in weights]
    new = [numpy_helper.from_array(v, name) for name, v in weights.items() if name in read]
    del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
    model.graph.initializer.extend([*old, *new])
    model.graph.node.extend(
        n for n in nodes if n.op_type != "Constant" or n.output[0] not in weights
    )
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type == _FLOAT16:
            value.type.tensor_type.elem_type = _FLOAT
    return names
