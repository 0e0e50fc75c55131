"""How far each head is from the reference's, as the cells of a heat map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..runfile import Run
from .text import figure

#: Share of what is allowed -> the step of the scale that begins there.
STEPS = ((0.0, 0), (0.03, 1), (0.1, 2), (0.3, 3), (1.0, 4))
#: The steps of the scale in words, in order; then what is beyond it, and what has no limit.
SCALE = ("under 3 %", "3 to 10 %", "10 to 30 %", "30 to 100 %", "over what is allowed")
BEYOND = len(SCALE) - 1
#: What is judged -> that in words.
_WORDS = {"max_abs": "largest difference", "relative_l2": "relative L2"}


@dataclass(frozen=True)
class Cell:
    """One head: the *error* that is judged, its *share* of what is *allowed*, and all figures."""

    error: str
    allowed: str
    share: float | None
    step: int | None
    details: str

    @property
    def broken(self) -> bool:
        """Whether the error is more than allowed."""
        return self.step == BEYOND

    @property
    def share_shown(self) -> str:
        """The share in words, as times or per cent of what is allowed."""
        if self.share is None:
            return "no limit"
        if self.share > 1:
            return f"{self.share:.3g} × limit"  # noqa: RUF001  # times
        # Two digits, but no power of ten where the head uses up all of it.
        percent = 100 * self.share
        return f"{percent:.0f} %" if percent >= 10 else f"{percent:.2g} %"  # noqa: PLR2004


@dataclass(frozen=True)
class HeatMap:
    """One runner at one batch: *rows* are a head's name and its cells, None where one is absent."""

    title: str
    about: str
    levels: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell | None, ...]], ...]
    worst: float


def heat_maps(run: Run) -> list[HeatMap]:
    """A heat map for each runner and batch, those furthest from what is allowed first."""
    maps = [_heat_map(one) for one in run["parity"] if one["heads"]]
    return sorted(maps, key=lambda one: -one.worst)


def _heat_map(one: Mapping[str, Any]) -> HeatMap:
    cells = {(head["head"], head["level"]): _cell(head) for head in one["heads"]}
    levels = tuple(sorted({level for _, level in cells}))
    rows = tuple(
        (head, tuple(cells.get((head, level)) for level in levels)) for head in ("class", "box")
    )
    precision = one["precision"]
    about = f"measured: {_WORDS[_measure(one['heads'][0])]}"
    if precision is not None:
        about += f"; computes like {precision}"
    return HeatMap(
        title=f"{one['runner']} beside {one['reference']}, batch {one['batch']}",
        about=about,
        levels=levels,
        rows=rows,
        worst=max((cell.share or 0.0 for cell in cells.values()), default=0.0),
    )


def _measure(head: Mapping[str, Any]) -> str:
    """The figure that is judged; a file that does not say means the largest difference."""
    return str(head.get("measure", "max_abs"))


def _cell(head: Mapping[str, Any]) -> Cell:
    error, allowed = head[_measure(head)], head["allowed"]
    # What is not finite is None in a run file, and beyond every limit.
    share = float("inf") if error is None else None
    if error is not None and allowed:
        share = error / allowed
    figures = {
        "largest difference": head["max_abs"],
        "99.9 % within": head["q999"],
        "relative L2": head["relative_l2"],
        "cosine": head["cosine"],
        "needs a tolerance of": head["required"],
    }
    return Cell(
        error="not finite" if error is None else figure(error, 2),
        allowed=figure(allowed, 2),
        share=share,
        step=_step(share),
        details=", ".join(f"{name} {figure(value)}" for name, value in figures.items()),
    )


def _step(share: float | None) -> int | None:
    if share is None:
        return None
    if share > 1:
        return BEYOND
    return max(step for begin, step in STEPS[:-1] if share >= begin)
