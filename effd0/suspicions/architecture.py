"""Weights run in the wrong one of several architectures that have the same keys."""

from __future__ import annotations

from collections.abc import Callable

from ..spec import SPECS, ModelSpec

#: Points of mAP that another architecture has to reach more, to be named: on the embedded scenes
#: the right one is 1.9 above its sibling and 11 above AdvProp's, measured 2026-11-25.
CLEARLY = 0.5


def suspect_architecture(points_of: Callable[[ModelSpec], float], spec: ModelSpec) -> str | None:
    """
    Name the architecture that the weights are of, if they do better in it than in *spec*.

    *points_of* gives the mAP, in percent, of the same weights and images in an architecture.
    """
    own = points_of(spec)
    others = {other.arch: points_of(other) for other in SPECS.values() if other != spec}
    best = max(others, key=others.__getitem__)
    if others[best] < own + CLEARLY:
        return None
    return (
        f"weights of {best}: with --arch={best} the same images reach "
        f"{others[best]:.2f} %, with {spec.arch} {own:.2f} %"
    )
