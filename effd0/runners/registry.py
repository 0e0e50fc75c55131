"""Open a backend by its name."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

from .. import types
from ..errors import RunnerError
from ..spec import ModelSpec
from .base import Runner


@dataclass(frozen=True)
class Backend:
    """
    A runner as it is named: what it *runs*, the class that *opens* it, the options it *knows*.

    Module and class are imported when a model is opened.  *needs_spec* says that a model file does
    not tell its architecture.
    """

    runs: str
    opens: str
    knows: tuple[str, ...]
    needs_spec: bool = False


BACKENDS = {
    "ort": Backend(
        "an ONNX model in ONNX Runtime (--provider picks the device)",
        "effd0.runners.onnxruntime:OrtRunner",
        ("threads", "provider", "provider_option", "graph_optimization"),
    ),
    "openvino": Backend(
        "an ONNX model in OpenVINO, in float32 on the CPU",
        "effd0.runners.openvino:OpenVinoRunner",
        ("threads",),
    ),
    "torch": Backend(
        "a checkpoint in PyTorch (--device cpu, cuda or npu; --precision)",
        "effd0.runners.torch:TorchRunner",
        ("device", "precision", "threads", "postprocess", "launch"),
        needs_spec=True,
    ),
    "acl": Backend(
        "an .om model on an Ascend NPU (--device N)",
        "effd0.ascend.acl_runner:AclRunner",
        ("device", "overlap"),
    ),
    "recorded": Backend(
        "outputs that were written before, as answers to the same inputs",
        "effd0.runners.recorded:RecordedRunner",
        ("bins",),
        needs_spec=True,
    ),
}
#: Runner name -> what it runs.
RUNNERS = {name: backend.runs for name, backend in BACKENDS.items()}
#: Where a checkpoint's detections are made.
POSTPROCESS = ("auto", "host", "device")


@dataclass(frozen=True)
class RunnerOptions:
    """
    How a backend is to compute; what a backend does not know, it refuses.

    *overlap* lets a backend work on several batches at a time; *bins* is the folder of the inputs
    that recorded outputs are of; each *provider_option* is a KEY=VALUE.  *postprocess* says whether
    detections are made on the ``host`` or on the ``device``; ``auto`` is the device on CUDA.
    *launch*, for those made there, is a key of `runners.torch_cuda.LAUNCHES`.
    """

    provider: str = types.option(
        "ONNX Runtime execution provider; no fallback to another.", "NAME", "CPUExecutionProvider"
    )
    provider_option: tuple[str, ...] = types.option(
        "Option of --provider. Repeatable.", "KEY=VALUE", ()
    )
    graph_optimization: str = types.option(
        "Graph optimization of ONNX Runtime: disable, basic, extended or all.", "LEVEL", "all"
    )
    device: str | None = types.option(
        "For --runner torch: cpu, cuda[:N], npu[:N]; for acl: the NPU's number.", shown="cpu; 0"
    )
    precision: str = types.option("For --runner torch: fp32, fp16 or bf16.", default="fp32")
    threads: int | None = types.option("Threads of the backend.", shown="the backend's choice")
    overlap: bool = types.option(
        "For --runner acl: copy one batch while another is computed.", default=True
    )
    postprocess: str = types.option(
        "For --runner torch: where detections are computed (auto: on the device with CUDA).",
        default="auto",
        choices=("auto", "host", "device"),
    )
    launch: str = types.option(
        "For detections on the device: eager: kernel by kernel; graph: as one CUDA graph for each "
        "batch size; compile: fused by torch.compile, and as one CUDA graph on CUDA.",
        "HOW",
        "eager",
    )
    bins: Path | None = None

    def check_for(self, runner: str) -> None:
        """Raise `RunnerError` for no runner's name, or an option that *runner* cannot follow."""
        if runner not in RUNNERS:
            raise RunnerError(f"--runner is {runner!r}, but effd0 knows {', '.join(RUNNERS)}")
        for option, value in vars(self).items():
            foreign = option not in BACKENDS[runner].knows
            if foreign and value != getattr(RunnerOptions, option):
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
    backend = BACKENDS[name]
    given = {option: getattr(options, option) for option in backend.knows}
    opens = backend.opens
    if name == "ort":
        given["provider_options"] = _as_mapping(given.pop("provider_option"))
    elif name == "acl":
        given["device"] = _npu_number(options.device)
    elif name == "torch":
        given["device"] = "cpu" if options.device is None else options.device
        del given["postprocess"]
        if options.detects_on_device():
            opens = "effd0.runners.torch_cuda:TorchDetector"
        else:
            del given["launch"]
    module, _, kind = opens.partition(":")
    of = (model, spec) if backend.needs_spec else (model,)
    runner: Runner = getattr(importlib.import_module(module), kind)(*of, **given)
    return runner


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
