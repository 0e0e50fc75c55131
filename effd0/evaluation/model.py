"""
What is to be run: a model file, or a checkpoint, on a backend that takes it.

What is not given is the embedded checkpoint.  A checkpoint for ONNX Runtime or OpenVINO is
exported first, for the time of the run, or was by a run before.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from ..data import fixture as embedded
from ..errors import CheckpointError, MissingExtra, RunnerError, refuse, require_all
from ..export import verify as build
from ..graph import onnx_info
from ..graph.rewrites import ORT_EDITS
from ..io import CHECKPOINT, check_kind
from ..runners import checkpoint
from ..runners.base import Runner
from ..runners.registry import RUNNERS, RunnerOptions, open_runner
from ..spec import D0, SPECS, ModelSpec, spec_for
from ..types import BACKEND, TESTED, option

#: Runner -> the modules that it imports, each with the extra that brings it.
NEEDS = {
    "ort": {"onnxruntime": "onnx"},
    "openvino": {"openvino": "openvino"},
    "torch": {"torch": "torch", "effdet": "torch"},
}


@dataclass(frozen=True)
class ArchOptions:
    """Which EfficientDet; what is left out is read from the model, or is the architecture's."""

    panel: ClassVar = TESTED
    arch: str = option(
        "Architecture, one of effdet's: tf_efficientdet_d0 to d7x, tf_efficientdet_lite0 to lite4, "
        "efficientdet_d0 to d5, and others.",
        "NAME",
        D0.arch,
        known=tuple(SPECS),
    )
    num_classes: int | None = option(
        "Classes of the model.", shown="those of its class heads; 90 where they cannot be read"
    )
    image_size: str | None = option(
        "Side of its input in pixels, or ROWSxCOLUMNS.", "SIZE", shown="the architecture's"
    )

    def spec(self, *files: Path | None) -> ModelSpec:
        """
        The spec of the model in *files*, the first that tells the number of its classes.

        Raises `SpecError` for an architecture or a size that is none.
        """
        spec = spec_for(self.arch)
        if self.image_size is not None:
            spec = spec.sized(self.image_size)
        counts = (_class_count(file, spec) for file in files if file is not None)
        found = self.num_classes or next(filter(None, counts), spec.num_classes)
        return replace(spec, num_classes=found)


def _class_count(file: Path, spec: ModelSpec) -> int | None:
    """How many classes the model in *file* has, where it is one that says so."""
    if not file.is_file() or file.suffix.lower() == ".om":
        return None
    if file.suffix.lower() != ".onnx":
        return checkpoint.class_count(file, spec)
    with contextlib.suppress(MissingExtra):  # OpenVINO runs a file without onnx
        return onnx_info.class_count(file, spec)
    return None


@dataclass(frozen=True)
class ModelChoice:
    """What is to be run: an ONNX model, or a checkpoint (the embedded one if neither is given)."""

    model: Path | None = option("Model file, .onnx or .om.", takes="model")
    checkpoint: Path | None = option(
        "Weights, .pth or .safetensors.", shown="embedded checkpoint", takes="weights"
    )
    runner: str | None = option(
        # Recorded outputs are scored by a command of their own, postprocess.
        "; ".join(f"{n}: {what}" for n, what in RUNNERS.items() if n != "recorded") + ".",
        "NAME",
        shown="ort; acl for an .om",
        choices=tuple(name for name in RUNNERS if name != "recorded"),
        panel=BACKEND,
    )
    spec: ModelSpec = D0
    options: RunnerOptions = field(default_factory=RunnerOptions)
    cache: bool = option(
        "Take a checkpoint's conversion from the cache, and keep it there.",
        default=True,
        panel=BACKEND,
    )

    def checked_runner(self) -> str:
        """
        The runner's name.

        Raises `RunnerError` where the choices contradict each other, `CheckpointError` where the
        weights are missing, and one `MissingExtra` for all that is not installed.
        """
        runner = self.runner_name()
        self.followed().check_for(runner)
        compiled = self.model is not None and self.model.suffix == ".om"
        contradictions = {
            "--runner recorded runs no model; score results that were written before with "
            "'effd0 postprocess --omfile DIR'": runner == "recorded",
            "both --model and --checkpoint are given, but one runs; leave one out": (
                self.model is not None and self.checkpoint is not None
            ),
            f"--runner {runner} is given, but --model {self.model} is compiled for an NPU; "
            "use --runner acl, or give the .onnx it was made of": compiled and runner != "acl",
            f"--runner torch takes a checkpoint, but --model {self.model} is given; "
            "use --checkpoint, or --runner ort": runner == "torch" and self.model is not None,
            "--runner acl takes an .om model, but no --model is given; "
            "make one with 'effd0 compile'": runner == "acl" and self.model is None,
        }
        refuse(contradictions, RunnerError)
        if self.model is not None and not self.model.is_file():
            command = "compile" if runner == "acl" else "export"
            raise RunnerError(f"{self.model} does not exist; make it with 'effd0 {command}'")
        if self.checkpoint is not None:
            check_kind(self.checkpoint, CHECKPOINT, CheckpointError, checkpoint.FETCH_ONE)
        require_all(self.needs())
        return runner

    def needs(self) -> dict[str, str]:
        """The modules of backends that a run imports, each with the extra that brings it."""
        runner = self.runner_name()
        exporting = build.EXPORTING | build.SIMPLIFYING if self.exports() else {}
        return NEEDS.get(runner, {}) | exporting

    def exports(self) -> bool:
        """Whether a checkpoint is exported for the time of the run."""
        return self.model is None and self.runner_name() not in ("acl", "torch")

    def followed(self) -> RunnerOptions:
        """The options that the runner follows; which weights are taken is left to an export."""
        return replace(self.options, weights=None) if self.exports() else self.options

    def runner_name(self) -> str:
        """The runner's name, as given or by the file."""
        compiled = self.model is not None and self.model.suffix == ".om"
        return ("acl" if compiled else "ort") if self.runner is None else self.runner

    def weights(self) -> Path | None:
        """The checkpoint that runs; None where a model is given that holds its own weights."""
        return None if self.model is not None else self.checkpoint or embedded.checkpoint()

    def check_photographs(self, flag: str, place: Path | None) -> None:
        """Raise `CheckpointError` where the embedded checkpoint would run on photographs."""
        drawn = place is None or place.resolve().is_relative_to(embedded.folder().resolve())
        if not drawn and self.model is None and self.checkpoint is None:
            raise CheckpointError(
                f"{flag} is given without --checkpoint, but the embedded checkpoint knows drawn "
                "scenes only; give --checkpoint=d0.pth ('effd0 fetch checkpoint' gets one)"
            )

    @contextlib.contextmanager
    def file(self, batch_size: int | None = None) -> Iterator[Path]:
        """
        The file to run, exported for the time of the block, or taken from the cache, if need be.

        For ONNX Runtime on a CPU it is exported for *batch_size*, or 1, in the form that runs
        fastest there.
        """
        runner, file = self.checked_runner(), self.model or self.weights()
        assert file is not None, "weights run where no model is given"
        if self.model is not None or runner == "torch":
            yield file
            return
        fixed = runner == "ort" and self.options.provider == RunnerOptions.provider
        size, edits = (batch_size or 1, ORT_EDITS) if fixed else (None, ())
        how = self.spec, size, edits, self.options.weights
        with build.exported(file, *how, cached=self.cache) as path:
            yield path

    @contextlib.contextmanager
    def opened(self, batch_size: int | None = None) -> Iterator[tuple[Runner, Path]]:
        """The open runner and the file that it runs, which takes *batch_size*; see `file`."""
        with (
            self.file(batch_size) as path,
            open_runner(self.runner_name(), path, self.spec, self.followed()) as runner,
        ):
            yield runner, path
