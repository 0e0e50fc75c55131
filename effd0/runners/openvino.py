"""An ONNX model in OpenVINO, on the CPU, in float32."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RunnerError, require
from ..io import ONNX, check_kind
from ..types import Tensors
from .base import Runner, TensorInfo

_DTYPES = {"f32": np.float32, "f16": np.float16, "u8": np.uint8}
#: One batch at a time, and no rounding that the model does not ask for: left to itself, OpenVINO
#: computes in bfloat16 or float16 where the processor is faster in it.
_SETTINGS = {
    "PERFORMANCE_HINT": "LATENCY",
    "EXECUTION_MODE_HINT": "ACCURACY",
    "INFERENCE_PRECISION_HINT": "f32",
}


class OpenVinoRunner(Runner):
    """
    One model compiled for the CPU, computing in float32; *threads* None is OpenVINO's choice.

    Weights in float16 are taken as they are and computed with in float32.  Raises `RunnerError`
    where OpenVINO cannot open the model or compiled it for another precision.
    """

    def __init__(self, model: Path, *, threads: int | None = None) -> None:
        super().__init__(model, "OpenVINO, CPU, f32")
        self.threads = threads

    def open(self) -> tuple[Any, list[TensorInfo], list[TensorInfo]]:
        """Read the model as ONNX, whatever its file is called, and compile it."""
        openvino = require("openvino", extra="openvino")
        check_kind(self.model, ONNX, RunnerError, "make it with 'effd0 export'")
        settings: dict[str, Any] = dict(_SETTINGS)
        if self.threads is not None:
            settings["INFERENCE_NUM_THREADS"] = self.threads
        try:
            # By name: read_model tries all formats in turn, and each complains of a broken file.
            reader = openvino.frontend.FrontEndManager().load_by_framework("onnx")
            loaded = reader.load(str(self.model))
            ends = (*loaded.get_inputs(), *loaded.get_outputs())
            names = {name for end in ends for name in end.get_names()}
            compiled = openvino.Core().compile_model(reader.convert(loaded), "CPU", settings)
        except Exception as error:  # OpenVINO's errors share no base class but Exception.
            raise RunnerError(f"{self.model} cannot be opened by OpenVINO: {error}") from error
        if not (compiled.inputs and compiled.outputs):
            # An empty file is an empty network to it.
            raise RunnerError(
                f"{self.model} cannot be opened by OpenVINO: it has {len(compiled.inputs)} inputs "
                f"and {len(compiled.outputs)} outputs; make it with 'effd0 export'"
            )
        precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if precision != "f32":
            raise RunnerError(
                f"{self.model} was compiled by OpenVINO for {precision}, but f32 was asked for; "
                "install the version of OpenVINO that effd0 is tested with (constraints.txt)"
            )
        version = openvino.get_version().partition("-")[0]
        device = ", ".join(compiled.get_property("EXECUTION_DEVICES"))
        self.description = f"OpenVINO {version}, {device}, {precision}"
        inputs, outputs = (
            [self._info(port, names) for port in ports]
            for ports in (compiled.inputs, compiled.outputs)
        )
        return compiled.create_infer_request(), inputs, outputs

    def run(self, session: Any, feed: Tensors) -> Sequence[np.ndarray]:
        """Run the model on *feed*; see `Runner.run`."""
        try:
            # Both copied: a request's memory is that of its next run too.
            found = session.infer(dict(feed), share_inputs=False, share_outputs=False)
        except RuntimeError as error:
            raise RunnerError(f"{self.model} failed in OpenVINO: {error}") from error
        values: Sequence[np.ndarray] = found.to_tuple()
        return values

    def _info(self, port: Any, names: set[str]) -> TensorInfo:
        # A cast between float16 and float32 is none where all is float32: its ends are one.
        (name,) = port.names & names
        sides = (None if side.is_dynamic else side.get_length() for side in port.partial_shape)
        kind = port.element_type.get_type_name()
        return TensorInfo.declared(self.model, name, sides, kind, _DTYPES)
