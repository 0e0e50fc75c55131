"""
The emulated ``atc``: an ONNX file and options in, an emulated .om out, or a coded refusal.

It is written from ATC's manual (options, values, error codes), not from `effd0.ascend.atc`, and
takes less than the real one: an option that is not emulated is refused as if it were unknown.  It
litters its working directory as ATC does.

Known differences from the real one:

- float16 modes round every weight; the real mixed modes choose operator by operator, so that
  the list of ``--modify_mixlist`` is checked and recorded, but changes nothing here.
- ``force_fp32`` computes in float32; the real one feeds matrix units float16 where it can.
- An unmodified float32 convolution is taken for every chip; 310-class chips have none.
- A refusal that the manual gives no code for comes as E19999.

``EFFD0_FAKE_ATC`` names one of `MISBEHAVIOURS`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
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

MISBEHAVIOURS = {
    "suffix-linux": "the host's system and processor are added to the name",
    "kernel-missing": "the operator package of the chip is not installed; much log comes first",
    "killed": "the kernel kills it for memory after half of the model is written",
    "hang": "half of the model is written, then nothing happens any more",
}
OPTIONS = frozenset(
    """
    framework model output input_format input_shape dynamic_batch_size log soc_version
    precision_mode precision_mode_v2 modify_mixlist insert_op_conf output_type input_fp16_nodes
    """.split()  # noqa: SIM905  # a list of names
)
#: Option -> precision mode -> how the network computes; None is emulated on no chip.
MODES: dict[str, dict[str, str | None]] = {
    "precision_mode": {
        **dict.fromkeys(("force_fp16", "allow_mix_precision"), "fp16"),
        **dict.fromkeys(("allow_mix_precision_fp16", "allow_fp32_to_fp16"), "fp16"),
        **dict.fromkeys(("force_fp32", "cube_fp16in_fp32out", "must_keep_origin_dtype"), "fp32"),
        **dict.fromkeys(("allow_mix_precision_bf16", "allow_fp32_to_bf16"), None),
    },
    "precision_mode_v2": {
        **dict.fromkeys(("fp16", "mixed_float16"), "fp16"),
        **dict.fromkeys(("origin", "cube_fp16in_fp32out"), "fp32"),
        **dict.fromkeys(("mixed_bfloat16", "mixed_hif8", "cube_hif8"), None),
    },
}
MIXED = frozenset({"allow_mix_precision", "allow_mix_precision_fp16", "mixed_float16"})
SOC = r"Ascend(310(B[1-4]|P[1-7])?|910(A|B|Pro[AB]|B[1-4](-1)?|B2C)?|910_93\d\d|950(PR|DT)_\d+)"
CHOICES = {
    "input_format": "NCHW|ND",
    "log": "debug|info|warning|error|null",
    "output_type": "FP32|FP16",
    "soc_version": SOC,
    **{option: "|".join(modes) for option, modes in MODES.items()},
}
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
    odd = os.environ.get("EFFD0_FAKE_ATC", "")
    if odd not in {"", *MISBEHAVIOURS}:
        raise ValueError(f"EFFD0_FAKE_ATC is {odd}, but must be one of {list(MISBEHAVIOURS)}")
    options: Options = {}
    words = list(arguments)
    while words:
        # As ATC's flag parser: ``--key=value`` or ``--key value``.
        match = re.fullmatch(r"--?(\w+)(?:=(.*))?", words.pop(0), re.DOTALL)
        if match is None or match[1] not in OPTIONS:
            _say(f"ERROR: unknown command line flag '{match[1] if match else '?'}'")
            return 1
        options[match[1]] = match[2] if match[2] is not None else words.pop(0) if words else ""
    _say(START)
    try:
        om = _compile(options, ("atc", *arguments), odd)
    except Refused as refusal:
        _say(FAILURE)
        _say(f"{refusal.code}: {refusal}")
        return FAILED
    output = Path(options["output"])
    suffix = "_linux_aarch64.om" if odd == "suffix-linux" else ".om"
    path = output.with_name(output.name + suffix)
    if odd in ("killed", "hang"):
        path.write_bytes(b"IMOD half")
        sys.stdout.flush()
        while odd == "hang":
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)
    write_om(om, path)
    _say(SUCCESS)
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def _compile(options: Options, command: tuple[str, ...], odd: str) -> OmModel:
    precision = _check_options(options)
    path = Path(options["model"])
    if not path.is_file():
        raise Refused("E13000", f"Path {path} is invalid. Reason: no such file or directory.")
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except Exception as error:
        raise Refused("E10041", f"Failed to load the model from {path}.") from error
    if not model.graph.node:
        raise Refused("E10041", f"Failed to load the model from {path}.")
    Path("kernel_meta").mkdir(exist_ok=True)
    Path("fusion_result.json").write_text("[]\n")
    if odd == "kernel-missing":
        for number in range(20_000):
            _say(f"[DEBUG] GE(1,atc):2026-11-23 ... [op.cc:{number}] value E10001 is no error here")
        _say("[ERROR] GE: No supported Ops kernel and engine are found for Conv_0, optype [Conv2D]")
        raise Refused("EZ9999", "Inner Error!")
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    for node in model.graph.node:
        if opset not in OPSETS or node.domain not in ("", "ai.onnx") or node.op_type in UNPARSED:
            kind = f"{node.domain or 'ai.onnx'}::{opset}::{node.op_type}"
            text = f"No parser is registered for Op [{_title(node)}, optype [{kind}]]."
            raise Refused("E19010", text)
    gears = _gears(options)
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
    if options.get("framework") != "5":
        raise Refused("E10007", "--framework is required. The value must be 5(Onnx).")
    for key in ("model", "output", "soc_version"):
        if not options.get(key):
            raise Refused("E10054", f"The required parameter [{key}] for ATC is empty.")
    if set(MODES) <= options.keys():
        raise Refused("E10047", "--precision_mode and --precision_mode_v2 are mutually exclusive.")
    for key, known in CHOICES.items():
        if not re.fullmatch(known, options.get(key, known.partition("|")[0])) and key in options:
            reason = "The current value is not within the valid range."
            raise _invalid(options[key], f"--{key}", reason)
    if not Path(options["output"]).parent.is_dir():
        raise Refused("E13000", f"Path {options['output']} is invalid. Reason: no such directory.")
    option = "precision_mode_v2" if "precision_mode_v2" in options else "precision_mode"
    mode = options.get(option, "force_fp16")
    precision = MODES[option][mode]
    if precision is None:
        raise Refused("E10055", f"The operation is not supported. Reason: {mode} on this chip")
    if "modify_mixlist" in options:
        _check_mixlist(options["modify_mixlist"], mode)
    return precision


def _check_mixlist(name: str, mode: str) -> None:
    if mode not in MIXED:
        raise _invalid(name, "--modify_mixlist", "It is read in mixed precision modes only.")
    _check_file(name)
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


def _invalid(value: object, name: str, reason: str) -> Refused:
    return Refused("E10001", f"Value {value} for parameter {name} is invalid. Reason: {reason}")


def _check_file(name: str) -> None:
    if not Path(name).is_file():
        raise Refused("E10410", f"File {name} does not exist.")


def _aipp(options: Options, shape: tuple[int, ...]) -> dict[str, Any] | None:
    name = options.get("insert_op_conf")
    if name is None:
        return None
    _check_file(name)
    try:
        aipp = read_aipp(Path(name).read_text())
        size = (aipp["src_image_size_h"], aipp["src_image_size_w"])
        if shape[1] != 3 or size not in ((0, 0), shape[2:]):
            raise InvalidAipp(f"{size} pixels do not become {shape}")
    except InvalidAipp as error:
        raise Refused("E10052", f"AIPP configuration is invalid. Reason: {error}.") from error
    return aipp


def _gears(options: Options) -> tuple[int, ...]:
    """The dynamic batch sizes, rising; empty for a static batch."""
    text = options.get("dynamic_batch_size")
    if text is None:
        return ()
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        reason = "Profiles are positive integers separated by commas."
        raise _invalid(text, "--dynamic_batch_size", reason)
    gears = [int(word) for word in text.split(",")]
    profiles = "--dynamic_batch_size, --dynamic_image_size, or --dynamic_dims"
    for wrong, code, limit in (
        (len(gears) < 2, "E10035", "less than the minimum 2"),
        (len(gears) > 100, "E10036", "greater than the maximum 100"),
    ):
        if wrong:
            raise Refused(code, f"{profiles} has {len(gears)} profiles, which is {limit}.")
    if len(set(gears)) < len(gears):
        raise Refused("E10039", f"The {profiles} argument has duplicate profiles.")
    return tuple(sorted(gears))


def _input(
    model: Any, options: Options, gears: tuple[int, ...]
) -> tuple[OmTensor, tuple[int, ...]]:
    """The input as the .om declares it, and the network's own shape with its batch set."""
    value = _one_input(model)
    declared = [d.dim_value or -1 for d in value.type.tensor_type.shape.dim]
    asked = _asked_shape(options, value.name, declared)
    if gears and (asked[0] != -1 or -1 in asked[1:] or declared[0] != -1):
        text = "the dimension count of the dynamic-shape input configured in --input_shape"
        raise Refused("E10012", f"--dynamic_batch_size is included, but {text} is less than 1.")
    if any(wanted not in (-1, got) for got, wanted in zip(asked, declared, strict=True)):
        text = f"Inner Error! shape of {value.name} is {declared}, but not {asked}."
        raise Refused("E19999", text)
    if value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        raise Refused("E19999", f"Inner Error! {value.name} is not float32, emulated.")
    shape = (gears[-1] if gears else asked[0], *asked[1:])
    _set_batch(value, None if gears else shape[0])
    half = options.get("input_fp16_nodes")
    if half not in (None, value.name):
        raise _unknown_name(str(half), "input_fp16_nodes")
    if "insert_op_conf" in options:
        if half is not None:
            text = "--input_fp16_nodes and --insert_op_conf are mutually exclusive."
            raise Refused("E10047", text)
        return OmTensor(value.name, "uint8", (shape[0], *shape[2:], shape[1])), shape
    return OmTensor(value.name, "float16" if half else "float32", shape), shape


def _unknown_name(name: str, option: str) -> Refused:
    text = f"Op name {name} specified in --{option} is not found in the model."
    return Refused("E10016", f"{text} Confirm whether this node name exists.")


def _asked_shape(options: Options, name: str, declared: list[int]) -> list[int]:
    text = options.get("input_shape")
    if text is None:
        if -1 in declared:
            reason = "maybe you should set input_shape to specify its shape."
            raise _invalid(declared, name, reason)
        return declared
    given, colon, sides = text.strip('"').rpartition(":")
    if not colon or not re.fullmatch(r"-?\d+(,-?\d+)*", sides):
        reason = 'The shape must contain two parts: name and value, as "input_name1:n1,c1,h1,w1".'
        text = f"Value {text} for parameter --input_shape is invalid. Reason: {reason}"
        raise Refused("E10002", text)
    if given != name:
        raise _unknown_name(given, "input_shape")
    shape = [int(side) for side in sides.split(",")]
    if len(shape) != len(declared):
        text = f"Dimension count {len(shape)} configured in --input_shape does not match"
        raise Refused("E10049", f"{text} dimension count {len(declared)} of the node.")
    dynamic = "dynamic_batch_size" in options
    wrong = [side for side in shape if side < 1 and not (dynamic and side == -1)]
    if wrong:
        text = f"Value {shape} for parameter --input_shape is invalid. Shape values must be"
        raise Refused("E10011", f"{text} positive. The error value in the shape is {wrong[0]}.")
    return shape


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
