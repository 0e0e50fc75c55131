"""What the AIPP unit does before a model: bytes of an image to normalised planes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def normalized(pixels: npt.NDArray[Any], aipp: dict[str, Any]) -> npt.NDArray[np.float32]:
    """
    Return what the network gets for uint8 *pixels* (N, H, W, 3), as float32 (N, 3, H, W).

    ``(in - mean_chn - min_chn) * var_reci_chn``, with *min_chn* and *var_reci_chn* in float16 and
    the result in float16 too.
    """
    planes = []
    for channel in range(3):
        mean = float(aipp.get(f"mean_chn_{channel}", 0))
        least = np.float32(np.float16(float(aipp.get(f"min_chn_{channel}", 0))))
        scale = np.float32(np.float16(float(aipp.get(f"var_reci_chn_{channel}", 1))))
        table = (np.arange(256, dtype=np.float32) - np.float32(mean) - least) * scale
        planes.append(table.astype(np.float16).astype(np.float32)[pixels[..., channel]])
    return np.stack(planes, axis=1)
