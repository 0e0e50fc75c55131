"""An ONNX model in OpenVINO, on the CPU, in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np

from ..errors import RunnerError, require
from ..types import Tensors
from .base import TensorInfo, check_feed, pad_feed, trim_outputs

_DTYPES = {"f32": np.float32, "f16": np.float16, "u8": np.uint8}
#: One batch at a time, and no rounding that the model does not ask for: left to itself, OpenVINO
#: computes in bfloat16 or float16 where the processor is faster in it.
_SETTINGS = {
    "PERFORMANCE_HINT": "LATENCY",
    "EXECUTION_MODE_HINT": "ACCURACY",
    "INFERENCE_PRECISION_HINT": "f32",
}


class OpenVinoRunner:
    """
    One model compiled for the CPU, computing in float32; *threads* None is OpenVINO's choice.

    Weights in float16 are taken as they are and computed with in float32.  Raises `RunnerError`
    where OpenVINO cannot open the model or compiled it for another precision.
    """

    def __init__(self, model: Path, *, threads: int | None = None) -> None:
        self.model, self.threads = model, threads
        self.description = "OpenVINO, CPU, f32"
        self._request: Any = None
        self._names: set[str] = set()
        self._inputs: list[TensorInfo] = []
        self._outputs: list[TensorInfo] = []

    def __enter__(self) -> Self:
        openvino = require("openvino", extra="openvino")
        if not self.model.is_file():
            raise RunnerError(f"{self.model} does not exist; make it with 'effd0 export'")
        compiled = self._compile(openvino)
        precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if precision != "f32":
            raise RunnerError(
                f"{self.model} was compiled by OpenVINO for {precision}, but f32 was asked for; "
                "install the version of OpenVINO that effd0 is tested with (constraints.txt)"
            )
        self._inputs = [self._info(port) for port in compiled.inputs]
        self._outputs = [self._info(port) for port in compiled.outputs]
        version = openvino.get_version().partition("-")[0]
        device = ", ".join(compiled.get_property("EXECUTION_DEVICES"))
        self.description = f"OpenVINO {version}, {device}, {precision}"
        self._request = compiled.create_infer_request()
        return self

    def __exit__(self, *_: object) -> None:
        self._request = None
        self._inputs, self._outputs = [], []

    @property
    def inputs(self) -> list[TensorInfo]:
        """The model's inputs."""
        self._opened()
        return self._inputs

    @property
    def outputs(self) -> list[TensorInfo]:
        """The model's outputs."""
        self._opened()
        return self._outputs

    def infer(self, feed: Tensors) -> Tensors:
        """Run the model on *feed*; see `Runner.infer`."""
        request = self._opened()
        rows = check_feed(feed, self._inputs)
        padded = pad_feed(feed, self._inputs)
        try:
            # Both copied: a request's memory is that of its next run too.
            values = request.infer(dict(padded), share_inputs=False, share_outputs=False)
        except RuntimeError as error:
            raise RunnerError(f"{self.model} failed in OpenVINO: {error}") from error
        names = [info.name for info in self._outputs]
        return trim_outputs(dict(zip(names, values.to_tuple(), strict=True)), rows)

    def _compile(self, openvino: Any) -> Any:
        """Read the model as ONNX, whatever its file is called, and compile it."""
        settings: dict[str, Any] = dict(_SETTINGS)
        if self.threads is not None:
            settings["INFERENCE_NUM_THREADS"] = self.threads
        try:
            # By name: read_model tries all formats in turn, and each complains of a broken file.
            reader = openvino.frontend.FrontEndManager().load_by_framework("onnx")
            loaded = reader.load(str(self.model))
            ends = (*loaded.get_inputs(), *loaded.get_outputs())
            self._names = {name for end in ends for name in end.get_names()}
            model = reader.convert(loaded)
            compiled = openvino.Core().compile_model(model, "CPU", settings)
        except Exception as error:  # OpenVINO's errors share no base class but Exception.
            raise RunnerError(f"{self.model} cannot be opened by OpenVINO: {error}") from error
        if not (compiled.inputs and compiled.outputs):
            # An empty file is an empty network to it.
            raise RunnerError(
                f"{self.model} cannot be opened by OpenVINO: it has {len(compiled.inputs)} inputs "
                f"and {len(compiled.outputs)} outputs; make it with 'effd0 export'"
            )
        return compiled

    def _opened(self) -> Any:
        if self._request is None:
            raise RunnerError(f"{self.model} is not open; use the runner in a 'with' block")
        return self._request

    def _info(self, port: Any) -> TensorInfo:
        # A cast between float16 and float32 is none where all is float32: its ends are one.
        (name,) = port.names & self._names
        kind = port.element_type.get_type_name()
        if kind not in _DTYPES:
            raise RunnerError(
                f"{name} of {self.model} is {kind}, but effd0 takes {', '.join(_DTYPES)}"
            )
        shape = tuple(None if side.is_dynamic else side.get_length() for side in port.partial_shape)
        return TensorInfo(name, shape, np.dtype(_DTYPES[kind]))
