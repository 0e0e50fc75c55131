"""A checkpoint in PyTorch, on the CPU, on CUDA or on an Ascend NPU through torch_npu."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np

from ..errors import RunnerError, require
from ..spec import ModelSpec
from ..types import Tensors
from .base import TensorInfo, check_feed, head_infos
from .checkpoint import load_model

PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


class TorchRunner:
    """
    The network of a checkpoint, evaluated without gradients.

    Inputs and outputs are float32 in every precision; fp16 and bf16 convert the weights.
    TF32 is off: fp32 means fp32.
    """

    def __init__(
        self,
        checkpoint: Path,
        spec: ModelSpec,
        *,
        device: str = "cpu",
        precision: str = "fp32",
        threads: int | None = None,
    ) -> None:
        if precision not in PRECISIONS:
            raise RunnerError(f"--precision is {precision!r}, but {', '.join(PRECISIONS)} exist")
        self.checkpoint, self.spec, self.threads = checkpoint, spec, threads
        self.device, self.precision = device, precision
        self.description = f"PyTorch, {device}, {precision}"
        self._model: Any = None
        self.dtype: Any = None

    def __enter__(self) -> Self:
        torch = require("torch", extra="torch")
        _check_device(torch, self.device)
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        self.dtype = getattr(torch, PRECISIONS[self.precision])
        model = load_model(self.checkpoint, self.spec).to(self.device, self.dtype)
        if not self.device.startswith("npu"):
            # A fifth faster on a CPU; an NPU has layouts of its own.
            model = model.to(memory_format=torch.channels_last)
        self._model = model
        self.description = f"PyTorch {torch.__version__}, {self.device}, {self.precision}"
        return self

    def __exit__(self, *_: object) -> None:
        self._model = None

    @property
    def inputs(self) -> list[TensorInfo]:
        """One input of any batch size."""
        shape = (None, *self.spec.input_shape)
        return [TensorInfo(self.spec.input_name, shape, np.dtype(np.float32))]

    @property
    def outputs(self) -> list[TensorInfo]:
        """The ten heads."""
        return head_infos(self.spec)

    def infer(self, feed: Tensors) -> Tensors:
        """Run the network on *feed*; see `Runner.infer`.  The device is done when it returns."""
        model = self.opened()
        check_feed(feed, self.inputs)
        torch = require("torch", extra="torch")
        # A copy of what is read-only: torch knows no such tensors, and warns.
        images = np.require(feed[self.spec.input_name], requirements=["C", "W"])
        with self.translated(len(images)), torch.inference_mode():
            classes, boxes = model(torch.from_numpy(images).to(self.device, self.dtype))
            # To the host: this waits for the device, and the arrays are the caller's own.
            heads = [head.float().contiguous().cpu().numpy() for head in (*classes, *boxes)]
        return dict(zip(self.spec.output_names, heads, strict=True))

    def opened(self) -> Any:
        """The network; raise `RunnerError` where the runner is not open."""
        if self._model is None:
            raise RunnerError(f"{self.checkpoint} is not open; use the runner in a 'with' block")
        return self._model

    @contextlib.contextmanager
    def translated(self, rows: int, hint: str = "") -> Iterator[None]:
        """Raise what torch raises for a batch of *rows* as a `RunnerError`, with a *hint*."""
        try:
            yield
        except RuntimeError as error:
            raise RunnerError(
                f"{self.checkpoint} failed in PyTorch on {self.device} "
                f"with a batch of {rows}: {error}{hint}"
            ) from error


def _check_device(torch: Any, device: str) -> None:
    """Raise `RunnerError` unless *device* (cpu, cuda[:N], npu[:N]) is there."""
    kind = device.partition(":")[0]
    if kind not in ("cpu", "cuda", "npu"):
        raise RunnerError(f"--device is {device!r}, but cpu, cuda[:N] and npu[:N] exist")
    if kind == "npu":
        try:
            importlib.import_module("torch_npu")
        except ImportError as error:
            raise RunnerError(
                f"--device is {device}, but torch_npu cannot be imported ({error}); "
                "install the version that matches torch and source CANN's set_env.sh"
            ) from error
    if kind != "cpu" and not getattr(torch, kind).is_available():
        raise RunnerError(f"--device is {device}, but torch sees no {kind} device here")
