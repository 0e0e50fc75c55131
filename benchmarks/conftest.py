"""The benchmarks' control panel: what is timed on what, how often, and the tables at the end."""

from __future__ import annotations

import importlib.util
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.measuring import Measure
from effd0.benchmark.measure import (
    AccuracyReport,
    Subject,
    open_subject,
    read_accuracy,
    rows_of,
)
from effd0.cli.pytest_suite import RECORD
from effd0.cli.show import show_benchmark
from effd0.data import fixture as embedded
from effd0.data.coco import Dataset, load_coco
from effd0.data.preprocess import ModelInput, preprocess
from effd0.detection.heads import HeadOutputs, split_heads
from effd0.evaluation.model import ModelChoice
from effd0.export import verify as build
from effd0.io import sha256
from effd0.results.check import Check, Status
from effd0.results.compare import FASTER, SAME, SLOWER, Speed, compare_rows, row_title
from effd0.results.environment import chip_kind, machine_record
from effd0.results.run import dataset_name, read_run
from effd0.runners.base import make_feed
from effd0.runners.registry import RunnerOptions, open_runner
from effd0.spec import ModelSpec

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
#: Batches, runners and images of --quick.
QUICK_BATCHES, QUICK_RUNNERS, QUICK_IMAGES = (1, 8), ("ort", "acl"), 8
IMAGES = 24
#: Beyond this batch, backends on the CPU beside ONNX Runtime need --slow.
LARGE = 8
#: Lines of the comparison with --baseline.
COMPARED = pytest.StashKey[list[str]]()
Backend = tuple[str, RunnerOptions]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what asks for a backend, or for a backend and a batch, with each."""
    if "batch" in metafunc.fixturenames:
        metafunc.parametrize(("backend", "batch"), list(swept(metafunc.config)))
    elif "backend" in metafunc.fixturenames:
        metafunc.parametrize("backend", backends(metafunc.config))


def swept(config: pytest.Config) -> Iterator[Any]:
    """Each backend with each batch; what takes minutes on a CPU is marked slow."""
    for backend in backends(config):
        name, options = backend.values[0]
        aside = name != "ort" and chip_kind(name, options) == "cpu"
        for batch in batches(config):
            marks = [*backend.marks, *([pytest.mark.slow] if aside and batch > LARGE else [])]
            label = f"{backend.id}-batch={batch}"
            yield pytest.param((name, options), batch, marks=marks, id=label)


def batches(config: pytest.Config) -> tuple[int, ...]:
    """The batch sizes of this run: --batch-size, or the recipe's and 2."""
    asked = config.getoption("--batch-size")
    if asked:
        return tuple(asked)
    return QUICK_BATCHES if is_quick(config) else BATCH_SIZES


def is_quick(config: pytest.Config) -> bool:
    """Whether few rows do: by --quick, or where nothing is timed but only run."""
    return bool(config.getoption("--quick") or config.getoption("--benchmark-disable"))


def backends(config: pytest.Config) -> list[Any]:
    """Each runner with each precision and device; what is emulated or recorded has no speed."""
    cuda = [RunnerOptions(device="cuda", precision=one) for one in ("fp32", "fp16", "bf16")]
    npu = RunnerOptions(device=str(config.getoption("--device-id")))
    gpu = [pytest.mark.gpu]
    known: list[tuple[str, RunnerOptions, str, list[pytest.MarkDecorator]]] = [
        ("ort", RunnerOptions(), "ort", []),
        ("ort", RunnerOptions(provider="CUDAExecutionProvider"), "ort-cuda", gpu),
        ("openvino", RunnerOptions(), "openvino", []),
        ("torch", RunnerOptions(), "torch", []),
        ("torch", RunnerOptions(precision="bf16"), "torch-bf16", []),
        *(("torch", one, f"torch-cuda-{one.precision}", gpu) for one in cuda),
        ("acl", npu, "acl-npu", [pytest.mark.npu]),
    ]
    wanted = config.getoption("--runner") or (QUICK_RUNNERS if is_quick(config) else None)
    return [
        pytest.param((name, options), marks=marks, id=f"runner={id_}")
        for name, options, id_, marks in known
        if wanted is None or name in wanted
    ]


@pytest.fixture(scope="session")
def quick(pytestconfig: pytest.Config) -> bool:
    """Whether two minutes are all there is."""
    return is_quick(pytestconfig)


@pytest.fixture(scope="session")
def dataset(pytestconfig: pytest.Config, quick: bool) -> Dataset:
    """The images that are run: of --coco, or the embedded scenes."""
    root = pytestconfig.getoption("--coco") or embedded.coco_root()
    limit = pytestconfig.getoption("--image-limit") or (QUICK_IMAGES if quick else IMAGES)
    return load_coco(root, pytestconfig.getoption("--split"), limit)


@pytest.fixture(scope="session")
def model_file(pytestconfig: pytest.Config, checkpoint: Path, spec: ModelSpec) -> Iterator[Path]:
    """The ONNX file that is timed: --model, or what `effd0 evaluate` makes of the checkpoint."""
    given: Path | None = pytestconfig.getoption("--model")
    if given is not None and given.suffix != ".om":
        yield given
        return
    with build.exported(checkpoint, spec) as path:
        yield path


@pytest.fixture(scope="session")
def accuracy(pytestconfig: pytest.Config, request: pytest.FixtureRequest) -> AccuracyReport | None:
    """The mAP of --accuracy-report, refused unless it is of a file that is timed."""
    path: Path | None = pytestconfig.getoption("--accuracy-report")
    if path is None:
        return None
    model: Path | None = pytestconfig.getoption("--model")
    names = ("model_file", "checkpoint")
    files = [request.getfixturevalue(one) for one in names] if model is None else [model]
    return read_accuracy(path, *(sha256(file) for file in files))


@pytest.fixture
def subject(choice: ModelChoice, accuracy: AccuracyReport | None) -> Iterator[Subject]:
    """The open model of *backend*: opening it is not timed."""
    with open_subject(choice) as one:
        yield one.with_accuracy(accuracy)


@pytest.fixture
def choice(backend: Backend, spec: ModelSpec, request: pytest.FixtureRequest) -> ModelChoice:
    """What *backend* runs."""
    name, options = backend
    for package in {"torch", "openvino"} & {name}:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}: pip install 'effd0[{package}]'")
    if name == "ort" and options.provider not in available_providers():
        pytest.skip(f"this ONNX Runtime has no {options.provider}; install onnxruntime-gpu")
    if name == "acl":
        request.getfixturevalue("acl_kept_open")
        return ModelChoice(request.config.getoption("--model"), None, name, spec, options)
    if name == "torch":
        return ModelChoice(None, request.getfixturevalue("checkpoint"), name, spec, options)
    return ModelChoice(request.getfixturevalue("model_file"), None, name, spec, options)


@pytest.fixture(scope="session")
def seen(
    model_file: Path, dataset: Dataset, spec: ModelSpec
) -> list[tuple[HeadOutputs, ModelInput]]:
    """The heads that the weights under test give for a few images, by ONNX Runtime."""
    inputs = [preprocess(sample.path, spec) for sample in dataset.samples[:8]]
    with open_runner("ort", model_file, spec, RunnerOptions()) as runner:
        return [
            (split_heads(runner.infer(make_feed([one], runner)), spec)[0], one) for one in inputs
        ]


@pytest.fixture
def measure(benchmark: BenchmarkFixture, pytestconfig: pytest.Config, quick: bool) -> Measure:
    """Time calls one by one, or in turn with another's; see `Measure`."""
    root, split = (pytestconfig.getoption(option) for option in ("--coco", "--split"))
    return Measure(benchmark, dataset_name(root, split), quick)


def available_providers() -> list[str]:
    """The execution providers of the ONNX Runtime that is installed; none without one."""
    if importlib.util.find_spec("onnxruntime") is None:
        return []
    import onnxruntime

    return list(onnxruntime.get_available_providers())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Times of what gave a wrong result are no times."""
    report = yield
    benchmark = getattr(item, "funcargs", {}).get("benchmark")
    if report.failed and benchmark is not None:
        benchmark.has_error = True
    return report


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Put the machine into --benchmark-json."""
    machine_info["effd0"] = machine_record()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Compare the times with the run file --baseline; a row that is surely slower fails."""
    config = session.config
    baseline: Path | None = config.getoption("--baseline")
    if baseline is None:
        return
    if not baseline.exists():
        config.stash[COMPARED] = [f"no baseline: {baseline} is missing"]
        return
    allowed = config.getoption("--max-slowdown") / 100
    now = rows_of(config)
    speeds = compare_rows(read_run(baseline).latency, now, allowed)
    config.stash[RECORD].checks += [speed_check(one, allowed) for one in speeds]
    known = {one.name for one in speeds}
    config.stash[COMPARED] = [
        *(f"{one.status}: {one.name if one.ratio is None else one} {one.reason}" for one in speeds),
        *(f"no baseline: {name}" for row in now if (name := row_title(row)) not in known),
    ]
    if any(one.status == SLOWER for one in speeds) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def speed_check(speed: Speed, allowed: float) -> Check:
    """A row compared with its baseline; a row that cannot be compared is skipped."""
    statuses: dict[str, Status] = {SAME: "passed", FASTER: "passed", SLOWER: "failed"}
    status = statuses.get(speed.status, "skipped")
    evidence = "" if status == "passed" else speed.reason
    if status == "failed":
        evidence = f"takes {speed.ratio} times as long as in the baseline: {speed.reason}"
    if speed.ratio is None:
        return Check("gate", speed.name, status, evidence)
    return speed.ratio.check(speed.name, status, evidence, allowed)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """End with the recipe's table, the published figures beside it, rivals and the baseline."""
    if rows := rows_of(config):
        terminalreporter.section("throughput")
        show_benchmark(rows, config.stash[RECORD].artefact)
        if config.getoption("--quick"):
            terminalreporter.write_line(
                f"left out by --quick: batches but {QUICK_BATCHES}, runners but ort and acl, and "
                "calls that percentiles and intervals need; these are no figures to publish"
            )
    if compared := config.stash.get(COMPARED, []):
        terminalreporter.section("against the baseline")
        for line in compared:
            terminalreporter.write_line(line)
