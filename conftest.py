"""
The suite's control panel: markers, header, resources, and the fixtures that all share.

Its options are in `effd0.pytest_options`, so that pytest knows them before it looks for this file.
"""

from __future__ import annotations

import functools
import gc
import importlib.util
import shlex
import shutil
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effd0.ascend.acl_api import acl_session
from effd0.bench.accuracy import read_accuracy
from effd0.bench.session import rows_of
from effd0.data import fixture as embedded
from effd0.data.coco import Dataset, load_coco
from effd0.data.preprocess import preprocess
from effd0.evaluation.evaluate import Evaluation
from effd0.export import verify as build
from effd0.export.to_onnx import ExportSettings, write_simplified
from effd0.io import sha256
from effd0.pytest_options import PATHS, RECORD, TEST_RUNNERS, TORCH_DEVICES, pool_asked
from effd0.report import installed_version
from effd0.runfile import write_run
from effd0.runfile.checks import FIGURES, check_of, properties_of
from effd0.runfile.suite import SuiteRecord
from effd0.runners.base import DetectingRunner, NamedRunner, Runner
from effd0.runners.recorded import RecordedRunner, digest_of
from effd0.runners.registry import RunnerOptions, open_runner
from effd0.spec import SPECS, ModelSpec, spec_for
from effd0.stages import STAGES
from effd0.tensors.results import find_manifest
from effd0.timing import let_threads_sleep
from effd0.types import Tensor, Tensors
from tests.session_workers import accelerator_of, check_workers

MARKERS = {
    "artefact": "checks the artefact under test; the others test effd0 itself",
    "browser": "needs Playwright and a Chromium that it drives",
    "accuracy": "mAP of the artefact under test, held against its reference",
    "coco": "needs a data set and weights of your own: --coco ROOT --checkpoint FILE",
    "gpu": "needs a CUDA device that torch sees",
    "npu": "needs an Ascend NPU that pyACL sees, and an .om: --model FILE.om",
    "torch_npu": "needs an Ascend NPU that torch_npu sees",
    "slow": "takes long; run with --slow",
    "stage(name)": "the stage of the pipeline that a failure points at",
}


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers and refuse options that contradict each other."""
    # torch and the tests are a million objects that live to the end: looking through them as
    # often as CPython does by default took 8 s of 91 (2026-11-25).
    gc.set_threshold(100_000, 20, 50)
    # Nothing has imported torch yet.  Benchmarks take it as its users do.
    if not any("benchmarks" in argument for argument in config.args):
        let_threads_sleep()
    config.stash[RECORD] = SuiteRecord()
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")
    unknown = set(config.getoption("--runner") or ()) - set(TEST_RUNNERS)
    if unknown:
        raise pytest.UsageError(f"--runner is {unknown}, but effd0 knows {', '.join(TEST_RUNNERS)}")
    runners, results = config.getoption("--runner"), config.getoption("--results")
    if runners is not None and ("recorded" in runners) != (results is not None):
        raise pytest.UsageError(
            "--runner=recorded and --results=DIR go together, but one is given without the other"
        )
    if config.getoption("--coco") and not config.getoption("--checkpoint"):
        raise pytest.UsageError(
            "--coco is given without --checkpoint, but the embedded checkpoint knows drawn scenes "
            "only; give --checkpoint d0.pth ('effd0 fetch checkpoint' gets one)"
        )
    if config.getoption("--image-limit") and not config.getoption("--coco"):
        raise pytest.UsageError("--image-limit is given, but it limits --coco, which is not")
    for option in PATHS:
        path: Path | None = config.getoption(option)
        if path is not None and not path.exists():
            raise pytest.UsageError(f"{option} is {path}, which does not exist")
    if config.getoption("--arch") not in SPECS:
        raise pytest.UsageError(f"--arch must be one of {', '.join(SPECS)}")
    _check_workers(config)


def _check_workers(config: pytest.Config) -> None:
    """Refuse workers who could not be what is asked for."""
    if (pool := pool_asked(config)) is not None:
        options_of = functools.partial(_runner_options, config)
        check_workers(pool, accelerator_of(_runners_here(config), options_of), config)


def _runners_here(config: pytest.Config) -> list[str]:
    """The runners of this session that can be opened on this host."""
    return [n for n in _runner_names(config) if n != "acl" or _no_npu(config) is None]


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say what is under test, with fingerprints, and what is absent and why."""
    checkpoint = config.getoption("--checkpoint") or embedded.checkpoint()
    model = config.getoption("--model")
    packages = ("torch", "effdet", "onnx", "onnxruntime", "onnxsim", "openvino")
    runners = ", ".join(_runner_names(config))
    lines = [
        f"effd0 {installed_version('effd0')}: {config.getoption('--arch')}, runners {runners}",
        f"checkpoint: {_fingerprint(checkpoint)}",
        f"model: {_fingerprint(model) if model else 'exported from the checkpoint'}",
        f"images: {config.getoption('--coco') or 'embedded scenes'}",
        "versions: " + ", ".join(f"{name} {installed_version(name)}" for name in packages),
    ]
    if (pool := pool_asked(config)) is not None:
        lines.append(f"workers: {pool}, for the tests of accuracy")
    if _only_artefact(config):
        lines.append("tests: of what is given; to test effd0 itself, give nothing, or name files")
    absent = [f"{name} ({reason})" for name in MARKERS if (reason := _absent(name, config))]
    return [*lines, f"absent: {', '.join(absent) or 'nothing'}"]


def _fingerprint(path: Path) -> str:
    return f"{path.name} sha256 {sha256(path)[:12]}" if path.is_file() else f"{path} IS MISSING"


def _absent(marker: str, config: pytest.Config) -> str | None:
    """Why what *marker* needs is not there, and what would lift it; None if it is there."""
    if marker == "coco" and config.getoption("--coco") is None:
        return "no --coco ROOT was given"
    if marker == "slow" and not config.getoption("--slow"):
        return "no --slow was given"
    if marker == "npu":
        return _no_npu(config)
    if marker == "browser":
        return _no_browser()
    if marker in TORCH_DEVICES and not _has_device(TORCH_DEVICES[marker]):
        return f"torch sees no {TORCH_DEVICES[marker]} device on this host"
    return None


def _no_browser() -> str | None:
    """Why no page can be opened here; None if one can."""
    if importlib.util.find_spec("playwright") is None:
        return "Playwright is not installed; pip install 'effd0[report,browser]'"
    if shutil.which("chromium") is None:
        return "no chromium is on the PATH; apt-get install chromium"
    return None


def _no_npu(config: pytest.Config) -> str | None:
    """Why ACL cannot run a compiled model here; None if it can."""
    if importlib.util.find_spec("acl") is None:
        return "pyACL cannot be imported; source CANN's set_env.sh"
    model: Path | None = config.getoption("--model")
    if model is None or model.suffix != ".om":
        return "no --model=FILE.om was given"
    return None


def _has_device(kind: str) -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    if kind == "npu" and importlib.util.find_spec("torch_npu") is None:
        return False
    return bool(getattr(torch, kind).is_available())


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
    checks = [item for item in items if item.get_closest_marker("artefact")]
    checks.sort(key=lambda item: STAGES.index(_stage_of(item)))
    others = [item for item in items if not item.get_closest_marker("artefact")]
    if _only_artefact(config):
        config.hook.pytest_deselected(items=others)
        others = []
    items[:] = checks + others
    _skip_absent(config, items)


def _stage_of(item: pytest.Item) -> str:
    marker = item.get_closest_marker("stage")
    assert marker is not None, f"{item.nodeid} checks an artefact, but no stage"
    return str(marker.args[0])


def _skip_absent(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for marker in MARKERS:
            name = marker.partition("(")[0]
            reason = _absent(name, config) if item.get_closest_marker(name) else None
            if reason and name not in config.getoption("--require"):
                item.add_marker(pytest.mark.skip(reason=f"needs {name}: {reason}"))


# A hook, and the first: a fixture that is asked for after collection is never made.
@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail a test whose resource was demanded by --require and is not there."""
    reasons = [
        f"{name} is required (--require {name}), but {reason}"
        for name in item.config.getoption("--require")
        if item.get_closest_marker(name) and (reason := _absent(name, item.config))
    ]
    if reasons:
        pytest.fail("; ".join(reasons), pytrace=False)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what asks for a runner's name once for each (``runner_beside_torch``: but for torch)."""
    benchmark = metafunc.function.__name__.startswith("bench_")
    # Whoever names a runner wants it; else, what is beside torch and ONNX Runtime takes its time.
    slow = set() if benchmark or metafunc.config.getoption("--runner") else SLOW_RUNNERS
    for fixture in {"runner_name", "runner_beside_torch"} & set(metafunc.fixturenames):
        # What is emulated, or was recorded, has no speed.
        left_out = {"emulated", "recorded"} if benchmark else set()
        left_out |= {"torch"} if fixture == "runner_beside_torch" else set()
        chosen = [name for name in _runner_names(metafunc.config) if name not in left_out]
        metafunc.parametrize(fixture, [_runner_param(name, slow=name in slow) for name in chosen])


def _runner_names(config: pytest.Config) -> list[str]:
    """The runners of this session: those asked for, or all; what is real is not emulated."""
    given: list[str] | None = config.getoption("--runner")
    if given is None and config.getoption("--results") is not None:
        given = ["recorded"]
    left_out = {"recorded"} if _no_npu(config) else {"recorded", "emulated"}
    return [n for n in TEST_RUNNERS if n not in left_out] if given is None else given


def _runner_param(name: str, *, slow: bool) -> Any:
    """A runner's name with its id and marks."""
    if name == "acl":
        return pytest.param(name, marks=pytest.mark.npu, id="runner=acl-npu")
    marks = [pytest.mark.slow] if slow else []
    shown = "acl-emulated" if name == "emulated" else name
    return pytest.param(name, marks=marks, id=f"runner={shown}")


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
        item.config.stash[RECORD].checks.append(check)
        item.user_properties += properties_of(check)
    return report


@pytest.fixture(scope="session")
def note_measured(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Return a function that adds a line to the summary's list of measured accuracies."""
    return pytestconfig.stash[RECORD].lines.append


@pytest.fixture(scope="session")
def note_evaluation(pytestconfig: pytest.Config) -> Callable[[Evaluation], None]:
    """Return a function that keeps an evaluation for --report-json."""
    return pytestconfig.stash[RECORD].keep


@pytest.fixture(scope="session")
def note_parity(pytestconfig: pytest.Config) -> Callable[[dict[str, Any]], None]:
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
    report: Path | None = config.getoption("--accuracy-report")
    run = config.stash[RECORD].to_run(
        {option: config.getoption(option) for option in PATHS},
        shlex.join(["pytest", *map(str, config.invocation_params.args)]),
        int(session.exitstatus),
        rows_of(config),
        None if report is None else read_accuracy(report),
    )
    write_run(path, run)


@pytest.fixture(scope="session")
def spec(pytestconfig: pytest.Config) -> ModelSpec:
    """The architecture under test."""
    return spec_for(pytestconfig.getoption("--arch"))


@pytest.fixture(scope="session")
def checkpoint(pytestconfig: pytest.Config) -> Path:
    """The weights under test: --checkpoint, or the embedded ones."""
    given: Path | None = pytestconfig.getoption("--checkpoint")
    return embedded.checkpoint() if given is None else given


@pytest.fixture(scope="session")
def onnx_model(
    pytestconfig: pytest.Config,
    checkpoint: Path,
    spec: ModelSpec,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The ONNX model under test: --model, or the checkpoint exported once with a free batch."""
    given: Path | None = pytestconfig.getoption("--model")
    if given is not None and given.suffix != ".om":
        return given
    out = tmp_path_factory.mktemp("model") / "d0.onnx"
    return build.export(checkpoint, out, spec, ExportSettings(batch_size=None)).path


OpenRunner = Callable[[str], Runner]
#: Runners that need --slow where none is asked for by name.
SLOW_RUNNERS = {"openvino", "emulated"}


@pytest.fixture(scope="session")
def emulated_model(onnx_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ONNX model under test, compiled in float32 by the emulated ATC, with four gears."""
    from tests.fakes.emulated import compile_emulated

    folder = tmp_path_factory.mktemp("compiled")
    write_simplified(onnx_model, folder / "sim.onnx")
    return compile_emulated(folder / "sim.onnx", folder / "d0.om", gears=(1, 2, 5, 7))


@pytest.fixture(scope="session")
def acl_kept_open() -> Iterator[None]:
    """ACL, initialised once for all tests: old versions of CANN cannot be a second time."""
    with acl_session():
        yield


#: Runners that an accelerator's host may do without -> the extras that bring them.
COMPARED_WITH = {"torch": "torch,onnx", "openvino": "openvino"}


def _need(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(
            f"needs {package} to compare with: pip install 'effd0[{COMPARED_WITH[package]}]'"
        )


def _runner_options(config: pytest.Config, name: str) -> RunnerOptions:
    """What the session's options mean to the runner *name*; those of others are not for it."""
    if name == "acl":
        # Each worker has a device of its own.
        own = pool_asked(config) is not None
        return RunnerOptions(device=None if own else str(config.getoption("--device-id")))
    threads: int | None = config.getoption("--threads")
    if name == "torch":
        return RunnerOptions(threads=threads, postprocess=config.getoption("--postprocess"))
    if name != "ort":
        return RunnerOptions(threads=threads)
    return RunnerOptions(
        threads=threads,
        provider=config.getoption("--provider"),
        provider_option=tuple(config.getoption("--provider-option")),
        graph_optimization=config.getoption("--graph-optimization"),
    )


@pytest.fixture(scope="session")
def options_of(pytestconfig: pytest.Config) -> Callable[[str], RunnerOptions]:
    """Return what the session's options mean to a runner."""
    return functools.partial(_runner_options, pytestconfig)


@pytest.fixture(scope="session")
def runners_here(pytestconfig: pytest.Config) -> list[str]:
    """The runners of this session that can be opened on this host."""
    return _runners_here(pytestconfig)


@pytest.fixture(scope="session")
def open_under_test(
    checkpoint: Path, spec: ModelSpec, pytestconfig: pytest.Config, request: pytest.FixtureRequest
) -> OpenRunner:
    """Return the runner of a given name for the artefact under test, to be entered."""

    def open_one(name: str) -> Runner:
        inner = open_inner(name)
        # What detects by itself has the spec's names already.
        return inner if isinstance(inner, DetectingRunner) else NamedRunner(inner, spec)

    def open_inner(name: str) -> Runner:
        # What has to be made first is made only for who needs it.
        if name == "acl":
            request.getfixturevalue("acl_kept_open")
        if name in COMPARED_WITH:
            _need(name)
        if name == "emulated":
            from tests.fakes.emulated import EmulatedRunner

            return EmulatedRunner(request.getfixturevalue("emulated_model"))
        if name in ("ort", "openvino"):
            path = request.getfixturevalue("onnx_model")
            return open_runner(name, path, spec, _runner_options(pytestconfig, name))
        if name == "recorded":
            return RecordedRunner(
                pytestconfig.getoption("--results"),
                spec,
                bins=pytestconfig.getoption("--bins"),
                digests=request.getfixturevalue("input_digests"),
            )
        model = pytestconfig.getoption("--model") if name == "acl" else checkpoint
        return open_runner(name, model, spec, _runner_options(pytestconfig, name))

    return open_one


@pytest.fixture(scope="session")
def embedded_dataset(pytestconfig: pytest.Config) -> Dataset:
    """The embedded scenes."""
    dataset = load_coco(embedded.coco_root())
    if pytestconfig.getoption("--coco") is None:
        pytestconfig.stash[RECORD].note_dataset(dataset, None, "")
    return dataset


@pytest.fixture(scope="session")
def dataset_under_test(pytestconfig: pytest.Config, request: pytest.FixtureRequest) -> Dataset:
    """The images of --coco, or the embedded scenes."""
    root: Path | None = pytestconfig.getoption("--coco")
    if root is None:
        embedded_scenes: Dataset = request.getfixturevalue("embedded_dataset")
        return embedded_scenes
    split, limit = pytestconfig.getoption("--split"), pytestconfig.getoption("--image-limit")
    dataset = load_coco(root, split, limit)
    pytestconfig.stash[RECORD].note_dataset(dataset, root, split)
    return dataset


#: Images of the dataset that tensors are compared on.
COMPARED_IMAGES = 5


@pytest.fixture(scope="session")
def images(dataset_under_test: Dataset, spec: ModelSpec) -> Tensor:
    """Network input of the first five images under test, (5, 3, 512, 512)."""
    samples = dataset_under_test.samples[:COMPARED_IMAGES]
    return np.stack([preprocess(sample.path, spec).tensor for sample in samples])


@pytest.fixture(scope="session")
def input_digests(
    pytestconfig: pytest.Config, dataset_under_test: Dataset, spec: ModelSpec
) -> dict[str, str] | None:
    """What recorded results are known by where nobody wrote it down: SHA-256 of each input."""
    if find_manifest(pytestconfig.getoption("--results"), pytestconfig.getoption("--bins")):
        return None
    inputs = ((s.path.stem, preprocess(s.path, spec).tensor) for s in dataset_under_test.samples)
    return {stem: digest_of(tensor) for stem, tensor in inputs}


@pytest.fixture(scope="session")
def torch_heads(open_under_test: OpenRunner, images: Tensor, spec: ModelSpec) -> Iterator[Tensors]:
    """Heads of `images` in torch with the weights under test: the reference of parity."""
    with open_under_test("torch") as runner:
        heads = runner.infer({spec.input_name: images})
    for head in heads.values():
        head.setflags(write=False)  # shared by many tests
    yield heads
    assert all(np.isfinite(head).all() for head in heads.values())
