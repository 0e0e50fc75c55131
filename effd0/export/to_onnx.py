"""
Checkpoint -> ONNX, and ONNX -> simplified ONNX.

Two exporters: ``torchscript`` reaches back to opset 11, which ATC's parser of CANN 6 takes;
``dynamo`` starts at opset 18, for today's runtimes.  These functions write files; that a file
computes what it should is proved by `verify` before the file gets its name.
"""

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..errors import ExportError, require
from ..graph.onnx_info import load_graph
from ..graph.rewrites import apply_edits, save_graph
from ..io import sha256
from ..runners.checkpoint import load_model, weights_digest
from ..spec import ModelSpec

#: Exporter -> the opsets it can write.
EXPORTERS = {"torchscript": range(11, 19), "dynamo": range(18, 24)}


@dataclass(frozen=True)
class ExportSettings:
    """How a checkpoint becomes ONNX; a batch size of None leaves the batch dimension free."""

    batch_size: int | None = 1
    opset: int | None = None
    exporter: str = "torchscript"
    weights: str | None = None

    def checked_opset(self) -> int:
        """The opset to write; raise `ExportError` for a setting that cannot be had."""
        if self.exporter not in EXPORTERS:
            raise ExportError(f"--exporter is {self.exporter!r}, but {', '.join(EXPORTERS)} exist")
        if self.batch_size is not None and self.batch_size < 1:
            raise ExportError(f"--batch-size is {self.batch_size}, but must be at least 1")
        opsets = EXPORTERS[self.exporter]
        opset = opsets.start if self.opset is None else self.opset
        if opset not in opsets:
            raise ExportError(
                f"--opset is {opset}, but the {self.exporter} exporter writes "
                f"{opsets.start} to {opsets.stop - 1}"
            )
        return opset


def write_onnx(checkpoint: Path, out: Path, spec: ModelSpec, settings: ExportSettings) -> None:
    """
    Export *checkpoint* to the ONNX file *out*, with its origin in the metadata.

    Raises `ExportError` or `CheckpointError`.
    """
    opset = settings.checked_opset()
    model = load_model(checkpoint, spec, settings.weights)
    with silenced():
        try:
            _torch_export(model, out, spec, opset, settings)
        except Exception as error:  # the exporters raise whatever their many stages raise
            raise ExportError(
                f"{checkpoint} cannot be exported by {settings.exporter} at opset {opset}: {error}"
            ) from error
    origin = {
        "arch": spec.arch,
        "checkpoint_sha256": sha256(checkpoint),
        "weights_sha256": weights_digest(model.state_dict()),
        "exporter": f"{settings.exporter}, torch {version('torch')}",
        "effd0": version("effd0"),
    }
    graph = load_graph(out)
    require("onnx.helper", extra="onnx").set_model_props(graph, origin)
    save_graph(graph, out)


def write_simplified(model: Path, out: Path, edits: Sequence[str] = ()) -> None:
    """
    Write onnxsim's simplification of the ONNX file *model*, with *edits*, to *out*.

    Keeps its metadata.  Raises `ExportError` or `GraphError`.
    """
    graph = load_graph(model)
    onnxsim = require("onnxsim", extra="onnx")
    with silenced():
        try:
            simplified, _ = onnxsim.simplify(graph)
        except Exception as error:  # onnxsim raises RuntimeError and more from its compiled core
            raise ExportError(f"{model} cannot be simplified: {error}") from error
    origin = {entry.key: entry.value for entry in graph.metadata_props}
    origin |= {"simplified": f"onnxsim {version('onnxsim')}"}
    require("onnx.helper", extra="onnx").set_model_props(simplified, origin)
    apply_edits(simplified, edits)
    save_graph(simplified, out)


def _torch_export(
    model: Any, out: Path, spec: ModelSpec, opset: int, settings: ExportSettings
) -> None:
    torch = require("torch", extra="torch")
    require("onnxscript", extra="onnx")

    class Heads(torch.nn.Module):  # type: ignore[name-defined, misc]  # torch is imported late
        """The network with its heads in one flat tuple, as ONNX numbers them."""

        def __init__(self) -> None:
            super().__init__()
            self.network = model

        def forward(self, images: Any) -> tuple[Any, ...]:
            classes, boxes = self.network(images)
            return (*classes, *boxes)

    dynamo, free = settings.exporter == "dynamo", settings.batch_size is None
    # A free batch is traced with another number of rows than `verify` tries it with, and not with
    # one by dynamo, which takes a batch of one for a constant.
    rows = settings.batch_size or (3 if dynamo else 1)
    options: dict[str, Any] = {"external_data": False, "verbose": False} if dynamo else {}
    if free and dynamo:
        options["dynamic_shapes"] = ({0: torch.export.Dim("N")},)
    elif free:
        options["dynamic_axes"] = {n: {0: "N"} for n in (spec.input_name, *spec.output_names)}
    with torch.no_grad():
        torch.onnx.export(
            Heads().eval(),
            (torch.zeros(rows, *spec.input_shape),),
            str(out),
            input_names=[spec.input_name],
            output_names=list(spec.output_names),
            opset_version=opset,
            dynamo=dynamo,
            **options,
        )


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """
    Keep the exporters' chatter off the terminal; errors still come out.

    onnxsim's compiled core writes past Python, so the process's own standard error is turned
    away for the time of the block.
    """
    sys.stderr.flush()
    # Who logs where nobody listens would have the root logger write to standard error for good.
    silent = logging.NullHandler()
    logging.root.addHandler(silent)
    kept = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.root.removeHandler(silent)
        os.dup2(kept, 2)
        os.close(kept)
