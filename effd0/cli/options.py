"""Options that several commands share, each written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..runners.registry import RUNNERS
from ..runners.torch_cuda import LAUNCHES
from ..spec import D0, SPECS

Root = Annotated[
    Path | None,
    typer.Option(help="Folder in COCO's layout.", show_default="embedded scenes", metavar="DIR"),
]
Split = Annotated[
    str, typer.Option(help="Images' folder, and instances_SPLIT.json.", metavar="SPLIT")
]
Model = Annotated[
    Path | None, typer.Option(help="ONNX or .om model to run.", metavar="FILE", show_default=False)
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        help="Weights (.pth, .safetensors) to run.",
        metavar="FILE",
        show_default="embedded checkpoint",
    ),
]
Arch = Annotated[str, typer.Option(help=f"Architecture: {', '.join(SPECS)}.", metavar="NAME")]
DEFAULT_ARCH = D0.arch
RunnerName = Annotated[
    str | None,
    typer.Option(
        # What was recorded is scored by a command of its own, postprocess.
        help="; ".join(f"{n}: {what}" for n, what in RUNNERS.items() if n != "recorded") + ".",
        metavar="NAME",
        show_default="ort; acl for an .om",
    ),
]
Provider = Annotated[
    str, typer.Option(help="ONNX Runtime execution provider; no other is used.", metavar="NAME")
]
GraphOptimization = Annotated[
    str,
    typer.Option(
        help="ONNX Runtime rewrites the graph: disable, basic, extended or all.", metavar="LEVEL"
    ),
]
ProviderOption = Annotated[
    list[str] | None,
    typer.Option(help="An option of --provider; repeatable.", metavar="KEY=VALUE"),
]
Device = Annotated[
    str | None,
    typer.Option(
        help="For --runner torch: cpu, cuda[:N], npu[:N]; for acl: the NPU's number.",
        show_default="cpu; 0",
    ),
]
Overlap = Annotated[
    bool,
    typer.Option(help="For --runner acl: transfers of one batch while another is computed."),
]
Precision = Annotated[str, typer.Option(help="fp32, fp16 or bf16, for --runner torch.")]
Postprocess = Annotated[
    str,
    typer.Option(
        help="For --runner torch: detections on the host or on the device (auto: there on CUDA).",
        metavar="WHERE",
    ),
]
Launch = Annotated[
    str,
    typer.Option(
        help="For detections on the device: "
        + "; ".join(f"{name}: {how}" for name, how in LAUNCHES.items())
        + ".",
        metavar="HOW",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(help="Threads of the backend.", min=1, show_default="the backend's choice"),
]
BatchSize = Annotated[
    int | None,
    typer.Option(help="Images a batch.", min=1, show_default="the model's, or 1"),
]
ImageLimit = Annotated[
    int | None,
    typer.Option(
        help="Only the first N images by id; such a run never claims the gate.",
        min=1,
        metavar="N",
        show_default="all",
    ),
]
HostThreads = Annotated[
    int, typer.Option(help="Threads of this host that read images and decode heads.", min=1)
]
Workers = Annotated[
    int | None,
    typer.Option(
        help="Worker processes on Ray, each with a model of its own.",
        min=1,
        show_default="this process alone",
    ),
]
Devices = Annotated[
    str | None,
    typer.Option(
        help="Devices of this host, one worker each: 0,1,2,3.", metavar="LIST", show_default=False
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        help="Ray cluster in which --workers run.", metavar="ADDRESS", show_default="this host"
    ),
]
Verbose = Annotated[bool, typer.Option("--verbose", help="Let Ray print what it has to say.")]
InputModel = Annotated[Path, typer.Option("--model", help="ONNX file to read.", metavar="FILE")]
OutputModel = Annotated[Path, typer.Option("--out", help="ONNX file to write.", metavar="FILE")]
Json = Annotated[
    Path | None,
    typer.Option(help="Write the evaluation as JSON.", metavar="FILE", show_default=False),
]
ReportJson = Annotated[
    Path | None,
    typer.Option(
        help="Write the run as a file for 'effd0 merge' and 'effd0 compare'.",
        metavar="FILE",
        show_default=False,
    ),
]
