"""
Runner: one backend, from input tensors to head outputs.

A runner takes what it holds (a session, device memory) in ``__enter__`` and gives it back in
``__exit__``.  In between, ``infer`` may be called any number of times; the arrays it returns
belong to the caller.  A model of fixed batch size takes a smaller batch too: it is padded by
its own first image, and the padded rows never come out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np

from ..arrays import Tensors
from ..errors import FeedError


@dataclass(frozen=True)
class TensorInfo:
    """What a model says of one of its inputs or outputs; None is a free dimension."""

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        sides = ", ".join("N" if side is None else str(side) for side in self.shape)
        return f"{self.dtype} ({sides})"


class Runner(Protocol):
    """A backend that holds one model, open between ``__enter__`` and ``__exit__``."""

    #: What is really computing, for the report: backend, device, precision.
    description: str

    @property
    def inputs(self) -> Sequence[TensorInfo]:
        """The inputs that `infer` wants."""

    @property
    def outputs(self) -> Sequence[TensorInfo]:
        """The outputs that `infer` gives."""

    def infer(self, feed: Tensors) -> Tensors:
        """
        Run the model on *feed*; return its outputs by name, with as many rows as were fed.

        Raises `FeedError` for a feed that the model does not take, `RunnerError` if it fails.
        """

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def batch_size_of(inputs: Sequence[TensorInfo]) -> int | None:
    """The fixed batch size of a model, or None if it takes any."""
    return inputs[0].shape[0]


def check_feed(feed: Tensors, inputs: Sequence[TensorInfo]) -> int:
    """
    Raise `FeedError` unless *feed* holds what *inputs* asks for; return the number of rows.

    The first dimension may be smaller than a fixed batch size, but not zero and not larger.
    """
    names = {info.name for info in inputs}
    if feed.keys() != names:
        raise FeedError(f"feed has {sorted(feed)}, but the model takes {sorted(names)}")
    rows = {feed[info.name].shape[0] if feed[info.name].ndim else 0 for info in inputs}
    for info in inputs:
        tensor = feed[info.name]
        if tensor.dtype != info.dtype or not _fits(tensor.shape, info.shape):
            raise FeedError(
                f"{info.name} is {tensor.dtype} {tensor.shape}, but the model takes {info}"
            )
    if len(rows) != 1:
        raise FeedError(f"inputs have {sorted(rows)} rows, but all must have the same number")
    return rows.pop()


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    """Whether *shape* is *wanted*, or a smaller batch of it."""
    if len(shape) != len(wanted) or not shape:
        return False
    batch = wanted[0]
    if shape[0] < 1 or (batch is not None and shape[0] > batch):
        return False
    return all(w is None or s == w for s, w in zip(shape[1:], wanted[1:], strict=True))


def pad_feed(feed: Tensors, inputs: Sequence[TensorInfo]) -> Tensors:
    """Repeat the first row of each tensor until a fixed batch size is reached."""
    batch = batch_size_of(inputs)
    padded = {}
    for name, tensor in feed.items():
        missing = 0 if batch is None else batch - tensor.shape[0]
        filler = np.repeat(tensor[:1], missing, axis=0)
        padded[name] = np.concatenate([tensor, filler]) if missing else tensor
    return padded


def trim_outputs(outputs: Tensors, rows: int) -> Tensors:
    """Keep the first *rows* rows; a copy where rows are cut off, so that the rest is freed."""
    return {
        name: tensor if tensor.shape[0] == rows else tensor[:rows].copy()
        for name, tensor in outputs.items()
    }
