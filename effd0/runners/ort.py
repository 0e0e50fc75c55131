"""An ONNX model in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from ..arrays import Tensors
from ..errors import RunnerError, require
from .base import TensorInfo, check_feed, pad_feed, trim_outputs

_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}


class OrtRunner:
    """
    One inference session on the provider asked for, and on no other.

    A provider that is missing, or that ONNX Runtime quietly replaced, is a `RunnerError`.
    """

    def __init__(self, model: Path, *, provider: str, threads: int | None = None) -> None:
        self.model, self.provider, self.threads = model, provider, threads
        self.description = f"ONNX Runtime, {provider}"
        self._session: Any = None

    def __enter__(self) -> Self:
        ort = require("onnxruntime", extra="onnx")
        available = ort.get_available_providers()
        if self.provider not in available:
            raise RunnerError(
                f"--provider is {self.provider}, but this ONNX Runtime has {', '.join(available)}"
            )
        if not self.model.is_file():
            raise RunnerError(f"{self.model} does not exist; make it with 'effd0 export'")
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if self.threads is not None:
            options.intra_op_num_threads = self.threads
        if self.provider != "CPUExecutionProvider":
            # Without this, nodes that the device cannot take run on the CPU without a word.
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        try:
            session = ort.InferenceSession(str(self.model), options, providers=[self.provider])
        except Exception as error:  # ONNX Runtime's errors share no base class but Exception.
            raise RunnerError(
                f"{self.model} cannot be opened by ONNX Runtime on {self.provider}: {error}"
            ) from error
        if session.get_providers()[0] != self.provider:
            raise RunnerError(
                f"{self.model} was opened on {session.get_providers()[0]}, "
                f"but {self.provider} was asked for"
            )
        self.description = f"ONNX Runtime {ort.__version__}, {self.provider}"
        self._session = session
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._session = None

    @property
    def inputs(self) -> list[TensorInfo]:
        """The model's inputs."""
        return [self._info(value) for value in self._opened().get_inputs()]

    @property
    def outputs(self) -> list[TensorInfo]:
        """The model's outputs."""
        return [self._info(value) for value in self._opened().get_outputs()]

    def infer(self, feed: Tensors) -> Tensors:
        """Run the model on *feed*; see `Runner.infer`."""
        session, inputs = self._opened(), self.inputs
        rows = check_feed(feed, inputs)
        try:
            values = session.run(None, dict(pad_feed(feed, inputs)))
        except Exception as error:  # see __enter__
            raise RunnerError(f"{self.model} failed in ONNX Runtime: {error}") from error
        names = [output.name for output in session.get_outputs()]
        return trim_outputs(dict(zip(names, values, strict=True)), rows)

    def _opened(self) -> Any:
        if self._session is None:
            raise RunnerError(f"{self.model} is not open; use the runner in a 'with' block")
        return self._session

    def _info(self, value: Any) -> TensorInfo:
        if value.type not in _DTYPES:
            raise RunnerError(
                f"{value.name} of {self.model} is {value.type}, "
                f"but effd0 takes {', '.join(_DTYPES)}"
            )
        shape = tuple(side if isinstance(side, int) else None for side in value.shape)
        return TensorInfo(value.name, shape, np.dtype(_DTYPES[value.type]))
