"""Two sets of head outputs side by side."""

import decimal
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import HeadError
from ..types import Floats, Tensors

#: Where float16 ends, and from where bfloat16 and float32 do: a value here was cut off.
_FLOAT16_MAX, _BFLOAT16_MAX = 65504.0, 3.3895e38
#: Values at a time: they stay in a processor's cache for all that is done with them.
_BLOCK = 1 << 15
#: Values of which the largest difference is taken, on the way to the largest of all.
_GROUP = 64
_TWO_DIGITS = decimal.Context(prec=2, rounding=decimal.ROUND_CEILING)


@dataclass(frozen=True)
class TensorDiff:
    """
    How far *candidate* is from *reference*: largest absolute difference and relative L2 norm.

    *worst* is the index of the largest difference, with the two values there; 99.9 % of the
    absolute differences are at most *q999*.  *cosine* is that of the two tensors as vectors, NaN
    where a value is not finite or one of them is zero.  *found* is what `scan` says of the
    candidate.
    """

    name: str
    max_abs: float
    relative_l2: float
    worst: tuple[int, ...]
    reference: float
    candidate: float
    cosine: float = math.nan
    q999: float = math.nan
    found: str = ""

    @property
    def required(self) -> float:
        """The smallest limit that would let this pass, rounded up to two digits."""
        # Of the shortest digits that mean the number: 0.07 is 0.07, not a hair more.
        return float(_TWO_DIGITS.create_decimal(repr(self.max_abs)))

    def __str__(self) -> str:
        return (
            f"{self.name} differs by {self.max_abs:.3g} at {list(self.worst)} "
            f"({self.candidate:.6g}, reference {self.reference:.6g}; "
            f"relative L2 {self.relative_l2:.2g}){self.found and f'; {self.found}'}"
        )


def compare_tensors(reference: Tensors, candidate: Tensors) -> list[TensorDiff]:
    """
    Compare tensor by tensor, by name; the worst comes first.

    Raises `HeadError` where names or shapes are not the same.
    """
    check_pair(reference, candidate)
    diffs = [_diff_of(name, reference[name], candidate[name]) for name in reference]
    return sorted(diffs, key=lambda diff: -diff.max_abs)


def check_pair(reference: Tensors, candidate: Tensors) -> None:
    """Raise `HeadError` where names or shapes are not the same on both sides."""
    if reference.keys() != candidate.keys():
        raise HeadError(f"outputs are {sorted(candidate)}, but {sorted(reference)} were wanted")
    for name, wanted in reference.items():
        if candidate[name].shape != wanted.shape:
            raise HeadError(f"{name} is {candidate[name].shape}, but {wanted.shape} was wanted")


def _diff_of(name: str, reference: Floats, candidate: Floats) -> TensorDiff:
    wanted, got = np.ravel(reference), np.ravel(candidate)
    delta = np.empty(wanted.size, np.promote_types(np.float32, np.result_type(wanted, got)))
    sums = np.zeros(4)
    for start in range(0, wanted.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        sums += _accumulate(wanted[block], got[block], delta[block])
    of_delta, of_wanted, of_got, of_both = sums
    at, norm = int(delta.argmax()), math.sqrt(of_wanted)
    infinite, length = not math.isfinite(delta[at]), norm * math.sqrt(of_got)
    return TensorDiff(
        name=name,
        max_abs=float(delta[at]),
        relative_l2=math.inf if infinite else math.sqrt(of_delta) / max(norm, _TINY),
        worst=tuple(int(i) for i in np.unravel_index(at, reference.shape)),
        reference=float(wanted[at]),
        candidate=float(got[at]),
        cosine=of_both / length if 0 < length < math.inf else math.nan,
        q999=_quantile(delta),
        # A value at the end of a range shows in the sum of squares; else there is none.
        found="" if of_got < 0.99 * _FLOAT16_MAX**2 else scan(got),
    )


#: Sums of squares below this have lost digits in float32.
_SMALLEST = 1e-30
_TINY = float(np.finfo(np.float64).tiny)


def _accumulate(reference: Floats, candidate: Floats, delta: Floats) -> npt.NDArray[np.float64]:
    """Fill *delta* with absolute differences; sums of d², r², c² and rc."""
    wanted, got = (side.astype(delta.dtype, copy=False) for side in (reference, candidate))
    # What is not finite counts as infinitely far, on both sides too; inf - inf is NaN.
    with np.errstate(invalid="ignore", over="ignore"):
        np.subtract(got, wanted, out=delta)
        np.abs(delta, out=delta)
        sums = np.array([delta @ delta, wanted @ wanted, got @ got, wanted @ got], np.float64)
    if not np.isfinite(sums).all():
        delta[np.isnan(delta)] = np.inf
    # Squares may be out of float32's range where values are not, on either end.
    if delta.dtype == np.float32 and not _SMALLEST < sums[:3].min() <= sums[:3].max() < np.inf:
        sums = _accumulate(reference, candidate, delta.astype(np.float64))
    return sums


def _quantile(delta: Floats) -> float:
    """The smallest value that at least 99.9 % of *delta* do not exceed."""
    count = delta.size - math.ceil(delta.size * 999 / 1000) + 1
    largest = delta[: delta.size - delta.size % _GROUP].reshape(_GROUP, -1).max(axis=0)
    if largest.size > count:
        # The count largest of all are not below the count-th largest of the groups' largest.
        floor = np.partition(largest, largest.size - count)[largest.size - count]
        delta = delta[delta >= floor]
    return float(np.partition(delta, delta.size - count)[delta.size - count])


def scan(tensor: Floats) -> str:
    """
    How many values are NaN, infinite, or saturated, as in ``2 NaN, 1 infinite``; else empty.

    Saturated are ±65504, and what is where float32 and bfloat16 end.
    """
    size = np.abs(tensor.astype(np.float64))
    saturated = (size == _FLOAT16_MAX) | ((size >= _BFLOAT16_MAX) & np.isfinite(size))
    kinds = {"NaN": np.isnan(size), "infinite": np.isinf(size), "saturated": saturated}
    return ", ".join(f"{where.sum()} {kind}" for kind, where in kinds.items() if where.any())
