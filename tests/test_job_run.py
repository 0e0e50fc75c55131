"""
Tests for `effd0.evaluation.evaluate.run_evaluation`: the stages, their order, and what they are
told.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from effd0.data.coco import load_coco
from effd0.errors import ImageError
from effd0.evaluation import model as choice
from effd0.evaluation.evaluate import EvaluationJob, run_evaluation
from effd0.evaluation.model import ModelChoice

from .fakes.runner import FakeRunner
from .helpers import SMALL, coco_content, write_coco


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file that stands for a model."""
    path = tmp_path / "d0.onnx"
    path.write_bytes(b"a model")
    return path


class Progress:
    """A display that keeps what it was told."""

    def __init__(self) -> None:
        self.stages: list[list[object]] = []

    @contextlib.contextmanager
    def __call__(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Open a stage of *total* pieces."""
        stage: list[object] = [what, total, 0]
        self.stages.append(stage)

        def advance(count: int) -> None:
            assert isinstance(stage[2], int)
            stage[2] += count

        yield advance


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRunner:
    """The runner that a job opens, of batch size four."""
    runner = FakeRunner(fixed=4)
    monkeypatch.setattr(choice, "open_runner", lambda *_: runner)
    return runner


def test_a_run_is_told_stage_by_stage(fake: FakeRunner, model: Path, tmp_path: Path) -> None:
    """Every image is checked, detected in and counted; the model's own batch size is used."""
    root = write_coco(tmp_path / "coco", coco_content(6))
    progress = Progress()
    choice = ModelChoice(model, spec=SMALL)
    evaluation = run_evaluation(EvaluationJob(choice, root), progress)
    stages = {what: (total, done) for what, total, done in progress.stages}
    assert stages["checking images"] == stages["detecting"] == (6, 6)
    assert all(total == done for total, done in stages.values())
    assert fake.fed == [4, 2]
    assert evaluation.metrics.images == evaluation.total_images == 6
    assert evaluation.settings["batch_size"] == 4
    assert evaluation.settings["model"] == str(model)
    assert {name: len(times.samples_ms) for name, times in evaluation.stages.items()} == {
        "preprocess": 6,
        "inference": 2,
        "postprocess": 6,
    }


def test_images_are_checked_before_the_model_is_opened(
    model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A broken picture stops the run before anything is loaded or exported for it."""
    root = write_coco(tmp_path / "coco")
    path = load_coco(root).samples[-1].path
    path.write_bytes(path.read_bytes()[:200])
    monkeypatch.setattr(choice, "open_runner", lambda *_: pytest.fail("the model was opened"))
    with pytest.raises(ImageError, match=path.name):
        run_evaluation(EvaluationJob(ModelChoice(model), root), Progress())


@pytest.mark.parametrize("given", [False, True], ids=["alone", "with-reference"])
def test_insight_is_made_where_it_is_asked_for(
    given: bool, monkeypatch: pytest.MonkeyPatch, model: Path, tmp_path: Path
) -> None:
    """It is of what was found, and of what the reference found; the record leaves it out."""
    root = write_coco(tmp_path / "coco", coco_content(3))
    other = tmp_path / "other.onnx"
    other.write_bytes(b"another model")
    monkeypatch.setattr(choice, "open_runner", lambda *_: FakeRunner(fixed=4))
    job = EvaluationJob(
        ModelChoice(model, spec=SMALL), root, insight=True, reference=other if given else None
    )
    evaluation = run_evaluation(job, Progress())
    assert evaluation.insight is not None
    scores = evaluation.insight["scores"]
    assert sum(scores["candidate"]) == evaluation.metrics.detections > 0
    assert scores["reference"] == (scores["candidate"] if given else None)
    assert len(evaluation.insight["gallery"]) == 3
    assert "insight" not in evaluation.to_json()
    assert run_evaluation(replace(job, insight=False), Progress()).insight is None
