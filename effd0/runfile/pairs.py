"""The figures that two runs have in common, pair by pair, and what only one of them has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from .schema import Run
from .speed import rows_alone

#: An entry of a list in a run file.
Entry: TypeAlias = Mapping[str, Any]
#: What is compared, in words, and its two sides.
Sides: TypeAlias = tuple[str, Entry, Entry]


@dataclass(frozen=True)
class Pair:
    """One figure *of* something on both sides; None where a side does not define it."""

    of: str
    name: str
    before: float | None
    after: float | None

    @property
    def change(self) -> float | None:
        """The candidate's less the baseline's."""
        if self.before is None or self.after is None:
            return None
        return self.after - self.before


def accuracy_pairs(baseline: Run, candidate: Run) -> list[Sides]:
    """What is compared, and its two sides: the same runner and batch, else the same runner."""
    before, after = baseline["accuracy"], candidate["accuracy"]
    pairs = []
    told: dict[tuple[str, int | None], Entry] = {}
    for entry in after:
        # Merged runs may have measured the same thing twice: the first counts.
        told.setdefault((entry["runner"], entry["batch"]), entry)
    for entry in told.values():
        alike = [one for one in before if one["runner"] == entry["runner"]]
        same = [one for one in alike if one["batch"] == entry["batch"]]
        if alike:
            pairs.append((called(entry), (same or alike)[0], entry))
    # A model and what was compiled of it have no runner in common.
    if not pairs and before and after:
        name = f"{before[0]['runner']} -> {after[0]['runner']}"
        pairs.append((name, before[0], after[0]))
    return pairs


def called(entry: Entry) -> str:
    """The runner of *entry*, and its batch where that is known."""
    batch = "" if entry["batch"] is None else f", batch {entry['batch']}"
    return f"{entry['runner']}{batch}"


def points(
    of: str, key: str, names: Sequence[str] | Mapping[str, Any], before: Entry, after: Entry
) -> Iterator[Pair]:
    """Each fraction of *key* on both sides, in points."""
    for name in names:
        sides = (side[key].get(name) for side in (before, after))
        yield Pair(of, name, *(None if value is None else 100 * value for value in sides))


def parity_pairs(baseline: Run, candidate: Run) -> Iterator[Pair]:
    """The largest difference of each runner and batch that both have, head by head."""
    before = {(one["runner"], one["batch"]): one for one in baseline["parity"]}
    for one in candidate["parity"]:
        key = (one["runner"], one["batch"])
        for figure in ("max_abs", "relative_l2"):
            if key in before and one["heads"] and before[key]["heads"]:
                sides = (_worst(side["heads"], figure) for side in (before[key], one))
                yield Pair(called(one), figure, *sides)


def _worst(heads: Sequence[Entry], figure: str) -> float | None:
    """The largest *figure*; None where one is not finite."""
    figures = [head[figure] for head in heads]
    return None if None in figures else max(figures)


def alone(baseline: Run, candidate: Run, pairs: Sequence[Sides]) -> Iterator[str]:
    """What only one side has, in words."""
    paired = {(side["runner"], side["batch"]) for _, *sides in pairs for side in sides}
    for side, run in (("baseline", baseline), ("candidate", candidate)):
        for entry in run["accuracy"]:
            if (entry["runner"], entry["batch"]) not in paired:
                yield f"{side} alone: mAP of {called(entry)}"
        other = candidate if run is baseline else baseline
        keys = {(one["runner"], one["batch"]) for one in other["parity"]}
        for one in run["parity"]:
            if (one["runner"], one["batch"]) not in keys:
                yield f"{side} alone: parity of {called(one)}"
    for side, name in rows_alone(baseline, candidate):
        yield f"{side} alone: times of {name}"


def intervals(pairs: Sequence[Sides]) -> Iterator[str]:
    """How far each side's mAP is from its own reference on the same images, and how surely."""
    for of, *sides in pairs:
        for side, entry in zip(("baseline", "candidate"), sides, strict=True):
            found = entry["against"]
            if found is not None:
                yield (
                    f"{side}, {of}: {found['drop']:.2f} points below {found['runner']} "
                    f"(95 % interval {found['low']:.2f} to {found['high']:.2f})"
                )
