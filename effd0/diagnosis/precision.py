"""
In which precision a candidate computed, estimated from how far its heads are from a reference.

Two things tell: how large the error is, and whether the outputs lie on a grid of 16 bits.  A
backend that quietly computes in another precision than was asked for is named by this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..tensor_diff import check_pair
from ..types import Floats, Tensors


class Band(NamedTuple):
    """
    Where heads computed in *precision* lie, with outputs on *grid* (None: none of 16 bits).

    *low* and *high* bound the error as `estimate` takes it.
    """

    precision: str
    grid: str | None
    low: float
    high: float


#: Measured 2026-11-23 on the embedded checkpoint, 20 scenes one by one, against torch float32 on
#: the CPU; widened where there is room, since other weights err otherwise.  TF32 was emulated:
#: inputs and weights of convolutions rounded to 10 bits of mantissa.  It shares the upper half of
#: its band with float16 that gives float32, and there is unclear.
BANDS = (
    Band("fp32", None, 0, 2e-5),  # ONNX Runtime, another memory layout: 2.4e-7 to 4.1e-6
    Band("fp32", "fp16", 2e-4, 6e-4),  # outputs alone rounded to float16: 4.4e-4 to 5.2e-4
    Band("tf32", None, 2e-4, 1e-3),  # 3.7e-4 to 6.7e-4
    Band("fp16", None, 5.5e-4, 2.5e-3),  # with float32 in the last layers: 5.8e-4 to 1.1e-3
    Band("fp16", "fp16", 7e-4, 2.5e-3),  # all of it: 9.8e-4 to 1.7e-3
    Band("bf16", None, 4e-3, 1.2e-2),  # weights alone: 6.2e-3 to 8.2e-3
    Band("bf16", "bf16", 5e-3, 2.5e-2),  # all of it: 9.5e-3 to 1.3e-2
    Band("int8", None, 9e-3, 0.6),  # weights alone 1.1e-2 to 1.6e-2, all 6.9e-2 to 0.34
)
#: Part of the values that has to lie on a grid: float32 results do by chance, 1 in 3,000.
_ON_GRID = 0.999


@dataclass(frozen=True)
class Precision:
    """
    The estimate: *name* is fp32, tf32, fp16, bf16, int8 or ``unclear``.

    *error* is the median over heads and images of the root mean square difference, in standard
    deviations of the reference head; *grid* is fp16, bf16 or None; *possible* are the precisions
    whose bands contain the error.
    """

    error: float
    grid: str | None
    possible: tuple[str, ...]

    @property
    def name(self) -> str:
        """The one possible precision, or ``unclear``."""
        return self.possible[0] if len(self.possible) == 1 else "unclear"

    def __str__(self) -> str:
        outputs = "" if self.grid is None else f", outputs on the {self.grid} grid"
        why = {0: ": like no known precision", 1: ""}.get(
            len(self.possible), f": {' or '.join(self.possible)}"
        )
        return f"{self.name}{why} (relative error {self.error:.2g}{outputs})"


def estimate(reference: Tensors, candidate: Tensors) -> Precision:
    """
    Name the precision of *candidate*, heads of trained weights for the same images, (N, ...).

    *reference* was computed in float32.  Raises `HeadError` where names or shapes differ.  An
    error of another cause, a wrong weight say, may look like a precision; one that is larger
    than that of all is ``unclear``.
    """
    check_pair(reference, candidate)
    errors = []
    for name, wanted in reference.items():
        flat = wanted.reshape(len(wanted), -1).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            delta = candidate[name].reshape(len(wanted), -1) - flat
            error = np.sqrt((delta**2).mean(axis=1)) / flat.std(axis=1)
        # What is not finite, or of equal values, is infinitely far.
        errors.append(np.where(np.isfinite(error), error, np.inf))
    error = float(np.median(np.concatenate(errors)))
    heads = [np.asarray(head, np.float32) for head in candidate.values()]
    size, grid = sum(head.size for head in heads), None
    for name, on_grid in (("bf16", on_bfloat16), ("fp16", on_float16)):
        if sum(np.count_nonzero(on_grid(head)) for head in heads) >= _ON_GRID * size:
            grid = name
            break
    possible = [b.precision for b in BANDS if b.grid == grid and b.low <= error <= b.high]
    return Precision(error, grid, tuple(dict.fromkeys(possible)))


def on_bfloat16(head: Floats) -> npt.NDArray[np.bool_]:
    """Which values have nothing in the 16 bits of mantissa that bfloat16 lacks."""
    bits = np.ascontiguousarray(head, np.float32).view(np.uint32)
    return np.asarray((bits & 0xFFFF) == 0)


def on_float16(head: Floats) -> npt.NDArray[np.bool_]:
    """Which values are those of a float16."""
    with np.errstate(over="ignore"):
        return np.asarray(head.astype(np.float16) == head)
