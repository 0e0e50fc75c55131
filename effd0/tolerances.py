"""
Every number by which a verdict may forgive a difference: ``tolerances.toml`` as values.

``tests/unit/test_tolerances.py`` makes ``docs/tolerances.md`` of the same table.  The bands that
tell one precision from another are in `effd0.diagnosis.parity`.
"""

import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from .spec import D0


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


def _flat(content: Mapping[str, Any], *above: str) -> Iterator[tuple[tuple[str, ...], Tolerance]]:
    for key, value in content.items():
        if "limit" in value:
            reason = " ".join(value["reason"].split())
            yield (*above, key), Tolerance(**{**value, "reason": reason})
        else:
            yield from _flat(value, *above, key)


TABLE = dict(_flat(tomllib.loads(Path(__file__).with_suffix(".toml").read_text())))
#: What the paired gate takes where --max-drop does not say otherwise.
MAX_DROP = TABLE["MAX_DROP",]
MAX_DROP_INT8 = TABLE["MAX_DROP_INT8",]
SAME_DETECTIONS = TABLE["SAME_DETECTIONS",]
SAME_SCORES = TABLE["SAME_SCORES",]


def same_float32(pixels: int) -> float:
    """
    `SAME_FLOAT32` for an input of so many *pixels*.

    Its means over whole maps sum as many values, and their rounding grows with these.
    """
    return SAME_FLOAT32.limit * max(1.0, pixels / math.prod(D0.image_size))


def max_drop_of(precision: str | None) -> float:
    """Points of mAP that a build in *precision* may lose where --max-drop does not say."""
    return (MAX_DROP_INT8 if precision == "int8" else MAX_DROP).limit


TO_RECORD = TABLE["TO_RECORD",]
BETWEEN_RUNNERS = TABLE["BETWEEN_RUNNERS",]
ROUNDED = TABLE["ROUNDED",]
ROUNDED_BY_AIPP = TABLE["ROUNDED_BY_AIPP",]
FAULT_UNDONE = TABLE["FAULT_UNDONE",]
AP_ARITHMETIC = TABLE["AP_ARITHMETIC",]
SAME_FLOAT32 = TABLE["SAME_FLOAT32",]
ROUNDED_L2 = TABLE["ROUNDED_L2",]
INT8_L2 = TABLE["INT8_L2",]
RECORDED = TABLE["RECORDED",]
#: Runners whose model was compiled for a chip, or that others ran: perhaps in float16.
MAY_ROUND = ("acl", "recorded")
#: By runner and precision: what the heads may differ by from torch's in float32.
HEADS = {key[1:]: row for key, row in TABLE.items() if key[0] == "HEADS"}
#: By precision: torch on an accelerator against torch on the CPU.
DEVICES = {key[1]: row for key, row in TABLE.items() if key[0] == "DEVICES"}
#: By type: inputs that another tool made; where effd0's manifest lies beside them, none differs.
INPUTS = {key[1]: row for key, row in TABLE.items() if key[0] == "INPUTS"}
#: How much more a quantiser may err than one whose range is that of the images: one of a large
#: tensor, and of all the one with the largest error but for a twentieth.
QUANTISER = TABLE["QUANTISER",]
CLIPPED = TABLE["CLIPPED",]
CALIBRATION = TABLE["CALIBRATION",]
#: By how much the largest values of a head may be clipped.
CLASS_RANGE = TABLE["CLASS_RANGE",]
#: ONNX Runtime's kernels on whole numbers, of an int8 model, against its graph as it stands.
KERNELS = TABLE["KERNELS",]
NOISE = TABLE["NOISE",]
NOISE_FLOAT16 = TABLE["NOISE_FLOAT16",]
TO_EXPECTED = TABLE["TO_EXPECTED",]
UNTRAINED = TABLE["UNTRAINED",]
BOXES = TABLE["BOXES",]
SCORES = TABLE["SCORES",]
