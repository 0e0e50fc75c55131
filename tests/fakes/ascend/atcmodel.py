"""
The emulated ``atc`` on an ONNX graph: what it takes, what it makes of it, and how it refuses.

Shapes, gears and names as ATC's manual tells them, with its error codes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnx
from onnx import numpy_helper

from .om import OmTensor

OPSETS = range(11, 18)
#: Operators without a parser: their results' shapes depend on data.
UNPARSED = frozenset({"NonZero", "Loop", "If", "Scan", "Unique", "Compress", "NonMaxSuppression"})


class Refused(Exception):
    """ATC ends with *code* and the message."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def given(options: dict[str, str], key: str) -> str:
    """The value of an option that must be there."""
    value = options.get(key)
    if not value:
        raise Refused("E10054", f"The required parameter [{key}] for ATC is empty.")
    return value


def load(options: dict[str, str]) -> Any:
    """The ONNX model that the options name, checked to be whole."""
    path = Path(given(options, "model"))
    if not path.is_file():
        raise Refused("E13000", f"Path {path} is invalid. Reason: no such file or directory.")
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except Exception as error:
        raise Refused("E10041", f"Failed to load the model from {path}.") from error
    if not model.graph.node:
        raise Refused("E10041", f"Failed to load the model from {path}.")
    return model


def check_nodes(model: Any) -> None:
    """Refuse the first operator for which the parser knows nothing at the model's opset."""
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    for node in model.graph.node:
        if opset not in OPSETS or node.domain not in ("", "ai.onnx") or node.op_type in UNPARSED:
            domain = node.domain or "ai.onnx"
            kind = f"{domain}::{opset}::{node.op_type}"
            raise Refused(
                "E19010", f"No parser is registered for Op [{_title(node)}, optype [{kind}]]."
            )


def _title(node: Any) -> str:
    return str(node.name or f"{node.op_type}_{node.output[0]}").replace(":", "_")


def read_gears(options: dict[str, str]) -> tuple[int, ...]:
    """The dynamic batch sizes, rising; empty for a static batch."""
    text = options.get("dynamic_batch_size")
    if text is None:
        return ()
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise Refused(
            "E10001",
            f"Value {text} for parameter --dynamic_batch_size is invalid. "
            "Reason: Profiles are positive integers separated by commas.",
        )
    gears = [int(word) for word in text.split(",")]
    profiles = "--dynamic_batch_size, --dynamic_image_size, or --dynamic_dims"
    if len(gears) < 2:
        raise Refused("E10035", f"{profiles} has {len(gears)} profiles, which is less than the "
                      "minimum 2.")  # fmt: skip
    if len(gears) > 100:
        raise Refused("E10036", f"{profiles} has {len(gears)} profiles, which is greater than the "
                      "maximum 100.")  # fmt: skip
    if len(set(gears)) < len(gears):
        raise Refused("E10039", f"The {profiles} argument has duplicate profiles.")
    return tuple(sorted(gears))


def read_input(
    model: Any, options: dict[str, str], gears: tuple[int, ...]
) -> tuple[OmTensor, tuple[int, ...]]:
    """The input as the .om declares it, and the network's own shape with its batch set."""
    value = _one_input(model)
    declared = [d.dim_value or -1 for d in value.type.tensor_type.shape.dim]
    asked = _asked_shape(options, value.name, declared, dynamic=bool(gears))
    if gears and (asked[0] != -1 or -1 in asked[1:] or declared[0] != -1):
        raise Refused(
            "E10012",
            "--dynamic_batch_size is included, but the dimension count of the dynamic-shape input "
            "configured in --input_shape is less than 1.",
        )
    for got, wanted in zip(asked, declared, strict=True):
        if wanted not in (-1, got):
            raise Refused(
                "E19999", f"Inner Error! shape of {value.name} is {declared}, but not {asked}."
            )
    if value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        raise Refused("E19999", f"Inner Error! {value.name} is not float32, emulated.")
    batch = gears[-1] if gears else asked[0]
    shape = (batch, *asked[1:])
    _set_batch(value, None if gears else batch)
    dtype = "float32"
    if "input_fp16_nodes" in options:
        if options["input_fp16_nodes"] != value.name:
            _unknown_name(options["input_fp16_nodes"], "input_fp16_nodes")
        if "insert_op_conf" in options:
            raise Refused(
                "E10047", "--input_fp16_nodes and --insert_op_conf are mutually exclusive."
            )
        dtype = "float16"
    if "insert_op_conf" in options:
        n, c, h, w = shape
        return OmTensor(value.name, "uint8", (n, h, w, c)), shape
    return OmTensor(value.name, dtype, shape), shape


def _unknown_name(name: str, option: str) -> NoReturn:
    raise Refused(
        "E10016",
        f"Op name {name} specified in --{option} is not found in the model. Confirm whether this "
        "node name exists, or whether the node is not split with the specified delimiter ';'.",
    )


def _asked_shape(
    options: dict[str, str], name: str, declared: list[int], *, dynamic: bool
) -> list[int]:
    text = options.get("input_shape")
    if text is None:
        if -1 in declared:
            raise Refused(
                "E10001",
                f"Value {declared} for parameter {name} is invalid. "
                "Reason: maybe you should set input_shape to specify its shape.",
            )
        return declared
    given, colon, sides = text.strip('"').rpartition(":")
    if not colon or not re.fullmatch(r"-?\d+(,-?\d+)*", sides):
        raise Refused(
            "E10002",
            f"Value {text} for parameter --input_shape is invalid. Reason: The shape must contain "
            'two parts: name and value. The value must be formatted as "input_name1:n1,c1,h1,w1".',
        )
    if given != name:
        _unknown_name(given, "input_shape")
    shape = [int(side) for side in sides.split(",")]
    if len(shape) != len(declared):
        raise Refused(
            "E10049",
            f"Dimension count {len(shape)} configured in --input_shape does not match dimension "
            f"count {len(declared)} of the node.",
        )
    wrong = [side for side in shape if side < 1 and not (dynamic and side == -1)]
    if wrong:
        raise Refused(
            "E10011",
            f"Value {shape} for parameter --input_shape is invalid. Shape values must be positive "
            f"integers. The error value in the shape is {wrong[0]}.",
        )
    return shape


def _set_batch(value: Any, batch: int | None) -> None:
    side = value.type.tensor_type.shape.dim[0]
    if batch is None:
        side.dim_param = "N"
    else:
        side.dim_value = batch


def read_outputs(
    model: Any, batch: int, options: dict[str, str], *, free: bool
) -> tuple[OmTensor, ...]:
    """The outputs as the .om declares them, with names as ``node:index:name``."""
    shapes = _inferred_shapes(model, batch) or _shapes_of_a_run(model, batch)
    sources = {
        name: f"{_title(node)}:{index}:{name}"
        for node in model.graph.node
        for index, name in enumerate(node.output)
    }
    dtype = "float16" if options.get("output_type") == "FP16" else "float32"
    for value in model.graph.output:
        _set_batch(value, None if free else batch)
    return tuple(
        OmTensor(sources[value.name], dtype, shape)
        for value, shape in zip(model.graph.output, shapes, strict=True)
    )


def _inferred_shapes(model: Any, batch: int) -> list[tuple[int, ...]]:
    """Shapes of the outputs; empty where one depends on what is computed while the model runs."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    _set_batch(_one_input(fixed), batch)
    del fixed.graph.value_info[:]
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph.output
    shapes = [tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in inferred]
    return shapes if all(shape and 0 not in shape for shape in shapes) else []


def _shapes_of_a_run(model: Any, batch: int) -> list[tuple[int, ...]]:
    """Shapes of the outputs where constants must be folded, as ATC does: by running it."""
    import onnxruntime

    value = _one_input(model)
    sides = [d.dim_value for d in value.type.tensor_type.shape.dim]
    image = np.zeros((sides[0] or 1, *sides[1:]), np.float32)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    results = session.run(None, {value.name: image})
    return [(batch, *result.shape[1:]) for result in results]


def _one_input(model: Any) -> Any:
    held = {tensor.name for tensor in model.graph.initializer}
    (value,) = (value for value in model.graph.input if value.name not in held)
    return value


def round_weights(model: Any) -> None:
    """Round every float32 constant to float16, saturated, as float16 weights are held."""
    tensors = list(model.graph.initializer)
    for node in model.graph.node:
        if node.op_type == "Constant":
            tensors += [a.t for a in node.attribute if a.name == "value"]
    most = np.float32(np.finfo(np.float16).max)
    for tensor in tensors:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            clipped = np.clip(numpy_helper.to_array(tensor), -most, most)
            rounded = clipped.astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))
