"""Weights run in the wrong one of two architectures that have the same keys."""

from __future__ import annotations

from collections.abc import Callable

from ..spec import SPECS, ModelSpec

#: Points of mAP that another architecture has to reach more, to be named.  On the first 24 images
#: the right one was 28 (scenes) and 58 (photographs) above AdvProp's sibling, 2026-11-25.
CLEARLY = 0.5


def suspect_architecture(
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
