"""
BiFPN's weighted sums: ``stack([x * w / s, ...]).sum(-1)`` with trained w and s = sum(w) + 1e-4.

Written that way the sum goes through tensors of rank 5.  Here a term becomes one multiplication by
a constant, and the sum a chain of additions.
Source of the form: effdet 0.4.1, ``FpnCombine`` with ``fastattn``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import require
from .base import (
    Constants,
    GraphEdit,
    add_constant,
    attributes,
    axes_of,
    constants,
    feature_maps,
    producers,
    replace_nodes,
)

#: What a raw export computes w and s with, from trained weights; onnxsim does it beforehand.
WEIGHT_OPERATORS = {"Relu", "ReduceSum", "Gather", "Add"}


def _fold_weights(model: Any) -> int:
    """Replace ``Mul(x, w) / s``, or ``x / s``, of a feature map by ``Mul(x, w / s)``."""
    known, maps, made_by = _computed(model), feature_maps(model), producers(model)
    count = 0
    for node in model.graph.node:
        if node.op_type != "Div" or node.output[0] not in maps:
            continue
        dividend, divisor = node.input
        if divisor not in known or known[divisor].size != 1:
            continue
        source, weight = _scaled(dividend, made_by, known)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            folded = np.asarray(weight / known[divisor].astype(np.float64), known[divisor].dtype)
        if not np.isfinite(folded).all():
            continue
        node.op_type = "Mul"
        node.input[:] = [source, add_constant(model, f"{node.output[0]}_weight", folded)]
        count += 1
    return count


def _scaled(name: str, made_by: dict[str, Any], known: Constants) -> tuple[str, Any]:
    """The tensor *name* as another one times a constant: the other's name, and the constant."""
    node = made_by.get(name)
    if node is not None and node.op_type == "Mul":
        for source, weight in (tuple(node.input), tuple(node.input)[::-1]):
            if weight in known and known[weight].size == 1:
                return source, known[weight].astype(np.float64)
    return name, np.float64(1)


def _computed(model: Any) -> Constants:
    """The constants of *model*, with those that are computed from others while it runs."""
    reference = require("onnx.reference", extra="onnx")
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    known = constants(model)
    for node in model.graph.node:
        if node.op_type in WEIGHT_OPERATORS and known.keys() >= set(node.input):
            evaluator = reference.ReferenceEvaluator(node, opsets=opsets)
            (value,) = evaluator.run(None, {name: known[name] for name in node.input})
            known[node.output[0]] = np.asarray(value)
    return known


def _fuse_sums(model: Any) -> int:
    """Replace each ReduceSum over a stack of tensors by additions of those tensors."""
    known, made_by = constants(model), producers(model)
    new = {}
    for node in model.graph.node:
        if node.op_type == "ReduceSum" and (terms := _stacked(node, made_by, known)):
            new[node.output[0]] = _additions(terms, node.output[0])
    replace_nodes(model, new)
    return len(new)


def _stacked(total: Any, made_by: dict[str, Any], known: Constants) -> list[str]:
    """The tensors that *total* sums, stacked on a new axis for that; empty if it does not."""
    stack = made_by.get(total.input[0])
    if stack is None or stack.op_type != "Concat" or attributes(total).get("keepdims", 1):
        return []
    axes = [attributes(stack)["axis"]]
    layers = [made_by.get(name) for name in stack.input]
    if axes_of(total, known) != axes or len(layers) == 1:
        return []
    if not all(n is not None and n.op_type == "Unsqueeze" for n in layers):
        return []
    if any(axes_of(layer, known) != axes for layer in layers):
        return []
    return [layer.input[0] for layer in layers if layer is not None]


def _additions(terms: list[str], total: str) -> list[Any]:
    """Nodes that add *terms* from left to right and call the result *total*."""
    helper = require("onnx.helper", extra="onnx")
    names = [terms[0], *(f"{total}_{n}" for n in range(1, len(terms) - 1)), total]
    return [
        helper.make_node("Add", [before, term], [after], name=f"{after}/Add")
        for before, term, after in zip(names, terms[1:], names[1:], strict=False)
    ]


EDITS = (
    GraphEdit(
        "fold-weights",
        "turns each term x * w / s of a weighted sum, w and s constant, into x * (w / s)",
        "one multiplication instead of two passes; no division, and no small graph of weights",
        exact=True,
        apply=_fold_weights,
    ),
    GraphEdit(
        "fuse-sums",
        "turns the sum over stacked tensors (Unsqueeze, Concat, ReduceSum) into additions",
        "no tensors of rank 5, no copies; additions fuse with their neighbours",
        exact=True,
        apply=_fuse_sums,
    ),
)
