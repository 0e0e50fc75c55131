"""
The emulated ``atc``: an ONNX file and options in, an emulated .om out, or a coded refusal.

It is written from ATC's manual (options, values, error codes), not from `effd0.ascend.atc`, and
takes less than the real one: an option that is not emulated is refused as if it were unknown, and
what `effd0.ascend.atc_options` never lets through is an assertion.  It litters its working
directory as ATC does.

Known differences from the real one:

- float16 modes round every weight; the real mixed modes choose operator by operator, so that
  the list of ``--modify_mixlist`` is checked and recorded, but changes nothing here.
- ``force_fp32`` computes in float32; the real one feeds matrix units float16 where it can.
- An unmodified float32 convolution is taken for every chip; 310-class chips have none.

``EFFD0_FAKE_ATC=suffix-linux`` adds the host's system and processor to the name of the .om.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from .aipp import InvalidAipp, read_aipp
from .om import OmModel, OmTensor, write_om

START = "ATC start working now, please wait for a moment."
SUCCESS = "ATC run success, welcome to the next use."
FAILURE = "ATC run failed, Please check the detail log, Try 'atc --help' for more information"
FAILED = 255  # -1, as a shell sees it

OPTIONS = frozenset(
    """
    framework model output input_format input_shape dynamic_batch_size log soc_version
    precision_mode precision_mode_v2 modify_mixlist insert_op_conf output_type input_fp16_nodes
    """.split()  # noqa: SIM905  # a list of names
)
#: Precision mode -> how the network computes; None is emulated on no chip.
MODES: dict[str, str | None] = {
    **dict.fromkeys(("force_fp16", "allow_mix_precision", "allow_mix_precision_fp16"), "fp16"),
    **dict.fromkeys(("allow_fp32_to_fp16", "fp16", "mixed_float16"), "fp16"),
    **dict.fromkeys(("force_fp32", "cube_fp16in_fp32out", "must_keep_origin_dtype"), "fp32"),
    "origin": "fp32",
    **dict.fromkeys(("allow_mix_precision_bf16", "allow_fp32_to_bf16"), None),
    **dict.fromkeys(("mixed_bfloat16", "mixed_hif8", "cube_hif8"), None),
}
MIXED = frozenset({"allow_mix_precision", "allow_mix_precision_fp16", "mixed_float16"})
SOC = r"Ascend(310(B[1-4]|P[1-7])?|910(A|B|Pro[AB]|B[1-4](-1)?|B2C)?|910_93\d\d|950(PR|DT)_\d+)"
OPSETS = range(11, 18)
#: Operators without a parser: their results' shapes depend on data.
UNPARSED = frozenset({"NonZero", "Loop", "If", "Scan", "Unique", "Compress", "NonMaxSuppression"})

Options = dict[str, str]


class Refused(Exception):
    """ATC ends with *code* and the message."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def main(arguments: Sequence[str]) -> int:
    """Run the emulated ``atc`` with *arguments*; print what ATC prints, return its exit code."""
    options: Options = {}
    words = list(arguments)
    while words:
        # As ATC's flag parser: ``--key=value`` or ``--key value``.
        match = re.fullmatch(r"--?(\w+)(?:=(.*))?", words.pop(0), re.DOTALL)
        if match is None or match[1] not in OPTIONS:
            _say(f"ERROR: unknown command line flag '{match[1] if match else '?'}'")
            return 1
        options[match[1]] = match[2] if match[2] is not None else words.pop(0)
    _say(START)
    try:
        om = _compile(options, ("atc", *arguments))
    except Refused as refusal:
        _say(FAILURE)
        _say(f"{refusal.code}: {refusal}")
        return FAILED
    output = Path(options["output"])
    odd = os.environ.get("EFFD0_FAKE_ATC", "")
    assert odd in ("", "suffix-linux"), odd
    suffix = "_linux_aarch64.om" if odd else ".om"
    write_om(om, output.with_name(output.name + suffix))
    _say(SUCCESS)
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def _compile(options: Options, command: tuple[str, ...]) -> OmModel:
    precision = _check_options(options)
    model = onnx.load(options["model"])
    onnx.checker.check_model(model)
    Path("kernel_meta").mkdir(exist_ok=True)
    Path("fusion_result.json").write_text("[]\n")
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    for node in model.graph.node:
        if opset not in OPSETS or node.domain not in ("", "ai.onnx") or node.op_type in UNPARSED:
            kind = f"{node.domain or 'ai.onnx'}::{opset}::{node.op_type}"
            text = f"No parser is registered for Op [{_title(node)}, optype [{kind}]]."
            raise Refused("E19010", text)
    gears = tuple(int(gear) for gear in options.get("dynamic_batch_size", "").split(",") if gear)
    source, shape = _input(model, options, gears)
    aipp = _aipp(options, shape)
    outputs = _outputs(model, shape[0], options, free=bool(gears))
    if precision == "fp16":
        _round_weights(model)
    soc, content = options["soc_version"], model.SerializeToString()
    return OmModel(content, (source,), outputs, soc, precision, gears, aipp, command)


def _title(node: Any) -> str:
    return str(node.name or f"{node.op_type}_{node.output[0]}").replace(":", "_")


def _check_options(options: Options) -> str:
    """Check what can be checked without the model; return how the network computes."""
    assert options["framework"] == "5"
    assert options["input_format"] == "NCHW"
    assert not {"precision_mode", "precision_mode_v2"} <= options.keys()
    assert Path(options["output"]).parent.is_dir()
    if not re.fullmatch(SOC, options["soc_version"]):
        text = f"Value {options['soc_version']} for parameter --soc_version is invalid. Reason:"
        raise Refused("E10001", f"{text} The current value is not within the valid range.")
    mode = options.get("precision_mode", options.get("precision_mode_v2", "force_fp16"))
    precision = MODES[mode]
    if precision is None:
        raise Refused("E10055", f"The operation is not supported. Reason: {mode} on this chip")
    if "modify_mixlist" in options:
        assert mode in MIXED
        _check_mixlist(options["modify_mixlist"])
    return precision


def _check_mixlist(name: str) -> None:
    try:
        for key, changes in json.loads(Path(name).read_text()).items():
            types = [kind for kinds in changes.values() for kind in kinds]
            if (
                key not in ("black-list", "white-list", "gray-list")
                or not changes.keys() <= {"to-add", "to-remove"}
                or not all(re.fullmatch(r"[A-Z]\w*", kind) for kind in types)
            ):
                raise TypeError(f"unknown key or operator type below {key}")
    except (ValueError, TypeError, AttributeError) as error:
        raise Refused("E10032", f"Failed to parse JSON file {name}. Reason: {error}.") from error


def _aipp(options: Options, shape: tuple[int, ...]) -> dict[str, Any] | None:
    name = options.get("insert_op_conf")
    if name is None:
        return None
    try:
        aipp = read_aipp(Path(name).read_text())
        size = (aipp["src_image_size_h"], aipp["src_image_size_w"])
        if shape[1] != 3 or size not in ((0, 0), shape[2:]):
            raise InvalidAipp(f"{size} pixels do not become {shape}")
    except InvalidAipp as error:
        raise Refused("E10052", f"AIPP configuration is invalid. Reason: {error}.") from error
    return aipp


def _input(
    model: Any, options: Options, gears: tuple[int, ...]
) -> tuple[OmTensor, tuple[int, ...]]:
    """The input as the .om declares it, and the network's own shape with its batch set."""
    value = _one_input(model)
    declared = [d.dim_value or -1 for d in value.type.tensor_type.shape.dim]
    given, _, sides = options["input_shape"].rpartition(":")
    if given != value.name:
        text = f"Op name {given} specified in --input_shape is not found in the model."
        raise Refused("E10016", f"{text} Confirm whether this node name exists.")
    asked = [int(side) for side in sides.split(",")]
    if gears and (asked[0] != -1 or -1 in asked[1:] or declared[0] != -1):
        text = "the dimension count of the dynamic-shape input configured in --input_shape"
        raise Refused("E10012", f"--dynamic_batch_size is included, but {text} is less than 1.")
    if not gears and min(asked) < 1:
        text = f"Value {asked} for parameter --input_shape is invalid. Shape values must be"
        raise Refused("E10011", f"{text} positive. The error value in the shape is {min(asked)}.")
    if any(wanted not in (-1, got) for got, wanted in zip(asked, declared, strict=True)):
        text = f"Inner Error! shape of {value.name} is {declared}, but not {asked}."
        raise Refused("E19999", text)
    shape = (gears[-1] if gears else asked[0], *asked[1:])
    _set_batch(value, None if gears else shape[0])
    if "insert_op_conf" in options:
        return OmTensor(value.name, "uint8", (shape[0], *shape[2:], shape[1])), shape
    half = options.get("input_fp16_nodes")
    assert half in (None, value.name)
    return OmTensor(value.name, "float16" if half else "float32", shape), shape


def _set_batch(value: Any, batch: int | None) -> None:
    side = value.type.tensor_type.shape.dim[0]
    if batch is None:
        side.dim_param = "N"
    else:
        side.dim_value = batch


def _one_input(model: Any) -> Any:
    held = {tensor.name for tensor in model.graph.initializer}
    (value,) = (value for value in model.graph.input if value.name not in held)
    return value


def _outputs(model: Any, batch: int, options: Options, *, free: bool) -> tuple[OmTensor, ...]:
    """The outputs as the .om declares them, with names as ``node:index:name``."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    _set_batch(_one_input(fixed), batch)
    del fixed.graph.value_info[:]
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph.output
    shapes = [tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in inferred]
    if not all(shape and 0 not in shape for shape in shapes):
        shapes = _shapes_of_a_run(model, batch)
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


def _shapes_of_a_run(model: Any, batch: int) -> list[tuple[int, ...]]:
    """Shapes of the outputs where constants must be folded, as ATC does: by running it."""
    import onnxruntime

    value = _one_input(model)
    sides = [d.dim_value for d in value.type.tensor_type.shape.dim]
    image = np.zeros((sides[0] or 1, *sides[1:]), np.float32)
    content, providers = model.SerializeToString(), ["CPUExecutionProvider"]
    results = onnxruntime.InferenceSession(content, providers=providers).run(
        None, {value.name: image}
    )
    return [(batch, *result.shape[1:]) for result in results]


def _round_weights(model: Any) -> None:
    """Round every float32 constant to float16, saturated, as float16 weights are kept."""
    constants = [node for node in model.graph.node if node.op_type == "Constant"]
    values = [a.t for node in constants for a in node.attribute if a.name == "value"]
    most = np.float32(np.finfo(np.float16).max)
    for tensor in (*model.graph.initializer, *values):
        if tensor.data_type == onnx.TensorProto.FLOAT:
            clipped = np.clip(numpy_helper.to_array(tensor), -most, most)
            rounded = clipped.astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))
