"""
Every number by which a verdict may forgive a difference: ``tolerances.toml`` as values.

``docs/tolerances.md`` is made of the same table.  The bands that tell one precision from another
are in `effd0.diagnosis.parity`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Tolerance:
    """
    How large a difference may be: *limit*, in *unit*.

    *spread* is the largest that was measured, on *measured*, where nothing is wrong; *reason* says
    where it comes from and what would be wrong.
    """

    name: str
    limit: float
    unit: str
    reason: str
    spread: float
    measured: date


def _rows(content: Mapping[str, Any], *above: str) -> Iterator[tuple[tuple[str, ...], Tolerance]]:
    for key, value in content.items():
        if "limit" in value:
            reason = " ".join(value["reason"].split())
            yield (*above, key), Tolerance(**{**value, "reason": reason})
        else:
            yield from _rows(value, *above, key)


_TABLE = dict(_rows(tomllib.loads(Path(__file__).with_suffix(".toml").read_text())))
TABLE = tuple(_TABLE.values())
MAX_ABS = "largest difference in a head"
#: What the paired gate takes where --max-drop does not say otherwise.
MAX_DROP = _TABLE["MAX_DROP",]
TO_RECORD = _TABLE["TO_RECORD",]
BETWEEN_RUNNERS = _TABLE["BETWEEN_RUNNERS",]
ROUNDED = _TABLE["ROUNDED",]
ROUNDED_BY_AIPP = _TABLE["ROUNDED_BY_AIPP",]
AP_ARITHMETIC = _TABLE["AP_ARITHMETIC",]
SAME_FLOAT32 = _TABLE["SAME_FLOAT32",]
ROUNDED_L2 = _TABLE["ROUNDED_L2",]
INT8_L2 = _TABLE["INT8_L2",]
#: Runners whose model was compiled for a chip, or that others ran: perhaps in float16.
MAY_ROUND = ("acl", "recorded")
#: By runner and precision: what the heads may differ by from torch's in float32.
HEADS = {key[1:]: row for key, row in _TABLE.items() if key[0] == "HEADS"}
#: By precision: torch on an accelerator against torch on the CPU.
DEVICES = {key[1]: row for key, row in _TABLE.items() if key[0] == "DEVICES"}
#: By type: inputs that another tool made; where effd0's manifest lies beside them, none differs.
INPUTS = {key[1]: row for key, row in _TABLE.items() if key[0] == "INPUTS"}
NOISE = _TABLE["NOISE",]
NOISE_FLOAT16 = _TABLE["NOISE_FLOAT16",]
UNTRAINED = _TABLE["UNTRAINED",]
BOXES = _TABLE["BOXES",]
SCORES = _TABLE["SCORES",]

_HEAD = """# Tolerances

Every number by which a verdict forgives a difference, in the one place where it stands,
`effd0/tolerances.toml`. This page is made of it; after a change there:

    python -c "from effd0 import tolerances; print(tolerances.page(), end='')" > docs/tolerances.md

*Measured* is the largest difference that was seen where nothing is wrong, on trained weights. The
bands by which `effd0/diagnosis/parity.py` names a precision are there, with what was measured.

| tolerance | allowed | in | measured | on | reason |
|---|---|---|---|---|---|
"""


def page() -> str:
    """The table as ``docs/tolerances.md``."""
    return _HEAD + "".join(
        f"| {row.name} | {row.limit:g} | {row.unit} | {row.spread:g} | {row.measured} | "
        f"{row.reason} |\n"
        for row in TABLE
    )
