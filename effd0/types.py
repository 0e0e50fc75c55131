"""Names for the kinds of arrays that pass between stages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

#: One image, (height, width, 3) uint8 RGB.
Pixels: TypeAlias = npt.NDArray[np.uint8]
#: Network input, (3, size, size) or (N, 3, size, size) float32.
Tensor: TypeAlias = npt.NDArray[np.float32]
#: Corners of N boxes, (N, 4) float32; the name of the variable says in which order.
Boxes: TypeAlias = npt.NDArray[np.float32]
#: Logits, scores, regressions: float32 of any shape.
Floats: TypeAlias = npt.NDArray[np.float32]
#: Numbers that are counted with, float64 of any shape.
Fractions: TypeAlias = npt.NDArray[np.float64]
#: Whole numbers, such as indices, class ids and counts.
Indices: TypeAlias = npt.NDArray[np.int64]
#: Named tensors, as a runner takes and gives them.
Tensors: TypeAlias = Mapping[str, npt.NDArray[Any]]
