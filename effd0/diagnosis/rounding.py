"""
A model in 8 or 16 bits beside its float32 reference: what is rounding, and what is not.

A stored weight that lies within its step of the reference's is that weight, rounded: `restored`
puts the reference's value in its place.  What still differs from the reference is no rounding, and
a bisection at float32's noise names it, as in a model that was never rounded.
"""

from collections import Counter
from dataclasses import replace
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from ..errors import listed, require
from ..graph.quantised import InFloat32, Quantiser, in_float32
from ..results.check import Broken
from ..tolerances import CALIBRATION, CLASS_RANGE, CLIPPED, QUANTISER, Tolerance
from ..types import Tensor
from .graph_pairing import Array, Network, Pairs, each

#: Half steps that a stored weight is off by: rounding to the nearest, its scale in float32; and
#: rounding to either side, as is learned (AdaRound).
NEAREST, EITHER = 1.02, 2.02
#: Channels of a weight that are listed, and quantisers.
SHOWN = 4
#: Values of a tensor for an image from which on its range does not hang on a few images; and so
#: many are rounded to learn a quantiser's own error.
_MANY, _SAMPLE = 5000, 100_000
#: Relative L2 below which no range in 8 bits is called better.
_LEAST = 1e-3
#: Of all quantisers, so many have a smaller error than the one by which a calibration is judged.
_MOST = 0.95


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


def restored(model: Any, reference: Network, images: Tensor) -> Restored | None:
    """
    Take the rounding of *model*, a ``ModelProto``, away where it is honest; None without any.

    The nodes are paired with those of *reference* by what both compute from *images*, (N, 3, S, S).
    Raises `GraphError`, `RunnerError`.
    """
    numpy_helper = require("onnx.numpy_helper", extra="onnx")
    rounding = in_float32(model)
    if not rounding.rounded:
        return None
    network = Network(rounding.model, reference.spec)
    for side in (network, reference):
        side.observe(images)
    pairs = Pairs(network, reference)
    right: dict[str, Array] = {}
    wrong: dict[str, str] = {}
    either = 0
    # Rounded weights of nodes that have a partner, each once, and the partner's at the same place.
    both = ((node, pairs.nodes[node.index]) for node in network.nodes if node.index in pairs.nodes)
    beside = {mine: its.constants[at] for node, its in both
              for at, mine in node.constants.items()
              if at in its.constants and mine in rounding.steps}  # fmt: skip
    for name, partner in beside.items():
        wanted = reference.values[partner]
        off, said = _differs(network.values[name], wanted, rounding.steps[name])
        either += not said and off > NEAREST
        if said:
            wrong[name] = said
        else:
            right[name] = wanted
    for tensor in rounding.model.graph.initializer:
        if tensor.name in right:
            tensor.CopyFrom(numpy_helper.from_array(right[tensor.name], tensor.name))
    notes = []
    if either:
        notes.append(f"{either} of {len(right)} weights are not rounded to the nearest value")
    convs = [node for node in network.nodes if node.op == "Conv"]
    left = [one.name for one in convs if not rounding.steps.keys() & set(one.constants.values())]
    if left:
        notes.append(f"{len(left)} of {len(convs)} Conv are left in float: {listed(left)}")
    return Restored(Network(rounding.model, reference.spec), rounding, pairs, wrong, tuple(notes))


def _differs(got: Array, wanted: Array, half: Array) -> tuple[float, str]:
    """By how many half steps *got* is off, and how it differs from *wanted*, where not by one."""
    if got.shape != wanted.shape:
        return np.inf, f"shape {got.shape}, but {wanted.shape} in the reference"
    # A float16 that overflowed has no step.
    got, wanted, half = np.atleast_1d(got, wanted, np.where(np.isfinite(half), half, 0))
    # Channels have scales of their own; of a bias or in float16, each value has one.
    axis = next((i for i, side in enumerate(half.shape) if side > 1), 0)
    rows = 1 if half.shape == got.shape else half.shape[axis]
    each_row = [np.moveaxis(a, axis, 0).reshape(rows, -1).astype(np.float64)
                for a in (got, wanted, np.broadcast_to(half, got.shape))]  # fmt: skip
    with np.errstate(all="ignore"):
        off = float(np.max(np.abs(each_row[0] - each_row[1]) / each_row[2], initial=0))
        if off <= EITHER:
            return off, ""
        said = [_one_differs(*row) for row in zip(*each_row, strict=True)]
    wrong = [(channel, text) for channel, text in enumerate(said) if text]
    text, count = Counter(text for _, text in wrong).most_common(1)[0]
    if count > rows / 2:
        return off, text if count == rows else f"{text} in {count} of {rows} channels"
    shown = [f"channel {channel} {text}" for channel, text in wrong[:SHOWN]]
    return off, f"{'; '.join(shown)} ({len(wrong)} of {rows} channels differ)"


def _one_differs(got: Array, wanted: Array, half: Array) -> str:
    """How the values *got*, of one scale, differ from *wanted*; empty where by rounding alone."""
    off = got - wanted
    beyond = ~(np.abs(off) <= EITHER * half)
    count = f"{np.count_nonzero(beyond)} of {got.size} values"
    factor = float(np.vdot(got, wanted)) / (float(np.vdot(wanted, wanted)) or np.nan)
    steps = np.rint(np.median(off / (2 * half)))
    ends, odd = (got.min(), got.max()), ~np.isfinite(got)
    within = np.abs(got[beyond]) < np.abs(wanted[beyond])
    said = {
        "": not beyond.any(),
        f"is not finite in {odd.sum()} of {got.size} values": odd.any(),
        "is zero": not got.any(),
        f"is scaled by {factor:.3g}":
            np.all(np.abs(got - factor * wanted) <= EITHER * half * max(1.0, abs(factor))),
        f"is shifted by {steps:.0f} steps: a zero point is off":
            np.all(np.abs(off - 2 * half * steps) <= EITHER * half),
        f"is saturated: {count} are clipped to {ends[0]:.4g} .. {ends[1]:.4g}":
            np.isin(got[beyond], ends).all() and within.all(),
        f"is off by up to {np.abs(off / half).max() / 2:.3g} steps in {count}": True,
    }  # fmt: skip
    return next(text for text, holds in said.items() if holds)


class Own(NamedTuple):
    """
    What a *quantiser* does to the reference's values of its tensor, by itself.

    *error* is the relative L2 of the rounded values, *best* that of a quantiser of the same kind
    whose range is that of these values, *low* to *high*; *clipped* is the share of the values
    that lie beyond its ends, *many* whether an image has enough of them to judge by.
    """

    quantiser: Quantiser
    error: float
    best: float
    low: float
    high: float
    clipped: float
    many: bool

    @property
    def excess(self) -> float:
        """How many times the error is the best quantiser's."""
        return self.error / max(self.best, _LEAST)

    @property
    def beyond(self) -> float:
        """By how much the largest value is clipped."""
        return self.high - float(self.quantiser.ends[1][0])

    @property
    def factor(self) -> float:
        """How many times the range is as wide as the images need."""
        low, high = (float(end.min()) for end in self.quantiser.ends)
        return (high - low) / ((self.high - self.low) or 1)

    def __str__(self) -> str:
        ends, factor = [float(end.min()) for end in self.quantiser.ends], self.factor
        lost = f"{100 * self.clipped:.2g} % of the values are clipped"
        if self.clipped < 1 / _MANY and factor > 1:
            lost = f"{np.log2(factor):.1f} bits are unused"
        return (
            f"{self.quantiser.tensor}: range {ends[0]:.3g} to {ends[1]:.3g}, the images need "
            f"{self.low:.3g} to {self.high:.3g}: {factor:.2g} times that; {lost}; "
            f"own error {self.error:.2g}, {self.excess:.2g} times that of the range needed"
        )


def own_errors(mine: Restored, images: Tensor) -> list[Own]:
    """What each quantiser of data does to the reference's values on *images*, the worst first."""
    good, named = mine.pairs.good, mine.pairs.tensors
    fed = good.inputs[0].name
    pairs = ((named.get(one.tensor), one) for one, _ in mine.rounding.pairs)
    ones = {(name != fed, name, one.scale[0], one.zero_point[0]): one
            for name, one in pairs if name is not None and one.scale.size == 1}  # fmt: skip
    keys = sorted(ones)  # the input first: no node gives it
    inner = [name for _, name, *_ in keys if name != fed]
    values = chain([(images,)] * (len(keys) - len(inner)), each([(good, inner)], images))
    both = zip(keys, values, strict=True)
    found = [_own(ones[key], value, len(images)) for key, (value,) in both]
    return sorted(found, key=lambda own: -own.excess)


def _own(one: Quantiser, values: Array, rows: int) -> Own:
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    sample = values.reshape(-1)[:: max(1, values.size // _SAMPLE)]
    ends = low, high
    if one.zero_point[0] == (one.low + one.high + 1) // 2:  # symmetric
        ends = -max(-low, high), max(-low, high)
    scale = np.array([(ends[1] - ends[0]) / (one.high - one.low) or 1.0])
    best = replace(one, scale=scale, zero_point=np.rint(one.low - ends[0] / scale))
    step, (bottom, top) = one.scale[0], (end[0] for end in one.ends)
    clipped = np.mean((sample < bottom - step) | (sample > top + step))
    size = float(np.linalg.norm(sample)) or 1.0
    error, least = (float(np.linalg.norm(q.rounded(sample) - sample)) / size for q in (one, best))
    return Own(one, error, least, low, high, float(clipped), values.size >= _MANY * rows)


def check_quantisers(mine: Restored, images: Tensor) -> None:
    """
    Raise `Broken` unless each tensor of data is quantised as it is turned back, in a range that
    fits *images*, (N, 3, S, S).
    """
    for one, back in mine.rounding.pairs:
        for what in ("scale", "zero point"):
            here, there = (getattr(side, what.replace(" ", "_")) for side in (one, back))
            if not np.array_equal(here, there):
                said = f"{one.node} has the {what} {here[0]:.6g}, but {back.node} {there[0]:.6g}"
                evidence = f"{one.tensor} is turned back otherwise than it was quantised"
                raise Broken(evidence, said, "graph")
    found = own_errors(mine, images)
    large = [own for own in found if own.many]
    heads = [own for own in large if own.quantiser.tensor in mine.network.outputs]
    figures: list[tuple[Tolerance, float, object]] = []
    # A few values beyond a range are those that a calibration on other images did not have.
    misfits = [own for own in large if own.factor > 1 or own.clipped > CLIPPED.limit]
    if misfits:
        figures.append((QUANTISER, misfits[0].excess, misfits[0]))
    if heads:
        cut = max(heads, key=lambda own: own.beyond)
        figures.append((CLASS_RANGE, cut.beyond, cut))
    if found:
        most = float(np.quantile([own.excess for own in found], _MOST))
        why = f"ranges of a calibration on too few images, or on others; the worst is {found[0]}"
        figures.append((CALIBRATION, most, why))
    for row, figure, cause in figures:
        if figure > row.limit:
            evidence = f"{row.name}: {figure:.3g} {row.unit}, but at most {row.limit:g} is allowed"
            raise Broken(evidence, cause, "graph", [str(own) for own in found[:SHOWN]])
