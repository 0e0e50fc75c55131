"""
Every tensor of a network, looked at in bounded memory and turned into numbers at once.

Copies of the graph are given other outputs, a group at a time, and run in ONNX Runtime without
any optimisation, so that no fusion hides a tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ..errors import RunnerError, require
from .network import Network

Array = npt.NDArray[Any]
_Name = TypeVar("_Name")
#: Tensors of one image held at a time at first: 48 of the largest in a row of a D0 are 0.3 GB.
GROUP = 48
#: From then on as many as the last group's size lets expect to fit; never so many times more.
BUDGET_BYTES, GROWTH = 300_000_000, 3.0
#: Values of a tensor that are kept to recognise it by.
SAMPLE = 4096


@dataclass(frozen=True)
class Seen:
    """What is kept of a tensor: its shape, its dtype and some of its values, as float64."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    sample: npt.NDArray[np.float64]


def observe(network: Network, images: Array) -> dict[str, Seen]:
    """
    Run *network* on *images*; return what was seen of each data tensor, by name.

    Puts the values of computed constants into ``network.values``.  Raises `RunnerError`.
    """
    if network.computed:
        found = _run(network, network.computed, images)
        network.values.update(found)
    names = [node.output for node in network.nodes]
    seen: dict[str, Seen] = {}

    def look(group: Sequence[str]) -> int:
        values = _run(network, group, images)
        seen.update({name: _seen(value) for name, value in values.items()})
        return sum(value.nbytes for value in values.values())

    _in_groups(names, images, look)
    return seen


def measure(
    network: Network, reference: Network, pairs: Sequence[tuple[str, str]], images: Array
) -> dict[str, float]:
    """
    Relative L2 of each tensor of *network* against its partner in *reference*, by name.

    Raises `RunnerError` where one of the two cannot be run on *images*.
    """
    errors: dict[str, float] = {}

    def compare(group: Sequence[tuple[str, str]]) -> int:
        got = _run(network, [mine for mine, _ in group], images)
        wanted = _run(reference, [theirs for _, theirs in group], images)
        errors.update({mine: relative_l2(got[mine], wanted[theirs]) for mine, theirs in group})
        return sum(value.nbytes for value in got.values())

    _in_groups(pairs, images, compare)
    return errors


def relative_l2(got: Array, wanted: Array) -> float:
    """``|got - wanted| / |wanted|``; infinite for other shapes and for a NaN on one side alone."""
    if got.shape != wanted.shape:
        return float("inf")
    one, other = got.astype(np.float32), wanted.astype(np.float32)
    differs = ~((one == other) | (np.isnan(one) & np.isnan(other)))
    if not differs.any():
        return 0.0
    moved = one[differs].astype(np.float64) - other[differs]
    size = float(np.linalg.norm(other[np.isfinite(other)].astype(np.float64)))
    distance = float(np.linalg.norm(moved))
    return distance / size if size and np.isfinite(distance) else float("inf")


def _in_groups(
    names: Sequence[_Name], images: Array, work: Callable[[Sequence[_Name]], int]
) -> None:
    """Call *work*, which returns the bytes it held, on *names*, a group at a time."""
    start, step = 0, max(1, GROUP // images.shape[0])
    while start < len(names):
        size = work(names[start : start + step])
        start += step
        step = max(1, int(step * min(GROWTH, BUDGET_BYTES / max(1, size))))


def _seen(value: Array) -> Seen:
    flat = value.reshape(-1)
    if flat.size > SAMPLE:
        # The same places for all tensors of a size, or two samples could not be compared.
        flat = flat[np.random.default_rng(flat.size).integers(0, flat.size, SAMPLE)]
    return Seen(value.shape, value.dtype, flat.astype(np.float64))


def _run(network: Network, names: Sequence[str], images: Array) -> dict[str, Array]:
    """Values of the tensors *names* of *network*; those of its own inputs are *images*."""
    ir, ort = require("onnx_ir", extra="onnx"), require("onnxruntime", extra="onnx")
    info, wanted = network.inputs[0], list(dict.fromkeys(names))
    whole = ir.from_proto(network.model)
    part = ir.convenience.extract(whole.graph, [info.name], wanted)
    functions = tuple(whole.functions.values())
    copy = ir.to_proto(ir.Model(part, ir_version=whole.ir_version, functions=functions))
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    # Threads that spin between the many short runs take the core from whatever else is running.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = ort.InferenceSession(
            copy.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        values = session.run(wanted, {info.name: images.astype(info.dtype)})
    except Exception as error:  # ONNX Runtime's errors share no base class but Exception.
        raise RunnerError(
            f"{network.model.graph.name or 'the model'} failed in ONNX Runtime on {images.shape} "
            f"images: {error}; it has to run before it can be bisected"
        ) from error
    return dict(zip(wanted, values, strict=True))
