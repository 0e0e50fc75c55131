"""
Edits of a graph: what each does, how one is run, and the list of all.

An edit works on onnx_ir's form of a graph, where a tensor knows which node gives it and which read
it; files and callers keep ONNX's ``ModelProto``.  Patterns of onnxscript's rewriter do not fit: an
edit takes axes as attributes and as inputs, and leaves to other readers what they read.

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

**Float32 becomes float16** at every tensor but the inputs and outputs, so that no cast is left but
those at the borders.  Converters of the ONNX world keep Resize and others in float32 between casts,
which a compiler would have to take as they are.

ONNX Runtime's CPU provider has few float16 kernels and keeps float32 between many nodes, so what
it shows is the error of rounded weights.  Float16 at every node differs about twice as much
(2026-11-23, embedded checkpoint: logits by 3.5e-2 instead of 2.1e-2).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import GraphError, refuse, require

FLOAT16_MAX = float(np.finfo(np.float16).max)
#: Rows and columns of a tensor of rank 4, counted from either end.
SPATIAL_AXES = ([2, 3], [-2, -1])
#: A Resize that repeats each value.
_NEAREST = {
    "mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor",
}  # fmt: skip
#: Inputs of Resize that are no data, float32 by definition.
RESIZE_INPUTS = {1: "region", 2: "scales"}


@dataclass(frozen=True)
class GraphEdit:
    """
    A named change of a graph: what it does, why a compiler likes that, and the function.

    An *exact* edit computes the same real numbers, at most summed or scaled in another order; what
    is left is float32 rounding.  *apply* takes an ``onnx_ir.Graph`` with inferred shapes, whose
    constants are initializers, changes it in place and returns how many places it changed.
    """

    name: str
    apply: Callable[[Any], int]
    explanation: str
    benefit: str
    exact: bool = True

    def run(self, model: Any) -> int:
        """
        Edit *model*, a ``ModelProto``, in place, remove what nothing reads any more; count places.

        Raises `GraphError` for a graph that the edit cannot take; *model* stays as it was.
        """
        onnx, ir = require("onnx", extra="onnx"), require("onnx_ir", extra="onnx")
        passes = require("onnx_ir.passes.common", extra="onnx")
        edited = ir.from_proto(onnx.shape_inference.infer_shapes(model))
        passes.LiftConstantsToInitializersPass(size_limit=0)(edited)
        count = self.apply(edited.graph)
        if count:
            passes.RemoveUnusedNodesPass()(edited)
            model.CopyFrom(ir.to_proto(edited))
        return count


def each(op: str, change: Callable[[Any], Sequence[Any] | None]) -> Callable[[Any], int]:
    """
    Return what replaces the nodes of operator *op* in a graph by those that *change* gives.

    The last new node gives what the old one gave, by its name; None leaves a node as it is.
    """

    def apply(graph: Any) -> int:
        replace = require("onnx_ir", extra="onnx").convenience.replace_nodes_and_values
        count = 0
        for node in [node for node in graph if node.op_type == op]:
            if new := change(node):
                replace(graph, node, [node], new, node.outputs, new[-1].outputs)
                count += 1
        return count

    return apply


def save_graph(model: Any, path: Path) -> None:
    """Check *model* completely, then write it to *path*; raise `GraphError` if it is broken."""
    onnx = require("onnx", extra="onnx")
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GraphError(f"{path.name} would be an invalid graph: {error}") from error
    onnx.save(model, str(path))


def constant(value: Any) -> npt.NDArray[Any] | None:
    """The value of a tensor that is stored in the graph; None for others, and if it may be fed."""
    if value is None or value.is_graph_input():
        return None
    tensor = require("onnx_ir", extra="onnx").convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def add_constant(graph: Any, name: str, array: npt.NDArray[Any]) -> Any:
    """Add *array* to *graph* as an initializer; return its tensor, called *name* where it can."""
    ir = require("onnx_ir", extra="onnx")
    while name in graph.initializers:
        name += "_"
    value = ir.val(name, const_value=ir.tensor(array, name=name))
    graph.register_initializer(value)
    return value


def new_node(op: str, inputs: Sequence[Any], **attributes: Any) -> Any:
    """A node of operator *op* on the tensors *inputs*, in no graph yet."""
    return require("onnx_ir", extra="onnx").node(op, inputs, attributes)


def set_attribute(node: Any, name: str, value: Any) -> None:
    """Give *node* the attribute *name*, whether it had one or not."""
    convert = require("onnx_ir", extra="onnx").convenience.convert_attribute
    node.attributes.add(convert(name, value))


def axes_of(node: Any) -> list[int] | None:
    """The axes of *node*, an attribute or (later opsets) a constant input; None if not known."""
    given = node.attributes.get_ints("axes")
    if given is None and len(node.inputs) > 1 and (values := constant(node.inputs[1])) is not None:
        given = values.reshape(-1).tolist()
    return None if given is None else list(given)


def map_shape(value: Any) -> list[int | None] | None:
    """Shape (N, C, H, W) of a float tensor of rank 4, None for sides not known; None for others."""
    shape, dtype = value.shape, value.dtype
    if shape is None or dtype is None or dtype.name not in ("FLOAT", "FLOAT16"):
        return None
    sides = [side if isinstance(side, int) else None for side in shape]
    return sides if len(sides) == len("NCHW") else None


# Padding, weighted sums, means and products.


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
        _, ring, filler, axes = (*node.inputs, None, None, None)[:4]
        pads, value, name, first = constant(ring), constant(filler), padded.name, "effd0 simplify"
        refuse({
            f"the Pad of {name} holds its padding in attributes, but an edit needs it as inputs; "
            "export at opset 11 or later": len(node.inputs) == 1,
            f"the padding of {name} is computed while the model runs, but an edit needs it "
            f"constant; run '{first}' first": pads is None or (filler and value is None),
            f"the Pad of {name} pads chosen axes, but all were expected; run '{first}' first":
                axes is not None,
        }, GraphError)  # fmt: skip
        ring = [] if pads is None else pads.tolist()
        yield node, pools, ring, 0.0 if value is None else float(value.reshape(()))


def _fold_pad(graph: Any) -> int:
    """Move -inf padding into the max-pools behind it; ONNX pads those with -inf by itself."""
    count = 0
    for node, pools, pads, value in _pool_pads(graph):
        spatial = len(pads) // 2
        outside = pads[:2] + pads[spatial : spatial + 2]
        inside = pads[2:spatial] + pads[spatial + 2 :]
        if value > -FLOAT16_MAX or any(outside) or min(pads) < 0:
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
    infinite = [node for node, _, _, before in _pool_pads(graph) if before == -np.inf]
    for node in infinite:
        filler = np.array(value, node.inputs[2].dtype.numpy())
        node.replace_input_with(2, add_constant(graph, f"{node.outputs[0].name}_padding", filler))
    return len(infinite)


def _zero_pad(graph: Any) -> int:
    """Pad max-pools with 0 where a Pad in front of them, or their own padding, stands for -inf."""
    count = _pad_with(graph, 0.0)
    for pool in [node for node in graph if node.op_type == "MaxPool"]:
        own = pool.attributes.get_ints("pads", ())
        if any(own) and _takes_pads(pool, [0] * len(own)):
            name, spatial = pool.outputs[0].name, len(own) // 2
            ring = np.array([0, 0, *own[:spatial], 0, 0, *own[spatial:]])
            filler = np.zeros((), pool.inputs[0].dtype.numpy())
            values = {f"{name}_pads": ring, f"{name}_zero": filler}
            more = [add_constant(graph, called, array) for called, array in values.items()]
            graph.insert_before(pool, pad := new_node("Pad", [pool.inputs[0], *more]))
            pool.replace_input_with(0, pad.outputs[0])
            set_attribute(pool, "pads", [0] * len(own))
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
    total, additions = layers[0].inputs[0], list[Any]()
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


# Float16.


def to_float16(graph: Any) -> int:
    """
    Make every float32 tensor float16 and cast at the borders; count the weights.

    Raises `GraphError` for branches, for a Resize whose scales are computed while the model runs,
    and for a weight beyond float16.
    """
    ir = require("onnx_ir", extra="onnx")
    single, half = ir.DataType.FLOAT, ir.DataType.FLOAT16
    branches = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    refuse({
        f"{node.outputs[0].name} ({node.op_type}) has branches, but fp16 takes a graph without; "
        "run 'effd0 simplify' first": any(one.type in branches for one in node.attributes.values())
        for node in graph
    }, GraphError)  # fmt: skip
    _separate_scales(graph)
    count = 0
    for value in graph.initializers.values():
        if value.const_value.dtype == single and not _is_scale(value):
            value.const_value, value.dtype = _rounded(value.const_value, value.name), half
            count += 1
    for node in graph if count else ():
        if node.op_type == "Cast" and node.attributes.get_int("to") == single:
            set_attribute(node, "to", half)
        for value in node.outputs:
            if value.dtype == single and not (value.is_graph_output() or _is_scale(value)):
                value.dtype = half
    if count:
        _cast_borders(graph, single, half)
    return count


def _cast_borders(graph: Any, single: Any, half: Any) -> None:
    """Cast float32 inputs to float16 and outputs back; the names at the borders stay."""
    for value in [v for v in graph.inputs if v.dtype == single and not v.is_initializer()]:
        cast = new_node("Cast", [value], to=half)
        graph.insert_before(graph[0], cast)
        value.replace_all_uses_with(cast.outputs[0])
        cast.replace_input_with(0, value)
    for index, inner in enumerate(graph.outputs):
        if inner.dtype == single and inner.producer() is not None:
            cast = new_node("Cast", [inner], to=single)
            outer, name = cast.outputs[0], inner.name
            outer.type, outer.shape, inner.type, inner.shape = inner.type, inner.shape, None, None
            graph.outputs[index] = outer
            inner.name, outer.name = f"{name}_float16", name
            graph.append(cast)


def _is_scale(value: Any) -> bool:
    """Whether Resize alone reads *value*, and as a region or scales."""
    uses = value.uses()
    return bool(uses) and all(u.node.op_type == "Resize" and u.idx in RESIZE_INPUTS for u in uses)


def _separate_scales(graph: Any) -> None:
    """Let no Resize share its region or scales with a node that reads them as data."""
    for node in [node for node in graph if node.op_type == "Resize"]:
        name, read = node.outputs[0].name, dict(enumerate(node.inputs))
        for index, word in RESIZE_INPUTS.items():
            if (value := read.get(index)) is None:
                continue
            if (array := constant(value)) is None:
                raise GraphError(
                    f"the scales of {name} are computed while the model runs, "
                    "but fp16 needs them constant; run 'effd0 simplify' first"
                )
            if not _is_scale(value):
                node.replace_input_with(index, add_constant(graph, f"{name}_{word}", array))


def _rounded(tensor: Any, name: str) -> Any:
    values = tensor.numpy()
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    lost = np.isinf(half) & np.isfinite(values)
    if lost.any():
        raise GraphError(
            f"{name} holds {values[lost].flat[0]:g}, but float16 ends at {FLOAT16_MAX:.0f}; "
            "leave fp16 out and let 'effd0 compile' choose what stays float32 (--precision-mode)"
        )
    return require("onnx_ir", extra="onnx").tensor(half, name=name)


#: Name, function, what it does, why a compiler likes that, and whether it is exact.
_EDITS = (
    GraphEdit("fold-pad", _fold_pad,
              "moves the -inf padding in front of max-pools into the max-pools",
              "no Pad node, and no -inf, which not every NPU has in float16"),
    GraphEdit("finite-pad", partial(_pad_with, value=-FLOAT16_MAX),
              f"replaces -inf padding of max-pools by float16's lowest value, {-FLOAT16_MAX:.0f}",
              "no -inf, where fold-pad cannot take a Pad away"),
    GraphEdit("zero-pad", _zero_pad,
              "pads max-pools with 0 in place of -inf, as the recipe does; changes borders",
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
