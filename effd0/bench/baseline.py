"""A run against a saved one of the same fingerprint; what cannot be compared is said to be so."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BenchmarkError
from .ratio import MIN_SAMPLES, Ratio, ratio_of_medians
from .rows import Row

#: Share of its time that a row may lose where nothing else is said.
MAX_SLOWDOWN = 0.05
NO_BASELINE, SAME, SLOWER, FASTER, UNSURE = (
    "no baseline", "same", "slower", "faster", "too few samples",
)  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """One row beside its baseline: *ratio* is its time over the baseline's, *reason* in words."""

    name: str
    status: str
    ratio: Ratio | None
    reason: str = ""

    @property
    def regressed(self) -> bool:
        """Whether the row is slower than allowed, and surely slower."""
        return self.status == SLOWER


def read_run(path: Path) -> tuple[dict[str, Any], list[Row]]:
    """The machine and the rows of a saved run; raise `BenchmarkError` for another file."""
    try:
        content = json.loads(path.read_bytes())
        entries, machine = content["benchmarks"], content["machine_info"]["effd0"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BenchmarkError(
            f"{path} is not a saved run ({type(error).__name__}: {error}), but one was wanted; "
            "write it with 'pytest benchmarks --benchmark-json=FILE' or 'effd0 benchmark --json'"
        ) from error
    return machine, [Row.from_json(entry) for entry in entries]


def run_to_json(machine: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """What `read_run` reads."""
    return {
        "machine_info": {"effd0": dict(machine)},
        "benchmarks": [row.to_json() for row in rows],
    }


def compare_with(
    baseline: Path, rows: Sequence[Row], max_slowdown: float = MAX_SLOWDOWN
) -> list[Comparison]:
    """Hold each of *rows* against its namesake in the file *baseline*, which may be missing."""
    if not baseline.exists():
        return [Comparison(row.name, NO_BASELINE, None, f"{baseline} is missing") for row in rows]
    before = {row.name: row for row in read_run(baseline)[1]}
    return [compare(row, before.get(row.name), max_slowdown) for row in rows]


def compare(now: Row, before: Row | None, max_slowdown: float = MAX_SLOWDOWN) -> Comparison:
    """
    Hold *now* against the same row of another run.

    Slower is what loses more than *max_slowdown* and whose interval excludes no change.
    """
    if before is None:
        return Comparison(now.name, NO_BASELINE, None, "it is not in the saved run")
    changed = now.fingerprint.differences(before.fingerprint)
    if _work(now) != _work(before):
        changed.append(f"a call was {_work(before)}")
    if changed:
        return Comparison(now.name, NO_BASELINE, None, "; ".join(changed))
    ratio = ratio_of_medians(now.samples.samples_ms, before.samples.samples_ms)
    if ratio.count < MIN_SAMPLES:
        reason = f"{ratio.count} samples, {MIN_SAMPLES} are needed"
        return Comparison(now.name, UNSURE, ratio, reason)
    if ratio.slower(max_slowdown):
        return Comparison(now.name, SLOWER, ratio, f"more than {max_slowdown:.0%}")
    faster = ratio.inverse().slower(max_slowdown)
    return Comparison(now.name, FASTER if faster else SAME, ratio)


def _work(row: Row) -> str:
    """What a call of *row* does."""
    return f"{row.images} images of {row.dataset}, {row.timed}"
