"""What the checks of an artefact share: which file is under test, and what it is compared with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from effd0.data.coco import Dataset, labelled
from effd0.diagnosis.hypothesis import Diagnosis
from effd0.diagnosis.inputs import diagnose_input_of
from effd0.diagnosis.parity import DiagnoseInput, compare_plain
from effd0.graph.onnx_info import ModelFile, read_model
from effd0.progress import OpenProgress, progress, silent
from effd0.runners.base import Runner, batch_size_of
from effd0.spec import D0, ModelSpec, spec_for
from effd0.tolerances import MAY_ROUND
from effd0.types import Tensor, Tensors

from .fixtures import onnx_given

OpenRunner = Callable[[str], Runner]
HeadsOf = Callable[[str, int], Tensors]
NoteFigure = Callable[[float | None, float | None, str], None]
#: Images from which a run shows its progress.
LONG = 200
CheckStage = Callable[[str, NoteFigure], None]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this folder as a check of the artefact."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.artefact)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests once for each level of the architecture that ask for it by name."""
    if "level" in metafunc.fixturenames:
        levels = spec_for(metafunc.config.getoption("--arch")).levels
        metafunc.parametrize("level", levels, ids="level=p{}".format)


def need_its_images(config: pytest.Config, spec: ModelSpec) -> None:
    """Skip where a model of other classes than COCO's has no images of its own."""
    if config.getoption("--coco") is None and spec.num_classes != D0.num_classes:
        pytest.skip(
            f"needs images of the model's {spec.num_classes} classes, which the embedded scenes do "
            "not show: no --coco ROOT was given"
        )


@pytest.fixture(scope="session")
def scored_spec(
    spec: ModelSpec, dataset_under_test: Dataset, pytestconfig: pytest.Config
) -> ModelSpec:
    """The spec with the category of each class in the images under test."""
    need_its_images(pytestconfig, spec)
    return labelled(spec, dataset_under_test)


@pytest.fixture(scope="session")
def open_progress(pytestconfig: pytest.Config) -> OpenProgress:
    """Return what shows, on the terminal or in a log, how far a long run is, captured or not."""
    capture = pytestconfig.pluginmanager.get_plugin("capturemanager")
    free = contextlib.nullcontext if capture is None else capture.global_and_fixture_disabled

    @contextlib.contextmanager
    def shown(what: str, total: int) -> Iterator[Callable[[int], None]]:
        with free(), (progress if total >= LONG else silent)(what, total) as advance:
            yield advance

    return shown


@pytest.fixture(scope="session")
def onnx_under_test(pytestconfig: pytest.Config, request: pytest.FixtureRequest) -> Path:
    """The ONNX file under test: as given; else, where nothing else is tested, the export."""
    if onnx_given(pytestconfig) is None:
        others = ("--model", "--results", "--bins", "--detections")
        for one in others:
            if pytestconfig.getoption(one) is not None:
                pytest.skip(f"needs the ONNX file that {one} was made of: give it as --onnx")
    path: Path = request.getfixturevalue("onnx_model")
    return path


@pytest.fixture(scope="session")
def model_file(onnx_under_test: Path, spec: ModelSpec) -> ModelFile:
    """What the ONNX file under test says of itself."""
    return read_model(onnx_under_test, spec)


@pytest.fixture(scope="session")
def opened(open_under_test: OpenRunner) -> Iterator[OpenRunner]:
    """Return the open runner of a name; each is opened once."""
    with ExitStack() as stack:
        runners: dict[str, Runner] = {}

        def get(name: str) -> Runner:
            if name not in runners:
                runners[name] = stack.enter_context(open_under_test(name))
            return runners[name]

        yield get


@pytest.fixture(scope="session")
def heads_of(
    opened: OpenRunner, images: Tensor, spec: ModelSpec, request: pytest.FixtureRequest
) -> HeadsOf:
    """Return the heads of the first so many images by a runner; each is computed once."""
    found: dict[tuple[str, int], Tensors] = {}

    def heads(name: str, rows: int) -> Tensors:
        rows = min(rows, len(images))
        fixed = batch_size_of(opened(name).inputs)
        if fixed is not None and rows > fixed:
            pytest.skip(f"--model takes batches of {fixed}: give one that takes {rows}")
        if (name, rows) == ("torch", len(images)):
            return request.getfixturevalue("torch_heads")  # type: ignore[no-any-return]
        if (name, rows) not in found:
            found[name, rows] = opened(name).infer({spec.input_name: images[:rows]})
            for head in found[name, rows].values():
                head.setflags(write=False)  # shared by many tests
        return found[name, rows]

    return heads


@pytest.fixture(scope="session")
def precision_of(request: pytest.FixtureRequest, spec: ModelSpec) -> Callable[[str], str]:
    """Return the precision that a runner may compute in: its model's own."""

    def precision(name: str) -> str:
        if name in MAY_ROUND:
            declared: str | None = request.config.getoption("--declared-precision")
            return declared or "fp16"
        if name not in ("ort", "openvino"):
            return "fp32"
        return read_model(request.getfixturevalue("onnx_model"), spec).precision

    return precision


@pytest.fixture(scope="session")
def diagnose_first_input(
    open_under_test: OpenRunner, dataset_under_test: Dataset, spec: ModelSpec
) -> DiagnoseInput:
    """Return what names the fault of preprocessing that explains heads of the first images."""

    def diagnose(heads: Tensors) -> Diagnosis | None:
        first = {name: head[:1] for name, head in heads.items()}
        with open_under_test("torch") as torch:
            return diagnose_input_of(
                dataset_under_test.samples[0].path,
                first,
                lambda images: torch.infer({spec.input_name: images}),
                spec,
            )

    return diagnose


@pytest.fixture(scope="session")
def check_plain_model(
    model_file: ModelFile,
    checkpoint: Path,
    images: Tensor,
    torch_heads: Tensors,
    spec: ModelSpec,
    diagnose_first_input: DiagnoseInput,
    pytestconfig: pytest.Config,
) -> CheckStage:
    """Return what raises where the ONNX file as it stands differs from torch by a stage's fault."""
    broken, figure = compare_plain(
        model_file,
        checkpoint,
        images,
        torch_heads,
        spec,
        diagnose_first_input,
        pytestconfig.getoption("--weights"),
    )

    def check(stage: str, note_figure: NoteFigure) -> None:
        mine = broken is None or broken.stage == stage
        # A fault of another stage is no figure of this one.
        note_figure(*(figure if mine else (None, None, "")))
        if broken is not None and mine:
            raise broken

    return check
