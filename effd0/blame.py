"""A bisection's finding as what a verdict needs: the stage that made the fault, and its name."""

from __future__ import annotations

from dataclasses import dataclass

from .bisect.job import Finding
from .bisect.search import Suspect

_WEIGHT = "weight "


@dataclass(frozen=True)
class Blame:
    """
    The *stage* in which a model left its reference, and the *suspicion* that says where.

    *at_input* tells that the node reads the images themselves.
    """

    stage: str
    suspicion: str
    at_input: bool


def blame(finding: Finding, image: tuple[int, ...]) -> Blame | None:
    """
    Tell wrong weights (export) from another computation (graph); None where no node is found.

    *image* is the shape of one image.  It is tested in that all that the node reads agrees with
    the reference, and what it gives does not.
    """
    culprit = finding.culprit
    if culprit is None:
        return None
    # Another operator or edge explains other weights beside it; not the other way round.
    stage = "export" if all(map(_is_weight, culprit.differences)) else "graph"
    if not culprit.differences:
        stage = "graph"
    at_input = any(shape[1:] == image for shape in culprit.input_shapes)
    return Blame(stage, _suspicion(culprit, len(finding.suspects)), at_input)


def _is_weight(difference: str) -> bool:
    return difference.startswith(_WEIGHT)


def _suspicion(culprit: Suspect, nodes: int) -> str:
    what = "; ".join(culprit.differences) or "the same node computes something else"
    others = {1: "", 2: " (1 more node errs by itself)"}
    more = others.get(nodes, f" ({nodes - 1} more nodes err by themselves)")
    return (
        f"{culprit.op} {culprit.node}: {what}; what it reads is off by {culprit.upstream:.2g}, "
        f"what it gives by {culprit.error:.2g}{more}"
    )
