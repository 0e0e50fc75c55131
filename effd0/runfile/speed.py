"""The times of two runs side by side, row by row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..bench.ratio import MIN_SAMPLES, Ratio, ratio_of_medians
from .schema import Run

SAME, FASTER, SLOWER, UNSURE, APART = "same", "faster", "slower", "undecided", "not compared"
#: Of a fingerprint, what has to be equal; a new version of the backend is what is to be compared.
_MACHINE = ("chip", "cpu", "cores", "threads", "driver")


@dataclass(frozen=True)
class Speed:
    """
    One thing that both runs timed: images a second, and *ratio*, the time over the baseline's.

    *status* says what the whole interval says; *reason* why, where it says little.
    """

    name: str
    before: float
    after: float
    ratio: Ratio | None
    status: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.name} takes {self.ratio} times as long"


def compare_speeds(baseline: Run, candidate: Run, max_slowdown: float) -> list[Speed]:
    """Each row of *candidate* that *baseline* has too; *max_slowdown* is a share (0.05)."""
    before, after = _rows(baseline), _rows(candidate)
    return [_speed(before[key], row, max_slowdown) for key, row in after.items() if key in before]


def rows_alone(baseline: Run, candidate: Run) -> Iterator[tuple[str, str]]:
    """Side and name of each row that only one of the two has."""
    before, after = _rows(baseline), _rows(candidate)
    yield from (("baseline", row_name(before[key])) for key in before if key not in after)
    yield from (("candidate", row_name(after[key])) for key in after if key not in before)


def row_name(row: Mapping[str, Any]) -> str:
    """What was timed, in words."""
    batch = "" if row["batch"] is None else f"batch {row['batch']}"
    timed = row["setup"].get("timed", "")
    told = [row["runner"] or row["name"], row["precision"], batch, timed, row["dataset"]]
    return ", ".join(part for part in told if part)


def _rows(run: Run) -> dict[tuple[Any, ...], Mapping[str, Any]]:
    """The rows of *run* by what was timed; of two alike the later."""
    return {_key(row): row for row in run["latency"]}


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    setup = row["setup"]
    told = (row["runner"], row["precision"], row["batch"], row["dataset"])
    # What is no runner's is known by its name alone.
    return (*told, setup.get("timed"), setup.get("images"), "" if row["runner"] else row["name"])


def _speed(before: Mapping[str, Any], after: Mapping[str, Any], allowed: float) -> Speed:
    name, rates = row_name(after), (before["images_per_second"], after["images_per_second"])
    if changed := _machine_differences(before, after):
        return Speed(name, *rates, None, APART, "; ".join(changed))
    ratio = ratio_of_medians(after["samples_ms"], before["samples_ms"])
    if ratio.slower(allowed):
        return Speed(name, *rates, ratio, SLOWER, f"more than {allowed:.1%} are too many")
    few = ratio.count < MIN_SAMPLES
    if few or ratio.value > 1 + allowed:
        said = f"{ratio.count} samples, {MIN_SAMPLES} are needed" if few else "it may be the same"
        return Speed(name, *rates, ratio, UNSURE, said)
    faster = ratio.inverse().slower(allowed)
    return Speed(name, *rates, ratio, FASTER if faster else SAME)


def _machine_differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Sequence[str]:
    """Each fact of the machine in which the two rows differ, as far as both tell."""
    sides = []
    for row in (before, after):
        known = row["setup"].get("fingerprint", {})
        sides.append({**(known if isinstance(known, dict) else {}), "chip": row["chip"]})
    then, now = sides
    return [
        f"{key} was {then[key]}, is {now[key]}"
        for key in _MACHINE
        if key in then and key in now and then[key] != now[key]
    ]
