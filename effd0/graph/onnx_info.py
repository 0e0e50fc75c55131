"""
What an ONNX file says of itself before it is run: precision, inputs, outputs, what ATC takes.

ATC has a parser for each pair of operator and opset; where there is none it stops with E19010 and
names one node.  `SUPPORTED` holds the operators of exports and their neighbours for which
the published ONNX parsers of CANN (Apache-2.0) register opset 11 and most later ones, and Constant,
which ATC reads itself.  Opset 17 is the last that was seen to compile.
"""

import contextlib
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..detection import heads
from ..detection.heads import is_merged, swapped, untold
from ..errors import Effd0Error, ExportError, GraphError, refuse, require
from ..io import ONNX, check_kind
from ..spec import ModelSpec

Constants = dict[str, npt.NDArray[Any]]
Sides = tuple[int | None, ...]

#: Operators of a graph that computes in whole numbers somewhere.
INT8_OPERATORS = {
    "ConvInteger", "DequantizeLinear", "MatMulInteger", "QLinearConv", "QuantizeLinear",
}  # fmt: skip
#: Operators by which training drops values of what it computes.
CHANCE = ("Bernoulli", "RandomNormalLike", "RandomUniformLike")
#: ONNX's numbers of float types (TensorProto.DataType) -> our names.
FLOATS = {1: "fp32", 10: "fp16", 16: "bf16"}
OPSETS = range(11, 18)
#: From this opset on, older versions of CANN have no parser for Resize (field reports of E19010).
RESIZE_TROUBLE = 13
SUPPORTED = frozenset(
    """
    Abs Add And ArgMax ArgMin AveragePool BatchNormalization Cast Ceil Clip Concat Constant
    ConstantOfShape Conv ConvTranspose Cos DepthToSpace Div Dropout Elu Equal Erf Exp Expand Flatten
    Floor Gather GatherElements GatherND Gemm GlobalAveragePool GlobalMaxPool Greater HardSigmoid
    Identity InstanceNormalization LeakyRelu Less Log LogSoftmax MatMul Max MaxPool Mean
    Min Mod Mul Neg Not Or PRelu Pad Pow Range Reciprocal ReduceMax ReduceMean ReduceMin ReduceProd
    ReduceSum Relu Reshape Resize Round Selu Shape Sigmoid Sign Sin Slice Softmax Softplus
    SpaceToDepth Split Sqrt Squeeze Sub Sum Tanh Tile TopK Transpose Unsqueeze Upsample Where
    """.split()  # noqa: SIM905  # a table of names reads better than one of strings
)
DATA_DEPENDENT = frozenset(
    {"Compress", "If", "Loop", "NonMaxSuppression", "NonZero", "Scan", "Unique"}
)

#: Names of ONNX's own set of operators.
DOMAINS = ("", "ai.onnx")
#: ONNX's numbers of element types (TensorProto.DataType) that an image can come in.
DTYPES = {1: "float32", 2: "uint8", 10: "float16"}


def load_graph(path: Path) -> Any:
    """Read an ONNX file as a ``ModelProto``; raise `GraphError` if it is none."""
    onnx = require("onnx", extra="onnx")
    check_kind(path, ONNX, GraphError, "make it with 'effd0 export'")
    try:
        model = onnx.load(str(path))
    except Exception as error:  # protobuf's DecodeError has no stable place to import it from
        raise GraphError(
            f"{path} is not an ONNX file, or not all of one: {error}; copy it again, or make it "
            "with 'effd0 export'"
        ) from error
    if not model.graph.node:
        raise GraphError(
            f"{path} is not an ONNX model: its graph has no node; make it with 'effd0 export'"
        )
    return model


def fed_inputs(model: Any) -> list[Any]:
    """The inputs that are fed: those that no initializer gives a value."""
    stored = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in stored]


def sides_of(value: Any) -> Sides:
    """The declared shape of an input or output; None for a side that is free."""
    dims = value.type.tensor_type.shape.dim
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in dims)


def constants(model: Any) -> Constants:
    """Values of the initializers and Constant nodes, by name."""
    numpy_helper = require("onnx.numpy_helper", extra="onnx")
    given = {value.name for value in model.graph.input}  # may be fed, so not constant
    tensors = [(tensor.name, tensor) for tensor in model.graph.initializer]
    tensors = [(name, tensor) for name, tensor in tensors if name not in given]
    tensors += [
        (node.output[0], node.attribute[0].t)
        for node in model.graph.node
        if node.op_type == "Constant" and node.attribute[0].name == "value"
    ]
    return {name: numpy_helper.to_array(tensor) for name, tensor in tensors}


def precision_of(model: Any) -> str:
    """
    The precision that most weights of *model* are stored in: fp32, fp16 or bf16.

    int8 where the graph quantises anywhere.
    """
    graph = model.graph
    if any(node.op_type in INT8_OPERATORS for node in graph.node):
        return "int8"
    kinds: Counter[str] = Counter()
    held = [a.t for n in graph.node if n.op_type == "Constant" for a in n.attribute]
    for tensor in (*graph.initializer, *held):
        if tensor.data_type in FLOATS:
            kinds[FLOATS[tensor.data_type]] += math.prod(tensor.dims)
    return kinds.most_common(1)[0][0] if kinds else "fp32"


def stored_precision(path: Path | None) -> str | None:
    """The `precision_of` the ONNX file *path*; None for what is none, and without onnx."""
    if path is None or path.suffix != ".onnx":
        return None
    try:
        return precision_of(load_graph(path))
    except Effd0Error:  # whoever opens it says what is wrong
        return None


@dataclass(frozen=True)
class ModelFile:
    """
    An ONNX file: the `precision_of` its weights, and where it says it comes from.

    *batch* is None if free.
    """

    path: Path
    precision: str
    batch: int | None
    origin: dict[str, str]


def read_model(path: Path, spec: ModelSpec) -> ModelFile:
    """
    Read the ONNX file *path* and check that it takes images and gives the heads of *spec*.

    Raises `GraphError` for a file that is no valid ONNX model, and `ExportError` for one that was
    exported in training mode, and for inputs or outputs that are not those of *spec*,
    or that cannot be told apart.
    """
    onnx = require("onnx", extra="onnx")
    model = load_graph(path)
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # the checker's errors and those of shape inference share no base
        first = str(error).strip().partition("\n")[0]
        # What the nodes give, whatever is declared.
        del model.graph.value_info[:]
        for value in model.graph.output:
            value.type.tensor_type.ClearField("shape")
        with contextlib.suppress(onnx.shape_inference.InferenceError):
            outputs = onnx.shape_inference.infer_shapes(model).graph.output
            if all(value.type.tensor_type.HasField("shape") for value in outputs):
                _check_outputs(path, {value.name: sides_of(value)[1:] for value in outputs}, spec)
        raise GraphError(f"{path} is an invalid ONNX model: {first}; export it again") from error
    if training := _of_training(model):
        more = f" and {len(training) - 1} more nodes" if training[1:] else ""
        raise ExportError(
            f"{path} was exported in training mode: {training[0]}{more} use statistics of the "
            "batch or chance, but those of inference were wanted; export it again after "
            "model.eval(), without training= of torch.onnx.export"
        )
    inputs = fed_inputs(model)
    sides, size = sides_of(inputs[0]) if inputs else (), spec.image_size
    refuse({
        f"{path} has the inputs {[value.name for value in inputs]}, but an EfficientDet has "
        "one; export it with its heads alone": len(inputs) != 1,
        f"input {''.join(value.name for value in inputs)} of {path} is {_sides(sides)}, but "
        f"{_sides((None, 3, *size))} was wanted; export it for this size, or give --arch and "
        "--image-size":
            len(sides) != len("NCHW") or not spec.takes(sides[1:]),
    }, ExportError)  # fmt: skip
    _check_outputs(path, {value.name: sides_of(value)[1:] for value in model.graph.output}, spec)
    origin = {entry.key: entry.value for entry in model.metadata_props}
    return ModelFile(path, precision_of(model), sides[0], origin)


def class_count(path: Path, spec: ModelSpec) -> int | None:
    """How many classes the outputs of the ONNX file *path* have; None where that is not clear."""
    try:
        outputs = load_graph(path).graph.output
    except Effd0Error:  # whoever runs it says what is wrong with it
        return None
    return heads.class_count(map(sides_of, outputs), spec)


def _of_training(model: Any) -> list[str]:
    """Nodes that take the statistics of the batch, drop values or draw random ones, in words."""
    known, found = constants(model), list[str]()
    for node in model.graph.node:
        op, (switch,) = node.op_type, [*node.input[2:3], ""][:1]
        norm = op == "BatchNormalization" and (
            # Before opset 14 there is no attribute, but there are more outputs.
            len(node.output) > 1 or any(a.name == "training_mode" and a.i for a in node.attribute)
        )
        dropout = op == "Dropout" and switch in known and bool(known[switch].any())
        if norm or dropout or op in CHANCE:
            found.append(f"{node.name or node.output[0]} ({op})")
    return found


def _sides(sides: Sides) -> str:
    return f"({', '.join('N' if side is None else str(side) for side in sides)})"


def _check_outputs(path: Path, outputs: dict[str, Sides], spec: ModelSpec) -> None:
    """Raise `ExportError` unless each head of *spec* is an output, known by its name or shape."""
    every = list(outputs.values())
    if any(None in sides for sides in every):
        return  # what is not declared is seen when it is run
    wanted = spec.head_shapes
    merged, found, needed = is_merged(every, spec), Counter(every), Counter(wanted.values())
    if (merged or found == needed) and (said := untold(outputs, spec)):
        raise ExportError(f"{path} cannot be read: {said}")
    if merged:
        return
    shown = {name: _sides(sides) for name, sides in outputs.items()}
    if outputs.keys() == wanted.keys():
        wrong = [name for name in wanted if outputs[name] != wanted[name]]
        if wrong:
            name = f"{wrong[0]} of {path}"
            raise ExportError(swapped(name, shown[wrong[0]], _sides(wanted[wrong[0]]), shown))
        return
    lost = [name for name, shape in wanted.items() if found[shape] < needed[shape]]
    twice = [name for name, shape in wanted.items() if found[shape] > needed[shape]]
    what = {
        f"{lost} are missing": lost,
        f"{twice} could each be several outputs": twice,
        f"{len(outputs)} outputs are there": len(outputs) != len(wanted),
    }
    refuse({
        f"the outputs of {path} are not the {len(wanted)} heads of {spec.arch} with "
        f"{spec.num_classes} classes: {said}; heads are "
        f"known by their name or by their shape, and the outputs are {shown}; export the "
        "network without decoding and NMS": holds for said, holds in what.items()
    }, ExportError)  # fmt: skip


def model_input(model: Any) -> tuple[str, list[int | None], np.dtype[Any]]:
    """
    Name, sides and dtype of the one input of *model*; a side of None is free.

    Raises `GraphError` where there is not exactly one, or it is no tensor of known rank and type.
    """
    inputs, advice = fed_inputs(model), "export with 'effd0 export'"
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise GraphError(f"the inputs are {names}, but one was expected; {advice}")
    ((name, kind),) = [(value.name, value.type.tensor_type) for value in inputs]
    if not kind.HasField("shape") or kind.elem_type not in DTYPES:
        raise GraphError(
            f"the input {name} has no shape, or type {kind.elem_type}, but float32, float16 or "
            f"uint8 of known rank was expected; {advice}"
        )
    return name, list(sides_of(inputs[0])), np.dtype(DTYPES[kind.elem_type])


def check_support(model: Any) -> list[tuple[str, bool]]:
    """
    All that ATC is known to stumble over in *model*, the fatal first; empty if nothing is.

    Each says its first place, with the number of others, the reason and what to do; it is fatal
    where no known version goes on.
    """
    places: dict[tuple[str, str, bool], list[str]] = {}
    for place, op, said, fatal in _stumbles(model):
        places.setdefault((op, said, fatal), []).append(place)
    found = [
        (f"{names[0]}{f' and {len(names) - 1} more' if names[1:] else ''} ({op}): {said}", fatal)
        for (op, said, fatal), names in places.items()
    ]
    return sorted(found, key=lambda problem: not problem[1])


def _stumbles(model: Any) -> Iterator[tuple[str, str, str, bool]]:
    """Place, operator, words and whether it is fatal of each problem, in the graph's order."""
    advice = "export with 'effd0 export', which leaves at most the batch free"
    for value in fed_inputs(model):
        sides = sides_of(value)
        if not value.type.tensor_type.HasField("shape"):
            yield value.name, "input", f"has no shape; {advice}", True
        elif None in sides[1:]:
            shown = ", ".join("free" if side is None else str(side) for side in sides)
            yield value.name, "input", f"is [{shown}], free beyond the batch; {advice}", True
    opset = max((o.version for o in model.opset_import if o.domain in DOMAINS), default=0)
    if opset and opset not in OPSETS:
        said = f"is {opset}, but ATC takes {OPSETS.start} to {OPSETS.stop - 1}"
        yield "the model", "opset", f"{said}; export with --opset 11", True
    known = constants(model)
    for node in model.graph.node:
        if said := _at_node(node, opset, known):
            yield node.name or node.output[0], node.op_type, said, node.domain not in DOMAINS


def _at_node(node: Any, opset: int, known: Constants) -> str:
    """What ATC stumbles over at *node*, and what to do; empty if nothing is."""
    pads, filler = [*node.input[1:3], "", ""][:2] if node.op_type == "Pad" else ("", "")
    value = known.get(filler, np.zeros(0))
    said: dict[str, object] = {
        f"is of {node.domain}, which ATC does not know; start again from 'effd0 export', not from "
        "a model that a runtime optimised": node.domain not in DOMAINS,
        "makes shapes or branches that depend on data, but ATC fixes shapes beforehand; export the "
        "network alone with 'effd0 export', and simplify it": node.op_type in DATA_DEPENDENT,
        "is not known to have a parser in ATC; try 'effd0 simplify' first":
            node.op_type not in SUPPORTED,
        f"older versions of ATC have no parser for it at opset {opset} (E19010); export with "
        "--opset 11 if ATC says so": node.op_type == "Resize" and opset >= RESIZE_TROUBLE,
        "computes its padding while the model runs; run 'effd0 simplify' first":
            {pads, filler} - known.keys() - {""},
        "pads with -inf, which not every NPU has in float16; run 'effd0 modify', which folds it "
        "into the max-pool": value.size == 1 and np.isinf(value).all(),
    }  # fmt: skip
    return next((text for text, holds in said.items() if holds), "")
