"""Tests for the gate of ``pytest -m accuracy``: what is kept of its runs, and what may pass."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from effd0 import report
from effd0.against import Against
from effd0.data.coco import Dataset, load_coco
from effd0.detection.postprocess import Detections
from effd0.errors import OutputError, ResultError, RunnerError
from effd0.evaluate import evaluate
from effd0.evaluation.evaluate import Detected
from effd0.evaluation.run_dir import RECORDS
from effd0.report import Verdict
from effd0.runners.registry import RunnerOptions
from effd0.spec import D0
from effd0.stages import Broken

from .gate import Gate, against_reference, drop_verdict, settle
from .helpers import SMALL, coco_content, names_in, write_coco
from .measured import Measured
from .rundir_runs import NeighbourRunner, outcome
from .scored import Found, drawn_scenes, jittered

IMAGES = 5
PLACE = "coco-ort-batch2"


@pytest.fixture(autouse=True)
def _quick_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the versions of all packages takes longer than all the rest of a small run."""
    monkeypatch.setattr(report, "installed_version", lambda _name: "1.0")


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Five images of noise."""
    return load_coco(write_coco(tmp_path / "coco", coco_content(IMAGES)))


@pytest.fixture
def runner() -> NeighbourRunner:
    """The runner that the gate opens under any name."""
    return NeighbourRunner()


@pytest.fixture
def said() -> list[str]:
    """What the gate said."""
    return []


@pytest.fixture
def gate(runner: NeighbourRunner, said: list[str], tmp_path: Path) -> Gate:
    """A gate on a fake backend that keeps its runs."""
    model = tmp_path / "d0.onnx"
    model.write_bytes(b"a model")
    return Gate(
        spec=SMALL,
        checkpoint=model,
        file_of=lambda _name: model,
        open_under_test=lambda _name: runner,
        own_model=False,
        out=tmp_path / "runs",
        resume=False,
        options_of=lambda _name: RunnerOptions(),
        say=said.append,
    )


def measure(gate: Gate, dataset: Dataset, name: str = "ort") -> Measured:
    """Measure a runner in batches of two, as a session of its own would."""
    return replace(gate).measure_on("coco", dataset)(name, 2)


def test_each_runner_has_a_folder_of_its_own(gate: Gate, dataset: Dataset, tmp_path: Path) -> None:
    """It is named by images, runner and batch, and holds what ``effd0 evaluate --out`` writes."""
    for name, batch_size in (("ort", 2), ("torch", 2), ("ort", None)):
        gate.measure_on("coco", dataset)(name, batch_size)
    assert names_in(tmp_path / "runs") == ["coco-ort-batch1", PLACE, "coco-torch-batch2"]
    assert names_in(tmp_path / "runs" / PLACE) == [
        "detections.json", RECORDS, "evaluation.json", "manifest.json",
    ]  # fmt: skip


def test_nothing_is_written_without_out(gate: Gate, dataset: Dataset, tmp_path: Path) -> None:
    """A run that is not to be kept leaves no trace, and finds the same."""
    alone = measure(replace(gate, out=None), dataset)
    assert names_in(tmp_path) == ["coco", "d0.onnx"]
    assert alone.evaluation.metrics == measure(gate, dataset).evaluation.metrics


def test_a_runner_is_run_once_for_all_tests(
    gate: Gate, dataset: Dataset, runner: NeighbourRunner
) -> None:
    """Tests that ask for the same figures share them."""
    measured = gate.measure_on("coco", dataset)
    assert measured("ort", 2) is measured("ort", 2)
    assert runner.fed == [2, 2, 1]


def test_a_stopped_run_goes_on_to_the_same_result(
    gate: Gate, dataset: Dataset, runner: NeighbourRunner, said: list[str], tmp_path: Path
) -> None:
    """Every file of the resumed run is as that of a whole one, and what was there is not run."""
    measure(replace(gate, out=tmp_path / "whole"), dataset)
    runner.fed.clear()

    def lose_device() -> None:
        if len(runner.fed) == 2:
            raise RunnerError("the device is lost")

    runner.on_infer = lose_device
    with pytest.raises(RunnerError, match="the device is lost"):
        measure(gate, dataset)
    runner.on_infer = lambda: None
    runner.fed.clear()
    measure(replace(gate, resume=True), dataset)
    assert runner.fed == [2, 1]
    assert outcome(tmp_path / "runs" / PLACE) == outcome(tmp_path / "whole" / PLACE)
    assert f"{tmp_path / 'runs' / PLACE} keeps 2 images; continue with --resume" in said
    assert f"{tmp_path / 'runs' / PLACE}: 2 of 5 images are there" in said


def test_a_session_goes_on_with_what_it_began_itself(
    gate: Gate, dataset: Dataset, runner: NeighbourRunner
) -> None:
    """A second test that needs a run which failed once is not told to give another folder."""

    def lose_device() -> None:
        runner.on_infer = lambda: None
        raise RunnerError("the device is lost")

    runner.on_infer = lose_device
    measured = gate.measure_on("coco", dataset)
    with pytest.raises(RunnerError):
        measured("ort", 2)
    assert measured("ort", 2).run.images == IMAGES


def test_a_run_that_is_there_needs_resume(gate: Gate, dataset: Dataset) -> None:
    """What an earlier session wrote is neither overwritten nor taken for this one's."""
    measure(gate, dataset)
    with pytest.raises(OutputError, match="continue it with --resume, or give another --out"):
        measure(gate, dataset)


def _other_model(gate: Gate, dataset: Dataset) -> Dataset:
    gate.file_of("ort").write_bytes(b"another model")
    return dataset


def _fewer_images(_gate: Gate, dataset: Dataset) -> Dataset:
    return replace(dataset, samples=dataset.samples[:3])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(_other_model, r"model_sha256 was \w{64}, but is \w{64};", id="model"),
        pytest.param(_fewer_images, "images was 5, but is 3;", id="images"),
    ],
)
def test_the_run_of_another_model_is_not_continued(
    change: Callable[[Gate, Dataset], Dataset],
    message: str,
    gate: Gate,
    dataset: Dataset,
    runner: NeighbourRunner,
) -> None:
    """It is refused with the difference shown, and nothing is run."""
    measure(gate, dataset)
    runner.fed.clear()
    other = change(gate, dataset)
    with pytest.raises(ResultError, match=f"is of another run, whose .*{message}"):
        measure(replace(gate, resume=True), other)
    assert runner.fed == []


def test_recorded_results_that_changed_are_another_run(
    gate: Gate, dataset: Dataset, tmp_path: Path
) -> None:
    """A folder of results has the fingerprint of its files' names, sizes and times."""
    folder = tmp_path / "result"
    folder.mkdir()
    (folder / "1_0.bin").write_bytes(b"heads")
    recorded = replace(gate, file_of=lambda _name: folder)
    measure(recorded, dataset, "recorded")
    (folder / "1_0.bin").write_bytes(b"other heads")
    with pytest.raises(ResultError, match="model_sha256 was"):
        measure(replace(recorded, resume=True), dataset, "recorded")


SCENES = drawn_scenes(7, 40)
FOUND = jittered(SCENES, 7)


def run_of(found: Found) -> Detected:
    """Return the run in which a runner *found* this."""
    return Detected(found, len(found), 1.0, {}, "fake", "ab" * 32, 1)


def held(dataset: Dataset, reference: Found, candidate: Found) -> Against:
    """Return what *candidate* lost, of which a fifth of a point is allowed."""
    metrics = evaluate(dataset, reference, D0)
    return against_reference(dataset, run_of(reference), metrics, run_of(candidate), D0, 0.2)


@pytest.mark.parametrize(
    ("kept", "images", "status"),
    [
        pytest.param(1.0, 40, "pass", id="same-detections"),
        pytest.param(0.3, 40, "fail", id="most-are-lost"),
        pytest.param(1.0, 29, "undecided", id="too-few-images"),
    ],
)
def test_the_drop_is_judged_by_its_interval(kept: float, images: int, status: str) -> None:
    """A loss fails, none passes, and a handful of images decide nothing, even if alike."""
    dataset = replace(
        SCENES,
        samples=SCENES.samples[:images],
        annotations=tuple(a for a in SCENES.annotations if a["image_id"] <= images),
        total=images,
    )
    reference = {id_: FOUND[id_] for id_ in dataset.image_ids}
    candidate = {id_: some(found, kept) for id_, found in reference.items()}
    verdict = drop_verdict(held(dataset, reference, candidate), dataset)
    assert verdict.status == status
    # Which detections differ is part of the message, whatever the verdict.
    assert re.search(rf"mAP drops by .*; \d+ detections of {images} images matched", verdict.reason)


def some(found: Detections, share: float) -> Detections:
    """Return the surest *share* of what was found."""
    count = round(share * len(found))
    return Detections(found.boxes[:count], found.scores[:count], found.classes[:count])


def test_a_limited_run_never_passes_its_drop() -> None:
    """Even without any difference: the gate is for all images."""
    limited = replace(SCENES, total=5000)
    assert drop_verdict(held(limited, FOUND, FOUND), limited).status == "undecided"


@pytest.mark.parametrize("required", [False, True], ids=["asked", "required"])
@pytest.mark.parametrize("status", ["fail", "undecided", "not gated"])
def test_only_a_pass_is_green(status: str, required: bool) -> None:
    """What is undecided is skipped with its reason, or fails where the gate is required."""
    kind = pytest.skip.Exception if status == "undecided" and not required else Broken
    # Both are caught: a skip that was not wanted would skip this test.
    with pytest.raises((AssertionError, pytest.skip.Exception)) as caught:
        settle(Verdict(status, "because"), required=required)
    assert caught.type is kind
    assert f"{status}: because" in str(caught.value)
    settle(Verdict("pass", "because"), required=required)
