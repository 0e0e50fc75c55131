"""
The test suite's options, as a pytest plugin that the installed package announces.

In a conftest.py they would be found too late: pytest looks for its configuration beside all
arguments that exist as paths, and an option that it does not know yet is to it a flag followed by
such an argument.  ``--coco /data/coco`` would then hide pyproject.toml and conftest.py, with a
message about unknown arguments.  From here a message can say what to do.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .runners.onnxruntime import GRAPH_OPTIMIZATIONS
from .runners.registry import POSTPROCESS, RUNNERS, RunnerOptions
from .spec import D0, SPECS
from .tolerances import MAX_DROP

if TYPE_CHECKING:
    from .runfile.suite import SuiteRecord
    from .scale.pool import Pool

#: Where a session keeps what it found.
RECORD: pytest.StashKey[SuiteRecord] = pytest.StashKey()
#: Marker -> the kind of torch device that it needs.
TORCH_DEVICES = {"gpu": "cuda", "torch_npu": "npu"}
HARDWARE = ("npu", *TORCH_DEVICES)
#: The runners that tests are run with; where there is no NPU, ACL is emulated.
TEST_RUNNERS = (*RUNNERS, "emulated")
PATHS = ("--coco", "--checkpoint", "--model", "--results", "--bins", "--detections")
#: Files of benchmarks; a baseline that is missing is no error.
BENCHMARK_PATHS = ("--baseline", "--accuracy-report")


def pytest_addoption(parser: pytest.Parser) -> None:
    """One group, so that ``pytest --help`` shows all of them together."""
    group = parser.getgroup("effd0", "effd0: what is under test")
    group.addoption(
        "--runner", action="append", help=f"only this runner: {', '.join(TEST_RUNNERS)}"
    )
    group.addoption("--model", type=Path, help=".onnx or .om model under test")
    group.addoption("--checkpoint", type=Path, help="weights under test (default: embedded)")
    group.addoption(
        "--results",
        type=Path,
        metavar="DIR",
        help="heads made elsewhere; implies --runner=recorded",
    )
    group.addoption(
        "--bins", type=Path, metavar="DIR", help="inputs made elsewhere; those --results were of"
    )
    group.addoption(
        "--detections", type=Path, metavar="FILE", help="detections made elsewhere, as COCO's JSON"
    )
    group.addoption("--arch", default=D0.arch, help=f"one of {', '.join(SPECS)}")
    group.addoption("--coco", type=Path, metavar="ROOT", help="folder in COCO's layout")
    group.addoption("--split", default="val2017", help="the split's name in --coco")
    group.addoption("--image-limit", type=int, metavar="N", help="first N images of --coco only")
    group.addoption("--slow", action="store_true", help="run the slow tests too")
    _add_runner_options(group)
    _add_gate_options(group)
    _add_benchmark_options(parser)


def _add_runner_options(group: pytest.OptionGroup) -> None:
    """How a backend computes."""
    group.addoption("--device-id", type=int, default=0, metavar="N", help="the NPU of --runner acl")
    group.addoption(
        "--provider", default=RunnerOptions.provider, help="ONNX Runtime's, of --runner ort"
    )
    group.addoption(
        "--provider-option", action="append", default=[], metavar="KEY=VALUE", help="repeatable"
    )
    group.addoption(
        "--graph-optimization",
        default=RunnerOptions.graph_optimization,
        metavar="LEVEL",
        help=f"of ONNX Runtime: {', '.join(GRAPH_OPTIMIZATIONS)}",
    )
    group.addoption("--threads", type=int, metavar="N", help="of ONNX Runtime, OpenVINO, PyTorch")
    group.addoption(
        "--postprocess",
        default=RunnerOptions.postprocess,
        choices=POSTPROCESS,
        help="where --runner torch makes detections: on the host or on its device",
    )
    group.addoption("--batch-size", type=int, action="append", metavar="N", help="repeatable")


def _add_gate_options(group: pytest.OptionGroup) -> None:
    """What has to be reached, and what is kept of a run."""
    group.addoption(
        "--min-map", type=float, default=33.4, metavar="PERCENT", help="gate for --coco"
    )
    group.addoption(
        "--max-drop",
        type=float,
        default=MAX_DROP.limit,
        metavar="POINTS",
        help="gate for --coco: mAP surely drops by no more against torch",
    )
    group.addoption(
        "--out",
        type=Path,
        metavar="RUN_DIR",
        help="keep detections of -m accuracy as they come, a folder for each runner",
    )
    group.addoption("--resume", action="store_true", help="go on with the runs in --out")
    group.addoption(
        "--workers", type=int, metavar="N", help="run -m accuracy in N worker processes on Ray"
    )
    group.addoption(
        "--devices", metavar="LIST", help="run it on these devices, one worker each: 0,1,2,3"
    )
    group.addoption("--ray-address", metavar="ADDRESS", help="run --workers in this Ray cluster")
    group.addoption(
        "--require",
        action="append",
        default=[],
        choices=["browser", "coco", *HARDWARE],
        help="fail, not skip, where this is absent; repeatable",
    )
    group.addoption(
        "--report-json",
        type=Path,
        metavar="FILE",
        help="write the run there, as a file for effd0 merge, compare",
    )


def _add_benchmark_options(parser: pytest.Parser) -> None:
    group = parser.getgroup("effd0 benchmarks", "effd0: pytest benchmarks")
    group.addoption("--quick", action="store_true", help="in two minutes: fewer rows and calls")
    group.addoption(
        "--baseline", type=Path, metavar="FILE", help="compare with what --benchmark-json wrote"
    )
    group.addoption(
        "--max-slowdown",
        type=float,
        default=5.0,
        metavar="PERCENT",
        help="fail where a row is surely slower than --baseline by more (default: 5)",
    )
    group.addoption(
        "--accuracy-report",
        type=Path,
        metavar="FILE",
        help="what 'effd0 evaluate --json' wrote of the same model: the table's mAP",
    )


def pool_asked(config: pytest.Config) -> Pool | None:
    """The workers that the options ask for; a usage error where they contradict each other."""
    from .errors import RunnerError
    from .scale.pool import pool_of

    workers: int | None = config.getoption("--workers")
    if workers is not None and workers < 1:
        raise pytest.UsageError(
            f"--workers is {workers}, but at least one is wanted; leave it out for one process"
        )
    devices, address = config.getoption("--devices"), config.getoption("--ray-address")
    try:
        return pool_of(workers, devices, address, verbose=False)
    except RunnerError as error:
        raise pytest.UsageError(str(error)) from error


def pytest_configure(config: pytest.Config) -> None:
    """Stop where options contradict each other, or led pytest away from its configuration."""
    if config.getoption("--resume") and config.getoption("--out") is None:
        raise pytest.UsageError("--resume is given, but no --out; name the folder to resume")
    if config.getoption("--max-drop") < 0:
        raise pytest.UsageError(
            f"--max-drop is {config.getoption('--max-drop')}, but a drop of at least 0 points is "
            "wanted; a gain always passes"
        )
    if pool_asked(config) is not None and config.getoption("--results") is not None:
        raise pytest.UsageError(
            "--results is given with --workers or --devices, but what was recorded is not run; "
            "leave one out"
        )
    results, model = config.getoption("--results"), config.getoption("--model")
    if results is not None and model is not None and results.is_dir() and model.is_file():
        from .errors import Effd0Error
        from .tensors.results import check_model

        try:
            check_model(results, model)
        except Effd0Error as error:
            raise pytest.UsageError(str(error)) from error
    given = [
        f"{option}={path}"
        for option in (*PATHS, *BENCHMARK_PATHS, "--out", "--report-json")
        if (path := config.getoption(option)) is not None and config.inipath is None
    ]
    if given:
        raise pytest.UsageError(
            f"pytest looked for its configuration in {config.rootpath}, since it took an option's "
            f"value for a place of tests; write the value after '=': {' '.join(given)}"
        )
