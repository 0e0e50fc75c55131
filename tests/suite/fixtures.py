"""
Fixtures that tests and benchmarks share: what is under test, opened by each runner.

Options, markers, skips and the verdict are those of `effd0.cli.pytest_suite`.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from effd0.ascend.acl_api import acl_session
from effd0.cli.pytest_plugin import PATHS
from effd0.cli.pytest_suite import RECORD, runner_options, spec_given
from effd0.data import fixture as embedded
from effd0.data.coco import Dataset, load_coco
from effd0.data.preprocess import preprocess
from effd0.errors import Effd0Error
from effd0.export import verify as build
from effd0.export.to_onnx import ExportSettings, write_simplified
from effd0.graph.onnx_info import read_model
from effd0.results.suite import FIGURES, SuiteRecord
from effd0.runners.base import DetectingRunner, NamedRunner, Runner
from effd0.runners.recorded import RecordedRunner, digest_of
from effd0.runners.registry import open_runner
from effd0.spec import ModelSpec
from effd0.tensors.inputs import find_manifest
from effd0.types import Tensor, Tensors

OpenRunner = Callable[[str], Runner]
#: Runners that an accelerator's host may do without -> the extras that bring them.
COMPARED_WITH = {"torch": "torch,onnx", "openvino": "openvino"}
#: Images of the dataset that tensors are compared on.
COMPARED_IMAGES = 5


@pytest.fixture(scope="session")
def session_record(pytestconfig: pytest.Config) -> SuiteRecord:
    """What the session found: its summary and its run file are made of it."""
    return pytestconfig.stash[RECORD]


@pytest.fixture
def note_figure(
    request: pytest.FixtureRequest,
) -> Callable[[float | None, float | None, str], None]:
    """Return a function that keeps the figure which decides a check, what is allowed, the unit."""

    def note(figure: float | None, tolerance: float | None, unit: str) -> None:
        request.node.user_properties += zip(FIGURES, (figure, tolerance, unit), strict=True)

    return note


@pytest.fixture(scope="session")
def spec(pytestconfig: pytest.Config) -> ModelSpec:
    """The architecture under test; which categories its classes are is for whoever scores."""
    return spec_given(pytestconfig)


@pytest.fixture(scope="session")
def checkpoint(pytestconfig: pytest.Config) -> Path:
    """The weights under test: --checkpoint, or the embedded ones where the artefact is of these."""
    given: Path | None = pytestconfig.getoption("--checkpoint")
    if given is not None:
        return given
    named = next((one for one in PATHS if pytestconfig.getoption(one) is not None), None)
    if named in ("--model", "--onnx") and (path := onnx_given(pytestconfig)) is not None:
        with contextlib.suppress(Effd0Error):  # the checks of stage export say what is wrong
            origin = read_model(path, spec_given(pytestconfig)).origin
            if origin.get("checkpoint_sha256") == embedded.reference()["checkpoint_sha256"]:
                named = None
    if named is not None:
        pytest.skip(f"needs the weights that {named} is of: no --checkpoint FILE was given")
    return embedded.checkpoint()


def onnx_given(config: pytest.Config) -> Path | None:
    """The ONNX file of --onnx or --model."""
    onnx: Path | None = config.getoption("--onnx")
    model: Path | None = config.getoption("--model")
    return onnx if onnx is not None or model is None or model.suffix == ".om" else model


@pytest.fixture(scope="session")
def onnx_model(
    pytestconfig: pytest.Config,
    request: pytest.FixtureRequest,
    spec: ModelSpec,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The ONNX model under test: as given, or the checkpoint exported once with a free batch."""
    if (given := onnx_given(pytestconfig)) is not None:
        return given
    out, weights = (
        tmp_path_factory.mktemp("model") / "d0.onnx",
        request.getfixturevalue("checkpoint"),
    )
    settings = ExportSettings(batch_size=None, weights=pytestconfig.getoption("--weights"))
    return build.export_onnx(weights, out, spec, settings).path


@pytest.fixture(scope="session")
def emulated_model(
    onnx_model: Path, spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The model under test, compiled in float32 by the emulated ATC; a free batch has gears."""
    from tests.emulator.tools import compile_emulated

    folder = tmp_path_factory.mktemp("compiled")
    write_simplified(onnx_model, folder / "sim.onnx")
    gears = (1, 2, 5, 8) if read_model(onnx_model, spec).batch is None else ()
    return compile_emulated(folder / "sim.onnx", folder / "d0.om", spec, gears=gears)


@pytest.fixture(scope="session")
def acl_kept_open() -> Iterator[None]:
    """ACL, initialised once for all tests: old versions of CANN cannot be a second time."""
    with acl_session():
        yield


@pytest.fixture(scope="session")
def open_under_test(spec: ModelSpec, request: pytest.FixtureRequest) -> OpenRunner:
    """Return the runner of a given name for the artefact under test, to be entered."""
    get, option = request.getfixturevalue, request.config.getoption

    def open_one(name: str) -> Runner:
        # What has to be made first is made only for who needs it.
        if name in COMPARED_WITH and importlib.util.find_spec(name) is None:
            pytest.skip(f"needs {name} to compare with: pip install 'effd0[{COMPARED_WITH[name]}]'")
        inner: Runner
        if name == "emulated":
            from tests.emulator.tools import EmulatedRunner

            inner = EmulatedRunner(get("emulated_model"))
        elif name == "recorded":
            results, bins = option("--results"), option("--bins")
            digests = None
            if find_manifest(results, bins) is None:
                # What results are known by where nobody wrote it down: SHA-256 of each input.
                inputs = {one.path.stem: one.path for one in get("dataset_under_test").samples}
                digests = {
                    stem: digest_of(preprocess(path, spec).tensor) for stem, path in inputs.items()
                }
            inner = RecordedRunner(results, spec, bins=bins, digests=digests)
        else:
            if name == "acl":
                get("acl_kept_open")
            own = {"torch": "checkpoint"}.get(name, "onnx_model")
            path = option("--model") if name == "acl" else get(own)
            inner = open_runner(name, path, spec, runner_options(request.config, name))
        # What detects by itself has the spec's names already.
        return inner if isinstance(inner, DetectingRunner) else NamedRunner(inner, spec)

    return open_one


@pytest.fixture(scope="session")
def embedded_dataset(pytestconfig: pytest.Config) -> Dataset:
    """The embedded scenes."""
    dataset = load_coco(embedded.coco_root())
    if pytestconfig.getoption("--coco") is None:
        pytestconfig.stash[RECORD].note_dataset(dataset, None, "", release_set=False)
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
    named = pytestconfig.getoption("--release-set") and not dataset.limited
    release_set = named or dataset.is_val2017
    pytestconfig.stash[RECORD].note_dataset(dataset, root, split, release_set=release_set)
    return dataset


@pytest.fixture(scope="session")
def images(dataset_under_test: Dataset, spec: ModelSpec) -> Tensor:
    """Network input of the first five images under test, (5, 3, rows, columns)."""
    samples = dataset_under_test.samples[:COMPARED_IMAGES]
    return np.stack([preprocess(sample.path, spec).tensor for sample in samples])


@pytest.fixture(scope="session")
def torch_heads(open_under_test: OpenRunner, images: Tensor, spec: ModelSpec) -> Iterator[Tensors]:
    """Heads of `images` in torch with the weights under test: the reference of parity."""
    with open_under_test("torch") as runner:
        heads = runner.infer({spec.input_name: images})
    for head in heads.values():
        head.setflags(write=False)  # shared by many tests
    yield heads
    assert all(np.isfinite(head).all() for head in heads.values())
