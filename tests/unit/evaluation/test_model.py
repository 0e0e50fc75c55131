"""effd0.evaluation.model: which file is run by which runner."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from effd0.data import fixture as embedded
from effd0.errors import CheckpointError, RunnerError
from effd0.evaluation.model import ModelChoice
from effd0.export import verify as build
from effd0.graph.rewrites import ORT_EDITS
from effd0.runners.registry import RunnerOptions
from effd0.spec import D0

MODEL, CHECKPOINT = Path("d0.onnx"), Path("d0.pth")


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two files of which this module speaks, in the working folder."""
    monkeypatch.chdir(tmp_path)
    MODEL.write_bytes(b"a model")
    CHECKPOINT.write_bytes(b"weights")


#: What contradicts itself or is not there -> a choice, and what the error says.
REFUSED = {
    "unknown": (
        ModelChoice(runner="tpu"),
        "--runner is 'tpu', but effd0 knows ort, openvino, torch",
    ),
    "model-and-checkpoint": (
        ModelChoice(MODEL, CHECKPOINT),
        "both --model and --checkpoint are given, but one runs; leave one out",
    ),
    "torch-with-model": (
        ModelChoice(MODEL, runner="torch"),
        r"--runner torch takes a checkpoint, but --model d0\.onnx is given; use --checkpoint",
    ),
    "acl-without-model": (ModelChoice(runner="acl"), "takes an .om model, but no --model is given"),
    "om-in-ort": (ModelChoice(Path("d0.om"), runner="ort"), r"d0\.om is compiled for an NPU; use"),
    "no-model": (ModelChoice(Path("no.onnx")), r"no\.onnx does not exist; make it with"),
}


@pytest.mark.parametrize(("choice", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_meant_is_refused(choice: ModelChoice, message: str) -> None:
    """Nothing that was asked for is quietly left aside, and nothing is read before that."""
    with pytest.raises((RunnerError, CheckpointError), match=message):
        choice.checked_runner()


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """What was asked to be exported; nothing is."""
    asked: list[tuple[object, ...]] = []

    @contextlib.contextmanager
    def exported(*given: object, cached: bool) -> Iterator[Path]:
        asked.append((*given, cached))
        yield Path("exported.onnx")

    monkeypatch.setattr(build, "exported", exported)
    return asked


@pytest.mark.parametrize(
    ("choice", "runner", "file"),
    [
        pytest.param(ModelChoice(MODEL), "ort", MODEL, id="model"),
        pytest.param(ModelChoice(MODEL, runner="openvino"), "openvino", MODEL, id="openvino"),
        pytest.param(
            ModelChoice(checkpoint=CHECKPOINT, runner="torch"), "torch", CHECKPOINT, id="torch"
        ),
        pytest.param(ModelChoice(runner="torch"), "torch", embedded.checkpoint(), id="embedded"),
    ],
)
def test_a_file_that_can_be_run_is_run_as_it_is(
    choice: ModelChoice, runner: str, file: Path, exports: list[object]
) -> None:
    """A model goes to ONNX Runtime and a checkpoint to torch; nothing is exported."""
    assert choice.checked_runner() == runner
    with choice.file() as path:
        assert path == file
    assert exports == []


@pytest.mark.parametrize(
    ("choice", "asked", "form"),
    [
        pytest.param(ModelChoice(), None, (1, ORT_EDITS), id="default"),
        pytest.param(ModelChoice(None, CHECKPOINT, "ort"), 8, (8, ORT_EDITS), id="batch=8"),
        pytest.param(
            ModelChoice(options=RunnerOptions(provider="CUDA")), 8, (None, ()), id="other-provider"
        ),
        pytest.param(ModelChoice(None, CHECKPOINT, "openvino"), 8, (None, ()), id="openvino"),
        pytest.param(ModelChoice(cache=False), None, (1, ORT_EDITS), id="no-cache"),
    ],
)
def test_a_checkpoint_for_a_runner_of_onnx_is_exported(
    choice: ModelChoice, asked: int | None, form: tuple[object, ...], exports: list[object]
) -> None:
    """The weights given, or the embedded ones; in its fastest form for ONNX Runtime on a CPU."""
    source = embedded.checkpoint() if choice.checkpoint is None else CHECKPOINT
    with choice.file(asked) as path:
        assert path == Path("exported.onnx")
    assert exports == [(source, D0, *form, None, choice.cache)]
