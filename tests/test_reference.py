"""Tests for `effd0.evaluation.evaluate`: what a model is held against, from option to verdict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from effd0.errors import CheckpointError, Effd0Error, RunnerError
from effd0.evaluation import model as choice
from effd0.evaluation.evaluate import EvaluationJob, reference_choice, run_evaluation
from effd0.evaluation.model import ModelChoice
from effd0.io import sha256
from effd0.runners.registry import RunnerOptions

from .cli_run import assert_one_error, effd0
from .fakes.runner import FakeRunner
from .helpers import SMALL, coco_content, write_coco
from .test_job_run import Progress


@pytest.mark.parametrize(
    ("name", "runner"),
    [("a.onnx", "ort"), ("a.pth", "torch"), ("A.ONNX", "ort"), ("a.safetensors", "torch")],
    ids=["onnx", "checkpoint", "capitals", "safetensors"],
)
def test_a_reference_runs_where_it_belongs(name: str, runner: str, tmp_path: Path) -> None:
    """An ONNX file goes to ONNX Runtime, weights to torch, in the candidate's architecture."""
    path = tmp_path / name
    path.write_bytes(b"any")
    candidate = ModelChoice(spec=SMALL, options=RunnerOptions(threads=3, provider="Other"))
    found = reference_choice(path, candidate)
    assert found is not None
    assert found.checked_runner() == runner
    assert path in (found.model, found.checkpoint)
    assert found.spec == SMALL
    # Threads are the machine's affair; the provider is what is under test.
    assert found.options == RunnerOptions(threads=3)


def test_without_a_file_there_is_no_reference() -> None:
    """Nothing is compared unless it is asked for."""
    assert reference_choice(None, ModelChoice()) is None


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("a.om", RunnerError, r"--reference is a\.om, but an \.onnx file or weights \(\.pth"),
        ("no.onnx", RunnerError, r"no\.onnx does not exist"),
        ("no.pth", CheckpointError, r"no\.pth does not exist"),
    ],
    ids=["other-kind", "no-model", "no-weights"],
)
def test_what_cannot_be_a_reference_is_refused(
    name: str, error: type[Effd0Error], message: str
) -> None:
    """It is said before any image is read."""
    with pytest.raises(error, match=message):
        reference_choice(Path(name), ModelChoice())


@pytest.mark.parametrize(
    ("images", "status"), [(30, "pass"), (29, "undecided")], ids=["enough", "too-few"]
)
def test_the_reference_runs_on_the_same_images(
    images: int, status: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Both see every image, each in its own batches; a model loses nothing against its like."""
    runners = [FakeRunner(fixed=4), FakeRunner(fixed=7)]
    opened = iter(runners)
    monkeypatch.setattr(choice, "open_runner", lambda *_: next(opened))
    model, reference = tmp_path / "a.onnx", tmp_path / "b.onnx"
    model.write_bytes(b"a model")
    reference.write_bytes(b"another")
    root = write_coco(tmp_path / "coco", coco_content(images))
    job = EvaluationJob(ModelChoice(model, spec=SMALL), root, batch_size=4, reference=reference)
    progress = Progress()
    evaluation = run_evaluation(job, progress)
    assert [sum(runner.fed) for runner in runners] == [images, images]
    assert runners[1].fed[0] == 7
    assert ["reference", images, images] in progress.stages
    against = evaluation.against
    assert against is not None
    assert (against.drop.points, against.drop.images) == (0, images)
    assert (against.parity.missing, against.parity.extra, against.max_drop) == (0, 0, 0.2)
    assert against.model_sha256 == sha256(reference) != evaluation.model_sha256
    assert evaluation.verdict.status == status
    assert evaluation.settings["reference"] == str(reference)


def test_a_limit_of_nothing_is_refused(tmp_path: Path) -> None:
    """--max-drop without --reference would hold against nothing."""
    assert_one_error(
        r"--max-drop is 0\.1, but no --reference is given; name what to compare with",
        "evaluate", "--root", tmp_path, "--max-drop", 0.1,
    )  # fmt: skip


def test_a_wrong_reference_is_bad_input() -> None:
    """A reference that cannot run is exit code 2 before anything is run."""
    assert_one_error(r"--reference is .*d0\.om, but an", "evaluate", "--reference", "d0.om")


@pytest.mark.slow
def test_an_export_against_its_checkpoint(
    onnx_model: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """The command runs both, shows how detections agree, and leaves a few images undecided."""
    path = tmp_path / "record.json"
    outcome = effd0(
        "evaluate", "--model", onnx_model, "--reference", checkpoint, "--max-drop", 0.5,
        "--image-limit", 3, "--json", path,
    )  # fmt: skip
    assert outcome.code == 1, outcome.err
    against = json.loads(path.read_text())["against"]
    assert against["max_drop"] == 0.5
    assert against["runner"].startswith("PyTorch ")
    assert against["parity"]["matched"] > 0
    # Of float32 in two backends; measured 2026-11-23 on three scenes: 2.2e-6.
    assert against["parity"]["score_difference"][2] < 1e-3
    assert "reference: PyTorch" in outcome.out
    assert "detections of 3 images matched" in outcome.out
    assert "UNDECIDED  mAP drops by" in outcome.out
