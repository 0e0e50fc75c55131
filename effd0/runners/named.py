"""
A model under whatever names and precision its tool gave it, spoken to in the spec's own.

Heads are found by name, or by shape where a model has other names, never by position.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

import numpy as np

from ..arrays import Tensors
from ..heads import named_heads
from ..spec import ModelSpec
from .base import DeviceTimes, Runner, TensorInfo, check_feed, infer_each, only_input


class NamedRunner:
    """
    *inner*, but its input and its heads have the names and the order of *spec*, in float32.

    Where *inner* takes uint8 pixels, because it normalises by itself, it still does.
    """

    def __init__(self, inner: Runner, spec: ModelSpec) -> None:
        self.inner, self.spec = inner, spec
        self.description = inner.description

    def __enter__(self) -> Self:
        self.inner.__enter__()
        self.description = self.inner.description
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.inner.__exit__(kind, error, trace)

    @property
    def inputs(self) -> list[TensorInfo]:
        """The one input, under the spec's name."""
        info = only_input(self.inner.inputs)
        floats = np.issubdtype(info.dtype, np.floating)
        dtype = np.dtype(np.float32) if floats else info.dtype
        return [TensorInfo(self.spec.input_name, info.shape, dtype)]

    @property
    def outputs(self) -> list[TensorInfo]:
        """The heads, in the recipe's order."""
        rows = self.inputs[0].shape[0]
        return [
            TensorInfo(name, (rows, *shape), np.dtype(np.float32))
            for name, shape in self.spec.head_shapes.items()
        ]

    def infer(self, feed: Tensors) -> Tensors:
        """Run *inner*; see `Runner.infer`.  Raises `HeadError` for outputs that are no heads."""
        return named_heads(self.inner.infer(self._renamed(feed)), self.spec)

    def infer_stream(self, feeds: Iterable[Tensors]) -> Iterator[Tensors]:
        """Yield the heads of each feed, overlapped where *inner* can; see `StreamingRunner`."""
        with contextlib.closing(infer_each(self.inner, map(self._renamed, feeds))) as results:
            for outputs in results:
                yield named_heads(outputs, self.spec)

    @property
    def device_times(self) -> DeviceTimes:
        """Those of *inner*; one that tells none has no such attribute, and neither has this."""
        times: DeviceTimes = self.inner.device_times  # type: ignore[attr-defined]
        return times

    def _renamed(self, feed: Tensors) -> Tensors:
        check_feed(feed, self.inputs)
        info = only_input(self.inner.inputs)
        return {info.name: feed[self.spec.input_name].astype(info.dtype, copy=False)}
