"""
Runner: one backend, from input tensors to head outputs.

A runner takes what it holds (a session, device memory) in ``__enter__`` and gives it back in
``__exit__``.  In between, ``infer`` may be called any number of times; the arrays it returns
belong to the caller.  A model of fixed batch size takes a smaller batch too: it is padded by
its own first image, and the padded rows never come out.
"""

import contextlib
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np

from ..data.preprocess import ModelInput, pixels_of
from ..detection.heads import class_count, is_merged, named_heads
from ..detection.postprocess import Detections
from ..errors import FeedError, RunnerError, refuse
from ..spec import ModelSpec
from ..timing import Latency
from ..types import Tensor, Tensors

#: Name -> shape, in which None is a free dimension.
Shapes = dict[str, tuple[int | None, ...]]


@dataclass(frozen=True)
class TensorInfo:
    """What a model says of one of its inputs or outputs; None is a free dimension."""

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        sides = ", ".join("N" if side is None else str(side) for side in self.shape)
        return f"{self.dtype} ({sides})"

    @classmethod
    def declared(
        cls, model: Path, name: str, sides: Iterable[Any], kind: str, kinds: Mapping[str, type]
    ) -> Self:
        """
        The input or output *name* of *model*, of free *sides* where they are no numbers.

        Raises `RunnerError` for a *kind* of values that is none of *kinds*, the backend's names.
        """
        if kind not in kinds:
            raise RunnerError(f"{name} of {model} is {kind}, but effd0 takes {', '.join(kinds)}")
        shape = tuple(side if isinstance(side, int) else None for side in sides)
        return cls(name, shape, np.dtype(kinds[kind]))

    def takes(self, tensor: np.ndarray) -> bool:
        """Whether *tensor* is of this dtype and shape, or a smaller batch of it, of one row."""
        (batch, *sides), shape = self.shape, tensor.shape
        if tensor.dtype != self.dtype or len(shape) != len(self.shape) or shape[0] < 1:
            return False
        alike = all(side in (None, of) for side, of in zip(sides, shape[1:], strict=True))
        return alike and (batch is None or shape[0] <= batch)


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

    def add(self, *batch_ms: float) -> None:
        """Append the times of one batch, in the order of the fields."""
        for values, ms in zip(vars(self).values(), batch_ms, strict=True):
            values.append(ms)

    def latencies(self) -> dict[str, Latency]:
        """Step -> its latency; none where nothing was run."""
        steps = ("upload", "compute", "download", "host copies")
        every = zip(steps, vars(self).values(), strict=True)
        return {step: Latency(tuple(values)) for step, values in every if values}


class Runner:
    """
    A backend that holds one *model*, open between ``__enter__`` and ``__exit__``.

    A new backend gives `open` and `run`, and `infer_stream` if it works on several feeds at once.
    *description* says what is really computing, for the report: backend, device, precision.
    """

    #: What each batch took, where the backend tells transfers from computing.
    device_times: DeviceTimes | None = None
    _opened: tuple[Any, Sequence[TensorInfo], Sequence[TensorInfo]] | None = None

    def __init__(self, model: Path, description: str) -> None:
        self.model, self.description = model, description

    def open(self) -> tuple[Any, Sequence[TensorInfo], Sequence[TensorInfo]]:
        """Open the model; return what `run` works with, and the model's inputs and outputs."""
        raise NotImplementedError

    def run(self, session: Any, feed: Tensors) -> Sequence[np.ndarray]:
        """Run the model on a *feed* of its whole batch; return arrays in the order of `outputs`."""
        raise NotImplementedError

    def opened(self) -> tuple[Any, Sequence[TensorInfo], Sequence[TensorInfo]]:
        """What `open` gave; raise `RunnerError` where the runner is not open."""
        if self._opened is None:
            raise RunnerError(f"{self.model} is not open; use the runner in a 'with' block")
        return self._opened

    @property
    def inputs(self) -> Sequence[TensorInfo]:
        """The inputs that `infer` wants."""
        return self.opened()[1]

    @property
    def outputs(self) -> Sequence[TensorInfo]:
        """The outputs that `infer` gives."""
        return self.opened()[2]

    def infer(self, feed: Tensors) -> Tensors:
        """
        Run the model on *feed*; return its outputs by name, with as many rows as were fed.

        Raises `FeedError` for a feed that the model does not take, `RunnerError` if it fails.
        """
        return self._infer(self.opened()[0], feed)

    def infer_stream(self, feeds: Iterable[Tensors]) -> Generator[Tensors]:
        """
        Yield the outputs of each feed, in order; a backend may take feeds ahead of their results.

        Whoever stops early closes the generator.
        """
        yield from map(self.infer, feeds)

    def _infer(self, session: Any, feed: Tensors) -> Tensors:
        rows = check_feed(feed, self.inputs)
        missing = (batch_size_of(self.inputs) or rows) - rows
        if missing:
            feed = {
                name: np.concatenate([tensor, np.repeat(tensor[:1], missing, axis=0)])
                for name, tensor in feed.items()
            }
        every = zip(self.outputs, self.run(session, feed), strict=True)
        # A copy where rows are cut off, so that the rest is freed.
        return {
            info.name: value[:rows].copy() if value.ndim and len(value) != rows else value
            for info, value in every
        }

    def __enter__(self) -> Self:
        self._opened = self.open()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._opened = None


@runtime_checkable
class DetectingRunner(Protocol):
    """A runner that goes on to detections where its heads are: a hundred boxes come back."""

    def detect_stream(self, batches: Iterable[Sequence[ModelInput]]) -> Generator[list[Detections]]:
        """
        Yield the detections of each batch of letterboxed uint8 pixels, in order.

        Batches are taken ahead of their results.  Raises `HeadError` as `postprocess` does.
        """


def head_infos(spec: ModelSpec, batch: int | None = None) -> list[TensorInfo]:
    """The float32 heads of *spec* in the recipe's order, of a fixed *batch* or a free one."""
    return [
        TensorInfo(name, (batch, *shape), np.dtype(np.float32))
        for name, shape in spec.head_shapes.items()
    ]


def shapes_of(infos: Sequence[TensorInfo]) -> Shapes:
    """Name of each input or output, in the model's order -> its shape."""
    return {info.name: info.shape for info in infos}


def batch_size_of(inputs: Sequence[TensorInfo]) -> int | None:
    """The fixed batch size of a model, or None if it takes any."""
    return inputs[0].shape[0]


def only_input(inputs: Sequence[TensorInfo]) -> TensorInfo:
    """The input for images; raise `RunnerError` for a model that has others beside it."""
    if len(inputs) != 1:
        names = [info.name for info in inputs]
        raise RunnerError(f"the model has the inputs {names}, but an EfficientDet has one")
    return inputs[0]


def check_feed(feed: Tensors, inputs: Sequence[TensorInfo]) -> int:
    """
    Raise `FeedError` unless *feed* holds what *inputs* asks for; return the number of rows.

    The first dimension may be smaller than a fixed batch size, but not zero and not larger.
    """
    names = {info.name for info in inputs}
    if feed.keys() != names:
        raise FeedError(f"feed has {sorted(feed)}, but the model takes {sorted(names)}")
    for info in inputs:
        tensor = feed[info.name]
        if not info.takes(tensor):
            raise FeedError(
                f"{info.name} is {tensor.dtype} {tensor.shape}, but the model takes {info}"
            )
    rows = {len(tensor) for tensor in feed.values()}
    if len(rows) != 1:
        raise FeedError(f"inputs have {sorted(rows)} rows, but all must have the same number")
    return rows.pop()


class NamedRunner(Runner):
    """
    *inner*, but its input and its heads have the names and the order of *spec*, in float32.

    Where *inner* takes pixels, because it normalises by itself, or planes last, that is what it is
    fed.
    """

    def __init__(self, inner: Runner, spec: ModelSpec) -> None:
        self.inner, self.spec = inner, spec

    def __enter__(self) -> Self:
        self.inner.__enter__()
        self.description, self.device_times = self.inner.description, self.inner.device_times
        return self

    def __exit__(self, *error: Any) -> None:
        self.inner.__exit__(*error)

    @property
    def inputs(self) -> list[TensorInfo]:
        """The one input, under the spec's name, of normalised planes."""
        shape = (only_input(self.inner.inputs).shape[0], *self.spec.input_shape)
        return [TensorInfo(self.spec.input_name, shape, np.dtype(np.float32))]

    @property
    def outputs(self) -> list[TensorInfo]:
        """The heads, in the recipe's order."""
        return head_infos(self.spec, self.inputs[0].shape[0])

    def infer(self, feed: Tensors) -> Tensors:
        """Run *inner*; see `Runner.infer`.  Raises `HeadError` for outputs that are no heads."""
        return named_heads(self.inner.infer(self._renamed(feed)), self.spec)

    def infer_stream(self, feeds: Iterable[Tensors]) -> Generator[Tensors]:
        """Yield the heads of each feed, overlapped where *inner* can."""
        with contextlib.closing(self.inner.infer_stream(map(self._renamed, feeds))) as results:
            for outputs in results:
                yield named_heads(outputs, self.spec)

    def _renamed(self, feed: Tensors) -> Tensors:
        check_feed(feed, self.inputs)
        info = only_input(self.inner.inputs)
        return {info.name: as_input(feed[self.spec.input_name], info, self.spec)}


def choose_batch_size(runner: Runner, asked: int | None) -> int:
    """
    The batch size to feed *runner*: *asked*, or the model's own, or 1.

    Raises `FeedError` where more is asked than a fixed-batch model takes.
    """
    fixed = batch_size_of(runner.inputs)
    if asked is None:
        return fixed if fixed is not None else 1
    refuse({
        f"--batch-size is {asked}, but must be at least 1": asked < 1,
        f"--batch-size is {asked}, but the model takes {fixed}; export it with --batch-size "
        f"{asked} or --dynamic-batch": fixed is not None and asked > fixed,
    }, FeedError)  # fmt: skip
    return asked


def check_size(runner: Runner, spec: ModelSpec) -> None:
    """Raise `RunnerError` where the open *runner* takes images of another size than *spec*'s."""
    sides, (rows, columns) = only_input(runner.inputs).shape[1:], spec.image_size
    if not spec.takes(sides):
        raise RunnerError(
            f"the model takes images as {sides}, but {spec.arch} is fed {rows}x{columns} pixels; "
            "give the model's --arch or --image-size"
        )


def check_classes(runner: Runner, spec: ModelSpec) -> None:
    """Raise `RunnerError` where the heads of the open *runner* are of more or fewer classes."""
    count = class_count(shapes_of(runner.outputs).values(), spec)
    if count not in (None, spec.num_classes):
        raise RunnerError(
            f"the heads of the model have {count} classes, but {spec.num_classes} are wanted; give "
            f"--num-classes {count}"
        )


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
    return {info.name: laid_out(rows, info)}


def stacked(tensors: Sequence[np.ndarray], info: TensorInfo) -> Tensors:
    """Make one batch of *tensors*, in the name, dtype and layout of the input *info*."""
    # A single image is a batch as it is; copied, it would be three megabytes of fresh memory.
    batch = tensors[0][None] if len(tensors) == 1 else np.stack(tensors)
    return {info.name: laid_out(batch, info)}


def laid_out(batch: np.ndarray, info: TensorInfo) -> np.ndarray:
    """*batch* of images in the dtype of the input *info*, planes first or last as it declares."""
    batch = batch.astype(info.dtype, copy=False)
    if batch.ndim == len(info.shape) == len("NCHW") and not info.takes(batch):
        for order in ((0, 2, 3, 1), (0, 3, 1, 2)):
            if info.takes(batch.transpose(order)):
                return np.ascontiguousarray(batch.transpose(order))
    return batch


def as_input(images: Tensor, info: TensorInfo, spec: ModelSpec) -> np.ndarray:
    """Normalised *images*, planes first, as the input *info* takes them; their pixels for uint8."""
    return laid_out(pixels_of(images, spec) if info.dtype == np.uint8 else images, info)


def foreign_forms(runner: Runner, spec: ModelSpec) -> list[str]:
    """What sets inputs and outputs of the open *runner* apart from an export's, in words."""
    info = only_input(runner.inputs)
    forms = {
        "uint8 inputs": info.dtype == np.uint8,
        "NHWC inputs": info.shape[1:] == (*spec.input_shape[1:], 3),
        "merged heads": is_merged([output.shape[1:] for output in runner.outputs], spec),
    }
    return [form for form, found in forms.items() if found]
