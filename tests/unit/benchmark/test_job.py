"""`effd0 benchmark`: sweeps, scenarios, two builds in turn, and what is refused."""

import json
import re
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest

from effd0.benchmark import measure
from effd0.benchmark.job import detect_batches, load_batches
from effd0.benchmark.measure import NETWORK, OFFLINE, SINGLE_STREAM
from effd0.data.coco import Sample, load_coco
from effd0.data.preprocess import ModelInput
from effd0.detection.heads import split_heads
from effd0.detection.postprocess import Detections, postprocess
from effd0.evaluation.model import ModelChoice
from effd0.io import sha256
from effd0.results.run import TimedRow, read_run
from effd0.spec import SPECS
from effd0.types import Tensors
from tests.helpers import SMALL, assert_one_error, coco_content, effd0, write_coco
from tests.helpers.runners import DeclaringRunner, DeviceRunner, FakeRunner

RUN = ("benchmark", "--model", "d0.onnx", "--root", "coco", "--loop", 10)
REDS = (0, 50, 100)
Runners = dict[str, DeclaringRunner]


@pytest.fixture(autouse=True)
def runners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runners:
    """A working folder with coco and two models; file name -> the fake that stands for it."""
    fakes: Runners = {"d0.onnx": DeclaringRunner(), "old.onnx": DeclaringRunner()}
    monkeypatch.setitem(SPECS, SMALL.arch, SMALL)
    monkeypatch.setattr(measure, "open_runner", lambda _, path, *__: fakes[path.name])
    monkeypatch.setattr(measure, "load_graph", lambda _: None)
    monkeypatch.setattr(measure, "precision_of", lambda _: "fp32")
    monkeypatch.chdir(tmp_path)
    content = coco_content()
    content["categories"] = [{"id": c, "name": f"c{c}"} for c in range(1, 6)]
    write_coco(Path("coco"), content, REDS)
    for name in fakes:
        Path(name).write_bytes(name.encode())
    return fakes


@pytest.fixture
def samples() -> Sequence[Sample]:
    """Three pictures of one red each."""
    return load_coco(Path("coco")).samples


def slow(seconds: float) -> Callable[[], object]:
    """Return what makes a fake take so long."""
    return lambda: time.sleep(seconds)


def timed(*arguments: object, code: int = 0) -> tuple[str, list[TimedRow]]:
    """Run the benchmark with *arguments*; return what it prints and the rows of its run file."""
    outcome = effd0(*RUN, *arguments, "--json", "run.json", "--overwrite")
    assert outcome.code == code, outcome.err
    return outcome.out, read_run(Path("run.json")).latency


def test_batches_are_swept_in_their_order(runners: Runners) -> None:
    """`--batch-size 1 4 2` is three rows of the run file, each fed by batches of that size only."""
    out, rows = timed("--batch-size", 1, 4, 2, "--warmup", 1)
    assert [(one.batch, one.images, one.timed) for one in rows] == [
        (1, 1, NETWORK), (4, 4, NETWORK), (2, 2, NETWORK),
    ]  # fmt: skip
    # One check of the heads and one warm-up beside the ten calls.
    assert runners["d0.onnx"].fed == [1] * 12 + [4] * 12 + [2] * 12
    assert [len(one.samples_ms) for one in rows] == [10, 10, 10]
    assert rows[0].model_sha256 == sha256(Path("d0.onnx"))
    assert (rows[0].runner, rows[0].dataset) == ("ort", "coco val2017")
    assert re.search(r"chip +batch +dataset +mAP % +images/s +p50 ms", out)
    assert re.search(r"Ascend 310P3 +4 +val2017 +33.4 +260.00", out)


def test_the_models_own_batch_is_the_default(runners: Runners) -> None:
    """A model compiled for four is timed at four; given one image it has done one."""
    runners["d0.onnx"] = DeclaringRunner(fixed=4)
    assert [one.batch for one in timed()[1]] == [4]
    (row,) = timed("--batch-size", 1)[1]
    assert (row.batch, row.images) == (1, 1)
    assert_one_error(r"--batch-size is 8, but the model takes 4", *RUN, "--batch-size", 8)


def test_scenarios_time_detections(runners: Runners) -> None:
    """single-stream is an image a query and its 90th percentile; offline is all in one call."""
    out, (row,) = timed("--scenario", "single-stream")
    assert (row.timed, row.images, len(row.samples_ms)) == (SINGLE_STREAM, 1, 10)
    assert set(runners["d0.onnx"].fed) == {1}
    assert f"{row.p90_ms:.2f} ms is the 90th percentile of 10 queries" in out
    _, (row,) = timed("--scenario", "offline", "--batch-size", 2)
    assert (row.timed, row.images, len(row.samples_ms)) == (OFFLINE, 20, 1)


def test_the_devices_own_times_are_steps(runners: Runners) -> None:
    """Uploads stand beside the wall's times, those of the warm-up left out."""
    runners["d0.onnx"] = DeviceRunner()
    out, (row,) = timed()
    assert row.steps["upload"] == [1.0] * 10
    assert re.search(r"input to heads +1 +upload +1\.00", out)


def test_two_builds_are_timed_in_turn(runners: Runners) -> None:
    """Both get the same batches, as often; exit 1 only where ours is surely slower than allowed."""
    runners["old.onnx"].on_infer = slow(0.01)
    out, (row,) = timed("--against", "old.onnx", "--max-slowdown", 5)
    assert runners["d0.onnx"].fed == runners["old.onnx"].fed
    rival = row.rival
    assert rival is not None
    assert (rival.name, len(rival.samples_ms)) == ("old.onnx", 10)
    assert min(rival.samples_ms) > row.p50_ms
    assert "heads differ most in" in out
    runners["d0.onnx"].on_infer, runners["old.onnx"].on_infer = slow(0.01), lambda: None
    timed("--against", "old.onnx", "--max-slowdown", 5, code=1)
    timed("--against", "old.onnx", code=0)


def test_the_map_is_that_of_the_same_model(
    runners: Runners, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mAP of the file's own report is shown; another's is refused before a model is made."""
    figures = {"metrics": {"AP": 0.336}, "images": 100, "images_total": 5000}
    for name in ("d0.onnx", "old.onnx"):
        content = {**figures, "model_sha256": sha256(Path(name))}
        Path(name).with_suffix(".json").write_text(json.dumps(content))
    out, (row,) = timed("--accuracy-report", "d0.json")
    assert re.search(r"1 +coco val2017 +33\.60 ", out)
    assert (row.map, row.notes) == (0.336, ["mAP is of the first 100 of 5000 images"])
    runners.clear()
    message = r"the accuracy report is of model \w{12}, but \w{12} is timed; evaluate"
    assert_one_error(message, *RUN, "--accuracy-report", "old.json")
    Path("d0.pth").write_bytes(b"weights")
    weights = ("--checkpoint", "d0.pth", "--root", "coco")
    with monkeypatch.context() as patch:
        patch.setattr(ModelChoice, "file", None)  # nothing is exported
        assert_one_error(message, "benchmark", *weights, "--accuracy-report", "old.json")
    Path("old.json").write_text("{}")
    message = r"old.json is not an accuracy report \(ValidationError: .* missing .*model_sha256"
    assert_one_error(message, *RUN, "--accuracy-report", "old.json")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--scenario", "single-stream", "--batch-size", 4],
            r"BenchmarkError: --batch-size is 4, but single-stream is one image",
        ),
        (["--scenario", "offline", "--against", "old.onnx"], r"--against is old.onnx, but it is"),
        (["--max-slowdown", 5], r"--max-slowdown is 5, but no --against is given"),
        (["--against", "none.onnx"], r"none.onnx, which does not exist"),
    ],
    ids=["single-stream-of-four", "scenario-against", "slowdown-alone", "no-rival"],
)
def test_contradictions_are_refused(arguments: list[object], message: str) -> None:
    """One message, and nothing is timed."""
    assert_one_error(message, *RUN, *arguments)


def test_heads_with_nan_are_not_timed(runners: Runners) -> None:
    """A broken build is fast; it gets no figure."""
    broken = runners["d0.onnx"]
    infer = broken.infer

    def nan(feed: Tensors) -> Tensors:
        heads = infer(feed)
        heads["class_p3"][0, 0, 0, 0] = float("nan")
        return heads

    broken.infer = nan  # type: ignore[method-assign]  # a build that overflows
    assert_one_error(r"class_p3 holds 1 values that are not finite", *RUN)


def test_detections_are_those_of_each_image(samples: Sequence[Sample]) -> None:
    """Three images in batches of two are two batches, the second filled up by the first image."""
    runner = DeclaringRunner()
    first, second = batches = load_batches(samples, runner, 2, SMALL)
    assert np.array_equal(second.feed["in"][1], first.feed["in"][0])
    assert not np.array_equal(first.feed["in"][0], first.feed["in"][1])
    wanted = [
        postprocess(heads, image.image_scale, image.image_size, SMALL)
        for batch in batches
        for heads, image in zip(
            split_heads(runner.infer(batch.feed), SMALL), batch.images, strict=True
        )
    ]
    found = detect_batches(runner, batches, SMALL)
    assert len(found) == 4
    for one, other in zip(found, wanted, strict=True):
        assert np.array_equal(one.boxes, other.boxes)
        assert np.array_equal(one.classes, other.classes)


class Detecting(FakeRunner):
    """A runner that gives a detection of the class of each image's red level."""

    def detect_stream(self, batches: Iterable[Sequence[ModelInput]]) -> Generator[list[Detections]]:
        """Take pixels, one batch after the other."""
        for images in batches:
            assert {image.tensor.dtype for image in images} == {np.dtype(np.uint8)}
            box, score = np.zeros((1, 4), np.float32), np.ones(1, np.float32)
            levels = [image.tensor[0, 0, 0] // 50 + 1 for image in images]
            yield [Detections(box, score, np.array([level], np.int64)) for level in levels]


def test_a_detecting_runner_is_asked_for_detections(samples: Sequence[Sample]) -> None:
    """It gets pixels, in order, and no heads are asked for."""
    runner = Detecting()
    found = detect_batches(runner, load_batches(samples, runner, 2, SMALL), SMALL)
    assert [int(one.classes[0]) for one in found] == [1, 2, 3, 1]
    assert runner.fed == []
