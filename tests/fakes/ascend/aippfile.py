"""
Reading an ``aipp_op`` as the manual tells it, with its ranges and defaults.

Written from the manual, not from `effd0.ascend.aipp`: each checks the other.  Only what folds a
normalisation is emulated; whatever else a file asks for is refused.
"""

from __future__ import annotations

import re
from typing import Any

_CHANNELS = range(3)
_SWITCHES = ("crop", "padding", "resize", "csc_switch", "rbuv_swap_switch", "ax_swap_switch")
#: Key -> what a file that leaves it out means; None is "must be given".
DEFAULTS: dict[str, Any] = {
    "aipp_mode": None,
    "input_format": None,
    "related_input_rank": 0,
    "src_image_size_w": 0,
    "src_image_size_h": 0,
    **dict.fromkeys(_SWITCHES, False),
    **{f"mean_chn_{n}": 0 for n in _CHANNELS},
    **{f"min_chn_{n}": 0.0 for n in _CHANNELS},
    **{f"var_reci_chn_{n}": 1.0 for n in _CHANNELS},
}


class InvalidAipp(Exception):
    """The file is not one that ATC would take, or asks for what is not emulated."""


def read_aipp(text: str) -> dict[str, Any]:
    """Parse the one static ``aipp_op`` of *text*; raise `InvalidAipp` with the reason."""
    text = re.sub(r"#[^\n]*", "", text)
    whole = re.fullmatch(r"\s*aipp_op\s*\{([^{}]*)\}\s*", text)
    if whole is None:
        raise InvalidAipp("one aipp_op { ... } is wanted")
    pair = r"(\w+)\s*:\s*([^\s,;]+)"
    if re.sub(pair, "", whole[1]).strip(" \n\t,;"):
        raise InvalidAipp("something is no 'key: value'")
    aipp = dict(DEFAULTS)
    for key, value in re.findall(pair, whole[1]):
        if key not in DEFAULTS:
            raise InvalidAipp(f"{key} is not a field of aipp_op, or not emulated")
        aipp[key] = _value(key, value)
    _check(aipp)
    return aipp


def _value(key: str, text: str) -> Any:
    default = DEFAULTS[key]
    if default is None:
        return text
    if isinstance(default, bool):
        if text not in ("true", "false"):
            raise InvalidAipp(f"{key} must be true or false")
        return text == "true"
    try:
        return type(default)(text)
    except ValueError as error:
        raise InvalidAipp(f"{key} cannot be {text}") from error


def _check(aipp: dict[str, Any]) -> None:
    if aipp["aipp_mode"] != "static" or aipp["input_format"] != "RGB888_U8":
        raise InvalidAipp("aipp_mode static and input_format RGB888_U8 are emulated")
    if any(aipp[key] for key in _SWITCHES) or aipp["related_input_rank"]:
        raise InvalidAipp("crop, padding, resize, colour conversion and swaps are not emulated")
    for n in _CHANNELS:
        if not 0 <= aipp[f"mean_chn_{n}"] <= 255 or not 0 <= aipp[f"min_chn_{n}"] <= 255:
            raise InvalidAipp(f"mean_chn_{n} and min_chn_{n} must be in [0, 255]")
        if abs(aipp[f"var_reci_chn_{n}"]) > 65504:
            raise InvalidAipp(f"var_reci_chn_{n} must be in [-65504, 65504]")
