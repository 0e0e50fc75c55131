"""
What ATC will not take, said before it is called.

ATC has a parser for each pair of operator and opset; where there is none it stops with E19010 and
names one node.  The list below holds the operators of D0's exports and their neighbours for which
the published ONNX parsers of CANN (Apache-2.0) register opset 11 and most later ones, and Constant,
which ATC reads itself.  Opset 17 is the last that was seen to compile.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import GraphError
from .base import Constants, constants, optional_input

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

#: ONNX's numbers of element types (TensorProto.DataType) that an image can come in.
DTYPES = {1: "float32", 2: "uint8", 10: "float16"}


@dataclass(frozen=True)
class Problem:
    """
    Something in a graph that ATC cannot take, and what to do.

    *node* is the first place, with the number of others; *fatal* where no known version goes on.
    """

    node: str
    op: str
    reason: str
    advice: str
    fatal: bool

    def __str__(self) -> str:
        return f"{self.node} ({self.op}): {self.reason}; {self.advice}"


#: A finding at one node: reason, advice, fatal.
Finding = tuple[str, str, bool]


def check_support(model: Any) -> list[Problem]:
    """All that ATC is known to stumble over in *model*, the fatal first; empty if nothing is."""
    places: dict[tuple[str, Finding], list[str]] = {}
    for name, op, finding in (*_of_inputs(model), *_of_opset(model), *_of_nodes(model)):
        places.setdefault((op, finding), []).append(name)
    problems = [Problem(_first(names), op, *found) for (op, found), names in places.items()]
    return sorted(problems, key=lambda problem: not problem.fatal)


def model_input(model: Any) -> tuple[str, list[int | None], np.dtype[Any]]:
    """
    Name, sides and dtype of the one input of *model*; a side of None is free.

    Raises `GraphError` where there is not exactly one, or it is no tensor of known rank and type.
    """
    inputs = _inputs(model)
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise GraphError(
            f"the inputs are {names}, but one was expected; export with 'effd0 export'"
        )
    kind = inputs[0].type.tensor_type
    sides = _sides(inputs[0])
    if sides is None or kind.elem_type not in DTYPES:
        raise GraphError(
            f"the input {inputs[0].name} has no shape, or type {kind.elem_type}, but float32, "
            "float16 or uint8 of known rank was expected; export with 'effd0 export'"
        )
    return inputs[0].name, sides, np.dtype(DTYPES[kind.elem_type])


def _inputs(model: Any) -> list[Any]:
    held = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in held]


def _sides(value: Any) -> list[int | None] | None:
    if not value.type.tensor_type.HasField("shape"):
        return None
    sides = value.type.tensor_type.shape.dim
    return [side.dim_value if side.HasField("dim_value") else None for side in sides]


def _first(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _of_inputs(model: Any) -> Iterator[tuple[str, str, Finding]]:
    advice = "export with 'effd0 export', which leaves at most the batch free"
    for value in _inputs(model):
        sides = _sides(value)
        if sides is None:
            yield value.name, "input", ("has no shape", advice, True)
        elif None in sides[1:]:
            shown = ", ".join("free" if side is None else str(side) for side in sides)
            yield value.name, "input", (f"is [{shown}], free beyond the batch", advice, True)


def _of_opset(model: Any) -> Iterator[tuple[str, str, Finding]]:
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and opset.version not in OPSETS:
            reason = f"is {opset.version}, but ATC takes {OPSETS.start} to {OPSETS.stop - 1}"
            yield "the model", "opset", (reason, "export with --opset 11", True)


def _of_nodes(model: Any) -> Iterator[tuple[str, str, Finding]]:
    known = constants(model)
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)
    for node in model.graph.node:
        finding = _at_node(node, opset, known)
        if finding:
            yield node.name or node.output[0], node.op_type, finding


def _at_node(node: Any, opset: int, known: Constants) -> Finding | None:
    if node.domain not in ("", "ai.onnx"):
        return (
            f"is of {node.domain}, which ATC does not know",
            "start again from 'effd0 export', not from a model that a runtime optimised",
            True,
        )
    if node.op_type in DATA_DEPENDENT:
        return (
            "makes shapes or branches that depend on data, but ATC fixes shapes beforehand",
            "export the network alone with 'effd0 export', and simplify it",
            False,
        )
    if node.op_type not in SUPPORTED:
        return "is not known to have a parser in ATC", "try 'effd0 simplify' first", False
    if node.op_type == "Resize" and opset >= RESIZE_TROUBLE:
        reason = f"older versions of ATC have no parser for it at opset {opset} (E19010)"
        return reason, "export with --opset 11 if ATC says so", False
    if node.op_type == "Pad":
        return _of_pad(node, known)
    return None


def _of_pad(node: Any, known: Constants) -> Finding | None:
    pads, filler = optional_input(node, 1), optional_input(node, 2)
    if {pads, filler} - known.keys() - {""}:
        return "computes its padding while the model runs", "run 'effd0 simplify' first", False
    if filler and known[filler].size == 1 and np.isinf(known[filler]).all():
        reason = "pads with -inf, which not every NPU has in float16"
        return reason, "run 'effd0 modify', which folds it into the max-pool", False
    return None
