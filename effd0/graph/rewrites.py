"""
Edits for compilers, and the list of all edits.

**Padding in front of max-pools** is moved into them, or made finite.  The recipe's ``modify`` step
exists because not every NPU holds a max-pool's padding of -inf in float16.  It replaced the padding
of whatever Pad node came first by a float16 zero, in a float32 graph.  Here an edit names its
pattern, keeps the graph's dtype, and says what it found.

**BiFPN's weighted sums** are ``stack([x * w / s, ...]).sum(-1)`` with trained w and s = sum(w) +
1e-4 (effdet 0.4.1, ``FpnCombine`` with ``fastattn``).  Written that way the sum goes through
tensors of rank 5.  Here a term becomes one multiplication by a constant, and the sum a chain of
additions.

**Means over whole feature maps**, the squeeze step of EfficientNet's blocks, become poolings.

**Products for ONNX Runtime.**  Its CPU provider computes convolutions and what stands between them
in blocks of channels (NCHWc), and reorders a tensor before and after each node that it cannot take
so: a multiplication by one number, or by one number a channel.  Two edits write the same products
as nodes that it can.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import permutations
from typing import Any

import numpy as np

from ..errors import GraphError, require
from .float16 import to_float16
from .rewrite import (
    GraphEdit,
    add_constant,
    axes_of,
    constant,
    each,
    map_shape,
    new_node,
    set_attribute,
)

FLOAT16_LOWEST = float(np.finfo(np.float16).min)
#: Rows and columns of a tensor of rank 4, counted from either end.
SPATIAL_AXES = ([2, 3], [-2, -1])
#: A Resize that repeats each value.
_NEAREST = {
    "mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor",
}  # fmt: skip


def _pool_pads(graph: Any) -> Iterator[tuple[Any, tuple[Any, ...], list[int], float]]:
    """
    Each Pad of which every reader is a max-pool: the node, the pools, its padding and its value.

    Raises `GraphError` if one is not constant.
    """
    for node in [node for node in graph if node.op_type == "Pad"]:
        padded, pools = node.outputs[0], node.outputs[0].consumers()
        pooled = pools and all(reader.op_type == "MaxPool" for reader in pools)
        if not pooled or padded.is_graph_output():
            continue
        if len(node.inputs) == 1:
            raise GraphError(
                f"the Pad of {padded.name} holds its padding in attributes, but an edit needs it "
                "as inputs; export at opset 11 or later"
            )
        _, ring, filler, axes = (*node.inputs, None, None)[:4]
        pads, value = constant(ring), constant(filler)
        if pads is None or (value is None and filler is not None):
            raise GraphError(
                f"the padding of {padded.name} is computed while the model runs, "
                "but an edit needs it constant; run 'effd0 simplify' first"
            )
        if axes is not None:
            raise GraphError(
                f"the Pad of {padded.name} pads chosen axes, but all were expected; "
                "run 'effd0 simplify' first"
            )
        yield node, pools, pads.tolist(), 0.0 if value is None else float(value.reshape(()))


def _fold_pad(graph: Any) -> int:
    """Move -inf padding into the max-pools behind it; ONNX pads those with -inf by itself."""
    count = 0
    for node, pools, pads, value in _pool_pads(graph):
        spatial = len(pads) // 2
        outside = pads[:2] + pads[spatial : spatial + 2]
        inside = pads[2:spatial] + pads[spatial + 2 :]
        if value > FLOAT16_LOWEST or any(outside) or min(pads) < 0:
            continue
        if all(_takes_pads(pool, inside) for pool in pools):
            for pool in pools:
                had = pool.attributes.get_ints("pads", [0] * len(inside))
                set_attribute(pool, "pads", [a + b for a, b in zip(had, inside, strict=True)])
                pool.replace_input_with(0, node.inputs[0])
            count += 1
    return count


def _takes_pads(pool: Any, pads: list[int]) -> bool:
    """Whether *pads* more keep the pool's meaning, and leave a value in each of its windows."""
    given = pool.attributes
    had, kernel = given.get_ints("pads", [0] * len(pads)), list(given.get_ints("kernel_shape"))
    return (
        len(pool.outputs) == 1  # a second one holds indices into the padded input
        and not given.get_int("ceil_mode", 0)
        and given.get_string("auto_pad", "NOTSET") in ("", "NOTSET")
        and all(a + b < k for a, b, k in zip(had, pads, kernel * 2, strict=True))
    )


def _pad_with(graph: Any, value: float) -> int:
    """Replace -inf padding of max-pools by *value*, in the graph's own dtype."""
    count = 0
    for node, _, _, before in _pool_pads(graph):
        if before == -np.inf:
            filler = np.array(value, node.inputs[2].dtype.numpy())
            name = f"{node.outputs[0].name}_padding"
            node.replace_input_with(2, add_constant(graph, name, filler))
            count += 1
    return count


def _fold_weights(graph: Any) -> int:
    """Replace ``Mul(x, w) / s``, or ``x / s``, of a feature map by ``Mul(x, w / s)``."""
    ir, optimizer = require("onnx_ir", extra="onnx"), require("onnxscript.optimizer", extra="onnx")
    # A raw export computes w and s from trained weights; onnxsim has done it beforehand.
    optimizer.fold_constants(ir.Model(graph, ir_version=8))
    return each("Div", _folded)(graph)


def _folded(node: Any) -> Sequence[Any] | None:
    (source, below), weight = node.inputs, np.ones((), np.float64)
    divisor, product = constant(below), source.producer()
    if map_shape(node.outputs[0]) is None or divisor is None or divisor.size != 1:
        return None
    if product is not None and product.op_type == "Mul":
        for one, other in permutations(product.inputs):
            factor = constant(other)
            if factor is not None and factor.size == 1:
                source, weight = one, factor.astype(np.float64)
                break
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        folded = np.asarray(weight / divisor.astype(np.float64), divisor.dtype)
    if not np.isfinite(folded).all():
        return None
    named = add_constant(node.graph, f"{node.outputs[0].name}_weight", folded)
    return [new_node("Mul", [source, named])]


def _added(node: Any) -> Sequence[Any] | None:
    """Additions, from left to right, in place of a ReduceSum over a stack of tensors."""
    stack = node.inputs[0].producer()
    if stack is None or stack.op_type != "Concat" or node.attributes.get_int("keepdims", 1):
        return None
    axes = [stack.attributes.get_int("axis")]
    layers = [value.producer() for value in stack.inputs]
    if axes_of(node) != axes or any(
        layer is None or layer.op_type != "Unsqueeze" or axes_of(layer) != axes for layer in layers
    ):
        return None
    total, additions = layers[0].inputs[0], []
    for layer in layers[1:]:
        additions.append(new_node("Add", [total, layer.inputs[0]]))
        total = additions[-1].outputs[0]
    return additions


def _pooled(node: Any, step: int | None = None) -> Sequence[Any] | None:
    """
    Poolings in place of a mean over rows and columns of a feature map.

    With a *step*, an AveragePool to so many rows and columns comes first.
    """
    shape = map_shape(node.inputs[0])
    spatial = sorted(axes_of(node) or []) in SPATIAL_AXES and node.attributes.get_int("keepdims", 1)
    if shape is None or not spatial:
        return None
    if step is None:
        return [new_node("GlobalAveragePool", node.inputs[:1])]
    if any(side is None or side % step for side in shape[2:]):
        return None
    kernel = [side // step for side in shape[2:] if side is not None]
    part = new_node("AveragePool", node.inputs[:1], kernel_shape=kernel, strides=kernel)
    return [part, new_node("GlobalAveragePool", part.outputs)]


def _convolved(node: Any) -> Sequence[Any] | None:
    """A depthwise 1x1 convolution in place of a product of a feature map and one constant."""
    for source, other in permutations(node.inputs):
        shape, factor = map_shape(source), constant(other)
        if shape is None or shape[1] is None or factor is None or factor.size != 1:
            continue
        weight = np.full((shape[1], 1, 1, 1), factor.reshape(()), factor.dtype)
        kernel = add_constant(node.graph, f"{node.outputs[0].name}_scale", weight)
        return [new_node("Conv", [source, kernel], group=shape[1], kernel_shape=[1, 1])]
    return None


def _gated(node: Any) -> Sequence[Any] | None:
    """A product with what is one number a channel, repeated over all rows and columns before."""
    for source, gate in permutations(node.inputs):
        shape, per_channel = map_shape(source), map_shape(gate)
        if shape is None or None in shape or per_channel != [*shape[:2], 1, 1]:
            continue
        if shape[2:] == [1, 1]:
            continue
        name, repeats = node.outputs[0].name, np.array([1, 1, *shape[2:]], np.float32)
        region = add_constant(node.graph, f"{name}_region", np.empty(0, np.float32))
        scales = add_constant(node.graph, f"{name}_repeats", repeats)
        wide = new_node("Resize", [gate, region, scales], **_NEAREST)
        return [wide, new_node("Mul", [source, wide.outputs[0]])]
    return None


#: Name, function, what it does, why a compiler likes that, and whether it is exact.
_EDITS = (
    GraphEdit("fold-pad", _fold_pad,
              "moves the -inf padding in front of max-pools into the max-pools",
              "no Pad node, and no -inf, which not every NPU has in float16"),
    GraphEdit("finite-pad", partial(_pad_with, value=FLOAT16_LOWEST),
              f"replaces -inf padding of max-pools by float16's lowest value, {FLOAT16_LOWEST:.0f}",
              "no -inf, where fold-pad cannot take a Pad away"),
    GraphEdit("zero-pad", partial(_pad_with, value=0.0),
              "replaces -inf padding of max-pools by 0, as the recipe does; changes borders",
              "what the recipe compiled, for comparison with its figures", exact=False),
    GraphEdit("fold-weights", _fold_weights,
              "turns each term x * w / s of a weighted sum, w and s constant, into x * (w / s)",
              "one multiplication instead of two passes; no division, and no small graph of "
              "weights"),
    GraphEdit("fuse-sums", each("ReduceSum", _added),
              "turns the sum over stacked tensors (Unsqueeze, Concat, ReduceSum) into additions",
              "no tensors of rank 5, no copies; additions fuse with their neighbours"),
    GraphEdit("mean-pool", each("ReduceMean", _pooled),
              "turns means over rows and columns (ReduceMean) into GlobalAveragePool",
              "read by ATC as a pooling, not as ReduceMeanD, whose float16 sums the recipe saw "
              "overflow"),
    GraphEdit("step-means", each("ReduceMean", partial(_pooled, step=8)),
              "turns means over rows and columns into an average pooling to 8x8 and the mean of "
              "that",
              "a pooling in ONNX Runtime's blocked layout, whose sums are as exact as the mean's"),
    GraphEdit("scale-convs", each("Mul", _convolved),
              "turns products of a feature map and one constant into depthwise 1x1 convolutions",
              "ONNX Runtime on a CPU computes them in its blocked layout and adds them in passing"),
    GraphEdit("spread-gates", each("Mul", _gated),
              "repeats what multiplies whole channels over rows and columns (Resize), where sizes "
              "are fixed",
              "ONNX Runtime on a CPU multiplies in its blocked layout; two reorderings less each"),
    GraphEdit("fp16", to_float16,
              "makes weights and arithmetic float16; inputs and outputs stay float32 (a CPU still "
              "computes much in float32, so the difference shown is the least to expect)",
              "half the weights, and float16 for compilers that keep the types they are given",
              exact=False),
)  # fmt: skip
EDITS = {edit.name: edit for edit in _EDITS}
#: Exact on every export tried (2026-11-23: heads move by 1.1e-5 at most), and of use to any
#: compiler; ONNX Runtime gains 6 % on one thread.  Not mean-pool, whose gain would be ATC's alone
#: and has not been seen there, while ONNX Runtime sums such pools less exactly (4.4e-4).
DEFAULT_EDITS = ("fold-pad", "finite-pad", "fold-weights", "fuse-sums")
#: What is of use to ONNX Runtime on a CPU alone, beside that, for a model of fixed batch size:
#: but for its own activations the whole D0 is then in one layout.
ORT_EDITS = ("fold-pad", "fold-weights", "fuse-sums", "step-means", "scale-convs", "spread-gates")


def named_edits(names: Sequence[str]) -> list[GraphEdit]:
    """Return the edits called *names*, in that order; raise `GraphError` for an unknown name."""
    unknown = [name for name in names if name not in EDITS]
    if unknown:
        raise GraphError(f"--edit is {unknown[0]!r}, but effd0 knows {', '.join(EDITS)}")
    return [EDITS[name] for name in names]


def apply_edits(model: Any, names: Sequence[str]) -> list[int]:
    """
    Apply the edits *names* to *model*, a ``ModelProto``, in place; count the places of each.

    Raises `GraphError` for a name that is none, before any edit, or for a graph that an edit
    cannot take.
    """
    return [edit.run(model) for edit in named_edits(names)]
