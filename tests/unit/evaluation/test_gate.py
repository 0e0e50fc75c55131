"""The accuracy gate: each runner is evaluated once, kept where asked, and only a pass is green."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from effd0.data.coco import load_coco
from effd0.errors import RunnerError
from effd0.evaluation import model as choice
from effd0.evaluation.engines import LocalEngine
from effd0.evaluation.evaluate import Evaluation, EvaluationJob
from effd0.evaluation.run_dir import RECORDS
from effd0.results.check import Broken, Check, Status
from tests.helpers import coco_content, names_in, write_coco
from tests.helpers.runners import NeighbourRunner, small_engine
from tests.suite.gate import Gate, settle

IMAGES = 5
PLACE = "coco-ort-batch2"


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> NeighbourRunner:
    """The runner that the gate opens under any name."""
    runner = NeighbourRunner()
    monkeypatch.setattr(choice, "open_runner", lambda *_: runner)
    return runner


@pytest.fixture
def measured(runner: NeighbourRunner, tmp_path: Path) -> Callable[[str, int | None], Evaluation]:
    """What a gate that keeps its runs measures with a fake backend on five images of noise."""
    del runner
    model = tmp_path / "d0.onnx"
    model.write_bytes(b"a model")
    dataset = load_coco(write_coco(tmp_path / "coco", coco_content(IMAGES)))

    def engine_of(_name: str, size: int | None) -> LocalEngine:
        return replace(small_engine(model), batch_size=size)

    gate = Gate(engine_of, tmp_path / "runs", resume=False, say=str)
    return gate.measure_on("coco", dataset, EvaluationJob())


def test_each_runner_has_a_folder_of_its_own(
    measured: Callable[[str, int | None], Evaluation], tmp_path: Path
) -> None:
    """It is named by images, runner and batch, and holds what ``effd0 evaluate --out`` writes."""
    for name, batch_size in (("ort", 2), ("torch", 2), ("ort", None)):
        measured(name, batch_size)
    assert names_in(tmp_path / "runs") == ["coco-ort", PLACE, "coco-torch-batch2"]
    assert names_in(tmp_path / "runs" / PLACE) == [
        "detections.json", RECORDS, "evaluation.json", "manifest.json",
    ]  # fmt: skip


def test_a_session_resumes_what_it_began_itself(
    measured: Callable[[str, int | None], Evaluation], runner: NeighbourRunner
) -> None:
    """A second test that needs a run which failed once is not told to give another folder."""

    def lose_device() -> None:
        runner.on_infer = lambda: None
        raise RunnerError("the device is lost")

    runner.on_infer = lose_device
    with pytest.raises(RunnerError):
        measured("ort", 2)
    assert len(measured("ort", 2).found) == IMAGES


@pytest.mark.parametrize("required", [False, True], ids=["asked", "required"])
@pytest.mark.parametrize("status", ["failed", "undecided", "skipped"])
def test_only_a_pass_is_green(status: Status, required: bool) -> None:
    """What is undecided is skipped with its reason, or fails where the gate is required."""
    kind = pytest.skip.Exception if status == "undecided" and not required else Broken
    # Both are caught: a skip that was not wanted would skip this test.
    with pytest.raises((AssertionError, pytest.skip.Exception)) as caught:
        settle((Check("gate", "mAP", status, "because", figure=1.0),), required=required)
    assert caught.type is kind
    assert "because" in str(caught.value)
    settle((Check("gate", "mAP", "passed", "because"),), required=required)
