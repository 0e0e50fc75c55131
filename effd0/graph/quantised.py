"""
A graph that computes in 8 or 16 bits, read as the float32 graph that it stands for.

`in_float32` takes the rounding away: the nodes of the float32 network are left, with the weights
that are stored.  So a rounded graph is compared with its source node by node.  It reads ONNX's
pairs of QuantizeLinear and DequantizeLinear, operators on whole numbers (QLinearConv and ONNX
Runtime's own), ConvInteger behind DynamicQuantizeLinear, and float16.

`given_back` puts the rounding in again, but for chosen nodes, and `with_errors` computes what each
node loses by its own rounding.  Both round by QuantizeLinear and DequantizeLinear around float
operators, so that no kernel on whole numbers of the host has a part in the result.
"""

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import GraphError, require
from .onnx_info import FLOATS, Constants, constants

Array = npt.NDArray[Any]
#: Operator on whole numbers -> its float operator, and where its data stand.  Each is followed by
#: its scale and zero point; those of the output are what is left, before a bias.
WHOLE_NUMBERS: Mapping[str, tuple[str, Sequence[int]]] = {
    f"QLinear{op}": (op, places)
    for ops, places in (
        (("Conv", "MatMul", "Add", "Mul"), (0, 3)), (("Concat",), ()),
        (("Sigmoid", "LeakyRelu", "AveragePool", "GlobalAveragePool"), (0,)),
    )
    for op in ops
}  # fmt: skip
#: Half a step of float16 relative to a value, and where its numbers are no longer normal.
_HALF_STEP, _SMALLEST = 2.0**-11, 2.0**-25
_WHOLE = (np.uint8, np.int8, np.uint16, np.int16)


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

    def back(self, whole: Array) -> Array:
        """The float32 values of *whole* numbers."""
        zero, scale = (self.by_channel(a, whole.ndim) for a in (self.zero_point, self.scale))
        return ((whole.astype(np.float64) - zero) * scale).astype(np.float32)

    def rounded(self, values: Array) -> Array:
        """What is left of float *values* once they were whole numbers."""
        zero, scale = (self.by_channel(a, values.ndim) for a in (self.zero_point, self.scale))
        return self.back(np.clip(np.rint(values / scale) + zero, self.low, self.high))


#: What quantises a tensor and what turns it back; None where the scale is that of the tensor's own
#: range, computed while the model runs.
Pair: TypeAlias = tuple[Quantiser, Quantiser] | None
#: Where a tensor is read: the first output of the node, and the position among its inputs.
Place: TypeAlias = tuple[str, int]
#: The position at which an output of the model reads itself.
_OUTPUT = -1


@dataclass(frozen=True)
class InFloat32:
    """
    A graph without its rounding, and what that was.

    *model* is a ``ModelProto`` that computes in float32.  *steps* holds, by the name of a weight in
    it, half the step to which it was rounded, by channel.  *pairs* are what quantises a tensor of
    data and what turns it back, *reads* which tensor is read through which of them, and where;
    *rounded* is whether there was any rounding.
    """

    model: Any
    steps: Constants
    pairs: list[tuple[Quantiser, Quantiser]]
    reads: Mapping[Place, tuple[str, Pair]] = field(default_factory=dict)

    @property
    def rounded(self) -> bool:
        """Whether anything was rounded."""
        return bool(self.steps or self.pairs)


def in_float32(model: Any) -> InFloat32:
    """
    Take quantisation and float16 away from *model*, a ``ModelProto``, which is not changed.

    Raises `GraphError` where a scale or a zero point is not stored in the file.
    """
    infer_shapes = require("onnx.shape_inference", extra="onnx").infer_shapes
    copy = type(model)()
    copy.CopyFrom(model)
    values = constants(copy)
    weights = {n: v.astype(np.float32) for n, v in values.items() if v.dtype == np.float16}
    steps = {name: np.maximum(abs(v) * _HALF_STEP, _SMALLEST) for name, v in weights.items()}
    typed = [*copy.graph.input, *infer_shapes(copy).graph.value_info]
    floats = {v.name for v in typed if v.type.tensor_type.elem_type in FLOATS}
    now: dict[str, str] = {}  # a tensor that is gone -> the one that it stands for
    made: dict[str, Quantiser] = {}
    through: dict[str, Pair] = {}  # a tensor that is gone -> what rounds it
    reads: dict[Place, tuple[str, Pair]] = {}
    pairs, left = [], []
    for node in _float_nodes(copy, values):
        names, result = list(node.input), node.output[0]
        source = now.get(names[0], names[0]) if names else ""
        cast = node.op_type == "Cast" and names[0] in floats and node.attribute[0].i in FLOATS
        if cast or node.op_type == "DynamicQuantizeLinear":
            now[result] = source
            through |= {} if cast else {result: None}
        elif node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            one, back = _quantiser(node, values, source), node.op_type == "DequantizeLinear"
            stored, kept = (names[0], result) if back else (source, source)
            if stored in values:
                weights[kept] = (one.back if back else one.rounded)(values[stored])
                steps[kept] = one.by_channel(one.scale / 2, values[stored].ndim)
            if not back:
                made[result] = one
            if not (back and stored in values):
                now[result] = source
            if source not in values and (not back or stored in made):
                through[result] = pair = (made[stored], one) if back else (one, one)
                pairs += [pair] if back else []
        else:
            if node.op_type != "Shape":
                reads |= {(result, at): (now[name], through[name])
                          for at, name in enumerate(names) if name in through}  # fmt: skip
            node.input[:] = [now.get(name, name) for name in names]
            left.append(node)
    reads |= {(out.name, _OUTPUT): (now[out.name], through[out.name])
              for out in copy.graph.output if out.name in through}  # fmt: skip
    called = _rebuild(copy, left, now, weights)

    placed = {(called.get(name, name), at): (called.get(tensor, tensor), pair)
              for (name, at), (tensor, pair) in reads.items()}  # fmt: skip
    named = [[replace(one, tensor=called.get(one.tensor, one.tensor)) for one in pair]
             for pair in pairs]  # fmt: skip
    return InFloat32(copy, steps, [(one, back) for one, back in named], placed)


def given_back(
    read: InFloat32, names: Container[str], weights: Mapping[Place, Array] = MappingProxyType({})
) -> Any:
    """
    The ``ModelProto`` that rounds what the build of *read* rounds, but for the nodes in *names*.

    A tensor stays rounded as long as a quantised node outside *names* reads or makes it, as where
    ONNX Runtime leaves nodes out.  *weights*, float32 by place, are what the named nodes read in
    place of those stored.
    """
    model = type(read.model)()
    model.CopyFrom(read.model)
    graph, nodes, reads = model.graph, list(model.graph.node), read.reads
    whole = {node.output[0] for node in nodes if node.name not in names} & _quantised(read)
    rounded = {name for node in nodes if node.output[0] in whole for name in node.output}
    rounded |= {tensor for (own, _), (tensor, _) in reads.items() if own in whole}
    inner = {name: f"{name}_before_rounding" for name in rounded if (name, _OUTPUT) in reads}
    del graph.node[:]
    rounding = _Rounding(graph)
    for node in nodes:
        own = node.output[0]
        for at, name in enumerate(node.input):
            node.input[at] = source = inner.get(name, name)
            if name in rounded and (own, at) in reads:
                node.input[at] = rounding.of(source, reads[own, at][1])
            elif own not in whole and (own, at) in weights:
                node.input[at] = rounding.constant(weights[own, at], f"{own}_{at}_in_float")
        node.output[:] = [inner.get(name, name) for name in node.output]
        graph.node.append(node)
    for name, source in inner.items():
        last = rounding.of(source, reads[name, _OUTPUT][1])
        graph.node.add(op_type="Identity", input=[last], output=[name])
    return model


def with_errors(
    read: InFloat32, weights: Mapping[Place, Array]
) -> tuple[Any, dict[str, tuple[str, str]]]:
    """
    A ``ModelProto`` in float32 that computes what each quantised node of *read* loses by itself.

    Beside a node, a copy of it reads the same float tensors, rounded, and the weights that are
    stored, and its output is rounded.  The dictionary holds, by the first output of the node, the
    names of two scalars: the sum of squares of the difference, and of the float output.
    """
    model = given_back(read, {node.name for node in read.model.graph.node}, weights)
    graph, quantised = model.graph, _quantised(read)
    rounding, sums = _Rounding(graph), {}
    pairs = dict(read.reads.values())
    for node in [node for node in read.model.graph.node if node.output[0] in quantised]:
        name, copy = node.output[0], type(node)()
        copy.CopyFrom(node)
        copy.ClearField("name")
        for at, source in enumerate(node.input):
            if (name, at) in read.reads:
                copy.input[at] = rounding.of(source, read.reads[name, at][1])
        copy.output[:] = [f"{output}_alone" for output in node.output]
        graph.node.append(copy)
        last = rounding.of(copy.output[0], pairs[name]) if name in pairs else copy.output[0]
        difference, sums[name] = f"{name}_difference", (f"{name}_error", f"{name}_size")
        graph.node.add(op_type="Sub", input=[last, name], output=[difference])
        for source, total in zip((difference, name), sums[name], strict=True):
            add = graph.node.add(op_type="ReduceSumSquare", input=[source], output=[total])
            add.attribute.add(name="keepdims", type=2, i=0)
    return model, sums


def _quantised(read: InFloat32) -> set[str]:
    """The first outputs of the nodes that read a rounded tensor or a rounded weight."""
    stored = {n.output[0] for n in read.model.graph.node if read.steps.keys() & set(n.input)}
    return stored | {name for name, at in read.reads if at != _OUTPUT}


@dataclass
class _Rounding:
    """What adds nodes that round, and their constants, to *graph*, each once: *made* are names."""

    graph: Any
    made: set[str] = field(default_factory=set)

    def constant(self, value: Array, name: str) -> str:
        """The name of *value* in the graph."""
        if name not in self.made:
            numpy_helper = require("onnx.numpy_helper", extra="onnx")
            self.graph.initializer.append(numpy_helper.from_array(value, name))
            self.made.add(name)
        return name

    def of(self, name: str, pair: Pair) -> str:
        """The tensor that is left of *name* behind *pair*."""
        result = f"{name}_at_{pair[1].node if pair else 'run'}"
        if result in self.made:
            return result
        self.made.add(result)
        whole, add = f"{result}_whole", self.graph.node.add
        if pair is None:
            own = [whole, f"{result}_scale", f"{result}_zero"]
            add(op_type="DynamicQuantizeLinear", input=[name], output=own)
            add(op_type="DequantizeLinear", input=own, output=[result])
        steps = (("QuantizeLinear", name, whole), ("DequantizeLinear", whole, result))
        for one, (op, source, output) in zip(pair or (), steps, strict=False):
            ends = (one.low, one.high)
            kind = next(k for k in _WHOLE if ends == (np.iinfo(k).min, np.iinfo(k).max))
            shape = one.scale.shape if one.scale.size > 1 else ()
            scale = self.constant(one.scale.reshape(shape).astype(np.float32), f"{output}_scale")
            zero = self.constant(one.zero_point.reshape(shape).astype(kind), f"{output}_zero")
            add(op_type=op, input=[source, scale, zero], output=[output])
        return result


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
    maker = {name: node for node in model.graph.node for name in node.output}
    for name, reader in ((name, node) for node in model.graph.node for name in node.input):
        readers.setdefault(name, []).append(reader)
    found: dict[str, list[Any]] = {}
    gone: set[str] = set()
    for node in [node for node in model.graph.node if node.op_type == "ConvInteger"]:
        (cast,) = readers[node.output[0]]
        (last,) = readers[cast.output[0]]
        scales = maker[next(n for n in last.input if n != cast.output[0])]
        (scale,) = (name for name in scales.input if name in values)
        behind, bias = [cast, last, scales], []
        add = next(iter(readers.get(last.output[0], ())), last)
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
    yield _as_float(node, op, inputs, result := f"{node.output[0]}_float")
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
    single, half, *_ = FLOATS
    for kind in (value.type.tensor_type for value in (*model.graph.input, *model.graph.output)):
        kind.elem_type = single if kind.elem_type == half else kind.elem_type
    return names
