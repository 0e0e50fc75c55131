"""
Options, each declared once: as a field of a dataclass, or as a parameter of its command.

A declaration is ``Annotated[type, Option(help, ...)] = default``.  `command` makes Typer's options
of it, `pytest_options` makes pytest's, and `options_page` makes docs/options.md.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from ..distributed.pool import Pool, pool_of
from ..errors import EvaluationError
from ..evaluation.model import ModelChoice
from ..io import check_writable, write_json
from ..results.run import Run, write_run
from ..runners.registry import POSTPROCESS, RUNNERS, RunnerOptions
from ..runners.torch_cuda import LAUNCHES
from ..spec import D0, SPECS, spec_for
from ..tolerances import MAX_DROP


@dataclass(frozen=True)
class Option:
    """
    How an option is described and checked; its name, type and default are those of its field.

    *shown* is the default in words, where the value says nothing.  A number is at least *min* and
    at most *max*.  An option with *stop* calls it before all others are read, and ends the command.
    """

    help: str
    metavar: str | None = None
    shown: str | None = None
    min: float | None = None
    max: float | None = None
    choices: tuple[str, ...] = ()
    positional: bool = False
    stop: Callable[[], None] | None = None


Argument = functools.partial(Option, positional=True)


@dataclass(frozen=True)
class Declared:
    """An `Option` with its *name* and default, the type of one value, and whether it repeats."""

    name: str
    kind: type
    many: bool
    default: Any
    option: Option

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return self.default is inspect.Parameter.empty

    @property
    def flag(self) -> str:
        """As it is typed."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def metavar(self) -> str:
        """What its value is called; empty for a switch."""
        if self.kind is bool:
            return ""
        return self.option.metavar or "|".join(self.option.choices) or self.kind.__name__.upper()


def declared(holder: Any, left_out: Container[str] = ()) -> Iterator[Declared]:
    """The options of *holder*, a dataclass or a command, whose dataclasses are spread."""
    hints = get_type_hints(holder, include_extras=True)
    hints.pop("return", None)
    if is_dataclass(holder):
        defaults = {f.name: f.default for f in fields(holder)}
    else:
        defaults = {p.name: p.default for p in inspect.signature(holder).parameters.values()}
    for name, hint in hints.items():
        if is_dataclass(hint):
            yield from declared(hint, left_out)
        elif name not in left_out:
            annotated, option = get_args(hint)
            kinds = [one for one in get_args(annotated) if one not in (NoneType, Ellipsis)]
            kind, many = (kinds or [annotated])[0], get_origin(annotated) is tuple
            default = inspect.Parameter.empty if defaults[name] is MISSING else defaults[name]
            yield Declared(name, kind, many, default, option)


#: Options that stand in several commands, one by one.
Arch = Annotated[str, Option(f"Architecture: {', '.join(SPECS)}.", "NAME")]
BatchSize = Annotated[
    int | None, Option("Images per batch.", "N", shown="the model's, or 1", min=1)
]
OnnxFile = Annotated[Path, Option("ONNX file to read.", "FILE")]


@dataclass(frozen=True)
class ModelOptions:
    """Which model, of which architecture."""

    model: Annotated[Path | None, Option("Model file, .onnx or .om.", "FILE")] = None
    checkpoint: Annotated[
        Path | None,
        Option("Weights, .pth or .safetensors.", "FILE", shown="embedded checkpoint"),
    ] = None
    runner: Annotated[
        str | None,
        Option(
            # Recorded outputs are scored by a command of their own, postprocess.
            "; ".join(f"{n}: {what}" for n, what in RUNNERS.items() if n != "recorded") + ".",
            "NAME",
            shown="ort; acl for an .om",
        ),
    ] = None
    arch: Arch = D0.arch


@dataclass(frozen=True)
class ComputeOptions:
    """How a backend computes: the fields of `RunnerOptions`."""

    provider: Annotated[
        str, Option("ONNX Runtime execution provider; there is no fallback to another.", "NAME")
    ] = RunnerOptions.provider
    provider_option: Annotated[
        tuple[str, ...], Option("Option of --provider. Repeatable.", "KEY=VALUE")
    ] = ()
    graph_optimization: Annotated[
        str,
        Option("Graph optimization of ONNX Runtime: disable, basic, extended or all.", "LEVEL"),
    ] = RunnerOptions.graph_optimization
    device: Annotated[
        str | None,
        Option(
            "For --runner torch: cpu, cuda[:N], npu[:N]; for acl: the NPU's number.", shown="cpu; 0"
        ),
    ] = None
    precision: Annotated[str, Option("For --runner torch: fp32, fp16 or bf16.")] = (
        RunnerOptions.precision
    )
    threads: Annotated[
        int | None, Option("Threads of the backend.", "N", "the backend's choice", min=1)
    ] = None
    overlap: Annotated[
        bool, Option("For --runner acl: copy one batch while another is computed.")
    ] = RunnerOptions.overlap
    postprocess: Annotated[
        str,
        Option(
            "For --runner torch: where detections are computed (auto: on the device with CUDA).",
            choices=POSTPROCESS,
        ),
    ] = RunnerOptions.postprocess
    launch: Annotated[
        str,
        Option(
            "For detections on the device: "
            + "; ".join(f"{name}: {how}" for name, how in LAUNCHES.items())
            + ".",
            "HOW",
        ),
    ] = RunnerOptions.launch


def model_choice(model: ModelOptions, compute: ComputeOptions) -> ModelChoice:
    """What the options of a command ask to run; raise `SpecError` for an unknown --arch."""
    options = RunnerOptions(**vars(compute))
    return ModelChoice(model.model, model.checkpoint, model.runner, spec_for(model.arch), options)


@dataclass(frozen=True)
class ImageOptions:
    """Which images, and how they are read."""

    root: Annotated[
        Path | None, Option("Folder in COCO's layout.", "DIR", shown="embedded scenes")
    ] = None
    split: Annotated[str, Option("Image folder, and instances_SPLIT.json.", "SPLIT")] = "val2017"
    image_limit: Annotated[
        int | None,
        Option(
            "Only the first N images by id; such a run never passes a threshold.",
            "N",
            shown="all",
            min=1,
        ),
    ] = None
    host_threads: Annotated[
        int, Option("Host threads that read images and decode heads.", "N", min=1)
    ] = 2


@dataclass(frozen=True)
class PoolOptions:
    """Worker processes on Ray."""

    workers: Annotated[
        int | None,
        Option("Worker processes on Ray, each with its own model.", "N", "this process only", 1),
    ] = None
    devices: Annotated[
        str | None, Option("Devices of this host, one worker each: 0,1,2,3.", "LIST")
    ] = None
    ray_address: Annotated[
        str | None, Option("Ray cluster that runs --workers.", "ADDRESS", shown="this host")
    ] = None
    verbose: Annotated[bool, Option("Show what Ray prints.")] = False

    def pool(self) -> Pool | None:
        """The workers asked for, if any; raise `RunnerError` for a contradiction."""
        return pool_of(self.workers, self.devices, self.ray_address, verbose=self.verbose)


@dataclass(frozen=True)
class GateOptions:
    """Thresholds of accuracy."""

    min_map: Annotated[
        float | None,
        Option(
            "Threshold: exit 1 below this mAP, in percent; 33.4 for D0 on COCO val2017.",
            "PERCENT",
            shown="none; for the embedded default its own record",
            min=0,
            max=100,
        ),
    ] = None
    reference: Annotated[
        Path | None,
        Option("ONNX model or weights that run on the same images, for --max-drop.", "FILE"),
    ] = None
    max_drop: Annotated[
        float | None,
        Option(
            "Threshold: exit 1 unless the 95 % interval of the mAP drop against --reference ends "
            "at or below this.",
            "POINTS",
            shown=f"{MAX_DROP.limit} with --reference",
            min=0,
            max=100,
        ),
    ] = None

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
    """The run directory."""

    out: Annotated[
        Path | None,
        Option(
            "Run directory: detections as they come, then detections.json, evaluation.json.",
            "RUN_DIR",
        ),
    ] = None
    resume: Annotated[bool, Option("Continue the run in --out, to the same result.")] = False


@dataclass(frozen=True)
class ReportOptions:
    """Files that a command writes about itself."""

    json: Annotated[Path | None, Option("Write the figures as JSON.", "FILE")] = None
    report_json: Annotated[
        Path | None,
        Option("Write the run file that 'effd0 merge', 'compare' and 'report' read.", "FILE"),
    ] = None

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
