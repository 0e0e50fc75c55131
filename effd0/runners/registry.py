"""Open a backend by its name."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

from ..errors import RunnerError
from ..spec import D0, ModelSpec
from .base import Runner


@dataclass(frozen=True)
class Backend:
    """
    A runner as it is named: what it *runs*, what *opens* it, the options it *knows*.

    *opens* is ``module:callable``, imported when a model is opened, and is called with the model's
    path and the options.  *needs_spec* says that a model file does not tell its architecture.
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
        "effd0.runners.torch:open_torch",
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


@dataclass(frozen=True)
class RunnerOptions:
    """
    How a backend is to compute; what a backend does not know, it refuses.

    *overlap* lets a backend work on several batches at a time; *bins* is the folder of the inputs
    that recorded outputs are of; each *provider_option* is a KEY=VALUE.  *postprocess* is one of
    `runners.torch.POSTPROCESS`; *launch*, for detections on the device, one of its `LAUNCHES`.
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
        open_runner(runner, Path(), D0, self)


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
    if name not in BACKENDS:
        raise RunnerError(f"--runner is {name!r}, but effd0 knows {', '.join(BACKENDS)}")
    backend = BACKENDS[name]
    for option, value in vars(options).items():
        if option not in backend.knows and value != getattr(RunnerOptions, option):
            typed, shown = option.replace("_", "-"), value
            if isinstance(value, tuple):
                shown = ", ".join(value)
            given = f"--no-{typed} is given" if value is False else f"--{typed} is {shown}"
            raise RunnerError(
                f"{given}, but --runner {name} does not know it; "
                "leave it out, or choose another --runner"
            )
    module, _, opens = backend.opens.partition(":")
    of = (model, spec) if backend.needs_spec else (model,)
    known = {option: getattr(options, option) for option in backend.knows}
    runner: Runner = getattr(importlib.import_module(module), opens)(*of, **known)
    return runner
