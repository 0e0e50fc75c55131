"""Times: throughput and latency against the batch, published figures beside, and the stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..bench.published import published_figures
from ..bench.rows import NETWORK
from ..runfile import Run

#: The board whose published curve is drawn.
BOARD = "Ascend 310P3"


@dataclass(frozen=True)
class Point:
    """One batch: images a second, and the times of a call where they are known."""

    batch: int
    images_per_second: float
    p50_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None


@dataclass(frozen=True)
class Curve:
    """What one model reaches in one way, batch by batch."""

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class StageTime:
    """How long one stage takes, and that as a share of the longest p99."""

    name: str
    p50_ms: float
    p90_ms: float
    p99_ms: float
    share: float
    share_p99: float


def curves(run: Run) -> list[Curve]:
    """One curve for what was timed alike; rows without a batch are in none."""
    found: dict[str, dict[int, Point]] = {}
    for row in run["latency"]:
        if row["batch"] is not None:
            # Of rows that were timed alike twice the first counts.
            found.setdefault(_name(row), {}).setdefault(row["batch"], _point(row))
    return [
        Curve(name, tuple(points[batch] for batch in sorted(points)))
        for name, points in found.items()
    ]


def _name(row: Mapping[str, Any]) -> str:
    timed = row["setup"].get("timed")
    parts = (row["runner"], row["precision"], row["chip"], timed)
    return ", ".join(str(part) for part in parts if part)


def _point(row: Mapping[str, Any]) -> Point:
    times = (row["p50_ms"], row["p90_ms"], row["p99_ms"])
    return Point(row["batch"], row["images_per_second"], *times)


def published_curve() -> Curve:
    """The published throughput of the board, from input to heads."""
    points = tuple(
        Point(one.batch, one.images_per_second)
        for one in published_figures()
        if (one.chip, one.timed) == (BOARD, NETWORK)
    )
    return Curve(f"{BOARD}, published, {NETWORK}", points)


def published_source() -> str:
    """Where the published curve is from, and under which conditions."""
    one = next(one for one in published_figures() if one.chip == BOARD)
    return f"{one.conditions}; {one.source}"


def stage_times(accuracy: Mapping[str, Any]) -> list[StageTime]:
    """The stages of an evaluation in the order in which they ran."""
    stages: Mapping[str, Mapping[str, float]] = accuracy["stages"]
    longest = max((times["p99_ms"] for times in stages.values()), default=0.0) or 1.0
    return [
        StageTime(
            name,
            times["p50_ms"],
            times["p90_ms"],
            times["p99_ms"],
            times["p50_ms"] / longest,
            times["p99_ms"] / longest,
        )
        for name, times in stages.items()
    ]


def timed_accuracies(run: Run) -> Sequence[Mapping[str, Any]]:
    """The evaluations that kept the times of their stages."""
    return [one for one in run["accuracy"] if one["stages"]]
