"""Open a backend by its name."""

import importlib
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from .. import types
from ..errors import RunnerError
from ..spec import D0, ModelSpec
from .base import Runner

#: Runner name -> what it runs, and what opens it, as ``module:name``.  The parameters of that are a
#: model's path, the `RunnerOptions` that it knows, and ``spec`` where a model does not tell it.
BACKENDS = {
    "ort": (
        "an ONNX model in ONNX Runtime (--provider picks the device)",
        "effd0.runners.onnxruntime:OrtRunner",
    ),
    "openvino": (
        "an ONNX model in OpenVINO, in float32 on the CPU",
        "effd0.runners.openvino:OpenVinoRunner",
    ),
    "torch": (
        "a checkpoint in PyTorch (--device cpu, cuda or npu; --precision)",
        "effd0.runners.torch:open_torch",
    ),
    "acl": ("an .om model on an Ascend NPU (--device N)", "effd0.ascend.acl_runner:AclRunner"),
    "recorded": (
        "outputs that were written before, as answers to the same inputs",
        "effd0.runners.recorded:RecordedRunner",
    ),
}
#: Runner name -> what it runs.
RUNNERS = {name: runs for name, (runs, _) in BACKENDS.items()}

#: Of every command that takes a checkpoint by itself.
WEIGHTS: Any = types.option(
    "Which set of weights of a checkpoint that holds several.", "NAME", shown="the averaged one"
)


@dataclass(frozen=True)
class RunnerOptions:
    """
    How a backend is to compute; what a backend does not know, it refuses.

    *overlap* lets a backend work on several batches at a time; *bins* is the folder of the inputs
    that recorded outputs are of; each *provider_option* is a KEY=VALUE.  *postprocess*
    says where detections are made, *launch* how work on the device is launched.
    """

    panel: ClassVar = types.BACKEND
    provider: str = types.option(
        "ONNX Runtime execution provider; no fallback to another.", "NAME", "CPUExecutionProvider"
    )
    provider_option: tuple[str, ...] = types.option(
        "Option of --provider. Repeatable.", "KEY=VALUE", ()
    )
    graph_optimization: str = types.option(
        "Graph optimization of ONNX Runtime: disable, basic, extended or all.",
        "LEVEL",
        "all",
        choices=("disable", "basic", "extended", "all"),
    )
    device: str | None = types.option(
        "For --runner torch: cpu, cuda[:N], npu[:N]; for acl: the NPU's number.", shown="cpu; 0"
    )
    precision: str = types.option(
        "For --runner torch.", default="fp32", choices=("fp32", "fp16", "bf16")
    )
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
        choices=("eager", "graph", "compile"),
    )
    weights: str | None = WEIGHTS
    bins: Path | None = None

    def check_for(self, runner: str) -> None:
        """Raise `RunnerError` for no runner's name, or an option that *runner* cannot follow."""
        open_runner(runner, Path(), D0, self)


def opener(name: str) -> Any:
    """What opens the runner *name*; raise `RunnerError` for a name that is not one."""
    if name not in BACKENDS:
        raise RunnerError(f"--runner is {name!r}, but effd0 knows {', '.join(BACKENDS)}")
    module, _, function = BACKENDS[name][1].partition(":")
    return getattr(importlib.import_module(module), function)


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
    opens = opener(name)
    takes = inspect.signature(opens).parameters
    for option, value in vars(options).items():
        if option not in takes and value != getattr(RunnerOptions, option):
            typed = option.replace("_", "-")
            shown = ", ".join(value) if isinstance(value, tuple) else value
            given = f"--no-{typed} is given" if value is False else f"--{typed} is {shown}"
            raise RunnerError(
                f"{given}, but --runner {name} does not know it; "
                "leave it out, or choose another --runner"
            )
    types.check_choices(options, RunnerError)
    known = vars(options) | {"spec": spec}
    runner: Runner = opens(model, **{key: known[key] for key in known if key in takes})
    return runner
