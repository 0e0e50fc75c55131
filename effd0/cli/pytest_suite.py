"""
A session of the suite: options, markers, header, which tests run, the verdict and the run file.

`pytest_plugin` registers this module in sessions that run effd0's suite.
"""

from __future__ import annotations

import functools
import gc
import importlib.util
import shlex
import shutil
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from ..benchmark.measure import rows_of
from ..data import fixture as embedded
from ..distributed.pool import Pool, accelerator, pool_of
from ..errors import Effd0Error, RunnerError
from ..evaluation.evaluate import Evaluation, accuracy_of
from ..io import sha256
from ..report.insight import insight_of
from ..results.check import STAGES, Check
from ..results.environment import installed_version
from ..results.run import Parity, write_run
from ..results.suite import FIGURES, SuiteRecord, check_of, properties_of
from ..runners.registry import RUNNERS, RunnerOptions
from ..spec import spec_for
from ..tensors.results import check_model
from ..timing import let_threads_sleep
from ..tolerances import MAX_DROP
from .command import add_pytest_options
from .options import (
    ACCURACY_REPORT,
    ComputeOptions,
    DirectoryOptions,
    ImageOptions,
    ModelOptions,
    Option,
    PoolOptions,
    ReportOptions,
    declared,
    option,
)  # fmt: skip
from .pytest_plugin import PATHS, is_led_away

#: Where a session keeps what it found.
RECORD: pytest.StashKey[SuiteRecord] = pytest.StashKey()
#: Attribute of a report that carries the check of its test.
CHECK = "effd0_check"
#: Marker -> the kind of torch device that it needs.
TORCH_DEVICES = {"gpu": "cuda", "torch_npu": "npu"}
HARDWARE = ("npu", *TORCH_DEVICES)
#: The runners that tests are run with; where there is no NPU, ACL is emulated.
TEST_RUNNERS = (*RUNNERS, "emulated")
#: Those that need --slow where none is asked for by name.
SLOW_RUNNERS = {"openvino", "emulated"}
#: Runners that workers run; the others stay in the session's process.
WITH_WORKERS = ("ort", "openvino", "torch", "acl")
MARKERS = {
    "artefact": "checks the artefact under test; the others test effd0 itself",
    "browser": "needs Playwright and a Chromium that it drives",
    "accuracy": "mAP of the artefact under test, compared with its reference",
    "coco": "needs a data set and weights of your own: --coco ROOT --checkpoint FILE",
    "gpu": "needs a CUDA device that torch sees",
    "npu": "needs an Ascend NPU that pyACL sees, and an .om: --model FILE.om",
    "torch_npu": "needs an Ascend NPU that torch_npu sees",
    "slow": "takes long; run with --slow",
    "stage(name)": "the stage of the pipeline that a failure points at",
}


@dataclass(frozen=True)
class SuiteOptions:
    """What pytest alone takes of an artefact and of what it has to reach."""

    runner: tuple[str, ...] = option(
        f"Only this runner: {', '.join(TEST_RUNNERS)}. Repeatable.", "NAME", ()
    )
    results: Path | None = option("Recorded head outputs; implies --runner=recorded.", "DIR")
    bins: Path | None = option("Recorded inputs; those of --results.", "DIR")
    detections: Path | None = option("Recorded detections, as COCO's JSON.", "FILE")
    coco: Path | None = option("Folder in COCO's layout.", "ROOT", shown="embedded scenes")
    slow: bool = option("Run the slow tests too.", default=False)
    device_id: int = option("The NPU of --runner acl.", "N", 0, min=0)
    batch_size: tuple[int, ...] = option(
        "Images per batch of -m accuracy and of benchmarks. Repeatable.", "N", (), min=1
    )
    min_map: float = option(
        "Threshold of mAP on --coco, in percent.", "PERCENT", 33.4, min=0, max=100
    )
    max_drop: float = option(
        "Threshold: the 95 % interval of the mAP drop against PyTorch ends at or below this.",
        "POINTS",
        MAX_DROP.limit,
        min=0,
        max=100,
    )
    require: tuple[str, ...] = option(
        "Fail, not skip, where this is absent. Repeatable.",
        default=(),
        choices=("browser", "coco", *HARDWARE),
    )


@dataclass(frozen=True)
class BenchmarkOptions:
    """What the pytest benchmarks take."""

    quick: bool = option("Two minutes: fewer rows and calls.", default=False)
    baseline: Path | None = option("Run file of an earlier session to compare times with.", "FILE")
    max_slowdown: float = option(
        "Maximum slowdown allowed against --baseline, in percent (95 % confidence).",
        "PERCENT",
        5.0,
        min=0,
    )
    accuracy_report: Path | None = ACCURACY_REPORT


def option_groups() -> dict[str, list[Option]]:
    """Title -> options of pytest; those that the command line has too are declared there."""
    artefact = (
        *declared(ModelOptions, ("runner",)),
        *declared(SuiteOptions),
        *declared(ImageOptions, ("root", "host_threads")),
        *declared(ComputeOptions, ("device", "precision", "overlap", "launch")),
        *declared(DirectoryOptions),
        *declared(PoolOptions, ("verbose",)),
        *declared(ReportOptions, ("json",)),
    )
    return {
        "effd0: what is under test": list(artefact),
        "effd0: pytest benchmarks": list(declared(BenchmarkOptions)),
    }


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options in groups, so that ``pytest --help`` shows them together."""
    for title, options in option_groups().items():
        add_pytest_options(parser.getgroup(title, title), options)


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers and check the options."""
    # torch and the tests are a million objects that live to the end: looking through them as
    # often as CPython does by default took 8 s of 91 (2026-11-25).
    gc.set_threshold(100_000, 20, 50)
    # Nothing has imported torch yet.  Benchmarks take it as its users do.
    if not any("benchmarks" in argument for argument in config.args):
        let_threads_sleep()
    config.stash[RECORD] = SuiteRecord()
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")
    check_options(config)
    config.pluginmanager.register(_Collector(config))


def check_options(config: pytest.Config) -> None:
    """Raise a usage error where options contradict each other, or led pytest away."""
    get = config.getoption

    def refuse(wrong: object, message: str) -> None:
        if wrong:
            raise pytest.UsageError(message)

    paths = [one.flag for group in option_groups().values() for one in group if one.kind is Path]
    given = [f"{flag}={get(flag)}" for flag in paths if get(flag) is not None]
    refuse(
        given and is_led_away(config),
        f"pytest looked for its configuration in {config.rootpath}, since it took an option's "
        f"value for a place of tests; write the value after '=': {' '.join(given)}",
    )
    no_out = get("--resume") and get("--out") is None
    refuse(no_out, "--resume is given, but no --out; name the folder to resume")
    refuse(
        get("--report-json") and getattr(config.option, "numprocesses", None),
        "--report-json is given with -n, but a run file is written by one process; leave -n out",
    )
    runners, results = get("--runner"), get("--results")
    unknown = ", ".join(set(runners) - set(TEST_RUNNERS))
    refuse(unknown, f"--runner is {unknown}, but effd0 knows {', '.join(TEST_RUNNERS)}")
    refuse(
        runners and ("recorded" in runners) != (results is not None),
        "--runner=recorded and --results=DIR go together, but one is given without the other",
    )
    refuse(
        get("--coco") and not get("--checkpoint"),
        "--coco is given without --checkpoint, but the embedded checkpoint knows drawn scenes "
        "only; give --checkpoint=d0.pth ('effd0 fetch checkpoint' gets one)",
    )
    no_coco = get("--image-limit") and not get("--coco")
    refuse(no_coco, "--image-limit is given, but it limits --coco, which is not")
    for flag in PATHS:
        missing = get(flag) is not None and not get(flag).exists()
        refuse(missing, f"{flag} is {get(flag)}, which does not exist")
    try:
        spec_for(get("--arch"))
        if results is not None and get("--model") is not None:
            check_model(results, get("--model"))
    except Effd0Error as error:
        raise pytest.UsageError(str(error)) from error
    if (pool := pool_asked(config)) is not None:
        refuse(
            results is not None,
            "--results is given with --workers or --devices, but what was recorded is not run; "
            "leave one out",
        )
        options_of = functools.partial(runner_options, config)
        check_workers(pool, accelerator_of(runners_here(config), options_of), config)


def pool_asked(config: pytest.Config) -> Pool | None:
    """The workers that the options ask for; a usage error where they contradict each other."""
    workers, devices = config.getoption("--workers"), config.getoption("--devices")
    try:
        return pool_of(workers, devices, config.getoption("--ray-address"), verbose=False)
    except RunnerError as error:
        raise pytest.UsageError(str(error)) from error


def accelerator_of(
    runners: Iterable[str], options_of: Callable[[str], RunnerOptions]
) -> str | None:
    """Return what each worker needs one of, as Ray names it, for *runners*; None on CPUs."""
    kinds = {kind for name in runners if (kind := accelerator(name, options_of(name)))}
    if len(kinds) > 1:
        raise pytest.UsageError(
            f"runners need {' and '.join(sorted(kinds))}, but all workers of a session have one "
            "kind; choose one with --runner"
        )
    return next(iter(kinds), None)


def check_workers(pool: Pool, kind: str | None, config: pytest.Config) -> None:
    """Refuse a *pool* that contradicts other options; its runners need a *kind* of device each."""
    if number := config.getoption("--device-id"):
        raise pytest.UsageError(
            f"--device-id is {number}, but each worker has a device of its own; name them with "
            "--devices"
        )
    alone = sorted(set(config.getoption("--runner") or ()) - set(WITH_WORKERS))
    if alone:
        raise pytest.UsageError(
            f"--runner is {', '.join(alone)}, but workers run {', '.join(WITH_WORKERS)}; "
            "leave --workers and --devices out"
        )
    if pool.devices and kind is None:
        raise pytest.UsageError(
            f"--devices is {config.getoption('--devices')}, but all runners compute on the CPU; "
            "use --workers, or choose a device (--runner=acl, --provider=CUDAExecutionProvider)"
        )


def runner_options(config: pytest.Config, name: str) -> RunnerOptions:
    """What the session's options mean to the runner *name*; those of others are not for it."""
    option = config.getoption
    if name == "acl":
        # Each worker has a device of its own.
        own = pool_asked(config) is not None
        return RunnerOptions(device=None if own else str(option("--device-id")))
    if name == "torch":
        return RunnerOptions(threads=option("--threads"), postprocess=option("--postprocess"))
    if name != "ort":
        return RunnerOptions(threads=option("--threads"))
    return RunnerOptions(
        threads=option("--threads"),
        provider=option("--provider"),
        provider_option=tuple(option("--provider-option")),
        graph_optimization=option("--graph-optimization"),
    )


def runner_names(config: pytest.Config) -> list[str]:
    """The runners of this session: those asked for, or all; what is real is not emulated."""
    given: list[str] = config.getoption("--runner")
    if not given and config.getoption("--results") is not None:
        given = ["recorded"]
    left_out = {"recorded"} if _no_npu(config) else {"recorded", "emulated"}
    return given or [name for name in TEST_RUNNERS if name not in left_out]


def runners_here(config: pytest.Config) -> list[str]:
    """The runners of this session that can be opened on this host."""
    return [n for n in runner_names(config) if n != "acl" or _no_npu(config) is None]


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say what is under test, with fingerprints, and what is absent and why."""

    def fingerprint(path: Path) -> str:
        return f"{path.name} sha256 {sha256(path)[:12]}" if path.is_file() else f"{path} IS MISSING"

    model = config.getoption("--model")
    packages = ("torch", "effdet", "onnx", "onnxruntime", "onnxsim", "openvino")
    runners = ", ".join(runner_names(config))
    lines = [
        f"effd0 {installed_version('effd0')}: {config.getoption('--arch')}, runners {runners}",
        f"checkpoint: {fingerprint(config.getoption('--checkpoint') or embedded.checkpoint())}",
        f"model: {fingerprint(model) if model else 'exported from the checkpoint'}",
        f"images: {config.getoption('--coco') or 'embedded scenes'}",
        "versions: " + ", ".join(f"{name} {installed_version(name)}" for name in packages),
    ]
    if (pool := pool_asked(config)) is not None:
        lines.append(f"workers: {pool}, for the tests of accuracy")
    if _only_artefact(config):
        lines.append("tests: of what is given; to test effd0 itself, give nothing, or name files")
    missing = [f"{name} ({reason})" for name in MARKERS if (reason := absent(name, config))]
    return [*lines, f"absent: {', '.join(missing) or 'nothing'}"]


def absent(marker: str, config: pytest.Config) -> str | None:
    """Why what *marker* needs is not there, and what would lift it; None if it is there."""
    if marker in TORCH_DEVICES:
        kind = TORCH_DEVICES[marker]
        return None if _has_device(kind) else f"torch sees no {kind} device on this host"
    if marker == "browser" and importlib.util.find_spec("playwright") is None:
        return "Playwright is not installed; pip install 'effd0[report,browser]'"
    if marker == "browser" and shutil.which("chromium") is None:
        return "no chromium is on the PATH; apt-get install chromium"
    if marker == "coco" and config.getoption("--coco") is None:
        return "no --coco ROOT was given"
    if marker == "slow" and not config.getoption("--slow"):
        return "no --slow was given"
    return _no_npu(config) if marker == "npu" else None


def _no_npu(config: pytest.Config) -> str | None:
    """Why ACL cannot run a compiled model here; None if it can."""
    if importlib.util.find_spec("acl") is None:
        return "pyACL cannot be imported; source CANN's set_env.sh"
    model: Path | None = config.getoption("--model")
    if model is None or model.suffix != ".om":
        return "no --model=FILE.om was given"
    return None


@functools.cache
def _has_device(kind: str) -> bool:
    needed = ("torch", "torch_npu") if kind == "npu" else ("torch",)
    if any(importlib.util.find_spec(package) is None for package in needed):
        return False
    return bool(getattr(importlib.import_module("torch"), kind).is_available())


def _only_artefact(config: pytest.Config) -> bool:
    """Whether the run is about an artefact that was given, and not about effd0 itself."""
    named = config.args_source is pytest.Config.ArgsSource.ARGS
    return not named and any(config.getoption(option) is not None for option in PATHS)


# Marks by the conftest of tests/ come first.
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """
    Put the checks of an artefact in the order of their stages; if one is given, only these run.

    Skip what needs something absent, with the reason; --require turns that into an error.
    """

    def place(item: pytest.Item) -> int:
        marker = item.get_closest_marker("stage")
        assert marker is not None, f"{item.nodeid} checks an artefact, but no stage"
        return STAGES.index(marker.args[0])

    checks = [item for item in items if item.get_closest_marker("artefact")]
    others = [item for item in items if not item.get_closest_marker("artefact")]
    if _only_artefact(config):
        config.hook.pytest_deselected(items=others)
        others = []
    items[:] = sorted(checks, key=place) + others
    required = config.getoption("--require")
    reasons = {name: absent(name, config) for name in MARKERS if name not in required}
    for item in items:
        for name, reason in reasons.items():
            if reason and item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=f"needs {name}: {reason}"))


# A hook, and the first: a fixture that is asked for after collection is never made.
@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail a test whose resource was demanded by --require and is not there."""
    reasons = [
        f"{name} is required (--require {name}), but {reason}"
        for name in item.config.getoption("--require")
        if item.get_closest_marker(name) and (reason := absent(name, item.config))
    ]
    if reasons:
        pytest.fail("; ".join(reasons), pytrace=False)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """
    Run tests once for each runner and each --batch-size that they ask for by a fixture's name.

    ``runner_name`` is each runner, ``runner_beside_torch`` each but torch, and ``given_batch`` each
    --batch-size, or None.
    """
    config, benchmark = metafunc.config, metafunc.function.__name__.startswith("bench_")
    # Whoever names a runner wants it; else, what is beside torch and ONNX Runtime takes its time.
    slow = set() if benchmark or config.getoption("--runner") else SLOW_RUNNERS
    for fixture in {"runner_name", "runner_beside_torch"} & set(metafunc.fixturenames):
        # What is emulated, or was recorded, has no speed.
        left_out = {"emulated", "recorded"} if benchmark else set()
        left_out |= {"torch"} if fixture == "runner_beside_torch" else set()
        params = []
        for name in runner_names(config):
            marks = [pytest.mark.npu] if name == "acl" else []
            marks += [pytest.mark.slow] if name in slow else []
            shown = {"acl": "acl-npu", "emulated": "acl-emulated"}.get(name, name)
            if name not in left_out:
                params.append(pytest.param(name, marks=marks, id=f"runner={shown}"))
        metafunc.parametrize(fixture, params)
    if "given_batch" in metafunc.fixturenames:
        sizes = config.getoption("--batch-size") or [None]
        metafunc.parametrize("given_batch", sizes, ids=lambda size: f"batch={size or 'default'}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note what each check of a stage found, for the verdict at the end and for JUnit's XML."""
    report = yield
    marker = item.get_closest_marker("stage")
    if marker is not None and (report.when == "call" or not report.passed):
        error = None if call.excinfo is None else call.excinfo.value
        check = check_of(marker.args[0], item.nodeid, error, report, item.user_properties)
        # As it travels from a worker of xdist.
        setattr(report, CHECK, msgspec.to_builtins(check))
        item.user_properties += properties_of(check)
    return report


class _Collector:
    """Collects the checks of a session, whichever process made them."""

    def __init__(self, config: pytest.Config) -> None:
        self.checks = config.stash[RECORD].checks

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the check that a report brings."""
        if (found := getattr(report, CHECK, None)) is not None:
            self.checks.append(msgspec.convert(found, Check))


@pytest.fixture(scope="session")
def note_measured(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Return a function that adds a line to the summary's list of measured accuracies."""
    return pytestconfig.stash[RECORD].lines.append


@pytest.fixture(scope="session")
def note_evaluation(pytestconfig: pytest.Config) -> Callable[[Evaluation], None]:
    """Return a function that keeps an evaluation for --report-json."""
    keep = pytestconfig.stash[RECORD].keep
    return lambda one: keep(accuracy_of(one), functools.partial(insight_of, one))


@pytest.fixture(scope="session")
def note_parity(pytestconfig: pytest.Config) -> Callable[[Parity], None]:
    """Return a function that keeps how far a runner's heads are from torch's, for the report."""
    return pytestconfig.stash[RECORD].parity.append


@pytest.fixture
def note_figure(
    request: pytest.FixtureRequest,
) -> Callable[[float | None, float | None, str], None]:
    """Return a function that keeps the figure which decides a check, what is allowed, the unit."""

    def note(figure: float | None, tolerance: float | None, unit: str) -> None:
        request.node.user_properties += zip(FIGURES, (figure, tolerance, unit), strict=True)

    return note


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """End with the figures that the accuracy tests measured, and the first broken stage."""
    for title, lines in config.stash[RECORD].sections(asked=_only_artefact(config)).items():
        if lines:
            terminalreporter.section(title)
            for line in lines:
                terminalreporter.write_line(line)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the session as a run to --report-json."""
    config = session.config
    path: Path | None = config.getoption("--report-json")
    if path is None:
        return
    run = config.stash[RECORD].to_run(
        {option: config.getoption(option) for option in PATHS},
        shlex.join(["pytest", *map(str, config.invocation_params.args)]),
        int(session.exitstatus),
        rows_of(config),
    )
    write_run(path, run)
