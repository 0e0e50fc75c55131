"""effd0.evaluation.model: which file is run by which runner."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from effd0.data import fixture as embedded
from effd0.errors import CheckpointError, Effd0Error, RunnerError
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


@pytest.mark.parametrize(
    ("choice", "runner"),
    [
        pytest.param(ModelChoice(), "ort", id="default"),
        pytest.param(ModelChoice(model=MODEL), "ort", id="model"),
        pytest.param(ModelChoice(checkpoint=CHECKPOINT), "ort", id="checkpoint"),
        pytest.param(ModelChoice(checkpoint=CHECKPOINT, runner="torch"), "torch", id="torch"),
        pytest.param(ModelChoice(MODEL, runner="openvino"), "openvino", id="openvino"),
    ],
)
def test_a_choice_names_its_runner(choice: ModelChoice, runner: str) -> None:
    """ONNX Runtime runs whatever is not asked to run elsewhere."""
    assert choice.checked_runner() == runner


#: What contradicts itself -> a choice, and what the error says.
CONTRADICTIONS = {
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
    "precision-in-ort": (
        ModelChoice(options=RunnerOptions(precision="bf16")),
        "--precision is bf16, but --runner ort does not know it; leave it out",
    ),
    "device-in-ort": (
        ModelChoice(options=RunnerOptions(device="cuda")),
        "--device is cuda, but --runner ort does not know it",
    ),
    "provider-in-torch": (
        ModelChoice(runner="torch", options=RunnerOptions(provider="CUDAExecutionProvider")),
        "--provider is CUDAExecutionProvider, but --runner torch does not know it",
    ),
}


@pytest.mark.parametrize(("choice", "message"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_choices_that_contradict_each_other_are_refused(choice: ModelChoice, message: str) -> None:
    """Nothing that was asked for is quietly left aside."""
    with pytest.raises(RunnerError, match=message):
        choice.checked_runner()


@pytest.mark.parametrize(
    ("choice", "error", "message"),
    [
        (ModelChoice(Path("no.onnx")), RunnerError, r"no\.onnx does not exist; make it with"),
        (
            ModelChoice(checkpoint=Path("no.pth")),
            CheckpointError,
            r"no\.pth does not exist; get one with",
        ),
    ],
    ids=["model", "checkpoint"],
)
def test_a_file_that_is_not_there_is_refused(
    choice: ModelChoice, error: type[Effd0Error], message: str
) -> None:
    """A path that leads nowhere is told before any image is read."""
    with pytest.raises(error, match=message):
        choice.checked_runner()


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """What was asked to be exported; nothing is."""
    asked: list[tuple[object, ...]] = []

    @contextlib.contextmanager
    def exported(*given: object) -> Iterator[Path]:
        asked.append(given)
        yield Path("exported.onnx")

    monkeypatch.setattr(build, "exported", exported)
    return asked


@pytest.mark.parametrize(
    ("choice", "file"),
    [
        pytest.param(ModelChoice(MODEL), MODEL, id="model"),
        pytest.param(
            ModelChoice(checkpoint=CHECKPOINT, runner="torch"), CHECKPOINT, id="checkpoint"
        ),
        pytest.param(ModelChoice(runner="torch"), embedded.checkpoint(), id="embedded"),
    ],
)
def test_a_file_that_can_be_run_is_run_as_it_is(
    choice: ModelChoice, file: Path, exports: list[object]
) -> None:
    """A model goes to ONNX Runtime and a checkpoint to torch; nothing is exported."""
    with choice.file() as path:
        assert path == file
    assert exports == []


@pytest.mark.parametrize(
    ("checkpoint", "source"),
    [(None, embedded.checkpoint()), (CHECKPOINT, CHECKPOINT)],
    ids=["embedded", "given"],
)
@pytest.mark.parametrize(
    ("runner", "options", "asked", "form"),
    [
        pytest.param(None, RunnerOptions(), None, (1, ORT_EDITS), id="default"),
        pytest.param("ort", RunnerOptions(), 8, (8, ORT_EDITS), id="batch=8"),
        pytest.param("ort", RunnerOptions(provider="CUDA"), 8, (None, ()), id="other-provider"),
        pytest.param("openvino", RunnerOptions(), 8, (None, ()), id="openvino"),
    ],
)
def test_a_checkpoint_for_a_runner_of_onnx_is_exported(
    checkpoint: Path | None,
    source: Path,
    runner: str | None,
    options: RunnerOptions,
    asked: int | None,
    form: tuple[object, ...],
    exports: list[object],
) -> None:
    """The weights given, or the embedded ones; in its fastest form for ONNX Runtime on a CPU."""
    spec = replace(D0, arch="efficientdet_d0")
    choice = ModelChoice(checkpoint=checkpoint, runner=runner, spec=spec, options=options)
    with choice.file(asked) as path:
        assert path == Path("exported.onnx")
    assert exports == [(source, spec, *form)]
