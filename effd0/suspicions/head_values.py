"""Faults of heads that leave every value in its place, but change it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ..spec import ModelSpec
from ..types import Floats
from .head_fault import HeadFault, Plant, Planted, always, by_anchor

Mask = npt.NDArray[np.bool_]
_CLASS, _BOX = ("class",), ("box",)
_FLOAT16_MAX = 65504.0
#: Part of the values that has to lie on a grid of 16 bits: float32 does by chance, 1 in 3,000.
_ON_GRID = 0.999


def _sigmoid(head: Floats) -> Floats:
    with np.errstate(over="ignore"):
        scores = 1 / (1 + np.exp(-head))
    return np.asarray(scores, head.dtype)


def _softmax(reference: Floats, candidate: Floats, spec: ModelSpec) -> Planted:
    wanted = by_anchor(reference, spec)
    wanted = np.exp(wanted - wanted.max(axis=2, keepdims=True))
    wanted /= wanted.sum(axis=2, keepdims=True)
    return Planted(wanted.reshape(reference.shape), candidate)


def _stuck(reference: Floats, candidate: Floats, spec: ModelSpec) -> Planted | None:
    del spec
    first = candidate.flat[0]
    if not np.isfinite(first) or candidate.min() != candidate.max():
        return None
    return Planted(np.full_like(reference, first), candidate, f"{first + 0.0:.3g}")


def _scaled(axes: tuple[int, ...]) -> Plant:
    """One factor for all that lies along *axes* of `by_anchor`, by least squares."""

    def plant(reference: Floats, candidate: Floats, spec: ModelSpec) -> Planted:
        wanted, got = (by_anchor(side, spec).astype(np.float64) for side in (reference, candidate))
        with np.errstate(all="ignore"):
            factors = (wanted * got).sum(axis=axes, keepdims=True)
            factors /= (wanted * wanted).sum(axis=axes, keepdims=True)
        detail = ", ".join(f"{factor:.3g}" for factor in factors.ravel())
        return Planted((wanted * factors).reshape(reference.shape), candidate, detail)

    return plant


def _raised(reference: Floats, candidate: Floats, spec: ModelSpec) -> Planted | None:
    del spec
    with np.errstate(all="ignore"):
        constant = np.mean(candidate - reference, dtype=np.float64)
    if not np.isfinite(constant):
        return None
    return Planted(reference + np.float32(constant), candidate, f"{constant:.3g}")


def _left_out(bad: Callable[[Floats], Mask]) -> Plant:
    """The values that are *bad* say nothing; at least half of a head has to be left."""

    def plant(reference: Floats, candidate: Floats, spec: ModelSpec) -> Planted | None:
        del spec
        lost = bad(candidate)
        if not 0 < lost.sum() <= lost.size / 2:
            return None
        return Planted(reference[~lost], candidate[~lost], f"{lost.mean():.1%}")

    return plant


def _clipped(reference: Floats, candidate: Floats, spec: ModelSpec) -> Planted | None:
    """Cut off where the candidate ends, if more than one value lies at that end."""
    del spec
    low, high = candidate.min(), candidate.max()
    ends = {
        f"from {low:.4g}": np.count_nonzero(candidate == low) > 1,
        f"to {high:.4g}": low < high and np.count_nonzero(candidate == high) > 1,
    }
    if not np.isfinite([low, high]).all() or not any(ends.values()):
        return None
    detail = " ".join(end for end, reached in ends.items() if reached)
    return Planted(reference.clip(low, high), candidate, detail)


def _stored(step: Callable[[Floats], Floats], on_grid: Callable[[Floats], Mask]) -> Plant:
    """On the grid, and no further from the reference than a *step* of the grid."""

    def plant(reference: Floats, candidate: Floats, spec: ModelSpec) -> Planted | None:
        del spec
        with np.errstate(all="ignore"):
            if on_grid(candidate).mean() < _ON_GRID:
                return None
            room = step(candidate)
            return Planted(reference + (candidate - reference).clip(-room, room), candidate)

    return plant


def _half_float16(head: Floats) -> Floats:
    step = np.spacing(np.abs(head.astype(np.float16)))
    return step.astype(np.float32) * np.float32(0.5)


def _bfloat16(head: Floats) -> Floats:
    """A whole step: values may have been cut off and not rounded."""
    step = np.ldexp(np.float32(1), np.frexp(head)[1] - 8)
    return np.where(head == 0, np.float32(0), step).astype(np.float32)


def _on_bfloat16(head: Floats) -> Mask:
    bits = np.ascontiguousarray(head, np.float32).view(np.uint32)
    return np.asarray((bits & 0xFFFF) == 0, np.bool_)


_LEFT_OUT = "these {} of the values are left out"
#: The first that explains a difference is named, so the narrower stand before the wider.
VALUE_FAULTS = (
    HeadFault("stuck at one value", "every value of the reference is {}", _stuck),
    HeadFault(
        "saturated at 65504", _LEFT_OUT, _left_out(lambda head: np.abs(head) == _FLOAT16_MAX)
    ),
    HeadFault("not finite", _LEFT_OUT, _left_out(lambda head: ~np.isfinite(head))),
    HeadFault(
        "logits already through a sigmoid", "the reference goes through one too",
        always(_sigmoid), _CLASS,
    ),
    HeadFault(
        "logits already through a softmax", "the reference goes through one too", _softmax, _CLASS
    ),
    HeadFault("stored in bfloat16", "the reference is too", _stored(_bfloat16, _on_bfloat16)),
    HeadFault(
        "stored in float16", "the reference is too",
        _stored(_half_float16, lambda head: head.astype(np.float16) == head),
    ),
    HeadFault("boxes scaled", "(ty, tx, th, tw) of the reference are times {}",
        _scaled((0, 1, 3, 4)), _BOX),
    HeadFault("logits scaled", "the reference is times {}", _scaled((0, 1, 2, 3, 4)), _CLASS),
    HeadFault("a constant added to the logits", "{} is added to the reference", _raised, _CLASS),
    HeadFault("clipped", "the reference is cut off {}", _clipped),
)  # fmt: skip
