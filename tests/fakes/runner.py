"""A backend that answers in microseconds, and differently for each image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np

from effd0.runners.base import TensorInfo
from effd0.types import Tensors

from ..helpers import SMALL

FLOAT = np.dtype(np.float32)


class FakeRunner:
    """
    A runner that tells images apart: one sure logit, whose class is the image's red level.

    It answers for `SMALL`; *fixed* is its batch size, if it has one.
    """

    description = "fake"

    def __init__(self, *, dtype: np.dtype[Any] = FLOAT, fixed: int | None = None) -> None:
        self.inputs: Sequence[TensorInfo] = [TensorInfo("in", (fixed, 3, 128, 128), dtype)]
        self.outputs: Sequence[TensorInfo] = ()
        self.fed: list[int] = []
        self.on_infer: Callable[[], object] = lambda: None

    def infer(self, feed: Tensors) -> Tensors:
        """Return heads in which only the class of each image's red level is above the rest."""
        self.on_infer()
        batch = feed["in"]
        self.fed.append(len(batch))
        shapes = SMALL.head_shapes.items()
        heads = {name: np.full((len(batch), *shape), -9, FLOAT) for name, shape in shapes}
        for name in SMALL.box_names:
            heads[name][:] = 0
        for row, image in enumerate(batch):
            heads["class_p7"][row, _red_class(image), 0, 0] = 5
        return heads

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


def _red_class(image: np.ndarray) -> int:
    """Return the class, 0 to 4, that stands for the red of the first pixel, 0 to 200 by 50."""
    return round((float(image[0, 0, 0]) * SMALL.std[0] + SMALL.mean[0]) * 255 / 50)
