"""
A checkpoint in PyTorch from pixels to detections, all of it on one device.

Letterboxed uint8 pixels go up, a quarter of the float32 input, while the batch before them is
computed; a hundred boxes an image come down, not 18.5 MB of heads.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from ..device_steps import DeviceSteps, on_host, unpack
from ..errors import RunnerError, require
from ..postprocess import Detections
from ..preprocess import ModelInput
from ..spec import ModelSpec
from .torch import TorchRunner
from .torch_lanes import Graph, Lane

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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
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
