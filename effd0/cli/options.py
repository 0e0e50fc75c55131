"""
Options, each declared once: as a field of a dataclass, or as a parameter of its command.

A declaration is ``name: type = option(help, metavar, default)``.  Typer's options, pytest's and
docs/options.md are made of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from ..distributed.pool import Pool, pool_of
from ..errors import EvaluationError
from ..evaluation.model import ModelChoice
from ..io import check_writable, write_json
from ..results.run import Run, write_run
from ..runners.registry import RUNNERS, RunnerOptions
from ..runners.torch import LAUNCHES, POSTPROCESS
from ..spec import D0, SPECS, spec_for
from ..tolerances import MAX_DROP

REQUIRED = MISSING


@dataclass(frozen=True)
class Option:
    """
    An option with the type of one value; *many* values may be given where it repeats.

    *shown* is the default in words, where the value says nothing.  A number is at least *min* and
    at most *max*.  An option with *stop* calls it before all others are read, and ends the command.
    """

    name: str
    kind: type
    many: bool
    default: Any
    help: str
    metavar: str | None
    shown: str | None = None
    min: float | None = None
    max: float | None = None
    choices: tuple[str, ...] = ()
    positional: bool = False
    stop: Callable[[], None] | None = None

    @property
    def flag(self) -> str:
        """As it is typed."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def value(self) -> str:
        """What its value is called; empty for a switch."""
        if self.kind is bool:
            return ""
        return self.metavar or "|".join(self.choices) or self.kind.__name__.upper()


def option(help: str, metavar: str | None = None, default: Any = None, **more: Any) -> Any:
    """Declare an option; *more* are fields of `Option`, and type and name are read off the code."""
    return field(default=default, metadata={"help": help, "metavar": metavar, **more})


def declared(holder: Any, left_out: Container[str] = ()) -> Iterator[Option]:
    """The options of *holder*, a dataclass or a command, whose dataclasses are spread."""
    own = {p.name: p.default for p in inspect.signature(holder).parameters.values()}
    own |= {f.name: f for f in fields(holder)} if is_dataclass(holder) else {}
    hints = get_type_hints(holder)
    for name, declaration in own.items():
        if is_dataclass(hints[name]):
            yield from declared(hints[name], left_out)
        elif name not in left_out and isinstance(declaration, Field):
            kinds = [one for one in get_args(hints[name]) if one not in (NoneType, Ellipsis)]
            kind, many = (kinds or [hints[name]])[0], get_origin(hints[name]) is tuple
            yield Option(name, kind, many, declaration.default, **declaration.metadata)


#: Options that several commands take one by one.
ARCH = option(f"Architecture: {', '.join(SPECS)}.", "NAME", D0.arch)
BATCH_SIZE = option("Images per batch.", "N", shown="the model's, or 1", min=1)
ONNX_FILE = option("ONNX file to read.", "FILE", REQUIRED)
CHECKPOINT = option("Weights, .pth or .safetensors.", "FILE", shown="embedded checkpoint")
ACCURACY_REPORT = option("'effd0 evaluate --json' of the same model; its mAP is shown.", "FILE")


@dataclass(frozen=True)
class ModelOptions:
    """Which model, of which architecture."""

    model: Path | None = option("Model file, .onnx or .om.", "FILE")
    checkpoint: Path | None = CHECKPOINT
    runner: str | None = option(
        # Recorded outputs are scored by a command of their own, postprocess.
        "; ".join(f"{n}: {what}" for n, what in RUNNERS.items() if n != "recorded") + ".",
        "NAME",
        shown="ort; acl for an .om",
    )
    arch: str = ARCH


@dataclass(frozen=True)
class ComputeOptions:
    """How a backend computes: fields of `RunnerOptions`."""

    provider: str = option(
        "ONNX Runtime execution provider; no fallback to another.", "NAME", RunnerOptions.provider
    )
    provider_option: tuple[str, ...] = option("Option of --provider. Repeatable.", "KEY=VALUE", ())
    graph_optimization: str = option(
        "Graph optimization of ONNX Runtime: disable, basic, extended or all.",
        "LEVEL",
        RunnerOptions.graph_optimization,
    )
    device: str | None = option(
        "For --runner torch: cpu, cuda[:N], npu[:N]; for acl: the NPU's number.", shown="cpu; 0"
    )
    precision: str = option(
        "For --runner torch: fp32, fp16 or bf16.", default=RunnerOptions.precision
    )
    threads: int | None = option(
        "Threads of the backend.", "N", shown="the backend's choice", min=1
    )
    overlap: bool = option(
        "For --runner acl: copy one batch while another is computed.", default=RunnerOptions.overlap
    )
    postprocess: str = option(
        "For --runner torch: where detections are computed (auto: on the device with CUDA).",
        default=RunnerOptions.postprocess,
        choices=POSTPROCESS,
    )
    launch: str = option(
        f"For detections on the device: {'; '.join(f'{n}: {how}' for n, how in LAUNCHES.items())}.",
        "HOW",
        RunnerOptions.launch,
    )


def model_choice(model: ModelOptions, compute: ComputeOptions) -> ModelChoice:
    """What the options of a command ask to run; raise `SpecError` for an unknown --arch."""
    options = RunnerOptions(**vars(compute))
    return ModelChoice(model.model, model.checkpoint, model.runner, spec_for(model.arch), options)


@dataclass(frozen=True)
class ImageOptions:
    """Which images, and how they are read: fields of `EvaluationJob`."""

    root: Path | None = option("Folder in COCO's layout.", "DIR", shown="embedded scenes")
    split: str = option("Image folder, and instances_SPLIT.json.", "SPLIT", "val2017")
    image_limit: int | None = option(
        "Only the first N images by id; such a run never passes a threshold.",
        "N",
        shown="all",
        min=1,
    )
    host_threads: int = option("Host threads that read images and decode heads.", "N", 2, min=1)


@dataclass(frozen=True)
class PoolOptions:
    """Worker processes on Ray."""

    workers: int | None = option(
        "Worker processes on Ray, each with its own model.", "N", shown="this process only", min=1
    )
    devices: str | None = option("Devices of this host, one worker each: 0,1,2,3.", "LIST")
    ray_address: str | None = option("Ray cluster of --workers.", "ADDRESS", shown="this host")
    verbose: bool = option("Show what Ray prints.", default=False)

    def pool(self) -> Pool | None:
        """The workers asked for, if any; raise `RunnerError` for a contradiction."""
        return pool_of(self.workers, self.devices, self.ray_address, verbose=self.verbose)


@dataclass(frozen=True)
class GateOptions:
    """Thresholds of accuracy."""

    min_map: float | None = option(
        "Threshold: exit 1 below this mAP, in percent; 33.4 for D0 on COCO val2017.",
        "PERCENT",
        shown="none; for the embedded default its own record",
        min=0,
        max=100,
    )
    reference: Path | None = option(
        "ONNX model or weights that run on the same images, for --max-drop.", "FILE"
    )
    max_drop: float | None = option(
        "Threshold: exit 1 unless the 95 % interval of the mAP drop against --reference ends at or "
        "below this.",
        "POINTS",
        shown=f"{MAX_DROP.limit} with --reference",
        min=0,
        max=100,
    )

    def checked_drop(self) -> float:
        """The allowed drop in points; raise `EvaluationError` where nothing is compared with."""
        if self.max_drop is not None and self.reference is None:
            raise EvaluationError(
                f"--max-drop is {self.max_drop}, but no --reference is given; "
                "name what to compare with"
            )
        return MAX_DROP.limit if self.max_drop is None else self.max_drop


@dataclass(frozen=True)
class DirectoryOptions:
    """The run directory: fields of `EvaluationJob`."""

    out: Path | None = option(
        "Run directory: detections as they come, then detections.json, evaluation.json.", "RUN_DIR"
    )
    resume: bool = option("Continue the run in --out, to the same result.", default=False)


@dataclass(frozen=True)
class ReportOptions:
    """Files that a command writes about itself."""

    json: Path | None = option("Write the figures as JSON.", "FILE")
    report_json: Path | None = option("Run file, for 'effd0 merge', 'compare', 'report'.", "FILE")

    def check(self) -> None:
        """Raise `OutputError` now for a file that could not be written later."""
        for path in (self.json, self.report_json):
            if path is not None:
                check_writable(path)

    def write(self, content: Callable[[], Mapping[str, Any]], run: Callable[[], Run]) -> None:
        """Write *content* and the *run* to the files asked for."""
        if self.json is not None:
            write_json(content(), self.json)
        if self.report_json is not None:
            write_run(self.report_json, run())
