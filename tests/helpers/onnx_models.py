"""ONNX graphs that several test modules take, tiny or of a whole D0, and faults planted in them."""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper, parser
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from effd0.spec import ModelSpec

Array = npt.NDArray[Any]

POOL = {"kernel_shape": [3, 3], "strides": [2, 2]}
#: One row above and below, one column left and right.
RING = (0, 0, 1, 1, 0, 0, 1, 1)


def pad_model(
    readers: Sequence[str] = ("MaxPool",),
    *,
    filler: float | None = -np.inf,
    pads: Sequence[int] = RING,
    dtype: Any = np.float32,
    opset: int = 11,
    constants_are: str = "initializers",
    pool: Mapping[str, Any] | None = None,
) -> Any:
    """
    A Pad of a (1, 2, 7, 7) input x, read by each of *readers*: MaxPool, Conv, Relu or output.

    *pool* adds attributes to the MaxPools.  With *constants_are* ``nodes`` the padding comes from
    Constant nodes, as torch writes it; with ``inputs`` it is not constant.
    """
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    values = {"pads": np.array(pads, np.int64), "weight": np.ones((1, 2, 3, 3), dtype)}
    if filler is not None:
        values["filler"] = np.array(filler, dtype)
    tensors = [numpy_helper.from_array(value, name) for name, value in values.items()]
    inputs = [helper.make_tensor_value_info("x", kind, [1, 2, 7, 7])]
    nodes = []
    if constants_are == "nodes":
        nodes = [helper.make_node("Constant", [], [t.name], value=t) for t in tensors]
    elif constants_are == "inputs":
        inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in tensors]
    nodes.append(
        helper.make_node("Pad", ["x", "pads", "filler"][: 2 + (filler is not None)], ["p"])
    )
    outputs = []
    for index, reader in enumerate(readers):
        name = "p" if reader == "output" else f"y{index}"
        attributes = POOL | dict(pool or {}) if reader == "MaxPool" else {}
        if reader != "output":
            weight = ["weight"] if reader == "Conv" else []
            nodes.append(helper.make_node(reader, ["p", *weight], [name], **attributes))
        outputs.append(helper.make_tensor_value_info(name, kind, [f"{name}_{d}" for d in range(4)]))
    kept = tensors if constants_are == "initializers" else []
    graph = helper.make_graph(nodes, "padded", inputs, outputs, kept)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def parsed(graph: str, opset: int = 11) -> Any:
    """Return the checked model of a *graph* in ONNX's own text form."""
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> {graph}'
    model = parser.parse_model(text)
    onnx.checker.check_model(model, full_check=True)
    return model


def halved(model: Any) -> Any:
    """Return *model* with its float32 constants, inputs and outputs as float16."""
    made = copy.deepcopy(model)
    nodes = [node for node in made.graph.node if node.op_type == "Constant"]
    for tensor in (*made.graph.initializer, *(node.attribute[0].t for node in nodes)):
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for value in (*made.graph.input, *made.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return made


def operators(model: Any) -> list[str]:
    """Return the operators of the nodes of *model*."""
    return [node.op_type for node in model.graph.node]


def run(model: Any, x: Array) -> list[Array]:
    """Outputs of *model* for the input *x*, in ONNX Runtime."""
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    outputs: list[Array] = session.run(None, {"x": x})
    return outputs


def identity_model(path: Path, kind: int = TensorProto.FLOAT) -> Path:
    """Write a model that gives its (N, 2) input x0 back as y_x0; return *path*."""
    side = f"{TensorProto.DataType.Name(kind).lower()}[N,2]"
    graph = f"identity ({side} x0) => ({side} y_x0) {{ y_x0 = Identity(x0) }}"
    onnx.save(parsed(graph), str(path))
    return path


def need_own_export(config: pytest.Config) -> None:
    """Skip a test of what effd0 exports where --model puts another file under test."""
    if config.getoption("--model") is not None:
        pytest.skip("--model is given: leave it out to have the checkpoint exported")


def pinned(model: Path, out: Path, batch: int) -> Path:
    """Write the free-batch *model* with its batch size fixed to *batch*; return *out*."""
    content = onnx.load(str(model))
    for value in (*content.graph.input, *content.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    onnx.save(content, str(out))
    return out


def perturbed(model: Path, out: Path, output: str, by: float) -> Path:
    """Write *model* with one weight, a bias of the convolution behind *output*, moved *by*."""
    content = onnx.load(str(model))
    (last,) = [node for node in content.graph.node if output in node.output]
    (bias,) = [t for t in content.graph.initializer if t.name == last.input[2]]
    moved = numpy_helper.to_array(bias).copy()
    moved[0] += by
    bias.CopyFrom(numpy_helper.from_array(moved, bias.name))
    onnx.save(content, str(out))
    return out


def with_swapped_outputs(model: Path, out: Path, one: str, other: str) -> Path:
    """Write *model* with the names of two outputs swapped; return *out*."""
    content = onnx.load(str(model))
    names = {one: other, other: one}
    for node in content.graph.node:
        node.output[:] = [names.get(name, name) for name in node.output]
        node.input[:] = [names.get(name, name) for name in node.input]
    for value in content.graph.output:
        value.name = names.get(value.name, value.name)
    onnx.save(content, str(out))
    return out


def with_foreign_input(model: Any, spec: ModelSpec, *, pixels: bool, last: bool) -> Any:
    """Give *model*, in place, an input of *pixels*, normalised inside, or of planes *last*."""
    graph, (value, *_) = model.graph, model.graph.input
    steps: list[tuple[str, list[str], dict[str, Any]]] = []
    if last:
        steps.append(("Transpose", [], {"perm": [0, 3, 1, 2]}))
        sides = value.type.tensor_type.shape.dim
        for dim, side in zip(sides[1:], (*spec.image_size, 3), strict=True):
            dim.dim_value = side
    if pixels:
        value.type.tensor_type.elem_type = TensorProto.UINT8
        steps.insert(0, ("Cast", [], {"to": TensorProto.FLOAT}))
        for op, of in (("Sub", spec.mean), ("Div", spec.std)):
            constant = 255 * np.reshape(np.array(of, np.float32), (1, 3, 1, 1))
            graph.initializer.append(numpy_helper.from_array(constant, f"own_{op}"))
            steps.append((op, [f"own_{op}"], {}))
    for node in graph.node:
        node.input[:] = [f"own_{len(steps)}" if n == value.name else n for n in node.input]
    for n, (op, more, attributes) in enumerate(steps):
        given = f"own_{n}" if n else value.name
        made = helper.make_node(op, [given, *more], [f"own_{n + 1}"], f"own_{op}", **attributes)
        graph.node.insert(n, made)
    return model


def with_merged_heads(model: Any, spec: ModelSpec) -> Any:
    """Give *model*, in place, one output of all classes and one of all boxes."""
    outputs, widths = model.graph.output, {"labels": spec.num_classes, "offsets": 4}
    names = zip(widths.items(), (spec.class_names, spec.box_names), strict=True)
    for (merged, width), heads in names:
        rows = numpy_helper.from_array(np.array([0, -1, width], np.int64), f"{merged}_rows")
        model.graph.initializer.append(rows)
        for name in heads:
            last, table = f"{name}_last", f"{name}_table"
            model.graph.node.extend(
                [
                    helper.make_node("Transpose", [name], [last], perm=[0, 2, 3, 1]),
                    helper.make_node("Reshape", [last, rows.name], [table]),
                ]
            )
        tables = [f"{name}_table" for name in heads]
        model.graph.node.append(helper.make_node("Concat", tables, [merged], axis=1))
    batch = outputs[0].type.tensor_type.shape.dim[0]
    sides = [batch.dim_param or batch.dim_value, spec.num_anchors]
    del outputs[:]
    for merged, width in widths.items():
        shape = [*sides, width]
        outputs.append(helper.make_tensor_value_info(merged, TensorProto.FLOAT, shape))
    return model


#: Of a model's heads, by name: channels, rows and columns.
Shapes = Mapping[str, tuple[int, ...]]


def head_model(
    shapes: Shapes, size: tuple[int, int] = (128, 128), *, batch: int | None = None
) -> Any:
    """
    Return a model with a head for each of *shapes*, from images of *size*, (rows, columns).

    A head is a 1x1 convolution of the image's means; its weights are named after it.
    """
    rng = np.random.default_rng(0)
    rows = "N" if batch is None else batch
    nodes, tensors, outputs = [], [], []
    for name, (channels, height, width) in shapes.items():
        cell = [size[0] // height, size[1] // width]
        pool: dict[str, Any] = {"kernel_shape": cell, "strides": cell}
        nodes.append(helper.make_node("AveragePool", ["x.1"], [f"{name}_mean"], **pool))
        nodes.append(helper.make_node("Conv", [f"{name}_mean", f"{name}_weight"], [name]))
        weight = rng.standard_normal((channels, 3, 1, 1), np.float32)
        tensors.append(numpy_helper.from_array(weight, f"{name}_weight"))
        sides = [rows, channels, height, width]
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, sides))
    image = helper.make_tensor_value_info("x.1", TensorProto.FLOAT, [rows, 3, *size])
    graph = helper.make_graph(nodes, "heads", [image], outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


# Faults planted in single nodes, each in place, and the same graph renamed.


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


def _weight(position: int, change: Callable[[Array], Array]) -> Callable[[Any, Any], str]:
    """Return a fault: *change* of what a node reads at *position*, its weight 1 or its bias 2."""

    def plant(model: Any, node: Any) -> str:
        change_weight(model, node, position, change)
        return str(node.name)

    return plant


scaled = _weight(1, lambda weight: weight * 1.02)
one_channel = _weight(1, lambda weight: np.concatenate([0 * weight[:1], weight[1:]]))
moved_bias = _weight(2, lambda bias: np.concatenate([bias[:1] + 0.1, bias[1:]]))
rounded = _weight(1, lambda weight: weight.astype(np.float16))


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


def over_batch(model: Any, node: Any) -> str:  # noqa: ARG001  # all faults are called alike
    """A mean is taken over the batch too: what an image gets depends on its neighbours."""
    set_attribute(node, "axes", [0, 2, 3])
    return str(node.name)


def from_row_five(model: Any, node: Any) -> str:
    """What the node gives is a tenth larger for the sixth image of a batch and all behind it."""
    name, graph = node.output[0], model.graph
    values = {"start": [0], "fifth": [5], "end": [1 << 31]}
    tensors = [numpy_helper.from_array(np.array(v, np.int64), k) for k, v in values.items()]
    graph.initializer.extend(
        [*tensors, numpy_helper.from_array(np.array([1.1], np.float32), "tenth")]
    )
    node.output[0] = whole = f"{name}_whole"
    made = [
        helper.make_node("Slice", [whole, "start", "fifth", "start"], ["first_rows"]),
        helper.make_node("Slice", [whole, "fifth", "end", "start"], ["last_rows"]),
        helper.make_node("Mul", ["last_rows", "tenth"], ["scaled_rows"]),
        helper.make_node("Concat", ["first_rows", "scaled_rows"], [name], "joined", axis=0),
    ]
    for place, other in enumerate(made, list(graph.node).index(node) + 1):
        graph.node.insert(place, other)
    return "joined"


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
    for twin, output in zip(copies, outputs, strict=True):
        twin.CopyFrom(output)
    del graph.output[:]
    graph.output.extend(copies)
    return names


# The same small network in 8 and 16 bits.

#: Two levels that share a class head, a pool, a fusion and a gate, as a D0 has them.
SMALL = """
small (float[N,3,32,32] x) => (float[N,6,32,32] class, float[N,4,16,16] box) {
  a = Conv<pads=[1,1,1,1]>(x, wa, ba)
  s = Sigmoid(a)
  m = Mul(a, s)
  b = Conv<pads=[1,1,1,1], group=8>(m, wb, bb)
  f = Add(m, b)
  class = Conv(f, wc, bc)
  p = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[0,0,1,1]>(f)
  box = Conv(p, wd, bd)
}
"""
_SIDES = {"wa": (8, 3, 3, 3), "wb": (8, 1, 3, 3), "wc": (6, 8, 1, 1), "wd": (4, 8, 1, 1)}
#: How onnxruntime.quantization rounds a model.
QUANTISED: Mapping[str, Mapping[str, Any]] = {
    "qdq-per-tensor": {"weight_type": QuantType.QInt8},
    "qdq-per-channel": {"per_channel": True, "weight_type": QuantType.QInt8},
    "qdq-symmetric": {
        "per_channel": True,
        "activation_type": QuantType.QInt8,
        "extra_options": {"ActivationSymmetric": True},
    },
    "qoperator": {"quant_format": QuantFormat.QOperator, "per_channel": True},
}
FORMS = (*QUANTISED, "dynamic", "weights-only", "fp16")


def small_model(seed: int = 0) -> Any:
    """`SMALL` with weights drawn by *seed*, its nodes named after what they give."""
    more = "".join(f", float[{','.join(map(str, s))}] {n}" for n, s in _SIDES.items())
    more += "".join(f", float[{s[0]}] b{n[1]}" for n, s in _SIDES.items())
    model, rng = parsed(SMALL.replace("] x)", f"] x{more})"), 17), np.random.default_rng(seed)
    for name, shape in _SIDES.items():
        size = rng.uniform(0.2, 2, (shape[0], 1, 1, 1)) / np.sqrt(np.prod(shape[1:]))
        values = {name: rng.standard_normal(shape) * size, f"b{name[1]}": rng.normal(size=shape[0])}
        for key, value in values.items():
            model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), key))
    del model.graph.input[1:]
    for node in model.graph.node:
        node.name = f"node_{node.output[0]}"
    return model


def small_images(rows: int = 2, seed: int = 0) -> Array:
    """Noise for `small_model`, (*rows*, 3, 32, 32)."""
    return np.random.default_rng(seed).standard_normal((rows, 3, 32, 32), np.float32)


class _Feed(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """*images*, once, for the input *name*."""

    def __init__(self, name: str, images: Array) -> None:
        self._name, self._rows = name, iter(images[:, None])

    def get_next(self) -> dict[str, Array] | None:
        """The next image, or None."""
        row = next(self._rows, None)
        return None if row is None else {self._name: row}


def quantised(model: Any, form: str, folder: Path, images: Array | None = None) -> Any:
    """Return *model* rounded in one of `FORMS`, calibrated on *images*, by default noise."""
    if form == "fp16":
        return halved(model)
    if form == "weights-only":
        return weights_quantised(model)
    out = folder / f"{form}.onnx"
    if form == "dynamic":
        quantize_dynamic(model, str(out), weight_type=QuantType.QUInt8)
    else:
        given = small_images(8) if images is None else images
        quantize_static(model, str(out), _Feed(model.graph.input[0].name, given), **QUANTISED[form])
    return onnx.load(str(out))


def weights_quantised(model: Any) -> Any:
    """Return *model* with the weights of its convolutions alone in 8 bits, by channel."""
    made = copy.deepcopy(model)
    known = {tensor.name: tensor for tensor in made.graph.initializer}
    for node in [n for n in made.graph.node if n.op_type == "Conv"]:
        name = node.input[1]
        value = numpy_helper.to_array(known[name])
        scale = (np.abs(value).reshape(len(value), -1).max(1) / 127).astype(np.float32)
        whole = np.rint(value / scale[:, None, None, None]).astype(np.int8)
        stored = {f"{name}_scale": scale, f"{name}_zero": np.zeros(len(value), np.int8)}
        known[name].CopyFrom(numpy_helper.from_array(whole, name))
        made.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in stored.items())
        back = helper.make_node("DequantizeLinear", [name, *stored], [f"{name}_float"], axis=0)
        made.graph.node.insert(0, back)
        node.input[1] = f"{name}_float"
    return made


def change_stored(model: Any, name: str, change: Callable[[Array], Array]) -> None:
    """Replace the initializer *name* of *model* by *change* of it, its type as it was."""
    (tensor,) = [t for t in model.graph.initializer if t.name == name]
    before = numpy_helper.to_array(tensor)
    value = np.asarray(change(before.copy())).astype(before.dtype)
    assert not np.array_equal(before, value), f"{name} is as it was: no fault"
    tensor.CopyFrom(numpy_helper.from_array(value, name))
