"""
What a `TorchDetector` has of each batch under way: buffers, events, and on CUDA a graph.

Work goes in one order on one stream; uploads go beside it on others.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from ..data.preprocess import ModelInput
from ..detection.postprocess import Detections
from ..detection.torch_ops import DeviceSteps, on_host, unpack
from ..errors import FeedError, RunnerError, require
from ..spec import ModelSpec
from ..types import Floats
from .torch import TorchRunner


class Graph:
    """One CUDA graph of *detect* for the batch size of *lane*: static tensors in and out."""

    def __init__(self, torch: Any, detect: Any, lane: Lane) -> None:
        torch.cuda.synchronize(lane.device)  # a smaller graph before this one may be under way
        self._inputs = [one.clone() for one in lane.staged]
        aside = torch.cuda.Stream(lane.device)
        aside.wait_stream(torch.cuda.current_stream(lane.device))
        # Whatever is chosen, compiled or allocated once is so before the capture.
        with torch.inference_mode(), torch.cuda.stream(aside):
            for _ in range(3):
                detect(*self._inputs)
        torch.cuda.current_stream(lane.device).wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with (
            torch.inference_mode(),
            torch.cuda.device(lane.device),
            torch.cuda.graph(self._graph),
        ):
            self._packed = detect(*self._inputs)

    def __call__(self, *staged: Any) -> Any:
        """Compute *staged*; what is given is overwritten by the next call."""
        for static, one in zip(self._inputs, staged, strict=True):
            static.copy_(one)
        self._graph.replay()
        return self._packed


class Lane:
    """Buffers of one batch under way: on the host, pinned for CUDA, and on the device."""

    def __init__(self, torch: Any, device: str, spec: ModelSpec, rows: int) -> None:
        self.rows, self._torch, self.device = rows, torch, torch.device(device)
        self._on_cuda = self.device.type == "cuda"
        pixels = (rows, spec.image_size, spec.image_size, 3)
        self._host = [
            torch.ones(pixels, dtype=torch.uint8, pin_memory=self._on_cuda),
            torch.ones((rows, 3), dtype=torch.float32, pin_memory=self._on_cuda),
        ]
        self.staged = [one.to(self.device, copy=True) for one in self._host]
        self._packed: Any = None
        if self._on_cuda:
            self._copying = torch.cuda.Stream(self.device)
            self._done = torch.cuda.Event()

    def upload(self, images: Sequence[ModelInput]) -> None:
        """Send *images* to the device, beside what is computed there."""
        for row, image in enumerate(images):
            self._host[0][row] = self._torch.from_numpy(_pixels(image, self._host[0].shape[1:]))
            self._host[1][row] = self._torch.tensor([image.image_scale, *image.image_size])
        with self._torch.cuda.stream(self._copying) if self._on_cuda else contextlib.nullcontext():
            for staged, host in zip(self.staged, self._host, strict=True):
                staged.copy_(host, non_blocking=True)

    def compute(self, program: Any, rows: int) -> None:
        """Run *program* on the first *rows* and download what it gives, without waiting for it."""
        if self._on_cuda:
            self._torch.cuda.current_stream(self.device).wait_stream(self._copying)
        with self._torch.inference_mode():
            packed = program(*(staged[:rows] for staged in self.staged))
            self._packed = packed.to("cpu", non_blocking=self._on_cuda)  # into pinned memory
        if self._on_cuda:
            self._done.record(self._torch.cuda.current_stream(self.device))

    def packed(self) -> Floats:
        """What came down, once it is there."""
        if self._on_cuda:
            self._done.synchronize()
        found: Floats = self._packed.numpy()
        return found


def _pixels(image: ModelInput, shape: Sequence[int]) -> Any:
    """The pixels of *image*; raise `FeedError` for anything else than letterboxed uint8."""
    pixels = image.tensor
    if pixels.dtype != np.uint8 or pixels.shape != tuple(shape):
        raise FeedError(
            f"an image is {pixels.dtype} {pixels.shape}, but a detector takes uint8 pixels "
            f"{tuple(shape)}; preprocess with normalized=False"
        )
    return np.require(pixels, requirements=["C", "W"])


#: How the work of a batch is launched.
LAUNCHES = {
    "eager": "kernel by kernel",
    "graph": "as one CUDA graph for each batch size",
    "compile": "fused by torch.compile, and as one CUDA graph on CUDA",
}
#: Batches that are under way: one is computed while the next one goes up.
_LANES = 2


class TorchDetector(TorchRunner):
    """
    A `TorchRunner` that is a `DetectingRunner` too.

    With a *launch* other than eager, the largest batch so far has a program of its own that serves
    smaller ones as well: their rows are filled up, and what fills them never comes out.  What
    cannot be captured or compiled is a `RunnerError`; nothing falls back to eager by itself.
    """

    def __init__(
        self,
        checkpoint: Path,
        spec: ModelSpec,
        *,
        device: str = "cpu",
        precision: str = "fp32",
        threads: int | None = None,
        launch: str = "eager",
    ) -> None:
        super().__init__(checkpoint, spec, device=device, precision=precision, threads=threads)
        _check_launch(launch, device)
        self.launch = launch
        self._steps: Any = None
        self._program: Any = None
        self._lanes: list[Lane] = []
        self._padded = launch != "eager"
        self._hint = "" if launch == "eager" else f" (--launch is {launch}; eager does without)"

    def __enter__(self) -> Self:
        super().__enter__()
        self._steps = DeviceSteps(self.spec, self.device)
        self._torch = require("torch", extra="torch")
        self.description += f", detections on the device, {self.launch}"
        return self

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._steps = self._program = None
        self._lanes = []

    def detect_stream(self, batches: Iterable[Sequence[ModelInput]]) -> Generator[list[Detections]]:
        """Yield the detections of each batch of pixels, overlapped; see `DetectingRunner`."""
        yield from self._overlapped(batches, once=False)

    def detect_again(self, images: Sequence[ModelInput], times: int) -> Generator[list[Detections]]:
        """Yield the detections of *images* so many *times*; they go up for the first ones only."""
        yield from self._overlapped(itertools.repeat(images, times), once=True)

    def _overlapped(
        self, batches: Iterable[Sequence[ModelInput]], *, once: bool
    ) -> Generator[list[Detections]]:
        self.opened()
        under_way: deque[tuple[Sequence[ModelInput], Lane]] = deque()
        for index, images in enumerate(batches):
            with self.translated(len(images), self._hint):
                lane = self._lane(index % _LANES, len(images))
                if not once or index < _LANES:
                    lane.upload(images)
                lane.compute(self._program, lane.rows if self._padded else len(images))
            under_way.append((images, lane))
            if len(under_way) == _LANES:
                yield self._finished(*under_way.popleft())
        while under_way:
            yield self._finished(*under_way.popleft())

    def _lane(self, index: int, rows: int) -> Lane:
        """The buffers for a batch of *rows*, which nothing uses any more."""
        if not self._lanes or rows > self._lanes[0].rows:
            # What is under way keeps its own lane, and the tensors in it, until it is done.
            sized = (self._torch, self.device, self.spec, rows)
            self._lanes = [Lane(*sized) for _ in range(_LANES)]
            self._program = self._launched(self._lanes[0])
        return self._lanes[index]

    def _finished(self, images: Sequence[ModelInput], lane: Lane) -> list[Detections]:
        with self.translated(len(images)):
            found = unpack(lane.packed()[: len(images)], self.spec)
            undecided = [image for image, one in zip(images, found, strict=True) if one is None]
            # Their heads again, for the host to look at all of them.
            others = iter(self._on_host(undecided) if undecided else [])
        return [next(others) if one is None else one for one in found]

    def _on_host(self, images: Sequence[ModelInput]) -> list[Detections]:
        torch = self._torch
        with torch.inference_mode():
            pixels = torch.from_numpy(np.stack([image.tensor for image in images]))
            classes, boxes = self._heads(pixels.to(self.device))
        return [
            on_host(classes, boxes, row, image.image_scale, image.image_size, self.spec)
            for row, image in enumerate(images)
        ]

    def _heads(self, pixels: Any) -> Any:
        return self.opened()(self._steps.normalize(pixels).to(self.dtype))

    def _detect(self, pixels: Any, geometry: Any) -> Any:
        """Everything between upload and download."""
        return self._steps.packed(*self._heads(pixels), geometry)

    def _launched(self, lane: Lane) -> Any:
        """What computes a batch of the size of *lane*, as *launch* says."""
        torch = self._torch
        detect = self._detect
        if self.launch == "compile":
            detect = torch.compile(detect, dynamic=False)
        graph = self.launch != "eager" and self.device.startswith("cuda")
        return Graph(torch, detect, lane) if graph else detect


def _check_launch(launch: str, device: str) -> None:
    """Raise `RunnerError` unless work can be launched on *device* in this way."""
    if launch not in LAUNCHES:
        raise RunnerError(f"--launch is {launch!r}, but {', '.join(LAUNCHES)} exist")
    if device.startswith("npu"):
        raise RunnerError(
            f"--postprocess is device, but --device is {device}, where it was never tried; "
            "leave it to the host"
        )
    if launch == "graph" and not device.startswith("cuda"):
        raise RunnerError(
            f"--launch is graph, but --device is {device}, and only CUDA has graphs; use eager"
        )
