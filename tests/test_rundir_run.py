"""
Tests for `effd0.evaluation.evaluate` with a run directory: stopped anywhere, it ends as if it had
not been.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from effd0 import report
from effd0.data.coco import load_coco
from effd0.errors import OutputError, ResultError, RunnerError
from effd0.evaluation import model as choice
from effd0.evaluation.evaluate import EvaluationJob, run_evaluation
from effd0.evaluation.model import ModelChoice
from effd0.evaluation.run_dir import RECORDS
from effd0.progress import silent
from effd0.runners.registry import RunnerOptions

from .helpers import SMALL, coco_content, names_in, write_coco
from .rundir_runs import BATCH, NeighbourRunner, outcome, small_job

IMAGES = 5


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> NeighbourRunner:
    """The runner that a job opens."""
    runner = NeighbourRunner()
    monkeypatch.setattr(choice, "open_runner", lambda *_: runner)
    # To read the versions of all packages takes longer than all the rest of a small run.
    monkeypatch.setattr(report, "installed_version", lambda _name: "1.0")
    return runner


@pytest.fixture
def job(tmp_path: Path) -> EvaluationJob:
    """A run of five images in three batches, the last of one image."""
    model = tmp_path / "d0.onnx"
    model.write_bytes(b"a model")
    root = write_coco(tmp_path / "coco", coco_content(IMAGES))
    return small_job(model, root, tmp_path / "run")


def run(job: EvaluationJob, **changes: Any) -> list[str]:
    """Run *job* with *changes*; return what it said."""
    said: list[str] = []
    run_evaluation(replace(job, **changes), silent, said.append)
    return said


def test_a_run_directory_changes_no_result(
    runner: NeighbourRunner, job: EvaluationJob, tmp_path: Path
) -> None:
    """Metrics and verdict are those of a run that keeps nothing; the record is the same."""
    alone = run_evaluation(replace(job, out=None), silent)
    assert names_in(tmp_path) == ["coco", "d0.onnx"]
    kept = run_evaluation(job, silent)
    assert (kept.metrics, kept.verdict, kept.settings) == (
        alone.metrics, alone.verdict, alone.settings,
    )  # fmt: skip
    written = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert written == json.loads(json.dumps(kept.to_json()))
    assert runner.fed == [2, 2, 1] * 2


@pytest.mark.parametrize(
    "error", [RunnerError("the device is lost"), KeyboardInterrupt()],
    ids=["device", "ctrl-c"]
)  # fmt: skip
def test_a_run_stopped_at_any_batch_ends_as_the_whole_one(
    error: BaseException, runner: NeighbourRunner, job: EvaluationJob, tmp_path: Path
) -> None:
    """Every file is the same, to the last bit, and no image of a whole batch is run again."""
    run(job, out=tmp_path / "whole")
    expected = outcome(tmp_path / "whole")
    for stop_at in range(3):
        folder = tmp_path / f"stopped-{stop_at}"
        runner.fed.clear()

        def stop(stop_at: int = stop_at) -> None:
            if len(runner.fed) == stop_at:
                raise error

        runner.on_infer = stop
        with pytest.raises(type(error)):
            run(job, out=folder)
        runner.on_infer = lambda: None
        runner.fed.clear()
        said = run(job, out=folder, resume=True)
        # The detections of a batch are there once the heads of the next are.
        kept = BATCH * max(0, stop_at - 1)
        assert sum(runner.fed) == IMAGES - kept
        assert said == ([f"{folder}: {kept} of 5 images are there"] if kept else [])
        assert outcome(folder) == expected


def test_a_run_cut_inside_a_batch_begins_that_batch_again(
    runner: NeighbourRunner, job: EvaluationJob, tmp_path: Path
) -> None:
    """An image keeps its neighbours, on which its heads depend in this backend."""
    run(job)
    expected = outcome(tmp_path / "run")
    path = tmp_path / "run" / RECORDS
    # Nearly four records of nearly the same length: the fourth is torn, the third has no neighbour.
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 7 // 10])
    runner.fed.clear()
    (line,) = run(job, resume=True)
    assert re.search(r"2 of 5 images are there, \d+ bytes after them cut off$", line)
    assert runner.fed == [2, 1]
    assert outcome(tmp_path / "run") == expected


def test_a_whole_run_is_scored_again_without_the_model(
    runner: NeighbourRunner, job: EvaluationJob, tmp_path: Path
) -> None:
    """Nothing is run; the floor may be another, since it only judges."""
    run(job)
    first = outcome(tmp_path / "run")
    runner.fed.clear()
    assert run(job, resume=True) == [f"{tmp_path / 'run'}: 5 of 5 images are there"]
    assert runner.fed == []
    assert outcome(tmp_path / "run") == first
    evaluation = run_evaluation(replace(job, resume=True, min_map=99.0), silent)
    assert evaluation.verdict.status == "fail"
    assert (evaluation.images_per_second, evaluation.stages) == (0, {})


def test_a_run_that_is_there_is_refused_before_any_work(
    runner: NeighbourRunner, job: EvaluationJob
) -> None:
    """Without resume nothing is read or run; resume without a directory makes no sense."""
    run(job)
    runner.fed.clear()
    with pytest.raises(OutputError, match="continue it with --resume, or give another --out"):
        run(job)
    with pytest.raises(OutputError, match="--resume is given, but no --out; name the run"):
        run(job, out=None, resume=True)
    assert runner.fed == []


def _other_model(job: EvaluationJob) -> EvaluationJob:
    assert job.choice.model is not None
    job.choice.model.write_bytes(b"another model")
    return job


def _other_annotations(job: EvaluationJob) -> EvaluationJob:
    assert job.root is not None
    path = load_coco(job.root).annotation_file
    path.write_text(path.read_text() + "\n")
    return job


def _other_picture(job: EvaluationJob) -> EvaluationJob:
    sample = job.load().samples[3]
    Image.new("RGB", sample.size).save(sample.path)
    return job


def _of_choice(job: EvaluationJob, **changes: Any) -> EvaluationJob:
    return replace(job, choice=dataclasses.replace(job.choice, **changes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(_other_model, r"model_sha256 was \w{64}, but is \w{64}; ask", id="model"),
        pytest.param(
            _other_annotations, r"annotations_sha256 was \w{64}, but is", id="annotations"
        ),
        pytest.param(_other_picture, r"images_sha256 was \w{64}, but is \w{64}; ask", id="picture"),
        pytest.param(
            lambda job: replace(job, image_limit=3),
            "images was 5, but is 3; images_sha256",
            id="limit",
        ),
        pytest.param(
            lambda job: _of_choice(job, spec=replace(SMALL, nms_iou=0.6)),
            r"spec\.nms_iou was 0\.5, but is 0\.6; ask",
            id="spec",
        ),
        pytest.param(
            lambda job: replace(job, batch_size=3),
            r"settings\.batch_size was 2, but is 3; ask for what it was begun with, or give",
            id="batch-size",
        ),
        pytest.param(
            lambda job: _of_choice(job, options=RunnerOptions(threads=3)),
            r"settings\.threads was None, but is 3; ask",
            id="threads",
        ),
    ],
)
def test_another_run_is_not_continued(
    change: Callable[[EvaluationJob], EvaluationJob],
    message: str,
    runner: NeighbourRunner,
    job: EvaluationJob,
) -> None:
    """Another model, data set or setting is refused with the difference, and nothing is run."""
    run(job)
    runner.fed.clear()
    with pytest.raises(ResultError, match=message):
        run(change(job), resume=True)
    assert runner.fed == []


def test_other_software_does_not_continue(
    runner: NeighbourRunner, job: EvaluationJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another version of a package, and another backend, may find something else."""
    run(job)
    monkeypatch.setattr(report, "installed_version", lambda _name: "0.0")
    runner.description = "another"
    message = r"backend was fake, but is another; .*\.packages\.numpy was 1\.0, but is 0\.0"
    with pytest.raises(ResultError, match=message):
        run(job, resume=True)


def test_weights_have_their_fingerprint(
    runner: NeighbourRunner, job: EvaluationJob, tmp_path: Path
) -> None:
    """A checkpoint that was replaced is another run, as a model is."""
    weights = tmp_path / "d0.pth"
    weights.write_bytes(b"weights")
    of_weights = replace(job, choice=ModelChoice(checkpoint=weights, runner="torch", spec=SMALL))
    run(of_weights)
    weights.write_bytes(b"other weights")
    with pytest.raises(ResultError, match=r"checkpoint_sha256 was \w{64}, but is \w{64}; ask"):
        run(of_weights, resume=True)
    assert runner.fed == [2, 2, 1]
