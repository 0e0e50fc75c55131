"""HeadFault: what may have been done to a head, as something to do to its reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ..spec import ModelSpec
from ..types import Floats


class Planted(NamedTuple):
    """
    A reference head with the fault, *wanted*, and what it is held against, *got*, alike in shape.

    Both lack the values of which the fault says nothing.  *detail* is what was found out about
    the fault: an order, a factor.
    """

    wanted: Floats
    got: Floats
    detail: str = ""


#: Reference and candidate, both (N, channels, rows, columns), and the spec -> the reference with
#: the fault; None where the fault cannot be, or would change nothing.
Plant = Callable[[Floats, Floats, ModelSpec], Planted | None]
KINDS = ("class", "box")


@dataclass(frozen=True)
class HeadFault:
    """
    A fault of heads of *kinds*: its *name*, and how to *plant* it.

    *explanation* follows "the error falls if"; its ``{}`` is the `Planted.detail`.
    """

    name: str
    explanation: str
    plant: Plant
    kinds: tuple[str, ...] = KINDS


def always(change: Callable[[Floats], Floats]) -> Plant:
    """Return the `Plant` of a *change* that needs to know nothing but the reference."""

    def plant(reference: Floats, candidate: Floats, spec: ModelSpec) -> Planted:
        del spec
        return Planted(change(reference), candidate)

    return plant


def by_anchor(head: Floats, spec: ModelSpec) -> Floats:
    """Return *head* as (N, anchors, classes or 4 coordinates, rows, columns)."""
    rows, channels, *places = head.shape
    per_anchor = channels // spec.anchors_per_cell
    return head.reshape(rows, spec.anchors_per_cell, per_anchor, *places)
