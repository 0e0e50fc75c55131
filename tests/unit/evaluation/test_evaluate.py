"""effd0.evaluation.evaluate: one evaluation, whole or stopped anywhere, alone or compared."""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from effd0.data import fixture
from effd0.data.coco import load_coco
from effd0.errors import DatasetError, ImageError, OutputError, RunnerError
from effd0.evaluation import engines
from effd0.evaluation import model as choice
from effd0.evaluation.engines import LocalEngine, reference_choice
from effd0.evaluation.evaluate import EvaluationJob, evaluate, loaded, run_of
from effd0.evaluation.model import ModelChoice
from effd0.io import sha256
from effd0.progress import silent
from effd0.results.run import flat
from effd0.spec import ModelSpec
from tests.helpers import SMALL, coco_content, names_in, write_coco
from tests.helpers.onnx_models import head_model, with_foreign_input, with_merged_heads
from tests.helpers.runners import BATCH, FakeRunner, NeighbourRunner, outcome, small_engine

IMAGES = 5


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> NeighbourRunner:
    """The runner that a job opens."""
    runner = NeighbourRunner()
    monkeypatch.setattr(choice, "open_runner", lambda *_: runner)
    # To read the versions of all packages takes longer than all the rest of a small run.
    monkeypatch.setattr(engines, "environment", lambda: {"packages": {"numpy": "1.0"}})
    return runner


class Progress(list[list[Any]]):
    """A display that keeps what it was given: of each stage its name, total and count."""

    @contextlib.contextmanager
    def __call__(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Open a stage of *total* pieces."""
        done: list[int] = []
        yield done.append
        self.append([what, total, sum(done)])


@pytest.fixture
def engine(tmp_path: Path) -> LocalEngine:
    """What runs a file that stands for a model, in batches of two."""
    model = tmp_path / "d0.onnx"
    model.write_bytes(b"a model")
    return small_engine(model)


@pytest.fixture
def job(tmp_path: Path) -> EvaluationJob:
    """A run of five images in three batches, the last of one image."""
    return EvaluationJob(write_coco(tmp_path / "coco", coco_content(IMAGES)), out=tmp_path / "run")


def run(job: EvaluationJob, engine: LocalEngine, **changes: Any) -> list[str]:
    """Run *job* with *changes*; return the lines that it said."""
    said: list[str] = []
    evaluate(replace(job, **changes), engine, say=said.append)
    return said


def test_progress_counts_every_stage(
    runner: NeighbourRunner, job: EvaluationJob, engine: LocalEngine
) -> None:
    """Every image is checked, detected in and counted; the record says what was run."""
    progress = Progress()
    evaluation = evaluate(job, engine, open_progress=progress)
    stages = {what: (total, done) for what, total, done in progress}
    assert stages["checking images"] == stages["detecting"] == (IMAGES, IMAGES)
    assert all(total == done for total, done in stages.values())
    assert runner.fed == [2, 2, 1]
    assert evaluation.metrics.images == evaluation.dataset.total == IMAGES
    assert evaluation.accuracy.settings["batch_size"] == BATCH
    assert evaluation.accuracy.settings["model"] == str(engine.choice.model)
    counts = {name: times.count for name, times in evaluation.accuracy.stages_ms.items()}
    assert counts == {"preprocess": 5, "inference": 3, "postprocess": 5}


def test_images_are_checked_before_the_model_is_opened(
    job: EvaluationJob, engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken picture stops the run before anything is loaded or exported for it."""
    assert job.root is not None
    path = load_coco(job.root).samples[-1].path
    path.write_bytes(path.read_bytes()[:200])
    monkeypatch.setattr(choice, "open_runner", lambda *_: pytest.fail("the model was opened"))
    with pytest.raises(ImageError, match=path.name):
        evaluate(job, engine)


def test_a_run_directory_changes_no_result(
    runner: NeighbourRunner, job: EvaluationJob, engine: LocalEngine, tmp_path: Path
) -> None:
    """Metrics and verdict are those of a run that keeps nothing; the record is the same."""
    alone = evaluate(replace(job, out=None), engine)
    assert names_in(tmp_path) == ["coco", "d0.onnx"]
    kept = evaluate(job, engine)
    assert (kept.metrics, kept.verdict, kept.accuracy.settings) == (
        alone.metrics, alone.verdict, alone.accuracy.settings,
    )  # fmt: skip
    written = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert written == json.loads(json.dumps(flat(run_of(kept, engine))))
    assert runner.fed == [2, 2, 1] * 2


def test_a_run_stopped_at_any_batch_ends_as_the_whole_one(
    runner: NeighbourRunner, job: EvaluationJob, engine: LocalEngine, tmp_path: Path
) -> None:
    """Every file is the same, to the last bit, and no image of a whole batch is run again."""
    run(job, engine, out=tmp_path / "whole")
    expected = outcome(tmp_path / "whole")
    for stop_at in range(3):
        folder = tmp_path / f"stopped-{stop_at}"
        runner.fed.clear()

        def stop(stop_at: int = stop_at) -> None:
            if len(runner.fed) == stop_at:
                raise RunnerError("the device is lost")

        runner.on_infer = stop
        with pytest.raises(RunnerError, match="is lost"):
            run(job, engine, out=folder)
        runner.on_infer = lambda: None
        runner.fed.clear()
        said = run(job, engine, out=folder, resume=True)
        # The detections of a batch are there once the heads of the next are.
        kept = BATCH * max(0, stop_at - 1)
        assert sum(runner.fed) == IMAGES - kept
        assert said == ([f"{folder}: {kept} of 5 images are there"] if kept else [])
        assert outcome(folder) == expected


def test_a_whole_run_is_scored_again_without_the_model(
    runner: NeighbourRunner, job: EvaluationJob, engine: LocalEngine, tmp_path: Path
) -> None:
    """Nothing is run; the threshold may be another, since it only judges."""
    run(job, engine)
    first = outcome(tmp_path / "run")
    runner.fed.clear()
    assert run(job, engine, resume=True) == [f"{tmp_path / 'run'}: 5 of 5 images are there"]
    assert runner.fed == []
    assert outcome(tmp_path / "run") == first
    evaluation = evaluate(replace(job, resume=True, min_map=99.0), engine)
    assert evaluation.verdict.status == "fail"
    assert (evaluation.accuracy.images_per_second, evaluation.accuracy.stages_ms) == (0, {})


@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("d0.onnx", "model_sha256"),
        ("coco/annotations/instances_val2017.json", "annotations_sha256"),
        ("coco/val2017/4.png", "images_sha256"),
    ],
    ids=["model", "annotations", "picture"],
)
def test_another_run_is_not_resumed(
    file: str,
    key: str,
    runner: NeighbourRunner,
    job: EvaluationJob,
    engine: LocalEngine,
    tmp_path: Path,
) -> None:
    """Another model or data set is refused with the difference, and nothing is run."""
    run(job, engine)
    runner.fed.clear()
    with (tmp_path / file).open("ab") as changed:
        changed.write(b"\n")
    with pytest.raises(OutputError, match=rf"{key} was \w{{64}}, but is \w{{64}}; ask for what"):
        run(job, engine, resume=True)
    assert runner.fed == []


@pytest.mark.parametrize(
    ("images", "status"), [(30, "incomplete"), (29, "undecided")], ids=["enough", "too-few"]
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
    job = EvaluationJob(write_coco(tmp_path / "coco", coco_content(images)))
    candidate = ModelChoice(model, spec=SMALL)
    progress = Progress()
    evaluation = evaluate(
        job,
        LocalEngine(candidate),
        LocalEngine(reference_choice(reference, candidate)),
        open_progress=progress,
    )
    assert [sum(runner.fed) for runner in runners] == [images, images]
    assert runners[1].fed[0] == 7
    assert ["reference", images, images] in progress
    against = evaluation.accuracy.against
    assert against is not None
    assert (against.drop.points, against.drop.images) == (0, images)
    assert (against.parity.missing, against.parity.extra, against.max_drop) == (0, 0, 0.2)
    assert against.model_sha256 == sha256(reference) != evaluation.accuracy.model_sha256
    assert evaluation.verdict.status == status
    assert evaluation.accuracy.settings["reference"] == str(reference)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (partial(with_foreign_input, pixels=False, last=True), ", NHWC inputs"),
        (partial(with_foreign_input, pixels=True, last=False), ", uint8 inputs"),
        (partial(with_foreign_input, pixels=True, last=True), ", uint8 inputs, NHWC inputs"),
        (with_merged_heads, ", merged heads"),
    ],
    ids=["planes-last", "pixels", "pixels-planes-last", "merged-heads"],
)
def test_another_form_of_a_model_finds_the_same(
    change: Callable[[Any, ModelSpec], Any], said: str, job: EvaluationJob, tmp_path: Path
) -> None:
    """Whatever layout, pixels or tables it has, detections are the same, and the form is said."""
    found, described = [], []
    for name in ("own", "foreign"):
        content = head_model(SMALL.head_shapes)
        if name == "foreign":
            change(content, SMALL)
        onnx.save(content, str(tmp_path / f"{name}.onnx"))
        engine = small_engine(tmp_path / f"{name}.onnx")
        assert job.root is not None
        dataset = load_coco(job.root)
        with engine.open(dataset, 1, silent) as opened:
            found.append([one for _, one in opened.detect(dataset.samples)])
            described.append(opened.description)
    assert described[1] == described[0] + said
    for own, foreign in zip(*found, strict=True):
        assert len(own) > 0
        for field in ("boxes", "scores", "classes"):
            np.testing.assert_allclose(getattr(foreign, field), getattr(own, field), 1e-4, 1e-3)


def test_the_record_is_the_threshold_of_the_bundled_default_alone() -> None:
    """The drawn scenes have a threshold of their own; anything else has the one given, or none."""
    bundled, own = LocalEngine(ModelChoice()), LocalEngine(ModelChoice(Path("d0.onnx")))
    record = EvaluationJob().threshold(bundled)
    assert record is not None
    assert 0 < 100 * fixture.reference_ap() - record < 1
    others = (EvaluationJob(Path("coco")), EvaluationJob(image_limit=3))
    for job, engine in [*((other, bundled) for other in others), (EvaluationJob(), own)]:
        assert job.threshold(engine) is None
        assert replace(job, min_map=0.0).threshold(engine) == 0.0


def test_only_workers_read_urls() -> None:
    """A data set behind a URL is refused, with the option that reads it."""
    job = EvaluationJob(Path("memory://coco"))
    with (
        pytest.raises(DatasetError, match=r"--root is memory://coco.*how many with --workers"),
        loaded(job, LocalEngine(ModelChoice())),
    ):
        pytest.fail("it was loaded")
