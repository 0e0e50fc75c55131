"""
AIPP: normalisation folded into the .om, so that its input is uint8 pixels.

A quarter of the bytes go to the device.  The letterbox stays on the host, since AIPP cannot
resize.  AIPP computes ``(pixel - mean_chn - min_chn) * var_reci_chn`` in float16, which costs
exactness: `largest_errors` says how much.
"""

from dataclasses import dataclass

import numpy as np

from ..spec import ModelSpec, Triple


@dataclass(frozen=True)
class Aipp:
    """
    The constants of a static AIPP, by channel R, G, B, on *image_size* square pixels.

    *mean* is the whole part of the mean, as uint8; *least* its fraction and *factor* 1 / std,
    both values of float16.
    """

    image_size: int
    mean: tuple[int, int, int]
    least: Triple
    factor: Triple

    def __str__(self) -> str:
        lines = [
            "aipp_mode: static",
            "related_input_rank: 0",
            "input_format: RGB888_U8",
            f"src_image_size_w: {self.image_size}",
            f"src_image_size_h: {self.image_size}",
            "crop: false",
            "csc_switch: false",
            "rbuv_swap_switch: false",
        ]
        constants = {"mean_chn": self.mean, "min_chn": self.least, "var_reci_chn": self.factor}
        for name, values in constants.items():
            lines += [f"{name}_{channel}: {value}" for channel, value in enumerate(values)]
        return "aipp_op {\n" + "".join(f"  {line}\n" for line in lines) + "}\n"


def normalizing_aipp(spec: ModelSpec) -> Aipp:
    """The AIPP that normalises as *spec* does; its ``str()`` is the file that ATC reads."""
    means = np.array(spec.mean) * 255
    # min_chn may not be negative, so the mean is cut off, not rounded.
    whole = np.floor(means)
    least = (means - whole).astype(np.float16).tolist()
    factor = (1 / (np.array(spec.std) * 255)).astype(np.float16).tolist()
    red, green, blue = whole.astype(int).tolist()
    return Aipp(spec.image_size, (red, green, blue), tuple(least), tuple(factor))


def largest_errors(aipp: Aipp, spec: ModelSpec) -> Triple:
    """
    Largest distance from exact normalisation over the 256 pixel values, by channel R, G, B.

    The unit is that of the network's input, one standard deviation of the training images.
    Whether AIPP rounds each step to float16 or its result only is not documented: the worse counts.
    """
    values = np.arange(256)[:, None]
    whole, least, factor = (np.array(three) for three in (aipp.mean, aipp.least, aipp.factor))
    exact = (values - 255 * np.array(spec.mean)) / (255 * np.array(spec.std))
    at_end = ((values - whole - least) * factor).astype(np.float16)
    each = (values - whole).astype(np.float16) - least.astype(np.float16)
    each = each * factor.astype(np.float16)
    red, green, blue = np.abs([at_end - exact, each - exact]).max(axis=(0, 1)).tolist()
    return (red, green, blue)
