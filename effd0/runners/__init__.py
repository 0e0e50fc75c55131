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
    "acl": "an .om model on an Ascend NPU (--device N)",
    "recorded": "outputs that were written before, as answers to the same inputs",
}
#: Runner name -> the options that it does not know.
FOREIGN = {
    "ort": ("device", "precision", "overlap", "bins"),
    "torch": ("provider", "overlap", "bins"),
    "acl": ("provider", "precision", "threads", "bins"),
    "recorded": ("device", "provider", "precision", "threads", "overlap"),
}


@dataclass(frozen=True)
class RunnerOptions:
    """
    How a backend is to compute; what a backend does not know, it refuses.

    *overlap* lets a backend work on several batches at a time; *bins* is the folder of the inputs
    that recorded outputs are of.
    """

    device: str | None = None
    provider: str = "CPUExecutionProvider"
    precision: str = "fp32"
    threads: int | None = None
    overlap: bool = True
    bins: Path | None = None

    def check_for(self, runner: str) -> None:
        """Raise `RunnerError` for no runner's name, or an option that *runner* would ignore."""
        if runner not in RUNNERS:
            raise RunnerError(f"--runner is {runner!r}, but effd0 knows {', '.join(RUNNERS)}")
        for option in FOREIGN[runner]:
            value = getattr(self, option)
            if value != getattr(RunnerOptions, option):
                raise RunnerError(
                    f"--{_as_typed(option, value)}, but --runner {runner} does not know it; "
                    "leave it out, or choose another --runner"
                )


def _as_typed(option: str, value: object) -> str:
    return f"no-{option} is given" if value is False else f"{option} is {value}"


def open_runner(name: str, model: Path, spec: ModelSpec, options: RunnerOptions) -> Runner:
    """
    Return the runner *name* for the file *model*, to be entered with ``with``.

    *model* is a checkpoint for ``torch``, an ONNX file for ``ort``, an .om file for ``acl`` and a
    folder of results for ``recorded``.  Raises `RunnerError` for a name that is not one.
    """
    options.check_for(name)
    if name == "ort":
        from .ort import OrtRunner

        return OrtRunner(model, provider=options.provider, threads=options.threads)
    if name == "acl":
        from .acl import AclRunner

        return AclRunner(model, device=_npu_number(options.device), overlap=options.overlap)
    if name == "recorded":
        from .recorded import RecordedRunner

        return RecordedRunner(model, spec, bins=options.bins)
    from .torch import TorchRunner

    device = "cpu" if options.device is None else options.device
    return TorchRunner(
        model, spec, device=device, precision=options.precision, threads=options.threads
    )


def _npu_number(device: str | None) -> int:
    """The number in ``N`` or ``npu:N``; 0 where none is given."""
    kind, _, number = ("npu:0" if device is None else device).rpartition(":")
    if kind not in ("", "npu") or not number.isdecimal():
        raise RunnerError(f"--device is {device!r}, but --runner acl takes a number, such as 0")
    return int(number)
