"""
A model in 8 or 16 bits beside its float32 reference: what is rounding, and what is not.

A stored weight that lies within its step of the reference's is that weight, rounded: `restored`
puts the reference's value in its place.  What still differs from the reference is no rounding, and
a bisection at float32's noise names it, as in a model that was never rounded.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import require
from ..graph.quantised import InFloat32, in_float32
from ..types import Tensor
from .bisect import Finding, bisect_networks
from .graph_pairing import Network, Pairs

Array = npt.NDArray[Any]
#: Half steps that a stored weight is off by: rounding to the nearest, its scale in float32; and
#: rounding to either side, as is learned (AdaRound).
NEAREST, EITHER = 1.02, 2.02
#: Channels of a weight that are listed.
_FEW = 4


class Restored(NamedTuple):
    """
    A model whose honest rounding was undone.

    *network* computes in float32; *rounding* is what was taken away; *pairs* are its nodes beside
    those of the reference; *wrong* says of each weight that is not the reference's how it differs;
    *notes* are sentences on what is unusual and no fault.
    """

    network: Network
    rounding: InFloat32
    pairs: Pairs
    wrong: dict[str, str]
    notes: tuple[str, ...]

    def bisect(self, images: Tensor) -> Finding:
        """Where the network leaves the reference; its weights are described with their steps."""
        found = bisect_networks(self.network, self.pairs.good, images)
        texts = {f"weight {name} differs: ": text for name, text in self.wrong.items()}

        def said(text: str) -> str:
            start = next((start for start in texts if text.startswith(start)), None)
            return text if start is None else start + texts[start]

        suspects = tuple(
            replace(one, differences=tuple(map(said, one.differences))) for one in found.suspects
        )
        return replace(found, suspects=suspects, notes=(*found.notes, *self.notes))


def restored(model: Any, reference: Network, images: Tensor) -> Restored:
    """
    Take the rounding of *model*, a ``ModelProto``, away where it is honest.

    The nodes are paired with those of *reference* by what both compute from *images*, (N, 3, S, S).
    Raises `GraphError`, `RunnerError`.
    """
    numpy_helper = require("onnx.numpy_helper", extra="onnx")
    rounding = in_float32(model)
    network = Network(rounding.model)
    for side in (network, reference):
        side.observe(images)
    pairs = Pairs(network, reference)
    right: dict[str, Array] = {}
    wrong: dict[str, str] = {}
    either = 0
    for name, partner in sorted(_weights(pairs)):
        if name not in rounding.steps or name in right or name in wrong:
            continue
        got, wanted = network.values[name], reference.values[partner]
        if got.shape != wanted.shape:
            wrong[name] = f"shape {got.shape}, but {wanted.shape} in the reference"
            continue
        half = np.broadcast_to(rounding.steps[name], got.shape)
        with np.errstate(invalid="ignore"):
            off = float(np.max(np.abs(got - wanted.astype(np.float64)) / half, initial=0))
        if off <= EITHER:
            right[name] = wanted
            either += off > NEAREST
        else:
            wrong[name] = "; ".join(_differs(got, wanted, rounding.steps[name]))
    for tensor in rounding.model.graph.initializer:
        if tensor.name in right:
            tensor.CopyFrom(numpy_helper.from_array(right[tensor.name], tensor.name))
    notes = []
    if either:
        notes.append(f"{either} of {len(right)} weights are not rounded to the nearest value")
    return Restored(Network(rounding.model), rounding, pairs, wrong, tuple(notes))


def _weights(pairs: Pairs) -> Iterator[tuple[str, str]]:
    """Constants of nodes that have a partner, with the partner's at the same place."""
    for node in pairs.bad.nodes:
        partner = pairs.nodes.get(node.index)
        if partner is not None:
            for position in node.constants.keys() & partner.constants.keys():
                yield node.constants[position], partner.constants[position]


def _differs(got: Array, wanted: Array, half: Array) -> Iterator[str]:
    """How *got* differs from *wanted* by more than steps of twice *half*: of all, or by channel."""
    axis = next((i for i, side in enumerate(half.shape) if side > 1), None)
    rows = got.shape[axis] if axis is not None and half.shape != got.shape else 1
    flat = [np.moveaxis(a, axis or 0, 0).reshape(rows, -1).astype(np.float64)
            for a in (got, wanted, np.broadcast_to(half, got.shape))]  # fmt: skip
    said = [_one_differs(*row) for row in zip(*flat, strict=True)]
    wrong = [(channel, text) for channel, text in enumerate(said) if text]
    if rows == 1 or len({text for _, text in wrong}) == 1 < len(wrong) == rows:
        yield wrong[0][1]
        return
    for channel, text in wrong[:_FEW]:
        yield f"channel {channel} {text}"
    if len(wrong) > 1:
        yield f"{len(wrong)} of {rows} channels differ"


def _one_differs(got: Array, wanted: Array, half: Array) -> str:
    """How the values *got*, of one scale, differ from *wanted*; empty where by rounding alone."""
    off = got - wanted
    beyond = np.abs(off) > EITHER * half
    if not beyond.any():
        return ""
    if not got.any():
        return "is zero"
    size = float(np.vdot(wanted, wanted))
    factor = float(np.vdot(got, wanted)) / size if size else np.nan
    if np.all(np.abs(got - factor * wanted) <= EITHER * half * max(1.0, abs(factor))):
        return f"is scaled by {factor:.4g}"
    shift = float(np.median(off / (2 * half)))
    if np.all(np.abs(off - 2 * half * round(shift)) <= EITHER * half):
        return f"is shifted by {round(shift)} steps: a zero point is off"
    ends = np.isin(got[beyond], (got.min(), got.max()))
    if ends.all() and np.all(np.abs(got[beyond]) < np.abs(wanted[beyond])):
        span = f"{got.min():.4g} to {got.max():.4g}"
        return f"is saturated: {beyond.sum()} of {got.size} values are clipped to {span}"
    steps = np.abs(off / half).max() / 2
    return f"is off by up to {steps:.3g} steps in {beyond.sum()} of {got.size} values"
