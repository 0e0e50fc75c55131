"""
What a `TorchDetector` has of each batch under way: buffers, events, and on CUDA a graph.

Work goes in one order on one stream; uploads go beside it on others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..arrays import Floats
from ..errors import FeedError
from ..preprocess import ModelInput
from ..spec import ModelSpec


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
