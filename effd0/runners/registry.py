"""Open a backend by its name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import RunnerError
from ..spec import ModelSpec
from .base import Runner

#: Runner name -> what it runs.
RUNNERS = {
    "ort": "an ONNX model in ONNX Runtime (--provider picks the device)",
    "openvino": "an ONNX model in OpenVINO, in float32 on the CPU",
    "torch": "a checkpoint in PyTorch (--device cpu, cuda or npu; --precision)",
    "acl": "an .om model on an Ascend NPU (--device N)",
    "recorded": "outputs that were written before, as answers to the same inputs",
}
_OF_TORCH = ("postprocess", "launch")
_OF_ORT = ("provider", "provider_option", "graph_optimization")
#: Runner name -> the options that it does not know.
FOREIGN = {
    "ort": ("device", "precision", "overlap", "bins", *_OF_TORCH),
    "openvino": ("device", *_OF_ORT, "precision", "overlap", "bins", *_OF_TORCH),
    "torch": (*_OF_ORT, "overlap", "bins"),
    "acl": (*_OF_ORT, "precision", "threads", "bins", *_OF_TORCH),
    "recorded": ("device", *_OF_ORT, "precision", "threads", "overlap", *_OF_TORCH),
}
#: Where a checkpoint's detections are made.
POSTPROCESS = ("auto", "host", "device")


@dataclass(frozen=True)
class RunnerOptions:
    """
    How a backend is to compute; what a backend does not know, it refuses.

    *overlap* lets a backend work on several batches at a time; *bins* is the folder of the inputs
    that recorded outputs are of; each *provider_option* is a KEY=VALUE.  *postprocess* says whether
    detections are made on the ``host`` or on the ``device``; ``auto`` is the device on CUDA.
    *launch*, for those made there, is a key of `runners.torch_detector.LAUNCHES`.
    """

    device: str | None = None
    provider: str = "CPUExecutionProvider"
    precision: str = "fp32"
    threads: int | None = None
    overlap: bool = True
    bins: Path | None = None
    graph_optimization: str = "all"
    provider_option: tuple[str, ...] = ()
    postprocess: str = "auto"
    launch: str = "eager"

    def check_for(self, runner: str) -> None:
        """Raise `RunnerError` for no runner's name, or an option that *runner* cannot follow."""
        if runner not in RUNNERS:
            raise RunnerError(f"--runner is {runner!r}, but effd0 knows {', '.join(RUNNERS)}")
        for option in FOREIGN[runner]:
            value = getattr(self, option)
            if value != getattr(RunnerOptions, option):
                raise RunnerError(
                    f"--{_as_typed(option, value)}, but --runner {runner} does not know it; "
                    "leave it out, or choose another --runner"
                )
        if runner == "torch":
            self.detects_on_device()
        if runner == "ort":
            from .onnxruntime import check_options

            given = _as_mapping(self.provider_option)
            check_options(self.provider, self.graph_optimization, given)

    def detects_on_device(self) -> bool:
        """Whether a checkpoint's detections are made where its heads are."""
        if self.postprocess not in POSTPROCESS:
            raise RunnerError(
                f"--postprocess is {self.postprocess!r}, but {', '.join(POSTPROCESS)} exist"
            )
        on_cuda = self.device is not None and self.device.startswith("cuda")
        on_device = self.postprocess == "device" or (self.postprocess == "auto" and on_cuda)
        if self.launch != RunnerOptions.launch and not on_device:
            raise RunnerError(
                f"--launch is {self.launch}, but detections are made on the host; "
                "give --postprocess device too"
            )
        return on_device


def _as_typed(option: str, value: object) -> str:
    if value is False:
        return f"no-{option} is given"
    shown = ", ".join(value) if isinstance(value, tuple) else value
    return f"{option.replace('_', '-')} is {shown}"


def open_runner(
    name: str, model: Path, spec: ModelSpec, options: RunnerOptions | None = None
) -> Runner:
    """
    Return the runner *name* for the file *model*, to be entered with ``with``.

    *model* is a checkpoint for ``torch``, an ONNX file for ``ort`` and ``openvino``, an .om file
    for ``acl`` and a folder of results for ``recorded``.  Raises `RunnerError` for a name that is
    not one, and for an option that the backend does not know.
    """
    options = RunnerOptions() if options is None else options
    options.check_for(name)
    if name == "ort":
        from .onnxruntime import OrtRunner

        return OrtRunner(
            model,
            provider=options.provider,
            threads=options.threads,
            graph_optimization=options.graph_optimization,
            provider_options=_as_mapping(options.provider_option),
        )
    if name == "openvino":
        from .openvino import OpenVinoRunner

        return OpenVinoRunner(model, threads=options.threads)
    if name == "acl":
        from ..ascend.acl_runner import AclRunner

        return AclRunner(model, device=_npu_number(options.device), overlap=options.overlap)
    if name == "recorded":
        from .recorded import RecordedRunner

        return RecordedRunner(model, spec, bins=options.bins)
    return _torch_runner(model, spec, options)


def _torch_runner(model: Path, spec: ModelSpec, options: RunnerOptions) -> Runner:
    from .torch import TorchRunner
    from .torch_cuda import TorchDetector

    device = "cpu" if options.device is None else options.device
    precision, threads = options.precision, options.threads
    if options.detects_on_device():
        return TorchDetector(
            model, spec, device=device, precision=precision, threads=threads, launch=options.launch
        )
    return TorchRunner(model, spec, device=device, precision=precision, threads=threads)


def _as_mapping(pairs: tuple[str, ...]) -> dict[str, str]:
    """The options in *pairs* of KEY=VALUE; raise `RunnerError` for what is no pair, or twice."""
    found: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals) or key in found:
            raise RunnerError(
                f"--provider-option is {', '.join(pairs)}, but each must be KEY=VALUE, "
                "with every key once; write it as device_id=1"
            )
        found[key] = value
    return found


def _npu_number(device: str | None) -> int:
    """The number in ``N`` or ``npu:N``; 0 where none is given."""
    kind, _, number = ("npu:0" if device is None else device).rpartition(":")
    if kind not in ("", "npu") or not number.isdecimal():
        raise RunnerError(f"--device is {device!r}, but --runner acl takes a number, such as 0")
    return int(number)
