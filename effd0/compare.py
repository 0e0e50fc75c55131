"""Two sets of head outputs side by side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .arrays import Tensors
from .errors import HeadError


@dataclass(frozen=True)
class Tolerance:
    """How far a head may be from its reference, and why."""

    max_abs: float
    reason: str


#: Same arithmetic (float32), another order of sums and fused batch norms.  Measured 2026-11-23 on
#: trained weights, against torch, both exporters, opsets 11 to 18, simplified or not, batch 1 to
#: 8: at most 8.4e-5 on real images and 1.3e-4 on noise, for logits that reach -36.  Float16
#: arithmetic differs by 3e-2, bfloat16 by 0.27.
SAME_FLOAT32 = Tolerance(2e-3, "float32 arithmetic in another order")


@dataclass(frozen=True)
class TensorDiff:
    """
    How far *candidate* is from *reference*: largest absolute difference and relative L2 norm.

    *worst* is the index of the largest difference, with the two values there.
    """

    name: str
    max_abs: float
    relative_l2: float
    worst: tuple[int, ...]
    reference: float
    candidate: float

    def __str__(self) -> str:
        return (
            f"{self.name} differs by {self.max_abs:.3g} at {list(self.worst)} "
            f"({self.candidate:.6g}, reference {self.reference:.6g}; "
            f"relative L2 {self.relative_l2:.2g})"
        )


def compare_tensors(reference: Tensors, candidate: Tensors) -> list[TensorDiff]:
    """
    Compare tensor by tensor, by name; the worst comes first.

    Raises `HeadError` where names or shapes are not the same.
    """
    if reference.keys() != candidate.keys():
        raise HeadError(f"outputs are {sorted(candidate)}, but {sorted(reference)} were wanted")
    diffs = [_difference(name, reference[name], candidate[name]) for name in reference]
    return sorted(diffs, key=lambda diff: -diff.max_abs)


def _difference(name: str, reference: np.ndarray, candidate: np.ndarray) -> TensorDiff:
    if reference.shape != candidate.shape:
        raise HeadError(f"{name} is {candidate.shape}, but {reference.shape} was wanted")
    wanted = reference.astype(np.float64)
    # What is not finite counts as infinitely far, on both sides too; inf - inf is NaN.
    with np.errstate(invalid="ignore"):
        delta = candidate - wanted
    np.abs(delta, out=delta)
    delta[np.isnan(delta)] = np.inf
    worst = np.unravel_index(int(delta.argmax()), delta.shape)
    norm = float(np.linalg.norm(wanted))
    return TensorDiff(
        name=name,
        max_abs=float(delta[worst]),
        relative_l2=float(np.linalg.norm(delta)) / max(norm, np.finfo(np.float64).tiny),
        worst=tuple(int(i) for i in worst),
        reference=float(wanted[worst]),
        candidate=float(candidate[worst]),
    )
