"""Legends: what each line of a plot is of, as HTML, so that names of any kind are only text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .plots import MARKS, SERIES, variable
from .speed import Curve


@dataclass(frozen=True)
class Key:
    """One entry: its *name*, the CSS variable of its *color*, whether *dashed*, and its *mark*."""

    name: str
    color: str
    dashed: bool = False
    mark: str = ""


def sides(*, reference: str | None) -> list[Key]:
    """The candidate and, if there is one, its *reference*, by its name."""
    keys = [Key("candidate", variable(SERIES[0]))]
    if reference is not None:
        keys.append(Key(f"reference ({reference})", variable(SERIES[1]), dashed=True))
    return keys


def series(curves: Iterable[Curve]) -> list[Key]:
    """One entry for each curve, as `plots` draws them."""
    return [
        Key(curve.name, variable(SERIES[place % len(SERIES)]), mark=MARKS[place % len(MARKS)])
        for place, curve in enumerate(curves)
    ]
