"""
Padding in front of max-pools: moved into them, or made finite.

The recipe's ``modify`` step exists because not every NPU holds a max-pool's padding of -inf in
float16.  It replaced the padding of whatever Pad node came first by a float16 zero, in a float32
graph.  Here an edit names its pattern, keeps the graph's dtype, and says what it found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import GraphError, require
from .base import GraphEdit, add_constant, attributes, constants, optional_input

FLOAT16_LOWEST = float(np.finfo(np.float16).min)


@dataclass(frozen=True)
class _PoolPad:
    """A constant Pad of which every reader is a max-pool."""

    node: Any
    pools: list[Any]
    pads: list[int]
    value: float


def _pool_pads(model: Any) -> Iterator[_PoolPad]:
    """All Pad nodes in front of max-pools.  Raises `GraphError` if one is not constant."""
    known = constants(model)
    outputs = {output.name for output in model.graph.output}
    for node in [node for node in model.graph.node if node.op_type == "Pad"]:
        readers = [reader for reader in model.graph.node if node.output[0] in reader.input]
        pooled = readers and all(reader.op_type == "MaxPool" for reader in readers)
        if not pooled or node.output[0] in outputs:
            continue
        name, filler = node.name or node.output[0], optional_input(node, 2)
        if len(node.input) == 1:
            raise GraphError(
                f"{name} holds its padding in attributes, but an edit needs it as inputs; "
                "export at opset 11 or later"
            )
        if {node.input[1], filler} - known.keys() - {""}:
            raise GraphError(
                f"the padding of {name} is computed while the model runs, "
                "but an edit needs it constant; run 'effd0 simplify' first"
            )
        if optional_input(node, 3):
            raise GraphError(
                f"{name} pads chosen axes, but all were expected; run 'effd0 simplify' first"
            )
        value = float(known[filler].reshape(())) if filler else 0.0
        yield _PoolPad(node, readers, known[node.input[1]].tolist(), value)


def _fold_pad(model: Any) -> int:
    """Move -inf padding into the max-pools behind it; ONNX pads those with -inf by itself."""
    count = 0
    for pad in _pool_pads(model):
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
        count += 1
    return count


def _takes_pads(pool: Any, pads: list[int]) -> bool:
    """Whether *pads* more keep the pool's meaning, and leave a value in each of its windows."""
    given = attributes(pool)
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

    def edit(model: Any) -> int:
        known = constants(model)
        count = 0
        for pad in _pool_pads(model):
            if pad.value != -np.inf:
                continue
            filler = np.array(value, known[pad.node.input[2]].dtype)
            pad.node.input[2] = add_constant(model, f"{pad.node.output[0]}_padding", filler)
            count += 1
        return count

    return edit


EDITS = (
    GraphEdit(
        "fold-pad",
        "moves the -inf padding in front of max-pools into the max-pools",
        "no Pad node, and no -inf, which not every NPU has in float16",
        exact=True,
        apply=_fold_pad,
    ),
    GraphEdit(
        "finite-pad",
        f"replaces -inf padding of max-pools by float16's lowest value, {FLOAT16_LOWEST:.0f}",
        "no -inf, where fold-pad cannot take a Pad away",
        exact=True,
        apply=_pad_with(FLOAT16_LOWEST),
    ),
    GraphEdit(
        "zero-pad",
        "replaces -inf padding of max-pools by 0, as the recipe does; changes borders",
        "what the recipe compiled, for comparison with its figures",
        exact=False,
        apply=_pad_with(0.0),
    ),
)
