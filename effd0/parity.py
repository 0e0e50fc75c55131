"""Heads under test held against reference heads: within tolerance, or broken, with the reasons."""

from __future__ import annotations

from typing import Literal

from .precision import estimate
from .results.check import Broken, finite
from .results.run import Head, Parity
from .spec import ModelSpec
from .suspicions.heads import suspect_heads
from .tensor_diff import TensorDiff, compare_tensors
from .tolerances import HEADS, INT8_L2, ROUNDED_L2, SAME_FLOAT32
from .types import Tensors

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


def record(runner: str, reference: Tensors, got: Tensors, precision: str = "fp32") -> Parity:
    """
    How far the heads of *runner* are from torch's *reference*, fit for a run file.

    The worst head comes first.  *precision* is what it claims, and says what is allowed; how
    exactly it seems to compute is in the record.
    """
    found = estimate(reference, got)
    measure, allowed = _limit(precision)
    return Parity(
        runner=runner,
        reference="torch",
        batch=len(next(iter(got.values()))),
        precision=None if found.name == "unclear" else found.name,
        heads=[
            Head(
                head="class" if diff.name.startswith("class") else "box",
                level=f"P{diff.name[-1]}",
                max_abs=finite(diff.max_abs),
                relative_l2=finite(diff.relative_l2),
                cosine=finite(diff.cosine),
                q999=finite(diff.q999),
                allowed=allowed,
                required=finite(diff.required),
                measure=measure,
            )
            for diff in compare_tensors(reference, got)
        ],
    )


def _within(diff: TensorDiff, precision: str) -> bool:
    measure, allowed = _limit(precision)
    return bool(getattr(diff, measure) <= allowed)


def _limit(precision: str) -> tuple[Literal["max_abs", "relative_l2"], float]:
    """The figure of `TensorDiff` that decides in *precision*, and how large it may be."""
    if precision == "fp32":
        return "max_abs", SAME_FLOAT32.limit
    return "relative_l2", RELATIVE_L2[precision]


def _allowed(precision: str) -> str:
    measure, allowed = _limit(precision)
    if measure == "max_abs":
        return f"at most {allowed} is allowed in float32"
    return f"a relative L2 of at most {allowed} is allowed in {precision}"
