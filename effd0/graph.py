"""
ONNX -> ONNX that a compiler takes: named edits, each of which counts its matches.

The recipe's ``modify`` step exists because a max-pool's padding of -inf cannot be held in
float16.  It replaced the padding of whatever Pad node came first by a float16 zero, in a
float32 graph.  Here an edit names its pattern, keeps the graph's dtype, and says what it found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import GraphError, require

FLOAT16_LOWEST = float(np.finfo(np.float16).min)


@dataclass(frozen=True)
class GraphEdit:
    """A named change: what it does, whether it keeps the numbers, and the function."""

    name: str
    explanation: str
    exact: bool
    apply: Callable[[Any], int]


@dataclass(frozen=True)
class GraphChange:
    """What an edit did to a graph."""

    edit: GraphEdit
    matches: int

    def __str__(self) -> str:
        if self.matches == 0:
            return f"{self.edit.name}: nothing to do"
        return f"{self.edit.name}: {self.matches} matches"


def load_graph(path: Path) -> Any:
    """Read an ONNX file as a ``ModelProto``; raise `GraphError` if it is none."""
    onnx = require("onnx", extra="onnx")
    if not path.is_file():
        raise GraphError(f"{path} does not exist; make it with 'effd0 export'")
    try:
        graph = onnx.load(str(path))
    except Exception as error:  # protobuf's DecodeError has no stable place to import it from
        raise GraphError(f"{path} is not an ONNX file: {error}") from error
    if not graph.graph.node:
        raise GraphError(f"{path} is not an ONNX model: its graph has no node")
    return graph


def save_graph(graph: Any, path: Path) -> None:
    """Check *graph* completely, then write it to *path*; raise `GraphError` if it is broken."""
    onnx = require("onnx", extra="onnx")
    try:
        onnx.checker.check_model(graph, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GraphError(f"{path.name} would be an invalid graph: {error}") from error
    onnx.save(graph, str(path))


def apply_edits(graph: Any, names: Sequence[str]) -> list[GraphChange]:
    """
    Apply the edits *names* to *graph* in place, in the order given.

    Raises `GraphError` for a name that is none, or for padding that is not constant yet.
    """
    unknown = [name for name in names if name not in EDITS]
    if unknown:
        raise GraphError(f"--edit is {unknown[0]!r}, but effd0 knows {', '.join(EDITS)}")
    return [GraphChange(EDITS[name], EDITS[name].apply(graph)) for name in names]


@dataclass(frozen=True)
class _PoolPad:
    """A constant Pad of which every reader is a max-pool."""

    node: Any
    pools: list[Any]
    pads: list[int]
    value: float


def _pool_pads(graph: Any) -> Iterator[_PoolPad]:
    """All Pad nodes in front of max-pools.  Raises `GraphError` if one is not constant."""
    constants = _constants(graph)
    outputs = {output.name for output in graph.graph.output}
    for node in [node for node in graph.graph.node if node.op_type == "Pad"]:
        readers = [reader for reader in graph.graph.node if node.output[0] in reader.input]
        pooled = readers and all(reader.op_type == "MaxPool" for reader in readers)
        if not pooled or node.output[0] in outputs:
            continue
        name, filler = node.name or node.output[0], _input(node, 2)
        if len(node.input) == 1:
            raise GraphError(
                f"{name} holds its padding in attributes, but an edit needs it as inputs; "
                "export at opset 11 or later"
            )
        if {node.input[1], filler} - constants.keys() - {""}:
            raise GraphError(
                f"the padding of {name} is computed while the model runs, "
                "but an edit needs it constant; run 'effd0 simplify' first"
            )
        if _input(node, 3):
            raise GraphError(
                f"{name} pads chosen axes, but all were expected; run 'effd0 simplify' first"
            )
        value = float(constants[filler].reshape(())) if filler else 0.0
        yield _PoolPad(node, readers, constants[node.input[1]].tolist(), value)


def _input(node: Any, index: int) -> str:
    """The name of an optional input; empty where it is not given."""
    return node.input[index] if index < len(node.input) else ""


def _constants(graph: Any) -> dict[str, np.ndarray]:
    numpy_helper = require("onnx.numpy_helper", extra="onnx")
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    for node in graph.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found


def _fold_pad(graph: Any) -> int:
    """Move -inf padding into the max-pools behind it; ONNX pads those with -inf by itself."""
    count = 0
    for pad in _pool_pads(graph):
        spatial = len(pad.pads) // 2
        outside = pad.pads[:2] + pad.pads[spatial : spatial + 2]
        if pad.value > FLOAT16_LOWEST or any(outside) or min(pad.pads) < 0:
            continue
        inside = pad.pads[2:spatial] + pad.pads[spatial + 2 :]
        if not all(_takes_pads(pool, inside) for pool in pad.pools):
            continue
        for pool in pad.pools:
            _add_pads(pool, inside)
            pool.input[0] = pad.node.input[0]
        graph.graph.node.remove(pad.node)
        count += 1
    return count


def _takes_pads(pool: Any, pads: list[int]) -> bool:
    """Whether *pads* more keep the pool's meaning, and leave a value in each of its windows."""
    helper = require("onnx.helper", extra="onnx")
    given = {a.name: helper.get_attribute_value(a) for a in pool.attribute}
    own = given.get("pads", [0] * len(pads))
    return (
        len(pool.output) == 1  # a second one holds indices into the padded input
        and not given.get("ceil_mode", 0)
        and given.get("auto_pad", b"NOTSET") in (b"", b"NOTSET")
        and all(a + b < k for a, b, k in zip(own, pads, given["kernel_shape"] * 2, strict=True))
    )


def _add_pads(pool: Any, pads: list[int]) -> None:
    for attribute in pool.attribute:
        if attribute.name == "pads":
            attribute.ints[:] = [a + b for a, b in zip(attribute.ints, pads, strict=True)]
            return
    helper = require("onnx.helper", extra="onnx")
    pool.attribute.append(helper.make_attribute("pads", pads))


def _pad_with(value: float) -> Callable[[Any], int]:
    """An edit that replaces -inf padding of max-pools by *value*, in the graph's own dtype."""

    def edit(graph: Any) -> int:
        numpy_helper = require("onnx.numpy_helper", extra="onnx")
        constants = _constants(graph)
        count = 0
        for pad in _pool_pads(graph):
            if pad.value != -np.inf:
                continue
            name = f"{pad.node.output[0]}_padding"
            dtype = constants[pad.node.input[2]].dtype
            tensor = numpy_helper.from_array(np.array(value, dtype), name)
            graph.graph.initializer.append(tensor)
            pad.node.input[2] = name
            count += 1
        return count

    return edit


EDITS = {
    edit.name: edit
    for edit in (
        GraphEdit(
            "fold-pad",
            "moves the -inf padding in front of max-pools into the max-pools",
            True,
            _fold_pad,
        ),
        GraphEdit(
            "finite-pad",
            f"replaces -inf padding of max-pools by float16's lowest value, {FLOAT16_LOWEST:.0f}",
            True,
            _pad_with(FLOAT16_LOWEST),
        ),
        GraphEdit(
            "zero-pad",
            "replaces -inf padding of max-pools by 0, as the recipe does; changes borders",
            False,
            _pad_with(0.0),
        ),
    )
}
DEFAULT_EDITS = ("fold-pad", "finite-pad")
