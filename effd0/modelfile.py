"""What an ONNX file says of itself before it is run: precision, inputs, outputs, origin."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ExportError, GraphError, require
from .graph.base import load_graph
from .spec import ModelSpec


@dataclass(frozen=True)
class ModelFile:
    """
    An ONNX file: the *precision* its weights are stored in, and where it says it comes from.

    *precision* is fp32, fp16, bf16, or int8 where the graph quantises; *batch* is None if free.
    """

    path: Path
    precision: str
    batch: int | None
    origin: dict[str, str]


#: Operators of a graph that computes in whole numbers somewhere.
INT8_OPERATORS = {
    "ConvInteger", "DequantizeLinear", "MatMulInteger", "QLinearConv", "QuantizeLinear",
}  # fmt: skip
#: TensorProto's names of float types -> ours.
_FLOATS = {"FLOAT": "fp32", "FLOAT16": "fp16", "BFLOAT16": "bf16"}


def read_model(path: Path, spec: ModelSpec) -> ModelFile:
    """
    Read the ONNX file *path* and see that it takes images and gives the heads of *spec*.

    Raises `GraphError` for a file that is no valid ONNX model, and `ExportError` for inputs or
    outputs that are not those of an EfficientDet-D0, or that cannot be told apart.
    """
    onnx = require("onnx", extra="onnx")
    model = load_graph(path)
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # the checker's errors and those of shape inference share no base
        first = str(error).strip().partition("\n")[0]
        raise GraphError(f"{path} is an invalid ONNX model: {first}; export it again") from error
    batch = _check_input(path, model, spec)
    _check_outputs(path, model, spec)
    origin = {entry.key: entry.value for entry in model.metadata_props}
    return ModelFile(path, _precision(model, onnx), batch, origin)


def _precision(model: Any, onnx: Any) -> str:
    """What most weights are stored in."""
    graph = model.graph
    if any(node.op_type in INT8_OPERATORS for node in graph.node):
        return "int8"
    kinds: Counter[str] = Counter()
    held = [a.t for n in graph.node if n.op_type == "Constant" for a in n.attribute]
    for tensor in (*graph.initializer, *held):
        kind = onnx.TensorProto.DataType.Name(tensor.data_type)
        if kind in _FLOATS:
            size = 1
            for side in tensor.dims:
                size *= side
            kinds[_FLOATS[kind]] += size
    return kinds.most_common(1)[0][0] if kinds else "fp32"


def _sides(value: Any) -> tuple[int | None, ...]:
    dims = value.type.tensor_type.shape.dim
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in dims)


def _shown(sides: tuple[int | None, ...]) -> str:
    return f"({', '.join('N' if side is None else str(side) for side in sides)})"


def _check_input(path: Path, model: Any, spec: ModelSpec) -> int | None:
    """The batch size; raise `ExportError` unless the one input is for images of *spec*."""
    graph = model.graph
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in stored]
    if len(inputs) != 1:
        raise ExportError(
            f"{path} has the inputs {[value.name for value in inputs]}, "
            "but an EfficientDet-D0 has one; export it with its heads alone"
        )
    sides = _sides(inputs[0])
    wanted = (3, spec.image_size, spec.image_size)
    channels_last = (spec.image_size, spec.image_size, 3)
    if len(sides) != len("NCHW") or not any(
        all(s in (None, w) for s, w in zip(sides[1:], layout, strict=True))
        for layout in (wanted, channels_last)
    ):
        raise ExportError(
            f"input {inputs[0].name} of {path} is {_shown(sides)}, but {_shown((None, *wanted))} "
            f"was wanted; export it for images of {spec.image_size} pixels"
        )
    return sides[0]


def _check_outputs(path: Path, model: Any, spec: ModelSpec) -> None:
    """Raise `ExportError` unless each head of *spec* is an output, told by its name or shape."""
    outputs = {v.name: _sides(v)[1:] for v in model.graph.output}
    if any(None in sides for sides in outputs.values()):
        return  # what is not declared is seen when it is run
    wanted = spec.head_shapes
    shown = {name: _shown(sides) for name, sides in outputs.items()}
    if outputs.keys() == wanted.keys():
        wrong = [name for name in wanted if outputs[name] != wanted[name]]
        if wrong:
            raise ExportError(
                f"output {wrong[0]} of {path} is {shown[wrong[0]]}, but {_shown(wanted[wrong[0]])} "
                f"was wanted: names and shapes do not fit together, all outputs are {shown}; "
                "export it with each head under its own name"
            )
        return
    found = Counter(outputs.values())
    lost = [name for name, shape in wanted.items() if not found[shape]]
    twice = [name for name, shape in wanted.items() if found[shape] > 1]
    if lost or len(outputs) != len(wanted):
        what = f"{lost} are missing" if lost else f"{twice} could each be several outputs"
        if not (lost or twice):
            what = f"{len(outputs)} outputs are there"
        raise ExportError(
            f"the outputs of {path} are not the ten heads of an EfficientDet-D0: {what}; heads are "
            f"known by their name or by their shape, and the outputs are {shown}; export the "
            "network without decoding and NMS"
        )
