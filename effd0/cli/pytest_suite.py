"""
A session of the suite: options, markers, header, which tests run, the verdict and the run file.

`pytest_plugin` registers this module in sessions that run effd0's suite.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import importlib.util
import inspect
import itertools
import os
import shlex
import shutil
import sys
import time
import warnings
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ..benchmark.measure import rows_of
from ..data import fixture as embedded
from ..data.coco import annotation_path
from ..distributed.pool import Pool, PoolOptions, check_pool
from ..errors import Effd0Error, OptionError, OutputError, refuse
from ..evaluation.model import ArchOptions, ModelChoice
from ..io import external_files, is_stdout, model_sha256
from ..report.markdown import tell_github
from ..results import check, run, suite
from ..results.environment import installed_version
from ..runners.registry import RunnerOptions, opener
from ..spec import D0, D0_MAP, ModelSpec
from ..tensors.results import check_model
from ..timing import let_threads_sleep
from ..types import BACKEND, GATE, SCALE, TESTED
from . import command
from .pytest_plugin import PATHS, is_led_away
from .settings import (
    OPTION_GROUPS,
    OPTIONS,
    TEST_RUNNERS,
    TORCH_DEVICES,
    Settings,
    read_settings,
)  # fmt: skip

#: Where a session keeps what it found.
RECORD: pytest.StashKey[SessionRecord] = pytest.StashKey()
#: The settings that a file gives to a session.
SETTINGS: pytest.StashKey[Settings | None] = pytest.StashKey()
#: Attribute of a report that carries the check of its test.
CHECK = "effd0_check"
#: Status of a check, the gravest first -> that of its stage, in words and color.
SHOWN = {
    "failed": ("FAILED", "red"),
    "undecided": ("undecided", "yellow"),
    "passed": ("passed", "green"),
    "skipped": ("not tested", "light"),
}
#: Those that need --slow where none is asked for by name.
SLOW_RUNNERS = {"openvino", "emulated"}
#: Runners that workers run; the others stay in the session's process.
WITH_WORKERS = ("ort", "openvino", "torch", "acl")
#: Panels of the options that decide what a run says; the next step repeats them, but for these.
DECIDING = (TESTED, GATE, BACKEND, SCALE)
NOT_REPEATED = ("image_limit", "keep_going", "max_slowdown")
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


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options in groups; what is repeatable is a list, empty by default."""
    for title, options in OPTION_GROUPS.items():
        group = parser.getgroup(title, title)
        for one in options:
            how: dict[str, Any] = {"action": "store_true"}
            if one.kind is not bool:
                how = {"action": "append" if one.many else "store", "metavar": one.value}
                how |= {"default": list(one.default) if one.many else one.default}
                how |= {"type": functools.partial(_value_of, one), "choices": one.choices or None}
            group.addoption(one.flag, help=one.help.replace("%", "%%"), **how)


def _value_of(one: command.Option, text: str) -> Any:
    """The value in *text*; raise what argparse reports to the user."""
    try:
        return one.kind(text)
    except ValueError:
        wanted = {int: "a whole number", float: "a number"}.get(one.kind, one.kind.__name__)
        raise argparse.ArgumentTypeError(f"{text!r} is given, but {wanted} is wanted") from None


def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Take from a file of settings what the command line does not give."""
    known = early_config.known_args_namespace
    try:
        early_config.stash[SETTINGS] = found = read_settings(OPTIONS, known.model)
    except Effd0Error as error:
        raise pytest.UsageError(str(error)) from error
    for one in OPTIONS:
        if found and one.name in found.values and getattr(known, one.name) in (one.default, []):
            setattr(early_config.option, one.name, found.values[one.name])


# Behind that of the terminal, which makes its reporter.
@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Register the markers and check the options."""
    # torch and the tests are a million objects that live to the end: looking through them as
    # often as CPython does by default took 8 s of 91 (2026-11-25).
    gc.set_threshold(100_000, 20, 50)
    # Nothing has imported torch yet.  Benchmarks take it as its users do.
    if not any("benchmarks" in argument for argument in config.args):
        let_threads_sleep()
    config.stash[RECORD] = SessionRecord(given_to(config))
    config.pluginmanager.register(config.stash[RECORD])
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")
    settings = config.stash.get(SETTINGS, None)
    try:
        refuse_contradictions(config)
        spec_given(config)
    except (Effd0Error, pytest.UsageError) as error:
        told = settings.blamed(str(error), vars(config.option)) if settings else str(error)
        raise pytest.UsageError(told) from error
    path, reporter = config.getoption("--report-json"), "terminalreporter"
    if path is not None and is_stdout(path):
        config.pluginmanager.unregister(name=reporter)
        config.pluginmanager.register(pytest.TerminalReporter(config, sys.stderr), reporter)
    if is_given(config):
        # A warning is an error in tests of effd0 alone; `pytest_terminal_summary` shows it.
        config.addinivalue_line("filterwarnings", "default")
        # effdet's own, while it is imported, which nobody can mend.
        config.addinivalue_line("filterwarnings", "ignore:.*torch.jit.script.* is deprecated")
        if (terminal := config.pluginmanager.get_plugin(reporter)) is not None:
            terminal.reportchars = terminal.reportchars.replace("w", "")


def refuse_contradictions(config: pytest.Config) -> None:
    """Raise a usage error, or one of effd0's, for options that contradict or led pytest away."""
    given = config.option
    coco, results, parallel = given.coco, given.results, given.workers or given.devices
    files = {one.flag for one in OPTIONS if one.kind is Path}
    words = itertools.pairwise(map(str, config.invocation_params.args))
    apart = " ".join(f"{flag}={path}" for flag, path in words if flag in files)
    alone = ", ".join(sorted(set(given.runner) - set(WITH_WORKERS)))
    recorded_alone = given.runner and ("recorded" in given.runner) != (results is not None)
    wrong = {
        f"pytest looked for its configuration in {config.rootpath}, since it took an option's "
        f"value for a place of tests; write the value after '=': {apart}": (
            apart and is_led_away(config)
        ),
        "--resume is given, but no --out, and only detections of --coco are kept without one, in "
        "pytest's cache; name the folder to resume": given.resume and run_directory(config) is None,
        "--onnx is given, but no compiled --model that was made of it; give the ONNX file under "
        "test as --model": given.onnx and not (given.model or results),
        "--runner=recorded and --results=DIR go together, but one is given without the other": (
            recorded_alone
        ),
        "--weights is given, but it names a set of --checkpoint, which is not": given.weights
        and not given.checkpoint,
        "--image-limit is given, but it limits --coco, which is not": given.image_limit
        and not coco,
        "--results is given with --workers or --devices, but what was recorded is not run; "
        "leave one out": parallel and results,
        "--bins is given with --workers or --devices, but workers prepare inputs by themselves; "
        "leave one out": parallel and given.bins,
        f"--device-id is {given.device_id}, but each worker has a device of its own; name them "
        "with --devices": parallel and given.device_id,
        f"--runner is {alone}, but workers run {', '.join(WITH_WORKERS)}; leave --workers and "
        "--devices out": parallel and alone,
    }
    refuse(wrong, pytest.UsageError)
    own = given.model or results or given.detections
    ModelChoice(own, given.checkpoint).check_photographs("--coco", coco)
    command.check_values(OPTIONS, vars(given))
    for file in filter(None, (given.model, given.onnx)):
        external_files(file)
    if coco and not (listed := annotation_path(coco, given.split)).is_file():
        raise OptionError(
            f"--split is {given.split}, but {listed} does not exist; name a split of --coco"
        )
    if results is not None and given.model is not None:
        check_model(results, given.model)
    if (pool := pool_asked(config)) is not None:
        check_pool(pool, {name: runner_options(config, name) for name in runners_here(config)})
    for name in given.require:
        if reason := absent(name, config):
            raise pytest.UsageError(f"{name} is required (--require {name}), but {reason}")


def spec_given(config: pytest.Config) -> ModelSpec:
    """The spec of what is under test; files that tell its number of classes are read once."""
    given, record = config.option, config.stash[RECORD]
    if record.spec is None:
        options = ArchOptions(given.arch, given.num_classes, given.image_size)
        record.spec = options.spec(given.model, given.onnx, given.checkpoint)
    return record.spec


def least_map(config: pytest.Config) -> float | None:
    """The threshold of mAP, in percent: as given; else the recipe's for a D0 of COCO's classes."""
    given: float | None = config.getoption("--min-map")
    spec = spec_given(config)
    cocos = spec.arch in D0.siblings and spec.num_classes == D0.num_classes
    return D0_MAP if given is None and cocos else given


def run_directory(config: pytest.Config) -> Path | None:
    """Where the gate keeps detections: --out; those of --coco below pytest's cache, if it is on."""
    given: Path | None = config.getoption("--out")
    cache = None if hasattr(config, "workerinput") else getattr(config, "cache", None)
    if given is None and cache is not None and config.getoption("--coco") is not None:
        with contextlib.suppress(OSError):  # a checkout may be read-only
            given = cache.mkdir("effd0")
    return given


def pool_asked(config: pytest.Config) -> Pool | None:
    """The workers that the options ask for; raise `RunnerError` where these contradict."""
    given = config.option
    return PoolOptions(given.workers, given.devices, given.ray_address).pool()


def runner_options(config: pytest.Config, name: str) -> RunnerOptions:
    """What the session's options mean to the runner *name*; those of others are not for it."""
    if name == "acl":
        # Each worker has a device of its own.
        own = pool_asked(config) is not None
        return RunnerOptions(device=None if own else str(config.getoption("--device-id")))
    takes = inspect.signature(opener(name)).parameters.keys() if name in WITH_WORKERS else set()
    known = takes & vars(config.option).keys() & vars(RunnerOptions()).keys()
    of = {one: getattr(config.option, one) for one in known}
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in of.items()}
    return RunnerOptions(**given)


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
        found = path.is_file()
        return f"{path.name} sha256 {model_sha256(path)[:12]}" if found else f"{path} IS MISSING"

    model, weights = config.getoption("--model"), config.getoption("--checkpoint")
    if weights is None and not is_given(config):
        weights = embedded.checkpoint()
    packages = ("torch", "effdet", "onnx", "onnxruntime", "onnxsim", "openvino")
    network, runners = run.Network.of(spec_given(config)), ", ".join(runner_names(config))
    lines = [
        f"effd0 {installed_version('effd0')}: {network}, runners {runners}",
        f"checkpoint: {'none is given' if weights is None else fingerprint(weights)}",
        f"model: {fingerprint(model) if model else 'exported from the checkpoint'}",
        f"images: {config.getoption('--coco') or 'embedded scenes'}",
        "versions: " + ", ".join(f"{name} {installed_version(name)}" for name in packages),
    ]
    if (settings := config.stash.get(SETTINGS, None)) is not None:
        lines.append(f"settings: {settings}")
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
    return None if model and model.suffix == ".om" else "no --model=FILE.om was given"


@functools.cache
def _has_device(kind: str) -> bool:
    """Whether torch sees a ``cuda`` or ``npu`` device, the latter by torch_npu."""
    try:
        importlib.import_module("torch_npu" if kind == "npu" else "torch")
    except ImportError:
        return False
    return bool(getattr(importlib.import_module("torch"), kind).is_available())


def is_given(config: pytest.Config) -> bool:
    """Whether an artefact is given."""
    return any(config.getoption(option) is not None for option in PATHS)


def _only_artefact(config: pytest.Config) -> bool:
    """Whether the run is about an artefact that was given, and not about effd0 itself."""
    return is_given(config) and config.args_source is not pytest.Config.ArgsSource.ARGS


# Marks by the conftest of tests/ come first.
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """
    Put the checks of an artefact in the order of their stages; if one is given, only these run.

    Skip what needs something absent, with the reason.
    """

    def place(item: pytest.Item) -> tuple[int, bool]:
        marker = item.get_closest_marker("stage")
        assert marker is not None, f"{item.nodeid} checks an artefact, but no stage"
        # What needs a run over all images comes last in its stage.
        long = item.get_closest_marker("accuracy") is not None
        return check.STAGES.index(marker.args[0]), long

    checks = [item for item in items if item.get_closest_marker("artefact")]
    others = [item for item in items if not item.get_closest_marker("artefact")]
    if _only_artefact(config):
        config.hook.pytest_deselected(items=others)
        others = []
    stops = is_given(config) and not others and not config.getoption("--keep-going")
    config.stash[RECORD].stops = stops
    if config.pluginmanager.has_plugin("timeout"):
        # All images of a data set take as long as they take.
        for item in checks:
            item.add_marker(pytest.mark.timeout(0))
    items[:] = sorted(checks, key=place) + others
    reasons = {name: absent(name, config) for name in MARKERS}
    for item in items:
        for name, reason in reasons.items():
            if reason and item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=f"needs {name}: {reason}"))


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
        for name in (one for one in runner_names(config) if one not in left_out):
            marks = [pytest.mark.npu] if name == "acl" else []
            marks += [pytest.mark.slow] if name in slow else []
            shown = {"acl": "acl-npu", "emulated": "acl-emulated"}.get(name, name)
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
    marker, config = item.get_closest_marker("stage"), item.config
    if marker is not None and (report.when == "call" or not report.passed):
        error = None if call.excinfo is None else call.excinfo.value
        artefact, name = item.get_closest_marker("artefact"), item.nodeid
        if artefact:  # one name in a clone and in an installed effd0
            name = item.path.name + name[name.index("::") :]
        docstring = item.function.__doc__ if isinstance(item, pytest.Function) else None
        found = suite.check_of(marker.args[0], name, error, report, item.user_properties, docstring)
        # As it travels from a worker of xdist.
        setattr(report, CHECK, msgspec.to_builtins(found))
        told = suite.properties_of(found)
        item.user_properties += [one for one in told if one not in item.user_properties]
        judged = isinstance(error, (AssertionError, Effd0Error)) and str(error)
        quiet = config.option.tbstyle == "auto" and config.option.verbose <= 1
        # Whose artefact fails wants to know what is wrong with it, not how it was looked for.
        if report.failed and judged and quiet and artefact:
            assert call.excinfo is not None
            shown = call.excinfo.getrepr(style="value", chain=False)
            # The short summary has its message from there.
            shown.reprcrash = getattr(report.longrepr, "reprcrash", None)
            report.longrepr = shown
    return report


class SessionRecord(suite.SuiteRecord):
    """Collects the checks of a session, whichever process made them, and says the verdict."""

    #: Whether what comes behind the first broken stage is skipped.
    stops = False

    def __init__(self, given: check.Given | None = None) -> None:
        super().__init__(given=given or {})
        self.warned: dict[str, None] = {}

    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage) -> None:
        """Keep what a library warned of, once."""
        self.warned[" ".join(str(warning_message.message).split())] = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Skip what is behind the first broken stage, whose faults it can only repeat."""
        marker = item.get_closest_marker("stage")
        failed = [check.STAGES.index(c.stage) for c in self.checks if c.status == "failed"]
        if self.stops and marker is not None and failed:
            first, *behind = check.STAGES[min(failed) :]
            if marker.args[0] in behind:
                pytest.skip(f"needs --keep-going: it is behind the broken stage {first}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the check that a report brings."""
        if (found := getattr(report, CHECK, None)) is not None:
            self.checks.append(msgspec.convert(found, check.Check))

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take what a worker of pytest-xdist found beside its checks; one that died has nothing."""
        if packed := getattr(node, "workeroutput", {}).get(CHECK):
            self.unpack(packed)

    # Around pytest's own, which ends with the count of tests: the verdict is the last that is said.
    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None]:
        """End with one line of what was skipped, and the verdict where there is one."""
        yield
        config, status = session.config, int(session.exitstatus)
        terminal = config.pluginmanager.get_plugin("terminalreporter")
        if terminal is not None and not terminal.no_summary:
            if reports := terminal.stats.get("skipped"):
                reasons = [one.longrepr[2] for one in reports if isinstance(one.longrepr, tuple)]
                terminal.write_line(suite.skipped_line(reasons))
            if _only_artefact(config) or any(one.status != "skipped" for one in self.checks):
                terminal.section("verdict")
                for line in self.verdict(status).lines():
                    terminal.write_line(line)
        path, on_github = config.getoption("--report-json"), "GITHUB_STEP_SUMMARY" in os.environ
        if hasattr(config, "workeroutput") or not (path or on_github):
            return
        made = self.to_run(status, rows_of(config))
        try:
            if path is not None:
                run.write_run(path, made)
        except OutputError as error:
            pytest.exit(str(error), returncode=int(pytest.ExitCode.INTERRUPTED))
        if on_github:
            tell_github(made)


def given_to(config: pytest.Config) -> dict[str, Path | str | None]:
    """Option -> the file under test that it names; what else decides the run, as it is typed."""
    given = {option: config.getoption(option) for option in PATHS}
    for one in OPTIONS:
        value = config.getoption(one.flag)
        left_out = one.flag in given or one.name in NOT_REPEATED or value in (one.default, [])
        if one.panel in DECIDING and not left_out:
            texts = [shlex.quote(str(each)) for each in (value if one.many else [value])]
            given[one.flag] = "" if one.kind is bool else f" {one.flag} ".join(texts)
    return given


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Show how far heads were from torch's, and the figures that the accuracy tests measured."""
    record = config.stash[RECORD]
    said = {"warnings of libraries, which decide nothing": list(record.warned)}
    for title, lines in (record.sections() | (said if is_given(config) else {})).items():
        if lines:
            terminalreporter.section(title)
            for line in lines:
                terminalreporter.write_line(line)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """
    Set the exit code, and in a worker of pytest-xdist pack what the main process needs.

    It is 2 where the suite's own errors decide, and 1 where the verdict on an artefact is
    undecided, or with --require=complete not that all stages were tested.
    """
    config, record = session.config, session.config.stash[RECORD]
    if session.exitstatus == pytest.ExitCode.TESTS_FAILED and record.could_not_run:
        session.exitstatus = pytest.ExitCode.INTERRUPTED
    elif session.exitstatus == pytest.ExitCode.OK and is_given(config):
        verdict = record.verdict(0)
        complete = verdict.status == "pass" or "complete" not in config.getoption("--require")
        if verdict.status == "undecided" or not complete:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
    if (output := getattr(config, "workeroutput", None)) is not None:
        wanted = config.getoption("--report-json") or "GITHUB_STEP_SUMMARY" in os.environ
        output[CHECK] = record.pack(drawn=bool(wanted))


class StageLines:
    """Prints a line for each stage in place of a character for each test."""

    def __init__(self) -> None:
        self._stage, self._seconds = "", 0.0
        self._counts: Counter[str] = Counter()

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str]:
        """Count a test, without a character on the terminal."""
        counts = report.when == "call" or not report.passed
        return report.outcome if counts else "", "", ""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Print the line of a stage once all its checks were made; they come in that order."""
        stage = item.get_closest_marker("stage").args[0]  # type: ignore[union-attr]  # all have one
        if stage != self._stage:
            self._print(item.config)
            self._stage = stage
        start = time.perf_counter()
        done = yield
        self._seconds += time.perf_counter() - start
        return done

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count the check that a report brings."""
        if (found := getattr(report, CHECK, None)) is not None:
            self._counts[found["status"]] += 1

    @pytest.hookimpl(tryfirst=True)
    def pytest_internalerror(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Leave a fault to the command line, which writes it down and says so in one line."""
        if isinstance(excinfo.value, Exception):
            raise excinfo.value

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Print the line of the last stage."""
        self._print(session.config)

    def _print(self, config: pytest.Config) -> None:
        terminal: pytest.TerminalReporter = config.pluginmanager.getplugin("terminalreporter")
        found, seconds, self._counts, self._seconds = self._counts, self._seconds, Counter(), 0.0
        if not self._stage:
            return
        word, color = SHOWN[next((one for one in SHOWN if found[one]), "skipped")]
        parts = [f"{found[one]} {one}" for one in SHOWN if found[one]]
        terminal.write(f"{self._stage:<11} ")
        terminal.write(f"{word:<11}", **{color: True})
        terminal.write_line(f" {', '.join(parts):<36} {seconds:6.1f} s")
