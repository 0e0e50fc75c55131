"""
AIPP by the manual: its file, with ranges and defaults, and what the unit computes.

Written from the manual, not from `effd0.ascend.aipp`: each checks the other.  Only what folds a
normalisation is emulated; whatever else a file asks for is refused.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt

_SWITCHES = ("crop", "padding", "resize", "csc_switch", "rbuv_swap_switch", "ax_swap_switch")
#: Key -> what a file that leaves it out means, and so the type of its value.
_DEFAULTS: dict[str, Any] = {
    "aipp_mode": "",
    "input_format": "",
    "related_input_rank": 0,
    "src_image_size_w": 0,
    "src_image_size_h": 0,
    **dict.fromkeys(_SWITCHES, False),
    **{f"mean_chn_{n}": 0 for n in range(3)},
    **{f"min_chn_{n}": 0.0 for n in range(3)},
    **{f"var_reci_chn_{n}": 1.0 for n in range(3)},
}


class InvalidAipp(Exception):
    """The file is not one that ATC would take, or asks for what is not emulated."""


def read_aipp(text: str) -> dict[str, Any]:
    """Parse the one static ``aipp_op`` of *text*; raise `InvalidAipp` with the reason."""
    whole = re.fullmatch(r"\s*aipp_op\s*\{([^{}]*)\}\s*", re.sub(r"#[^\n]*", "", text))
    if whole is None:
        raise InvalidAipp("one aipp_op { ... } is wanted")
    pair = r"(\w+)\s*:\s*([^\s,;]+)"
    if re.sub(pair, "", whole[1]).strip(" \n\t,;"):
        raise InvalidAipp("something is no 'key: value'")
    aipp = dict(_DEFAULTS)
    for key, value in re.findall(pair, whole[1]):
        if key not in aipp:
            raise InvalidAipp(f"{key} is not a field of aipp_op, or not emulated")
        kind = type(_DEFAULTS[key])
        try:
            aipp[key] = {"true": True, "false": False}[value] if kind is bool else kind(value)
        except (KeyError, ValueError) as error:
            raise InvalidAipp(f"{key} cannot be {value}") from error
    fixed = {"aipp_mode": "static", "input_format": "RGB888_U8", "related_input_rank": 0}
    for key, wanted in (fixed | dict.fromkeys(_SWITCHES, False)).items():
        if aipp[key] != wanted:
            raise InvalidAipp(f"{key} {aipp[key]} is not emulated, only {wanted}")
    limits = {"mean": (0, 255), "min": (0, 255), "var_reci": (-65504, 65504)}
    for key, (least, most) in ((f"{k}_chn_{n}", v) for k, v in limits.items() for n in range(3)):
        if not least <= aipp[key] <= most:
            raise InvalidAipp(f"{key} must be in [{least}, {most}]")
    return aipp


def normalized(pixels: npt.NDArray[Any], aipp: dict[str, Any]) -> npt.NDArray[np.float32]:
    """
    Return what the network gets for uint8 *pixels* (N, H, W, 3), as float32 (N, 3, H, W).

    ``(in - mean_chn - min_chn) * var_reci_chn``, with *min_chn* and *var_reci_chn* in float16 and
    the result in float16 too.
    """
    planes = []
    for channel in range(3):
        mean = np.float32(aipp.get(f"mean_chn_{channel}", 0))
        least = np.float32(np.float16(aipp.get(f"min_chn_{channel}", 0)))
        scale = np.float32(np.float16(aipp.get(f"var_reci_chn_{channel}", 1)))
        table = (np.arange(256, dtype=np.float32) - mean - least) * scale
        planes.append(table.astype(np.float16).astype(np.float32)[pixels[..., channel]])
    return np.stack(planes, axis=1)
