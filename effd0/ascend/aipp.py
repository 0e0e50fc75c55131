"""
AIPP: normalisation folded into the .om, so that its input is uint8 pixels.

A quarter of the bytes go to the device.  The letterbox stays on the host, since AIPP cannot
resize.  AIPP computes ``(pixel - mean_chn - min_chn) * var_reci_chn`` in float16, which costs
exactness: `largest_errors` says how much.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..spec import ModelSpec, Triple


def normalizing_aipp(spec: ModelSpec) -> dict[str, list[Any]]:
    """
    The constants of a static AIPP that normalises as *spec* does, by channel R, G, B.

    ``mean_chn`` is the whole part of the mean, as uint8; ``min_chn`` its fraction and
    ``var_reci_chn`` 1 / std, both values of float16.
    """
    means = np.array(spec.mean) * 255
    # min_chn may not be negative, so the mean is cut off, not rounded.
    whole = np.floor(means)
    least, factor = means - whole, 1 / (np.array(spec.std) * 255)
    halves = {"min_chn": least.astype(np.float16), "var_reci_chn": factor.astype(np.float16)}
    return {name: a.tolist() for name, a in {"mean_chn": whole.astype(int), **halves}.items()}


def aipp_file(spec: ModelSpec) -> str:
    """The file that ATC reads, with the constants of `normalizing_aipp`."""
    rows = {
        "aipp_mode": "static", "related_input_rank": 0, "input_format": "RGB888_U8",
        "src_image_size_w": spec.image_size[1], "src_image_size_h": spec.image_size[0],
        "crop": "false", "csc_switch": "false", "rbuv_swap_switch": "false",
    }  # fmt: skip
    for name, values in normalizing_aipp(spec).items():
        rows |= {f"{name}_{channel}": value for channel, value in enumerate(values)}
    return "aipp_op {\n" + "".join(f"  {name}: {value}\n" for name, value in rows.items()) + "}\n"


def largest_errors(aipp: Mapping[str, list[Any]], spec: ModelSpec) -> Triple:
    """
    Largest distance from exact normalisation over the 256 pixel values, by channel R, G, B.

    *aipp* are the constants.  The unit is that of the network's input, one standard deviation of
    the training images.  Whether AIPP rounds each step to float16 or its result only is not
    documented: the worse counts.
    """
    values = np.arange(256)[:, None]
    whole, least, factor = map(np.array, aipp.values())
    exact = (values - 255 * np.array(spec.mean)) / (255 * np.array(spec.std))
    at_end = ((values - whole - least) * factor).astype(np.float16)
    each = (values - whole).astype(np.float16) - least.astype(np.float16)
    each = each * factor.astype(np.float16)
    red, green, blue = np.abs([at_end - exact, each - exact]).max(axis=(0, 1)).tolist()
    return (red, green, blue)
