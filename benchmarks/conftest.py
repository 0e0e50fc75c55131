"""The benchmarks' control panel: what is timed on what, how often, and the tables at the end."""

from __future__ import annotations

import importlib.util
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from rich.console import Console

from benchmarks.measuring import Budget, Measure, Versus
from benchmarks.seen import Seen
from effd0.bench.accuracy import Accuracy, check_same_model, read_accuracy
from effd0.bench.baseline import Comparison, compare_with
from effd0.bench.gpu import target_lines
from effd0.bench.job import dataset_name
from effd0.bench.ratio import MIN_SAMPLES
from effd0.bench.record import speed_check
from effd0.bench.scenarios import Queries, read_queries
from effd0.bench.session import rows_of
from effd0.bench.subject import Subject, opened
from effd0.bench.tables import WIDTH, baseline_table, print_report
from effd0.cli.pytest_suite import RECORD
from effd0.data import fixture as embedded
from effd0.data.coco import Dataset, load_coco
from effd0.data.preprocess import preprocess
from effd0.detection.heads import split_heads
from effd0.evaluation.model import ModelChoice
from effd0.export import verify as build
from effd0.io import sha256
from effd0.results.environment import chip_kind, machine_record
from effd0.runners.base import make_feed
from effd0.runners.registry import RunnerOptions, open_runner
from effd0.spec import ModelSpec

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
COMPARISONS = pytest.StashKey[Sequence[Comparison]]()
Backend = tuple[str, RunnerOptions]


#: Batches, runners and images that --quick does with, and its budgets.
QUICK_BATCHES, QUICK_RUNNERS, QUICK_IMAGES = (1, 8), ("ort", "acl"), 8
IMAGES = 24
#: Beyond this batch, backends on the CPU that are beside ONNX Runtime need --slow.
LARGE = 8
ALONE = {True: Budget(0.5, 3), False: Budget(3, MIN_SAMPLES)}
IN_TURN = {True: Budget(2, 3), False: Budget(10, MIN_SAMPLES)}


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
    """Each runner with each precision and device that it has here."""
    asked = config.getoption("--runner")
    quick = QUICK_RUNNERS if is_quick(config) else None
    # What is emulated, or was recorded, has no speed.
    runners = [n for n in ("ort", "openvino", "torch", "acl") if n in (asked or quick or (n,))]
    return [param for name in runners for param in _backends_of(name, config)]


def _backends_of(name: str, config: pytest.Config) -> Iterator[Any]:
    if name == "acl":
        options = RunnerOptions(device=str(config.getoption("--device-id")))
        yield pytest.param((name, options), marks=pytest.mark.npu, id="runner=acl-npu")
        return
    yield pytest.param((name, RunnerOptions()), id=f"runner={name}")
    if name == "torch":
        yield pytest.param((name, RunnerOptions(precision="bf16")), id="runner=torch-bf16")
        for precision in ("fp32", "fp16", "bf16"):
            cuda = (name, RunnerOptions(device="cuda", precision=precision))
            yield pytest.param(cuda, marks=pytest.mark.gpu, id=f"runner=torch-cuda-{precision}")
    if name == "ort":
        cuda = (name, RunnerOptions(provider="CUDAExecutionProvider"))
        yield pytest.param(cuda, marks=pytest.mark.gpu, id="runner=ort-cuda")


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
def accuracy(pytestconfig: pytest.Config, request: pytest.FixtureRequest) -> Accuracy | None:
    """What --accuracy-report says, once it is known to be of a file that is timed."""
    report = accuracy_of(pytestconfig)
    if report is not None:
        model: Path | None = pytestconfig.getoption("--model")
        files = (
            [request.getfixturevalue(name) for name in ("model_file", "checkpoint")]
            if model is None
            else [model]
        )
        check_same_model(report, *(sha256(file) for file in files))
    return report


def accuracy_of(config: pytest.Config) -> Accuracy | None:
    """What --accuracy-report says; None where none is given."""
    path: Path | None = config.getoption("--accuracy-report")
    return None if path is None else read_accuracy(path)


@pytest.fixture
def subject(choice: ModelChoice, request: pytest.FixtureRequest) -> Iterator[Subject]:
    """The open model of *backend*: opening it is not timed."""
    request.getfixturevalue("accuracy")  # a report of another model is refused first
    with opened(choice) as one:
        yield one


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
def seen(model_file: Path, dataset: Dataset, spec: ModelSpec) -> tuple[Seen, ...]:
    """What the weights under test see in a few images, by ONNX Runtime."""
    inputs = [preprocess(sample.path, spec) for sample in dataset.samples[:8]]
    with open_runner("ort", model_file, spec, RunnerOptions()) as runner:
        heads = [split_heads(runner.infer(make_feed([one], runner)), spec)[0] for one in inputs]
    return tuple(
        Seen(head, one.image_scale, one.image_size) for head, one in zip(heads, inputs, strict=True)
    )


@pytest.fixture
def measure(benchmark: BenchmarkFixture, dataset_label: str, quick: bool) -> Measure:
    """Time calls one by one; see `Measure`."""
    return Measure(benchmark, dataset_label, ALONE[quick])


@pytest.fixture
def versus(benchmark: BenchmarkFixture, dataset_label: str, quick: bool) -> Versus:
    """Time calls in turn with another's; see `Versus`."""
    return Versus(benchmark, dataset_label, IN_TURN[quick])


@pytest.fixture(scope="session")
def dataset_label(pytestconfig: pytest.Config) -> str:
    """What the images are called in tables."""
    return dataset_name(pytestconfig.getoption("--coco"), pytestconfig.getoption("--split"))


def available_providers() -> list[str]:
    """The execution providers of the ONNX Runtime that is installed; none without one."""
    if importlib.util.find_spec("onnxruntime") is None:
        return []
    import onnxruntime

    return list(onnxruntime.get_available_providers())


@pytest.fixture
def queries(subject: Subject, batch: int, dataset: Dataset, spec: ModelSpec) -> Queries:
    """A batch of real images as *subject* takes it."""
    return read_queries(dataset.samples[:batch], subject.runner, batch, spec)


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
    """Hold the run against --baseline; what is surely slower fails it."""
    config, baseline = session.config, session.config.getoption("--baseline")
    if baseline is None:
        return
    allowed = config.getoption("--max-slowdown") / 100
    comparisons = compare_with(baseline, rows_of(config), allowed)
    config.stash[COMPARISONS] = comparisons
    config.stash[RECORD].checks += [speed_check(one, allowed) for one in comparisons]
    if any(one.regressed for one in comparisons) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """End with the recipe's table, the published figures beside it, rivals and the baseline."""
    rows = rows_of(config)
    if not rows:
        return
    terminalreporter.section("throughput")
    print_report(rows, accuracy_of(config))
    for line in target_lines(rows):
        terminalreporter.write_line(f"GPU {line}")
    if config.getoption("--quick"):
        terminalreporter.write_line(
            f"left out by --quick: batches but {QUICK_BATCHES}, runners but ort and acl, and calls "
            "that percentiles and intervals need; these are no figures to publish"
        )
    if config.stash.get(COMPARISONS, None):
        Console(highlight=False, width=WIDTH).print(baseline_table(config.stash[COMPARISONS]))
