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
    "torch": "a checkpoint in PyTorch (--device cpu, cuda or npu; --precision)",
}
#: Runner name -> the options that it does not know.
FOREIGN = {"ort": ("device", "precision"), "torch": ("provider",)}


@dataclass(frozen=True)
class RunnerOptions:
    """How a backend is to compute; what a backend does not know, it refuses."""

    device: str = "cpu"
    provider: str = "CPUExecutionProvider"
    precision: str = "fp32"
    threads: int | None = None

    def check_for(self, runner: str) -> None:
        """Raise `RunnerError` for no runner's name, or an option that *runner* would ignore."""
        if runner not in RUNNERS:
            raise RunnerError(f"--runner is {runner!r}, but effd0 knows {', '.join(RUNNERS)}")
        for option in FOREIGN[runner]:
            value = getattr(self, option)
            if value != getattr(RunnerOptions, option):
                raise RunnerError(
                    f"--{option} is {value}, but --runner {runner} does not know it; "
                    "leave it out, or choose another --runner"
                )


def open_runner(name: str, model: Path, spec: ModelSpec, options: RunnerOptions) -> Runner:
    """
    Return the runner *name* for the file *model*, to be entered with ``with``.

    *model* is a checkpoint for ``torch`` and an ONNX file for ``ort``.  Raises `RunnerError`
    for a name that is not one.
    """
    options.check_for(name)
    if name == "ort":
        from .ort import OrtRunner

        return OrtRunner(model, provider=options.provider, threads=options.threads)
    from .torch import TorchRunner

    return TorchRunner(
        model, spec, device=options.device, precision=options.precision, threads=options.threads
    )
