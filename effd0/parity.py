"""Heads under test held against reference heads: within tolerance, or broken, with the reasons."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from .arrays import Tensors
from .compare import TensorDiff, compare_tensors
from .precision import estimate
from .spec import ModelSpec
from .stages import Broken
from .suspicions.heads import suspect_heads
from .tolerances import HEADS, INT8_L2, ROUNDED_L2, SAME_FLOAT32

#: Precision of a model that is not float32 -> relative L2 that a head of it may have.
RELATIVE_L2 = {
    "fp16": ROUNDED_L2.limit,
    "bf16": HEADS["torch", "bf16"].limit,
    "int8": INT8_L2.limit,
}


def hold_heads(reference: Tensors, got: Tensors, spec: ModelSpec, precision: str = "fp32") -> None:
    """
    Raise `Broken` unless heads *got*, computed in *precision*, are those of *reference*.

    Both are (N, channels, rows, columns) by the spec's names, *reference* in float32.
    """
    diffs = compare_tensors(reference, got)
    wrong = next((diff for diff in diffs if not _within(diff, precision)), None)
    if wrong is None:
        return
    raise Broken(
        f"{wrong}, but {_allowed(precision)}",
        suspect_heads(reference, got, spec),
        details=table(reference, got),
    )


def table(reference: Tensors, got: Tensors) -> list[str]:
    """One line a head: how far *got* is from *reference*, the worst first."""
    return [
        f"{d.name:<9} max abs {d.max_abs:.2g}, 99.9 % within {d.q999:.2g}, relative L2 "
        f"{d.relative_l2:.2g}, cosine {d.cosine:.7f}, would need a tolerance of {d.required:g}"
        for d in compare_tensors(reference, got)
    ]


#: Up to here an error is named after int8: weights alone made 1.6e-2 at most (2026-11-23).  Whole
#: int8 errs by as much as many a fault.
INT8_WEIGHTS = 2e-2


def suspect_precision(reference: Tensors, got: Tensors, precision: str) -> str | None:
    """What the error looks like, if that is another precision than was asked for."""
    found = estimate(reference, got)
    if found.name in ("unclear", precision) or not found.error <= INT8_WEIGHTS:
        return None
    return f"computed in {found.name}, not in {precision}: {found}"


def record(runner: str, reference: Tensors, got: Tensors) -> dict[str, Any]:
    """How far the heads of *runner* are from *reference*, and how exactly it seems to compute."""
    found = estimate(reference, got)
    return {
        "runner": runner,
        "images": len(next(iter(got.values()))),
        "precision": found.name,
        "relative_error": found.error,
        "heads": [_plain(asdict(diff)) for diff in compare_tensors(reference, got)],
    }


def _plain(diff: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no infinity: what is not finite is None."""
    finite = {
        k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in diff.items()
    }
    return {**finite, "worst": list(diff["worst"])}


def _within(diff: TensorDiff, precision: str) -> bool:
    if precision == "fp32":
        return diff.max_abs <= SAME_FLOAT32.limit
    return diff.relative_l2 <= RELATIVE_L2[precision]


def _allowed(precision: str) -> str:
    if precision == "fp32":
        return f"at most {SAME_FLOAT32.limit} is allowed in float32"
    return f"a relative L2 of at most {RELATIVE_L2[precision]} is allowed in {precision}"
