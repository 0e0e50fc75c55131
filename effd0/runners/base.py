"""
Runner: one backend, from input tensors to head outputs.

A runner takes what it holds (a session, device memory) in ``__enter__`` and gives it back in
``__exit__``.  In between, ``infer`` may be called any number of times; the arrays it returns
belong to the caller.  A model of fixed batch size takes a smaller batch too: it is padded by
its own first image, and the padded rows never come out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np

from ..data.preprocess import ModelInput
from ..detection.heads import named_heads
from ..detection.postprocess import Detections
from ..errors import FeedError, RunnerError
from ..spec import ModelSpec
from ..timing import Latency
from ..types import Tensor, Tensors


@dataclass(frozen=True)
class TensorInfo:
    """What a model says of one of its inputs or outputs; None is a free dimension."""

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        sides = ", ".join("N" if side is None else str(side) for side in self.shape)
        return f"{self.dtype} ({sides})"


def head_infos(spec: ModelSpec, batch: int | None = None) -> list[TensorInfo]:
    """The float32 heads of *spec* in the recipe's order, of a fixed *batch* or a free one."""
    return [
        TensorInfo(name, (batch, *shape), np.dtype(np.float32))
        for name, shape in spec.head_shapes.items()
    ]


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


@runtime_checkable
class StreamingRunner(Protocol):
    """A runner of several feeds at a time: more images per second, each of them later."""

    def infer_stream(self, feeds: Iterable[Tensors]) -> Iterator[Tensors]:
        """Yield the outputs of each feed, in order; feeds are taken ahead of their results."""


@runtime_checkable
class DetectingRunner(Protocol):
    """A runner that goes on to detections where its heads are: a hundred boxes come back."""

    def detect_stream(self, batches: Iterable[Sequence[ModelInput]]) -> Generator[list[Detections]]:
        """
        Yield the detections of each batch of letterboxed uint8 pixels, in order.

        Batches are taken ahead of their results.  Raises `HeadError` as `postprocess` does.
        """


@dataclass
class DeviceTimes:
    """
    Milliseconds that each batch took: upload, computing, download, and the host's own copies.

    Where a batch needs no transfer, its transfers take 0.
    """

    h2d_ms: list[float] = field(default_factory=list)
    compute_ms: list[float] = field(default_factory=list)
    d2h_ms: list[float] = field(default_factory=list)
    host_ms: list[float] = field(default_factory=list)

    def add(self, h2d: float, compute: float, d2h: float, host: float) -> None:
        """Append the times of one batch."""
        self.h2d_ms.append(h2d)
        self.compute_ms.append(compute)
        self.d2h_ms.append(d2h)
        self.host_ms.append(host)

    def latencies(self) -> dict[str, Latency]:
        """Step -> its latency; none where nothing was run."""
        steps = {"upload": self.h2d_ms, "compute": self.compute_ms, "download": self.d2h_ms}
        steps["host copies"] = self.host_ms
        return {step: Latency(tuple(values)) for step, values in steps.items() if values}


@runtime_checkable
class TimedRunner(Protocol):
    """A runner that tells transfers from computing."""

    device_times: DeviceTimes


def infer_stream(runner: Runner, feeds: Iterable[Tensors]) -> Generator[Tensors]:
    """
    Yield the outputs of each feed, in order, several at a time where *runner* can.

    Whoever stops early closes the generator.
    """
    if isinstance(runner, StreamingRunner):
        yield from runner.infer_stream(feeds)
    else:
        yield from map(runner.infer, feeds)


def batch_size_of(inputs: Sequence[TensorInfo]) -> int | None:
    """The fixed batch size of a model, or None if it takes any."""
    return inputs[0].shape[0]


def only_input(inputs: Sequence[TensorInfo]) -> TensorInfo:
    """The input for images; raise `RunnerError` for a model that has others beside it."""
    if len(inputs) != 1:
        names = [info.name for info in inputs]
        raise RunnerError(f"the model has the inputs {names}, but an EfficientDet-D0 has one")
    return inputs[0]


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

    def __exit__(self, *error: Any) -> None:
        self.inner.__exit__(*error)

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
        return head_infos(self.spec, self.inputs[0].shape[0])

    def infer(self, feed: Tensors) -> Tensors:
        """Run *inner*; see `Runner.infer`.  Raises `HeadError` for outputs that are no heads."""
        return named_heads(self.inner.infer(self._renamed(feed)), self.spec)

    def infer_stream(self, feeds: Iterable[Tensors]) -> Iterator[Tensors]:
        """Yield the heads of each feed, overlapped where *inner* can; see `StreamingRunner`."""
        with contextlib.closing(infer_stream(self.inner, map(self._renamed, feeds))) as results:
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


def choose_batch_size(runner: Runner, asked: int | None) -> int:
    """
    The batch size to feed *runner*: *asked*, or the model's own, or 1.

    Raises `FeedError` where more is asked than a fixed-batch model takes.
    """
    fixed = batch_size_of(runner.inputs)
    if asked is None:
        return fixed if fixed is not None else 1
    if asked < 1:
        raise FeedError(f"--batch-size is {asked}, but must be at least 1")
    if fixed is not None and asked > fixed:
        raise FeedError(
            f"--batch-size is {asked}, but the model takes {fixed}; "
            f"export it with --batch-size {asked} or --dynamic-batch"
        )
    return asked


def takes_pixels(runner: Runner) -> bool:
    """Whether the model normalises by itself (AIPP) and is fed letterboxed uint8 pixels."""
    return runner.inputs[0].dtype == np.uint8


def make_feed(inputs: Sequence[ModelInput], runner: Runner, rows: Tensor | None = None) -> Tensors:
    """
    Stack network inputs for *runner*, in its input's name and dtype.

    *rows*, where given, is the batch whose rows the inputs' tensors are already.
    """
    info = only_input(runner.inputs)
    if rows is None:
        return stacked([i.tensor for i in inputs], info)
    return {info.name: rows.astype(info.dtype, copy=False)}


def stacked(tensors: Sequence[np.ndarray], info: TensorInfo) -> Tensors:
    """Make one batch of *tensors*, in the name and dtype of the input *info*."""
    # A single image is a batch as it is; copied, it would be three megabytes of fresh memory.
    batch = tensors[0][None] if len(tensors) == 1 else np.stack(tensors)
    return {info.name: batch.astype(info.dtype, copy=False)}
