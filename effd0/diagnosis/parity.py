"""Heads under test compared with reference heads: within tolerance, or broken, with the reasons."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from ..results.check import Broken, finite
from ..results.run import Head, Parity
from ..spec import SPECS, ModelSpec
from ..tensor_diff import compare_tensors
from ..tolerances import HEADS, INT8_L2, ROUNDED_L2, SAME_FLOAT32
from ..types import Tensors
from .heads import diagnose_heads
from .precision import estimate

#: Precision of a model that is not float32 -> relative L2 that a head of it may have.
RELATIVE_L2 = {
    "fp16": ROUNDED_L2.limit,
    "bf16": HEADS["torch", "bf16"].limit,
    "int8": INT8_L2.limit,
}
#: Up to here an error is named after int8: weights alone made 1.6e-2 at most (2026-11-23).  Whole
#: int8 errs by as much as many a fault.
INT8_WEIGHTS = 2e-2
#: Points of mAP that another architecture has to reach more, to be named.  On the first 24 images
#: the right one was 28 (scenes) and 58 (photographs) above AdvProp's sibling, 2026-11-25.
CLEARLY = 0.5


def check_heads(reference: Tensors, got: Tensors, spec: ModelSpec, precision: str = "fp32") -> None:
    """
    Raise `Broken` unless heads *got*, computed in *precision*, are those of *reference*.

    Both are (N, channels, rows, columns) by the spec's names, *reference* in float32.
    """
    measure, limit = _limit(precision)
    for diff in compare_tensors(reference, got):
        # Not the other way round: NaN is not within any tolerance.
        if not getattr(diff, measure) <= limit:
            allowed = (
                f"at most {limit} is allowed in float32"
                if measure == "max_abs"
                else f"a relative L2 of at most {limit} is allowed in {precision}"
            )
            raise Broken(
                f"{diff}, but {allowed}",
                diagnose_heads(reference, got, spec),
                details=table(reference, got),
            )


def heads_agree(reference: Tensors, got: Tensors, precision: str) -> bool:
    """Whether `check_heads` would pass."""
    measure, limit = _limit(precision)
    return all(getattr(diff, measure) <= limit for diff in compare_tensors(reference, got))


def table(reference: Tensors, got: Tensors) -> list[str]:
    """One line a head: how far *got* is from *reference*, the worst first."""
    return [
        f"{d.name:<9} max abs {d.max_abs:.2g}, 99.9 % within {d.q999:.2g}, relative L2 "
        f"{d.relative_l2:.2g}, cosine {d.cosine:.7f}, would need a tolerance of {d.required:g}"
        for d in compare_tensors(reference, got)
    ]


def diagnose_precision(reference: Tensors, got: Tensors, precision: str) -> str | None:
    """Return what the error looks like, if that is another precision than was asked for."""
    found = estimate(reference, got)
    if found.name in ("unclear", precision) or not found.error <= INT8_WEIGHTS:
        return None
    return f"computed in {found.name}, not in {precision}: {found}"


def diagnose_architecture(
    points_of: Callable[[ModelSpec], float | None], spec: ModelSpec
) -> str | None:
    """
    Name the architecture that the weights are of, if they do better in it than in *spec*.

    *points_of* gives the mAP, in percent, of the same weights and images in an architecture; None
    where they do not fit it.
    """
    points = {arch: points_of(other) for arch, other in SPECS.items()}
    reached = {arch: value for arch, value in points.items() if value is not None}
    best = max(reached, key=reached.__getitem__)
    if reached[best] < reached[spec.arch] + CLEARLY:
        return None
    return (
        f"weights of {best}: with --arch={best} the same images reach "
        f"{reached[best]:.2f} %, with {spec.arch} {reached[spec.arch]:.2f} %"
    )


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


def _limit(precision: str) -> tuple[Literal["max_abs", "relative_l2"], float]:
    """The figure of `TensorDiff` that decides in *precision*, and how large it may be."""
    if precision == "fp32":
        return "max_abs", SAME_FLOAT32.limit
    return "relative_l2", RELATIVE_L2[precision]
