"""The fake backend as `effd0 infer` meets it: with outputs that it declares, and device times."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from effd0.runners.base import DeviceTimes, TensorInfo
from effd0.types import Tensors

from ..helpers import SMALL
from .runner import FLOAT, FakeRunner

#: The order in which it declares its outputs: not the recipe's.
ORDER = SMALL.box_names + SMALL.class_names


class DeclaringRunner(FakeRunner):
    """A `FakeRunner` that declares its outputs."""

    def __init__(self, *, dtype: np.dtype[Any] = FLOAT, fixed: int | None = None) -> None:
        super().__init__(dtype=dtype, fixed=fixed)
        shapes = SMALL.head_shapes
        self.outputs = [TensorInfo(name, (fixed, *shapes[name]), FLOAT) for name in ORDER]


class DeviceRunner(DeclaringRunner):
    """A runner that works on two batches at a time and times them itself: 2 s of computing."""

    def __init__(self, *, fixed: int | None = None) -> None:
        super().__init__(fixed=fixed)
        self.device_times = DeviceTimes()

    def infer(self, feed: Tensors) -> Tensors:
        """Return the heads of *feed*, and note 1 ms, 2 s and 3 ms."""
        self.device_times.h2d_ms.append(1.0)
        self.device_times.compute_ms.append(2000.0)
        self.device_times.d2h_ms.append(3.0)
        return super().infer(feed)

    def infer_stream(self, feeds: Iterable[Tensors]) -> Iterator[Tensors]:
        """Yield the heads of each feed when the next one has been taken."""
        ahead: list[Tensors] = []
        for feed in feeds:
            ahead.append(self.infer(feed))
            if len(ahead) > 1:
                yield ahead.pop(0)
        yield from ahead
