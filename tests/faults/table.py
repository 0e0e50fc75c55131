"""docs/detection-power.md: each fault and how it fared, written by the zoo and compared by CI."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from .run import Row

TABLE = Path(__file__).parents[2] / "docs" / "detection-power.md"
#: Points of mAP below which a gate on mAP alone sees nothing.
SMALL = 0.1

_HEAD = """# Detection power

Faults that were made somewhere for real, planted one at a time in a pipeline that is otherwise
right, and what `pytest` says of it. Written by `python -m tests.faults --write`;
`python -m tests.faults` runs all of them again and compares. Sources `peers ...` are collected from
public issue threads.

The gate is the documented one: `--min-map=33.4`, about half of what the good model has on these
scenes, and `--max-drop` by default. A quantised build declares the drop of a plain one and a point
more. Kernels for int8 differ between CPUs: where hosts disagree, the row is the worse one.

- **caught**: the run fails. **stage**: the verdict's first broken stage is the one with the fault.
- **diagnosis**: the verdict names the fault, tested. A dash: there is no cause to be told beyond
  what the evidence says (a file that is missing or cut off says so itself).
- **mAP**: points that the fault costs on 12 embedded scenes; a dash where nothing can be scored.
  **Bold**: less than 0.1, so that no gate on mAP sees it.
- **kind**: precision of the build that the fault is planted in, or `part` where some images or rows
  are right.

"""


def cells(row: Row) -> list[str]:
    """How a fault fared, as the columns of the table."""
    marks = {None: "-", True: "yes", False: "no"}
    points = "-" if row.map_change is None else f"{row.map_change:+.2f}"
    if row.map_change is not None and abs(row.map_change) < SMALL:
        points = f"**{points}**"
    fault, outcome = row.fault, row.outcome
    stage = "yes" if row.stage_right else f"no: {outcome.verdict.stage}"
    caught, seconds = marks[not outcome.passed], f"{outcome.seconds:.1f}"
    shown = [fault.id, fault.stage, fault.source, caught, stage, marks[row.named], points, seconds]
    return [*shown, fault.kind]


def summary(rows: Sequence[Row], clean: int, alarms: Sequence[str]) -> Iterator[str]:
    """The shares that matter."""
    named = [row for row in rows if row.named is not None]
    for what, good, of in (
        ("caught", sum(not row.outcome.passed for row in rows), len(rows)),
        ("stage right", sum(row.stage_right for row in rows), len(rows)),
        ("diagnosis right", sum(row.named is True for row in named), len(named)),
    ):
        yield f"{what}: {good} of {of} ({good / max(of, 1):.1%})"
    for kind, what in (("int8", "in int8 builds"), ("fp16", "in fp16 builds"), ("part", "in part")):
        own = [row for row in rows if row.fault.kind == kind]
        caught, right = sum(not r.outcome.passed for r in own), sum(r.right for r in own)
        yield f"{what}: {caught} of {len(own)} caught, {right} in their stage and under their name"
    named_alarms = f": {', '.join(alarms)}" if alarms else ""
    yield f"false alarms: {len(alarms)} of {clean} runs without a fault{named_alarms}"


def rendered(rows: Sequence[Row], clean: Sequence[str], alarms: Sequence[str]) -> str:
    """The page."""
    seconds = sum(row.outcome.seconds for row in rows)
    lines = [
        "| fault | planted in | source | caught | stage | diagnosis | mAP | s | kind |",
        "|---|---|---|---|---|---|---|---|---|",
        *(f"| {' | '.join(cells(row))} |" for row in rows),
    ]
    shares = [f"- {line}" for line in summary(rows, len(clean), alarms)]
    shares.append(f"- the suite's runs on faults took {seconds:.0f} s together, on two cores")
    without = f"Runs without a fault: {', '.join(clean)}."
    return _HEAD + "\n".join([*shares, "", *lines, "", *textwrap.wrap(without, 98)]) + "\n"


def differences(recorded: str, now: str, chosen: Collection[str] | None = None) -> list[str]:
    """Rows of the table, all or those *chosen*, that fare worse now; times and mAP may move."""
    before, after = _verdicts(recorded), _verdicts(now)
    if chosen is not None:
        before = {name: said for name, said in before.items() if name in chosen}
    return [
        f"{name}: {TABLE.name} says {', '.join(before.get(name, ['nothing']))}, "
        f"this run {', '.join(found)}"
        for name, found in after.items()
        if not _as_good(before.get(name, []), found)
    ] + [f"{name}: {TABLE.name} has it, this run not" for name in before.keys() - after.keys()]


def _as_good(before: list[str], now: list[str]) -> bool:
    """Whether a row fares as it did, or better: what int8 kernels compute depends on the CPU."""
    if not before:
        return False
    return all(one == two or one.startswith("no") for one, two in zip(before, now, strict=True))


def _verdicts(page: str) -> dict[str, list[str]]:
    """The stage of each row, whether it was caught, its stage and its diagnosis right."""
    rows = re.findall(r"^\| ([\w.-]+) \| (\w+) \| .+? \| (\w+) \| (.+?) \| (\S+) \|", page, re.M)
    return {name: cells for name, *cells in rows if name != "fault"}
