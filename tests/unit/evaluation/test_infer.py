"""
Tests for `effd0.evaluation.infer`: every file is run once, in order, and its own outputs are
kept.
"""

import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effd0.data.coco import load_coco
from effd0.errors import FeedError, ResultError, RunnerError
from effd0.evaluation.engines import LocalEngine
from effd0.evaluation.infer import InferJob, Performance, infer_files, run_infer_job, together
from effd0.evaluation.model import ModelChoice
from effd0.progress import silent
from effd0.runners.base import TensorInfo
from effd0.tensors.inputs import InputFiles, open_inputs
from effd0.tensors.results import open_results
from effd0.tensors.writer import ResultWriter, results_whole
from effd0.types import Tensors
from tests.helpers import SMALL, coco_content, names_in, write_coco
from tests.helpers.results import write_bins
from tests.helpers.runners import ORDER, DeclaringRunner, DeviceRunner

#: Red levels of seven images; the fake runner answers with the class of the red level.
REDS = (0, 50, 100, 150, 200, 50, 100)
STEMS = [str(n) for n in range(1, 8)]
FLOAT, UINT8 = np.dtype(np.float32), np.dtype(np.uint8)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> InputFiles:
    """Inputs of seven images that the fake runner tells apart."""
    place = tmp_path_factory.mktemp("inputs")
    root = write_coco(place / "coco", coco_content(7), REDS)
    return open_inputs(write_bins(place / "bins", load_coco(root)), SMALL)


def run(
    runner: DeclaringRunner, inputs: InputFiles, folder: Path, outfmt: str = "BIN", **settings: Any
) -> Any:
    """Run *inputs* into *folder*; return the performance."""
    with results_whole(folder, outfmt, overwrite=False) as writer:
        performance = infer_files(runner, inputs, writer, InferJob(**settings))
        writer.close({}, inputs.manifest)
    return performance


def classes_of(folder: Path, stems: Sequence[str] = STEMS) -> list[int]:
    """Return the class that the results of each image say, as its red level."""
    results = open_results(folder, SMALL, stems)
    tops = [results.heads(stem)["class_p7"][0, :, 0, 0].argmax() for stem in stems]
    return [50 * int(top) for top in tops]


@pytest.mark.parametrize(
    ("runner", "batch_size", "outfmt"),
    [
        pytest.param(DeclaringRunner(), 1, "BIN", id="batch=1"),
        pytest.param(DeclaringRunner(), 3, "NPY", id="batch=3-npy"),
        pytest.param(DeclaringRunner(fixed=4), 2, "BIN", id="padded"),
        pytest.param(DeviceRunner(fixed=4), None, "BIN", id="streaming"),
        pytest.param(DeviceRunner(fixed=7), None, "NPY", id="streaming-all"),
    ],
)
def test_each_image_has_its_own_results(
    runner: DeclaringRunner, batch_size: int | None, outfmt: str, inputs: InputFiles, tmp_path: Path
) -> None:
    """Whatever the batch, ten files an image, and none for the rows that only filled a batch."""
    run(runner, inputs, tmp_path / "result", outfmt, batch_size=batch_size)
    wanted = {f"{stem}_{i}.{outfmt.lower()}" for stem in STEMS for i in range(10)}
    assert set(names_in(tmp_path / "result")) == wanted
    assert classes_of(tmp_path / "result") == list(REDS)


def test_files_are_numbered_in_the_runners_order(inputs: InputFiles, tmp_path: Path) -> None:
    """File i holds the i-th output that the runner declares, float32 in C order."""
    runner = DeclaringRunner()
    run(runner, inputs, tmp_path / "result")
    feed = {"in": np.stack([inputs.read(inputs.files[4])])}
    heads = runner.infer(feed)
    for i, name in enumerate(ORDER):
        raw = (tmp_path / "result" / f"5_{i}.bin").read_bytes()
        assert raw == heads[name].astype("<f4").tobytes(), name


class FourClasses(DeclaringRunner):
    """It gives its boxes first, and heads of 4 classes, of which each value is its place."""

    spec = replace(SMALL, num_classes=4)

    def __init__(self) -> None:
        super().__init__()
        shapes = self.spec.head_shapes
        self.outputs = [TensorInfo(name, (None, *shapes[name]), FLOAT) for name in ORDER]

    def infer(self, feed: Tensors) -> Tensors:
        """Return the heads, one row for each image."""
        rows = len(feed["in"])
        shapes = enumerate(self.spec.head_shapes.items())
        return {name: np.full((rows, *shape), n, np.float32) for n, (name, shape) in shapes}


@pytest.mark.parametrize("outfmt", ["BIN", "NPY"])
def test_heads_of_one_size_are_known_by_the_summary(
    outfmt: str, inputs: InputFiles, tmp_path: Path
) -> None:
    """Which output is which head, the summary says where neither size nor shape would."""
    runner, model = FourClasses(), tmp_path / "d0.onnx"
    model.write_bytes(b"a model")
    job = InferJob(inputs.files[0].parent, tmp_path / "result", batch_size=3, outfmt=outfmt)
    choice = ModelChoice(model, spec=runner.spec)
    run_infer_job(job, LocalEngine(choice, None, runner), silent)
    results = open_results(tmp_path / "result", runner.spec, STEMS)
    for n, (name, head) in enumerate(results.heads("5").items()):
        assert np.array_equal(head, np.full_like(head, n)), name


def test_a_batch_is_run_as_often_as_asked(inputs: InputFiles, tmp_path: Path) -> None:
    """Warm-up runs come before and are not counted; each loop is; files are written once."""
    runner = DeclaringRunner()
    performance = run(runner, inputs, tmp_path / "result", batch_size=4, loop=3, warmup=2)
    assert runner.fed == [4, 4, 4, 4, 4, 3, 3, 3]
    assert performance.images == 21
    assert performance.rows == (4, 4, 4, 3, 3, 3)
    assert len(performance.compute_ms) == 6
    assert classes_of(tmp_path / "result") == list(REDS)


def slowly(monkeypatch: pytest.MonkeyPatch, of: type, name: str, then: Any = None) -> None:
    """Have the method *name* of a class take 20 ms more, and call *then* with its argument."""
    method = getattr(of, name)

    def slow(self: Any, *given: Any) -> Any:
        threading.Event().wait(0.02)
        result = method(self, *given)
        if then is not None:
            then(given[0])
        return result

    monkeypatch.setattr(of, name, slow)


def test_a_devices_own_times_are_taken(inputs: InputFiles) -> None:
    """Transfers and computing are those that the runner measured, without the warm-up."""
    performance = infer_files(DeviceRunner(fixed=4), inputs, None, InferJob(warmup=2))
    assert performance.h2d_ms == (1.0, 1.0)
    assert performance.compute_ms == (2000.0, 2000.0)
    assert performance.d2h_ms == (3.0, 3.0)
    # What it computed while nobody waited for it was computing all the same.
    assert performance.infer_s == 4.0


def test_times_of_others_are_wall_times(
    inputs: InputFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second in infer is found in its time; a slow disk shows in the figure with files alone."""
    slowly(monkeypatch, InputFiles, "read")
    runner = DeclaringRunner()
    runner.on_infer = lambda: threading.Event().wait(0.02)
    performance = infer_files(runner, inputs, None, InferJob(batch_size=4, host_threads=1))
    assert performance.h2d_ms == performance.d2h_ms == ()
    assert all(time >= 20 for time in performance.compute_ms)
    # Half of it at least: on a busy host, more is read while the runner works.
    assert performance.total_s - performance.infer_s >= 0.5 * (7 - 1) * 0.02


def test_memory_is_bounded(
    inputs: InputFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However slow runner and disk, one batch is read ahead, and two at most wait to be written."""
    runner = DeclaringRunner()
    read, saved = list[Path](), list[str]()
    ahead, waiting = list[int](), list[int]()

    def look() -> None:
        threading.Event().wait(0.02)
        ahead.append(len(read) - sum(runner.fed))
        waiting.append(sum(runner.fed) - len(saved))

    slowly(monkeypatch, ResultWriter, "save", saved.append)
    slowly(monkeypatch, InputFiles, "read", read.append)
    runner.on_infer = look
    run(runner, inputs, tmp_path / "result", batch_size=2, warmup=0)
    # Two of the batch, two of the next, and the two that the warm-up looks at.
    assert max(ahead) <= 2 + 2 + 2
    assert max(waiting) <= 2 * 2


@pytest.mark.parametrize(
    ("infos", "message"),
    [
        pytest.param(
            {"in": ((None, 3, 512, 512), FLOAT)},
            r"inputs are float32 \(3, 128, 128\), but the .* float32 \(N, 3, 512, 512\)",
            id="size",
        ),
        pytest.param(
            {"in": ((None, 3, 128, 128), UINT8)},
            r"inputs are float32 \(3, 128, 128\), but .* is uint8",
            id="pixels",
        ),
        pytest.param(
            {"in": ((None, 3, 128, 128), FLOAT), "more": ((None, 1), FLOAT)},
            r"the model has the inputs \['in', 'more'\], but",
            id="two-inputs",
        ),
        pytest.param(
            {"in": ((None, 3, None, None), FLOAT)}, "only its batch may be free; give", id="zeros"
        ),
    ],
)
def test_a_model_of_other_inputs_is_refused(
    infos: dict[str, Any], message: str, inputs: InputFiles
) -> None:
    """The message shows both sides before anything is run; zeros need a shape."""
    runner = DeclaringRunner()
    runner.inputs = [TensorInfo(name, *info) for name, info in infos.items()]
    fed = None if "free" in message else inputs
    with pytest.raises((FeedError, RunnerError), match=message):
        infer_files(runner, fed, None, InferJob())
    assert runner.fed == []


def test_a_model_that_loses_rows_is_refused(inputs: InputFiles) -> None:
    """Outputs that cannot be led back to images are not written."""

    class Losing(DeclaringRunner):
        def infer(self, feed: Tensors) -> Tensors:
            return {name: head[:1] for name, head in super().infer(feed).items()}

    with pytest.raises(RunnerError, match=r"the model gave \{.*: 1.*\} rows, but 3 were fed"):
        infer_files(Losing(), inputs, None, InferJob(batch_size=3, warmup=0))


def test_zeros_are_run_where_there_is_no_input(tmp_path: Path) -> None:
    """Batches of zeros measure a model, and their outputs are named as ais_bench names them."""
    runner, model = DeclaringRunner(fixed=4), tmp_path / "d0.onnx"
    model.write_bytes(b"a model")
    job = InferJob(results=tmp_path / "result", loop=5)
    engine = LocalEngine(ModelChoice(model, spec=SMALL), None, runner)
    performance, _ = run_infer_job(job, engine, silent)
    assert runner.fed == [4] * 6
    assert performance.images == 20
    assert names_in(tmp_path / "result") == [f"pure_infer_data_{i}.bin" for i in range(10)]
    content = json.loads((tmp_path / "result_summary.json").read_text())
    assert content["filesinfo"]["0"]["infiles"] == []


#: 7 images in two batches of 4, 10 ms of computing each, in 40 ms with copies, 70 with files.
RUN = Performance(
    images=7,
    rows=(4, 4),
    compute_ms=(8.0, 12.0),
    h2d_ms=(1.0, 3.0),
    d2h_ms=(),
    infer_s=0.04,
    total_s=0.07,
)


def test_both_figures_are_told_apart() -> None:
    """Ais_bench counts padded rows and computing alone; images/s real images and copies."""
    line, ours, why = RUN.lines()
    assert line == (
        "[INFO] throughput 1000*batchsize.mean(4)/NPU_compute_time.mean(10.0000): 400.0000"
    )
    assert ours == "images/s 175.00, copies included; 100.00 with the files"
    assert "padding" in why


def test_the_summary_has_ais_benchs_keys() -> None:
    """Its readers find their figures; what nobody measured is null, not zero."""
    keys = ("min", "max", "mean", "median", "percentile(99%)", "count")
    summary = RUN.ais_bench_summary()
    for name, values in {
        "NPU_compute_time": (8.0, 12.0, 10.0, 10.0, pytest.approx(11.96), 2),
        "H2D_latency": (1.0, 3.0, 2.0, 2.0, pytest.approx(2.98), 2),
        "D2H_latency": (None, None, None, None, None, 0),
    }.items():
        assert summary.pop(name) == dict(zip(keys, values, strict=True))
    assert summary == {"npu_compute_time_list": [8.0, 12.0], "throughput": 400.0}


def test_times_of_units_are_those_of_one_run() -> None:
    """Batches stand in order; images a second are as many as while the slowest worker inferred."""

    def part(images: int, compute_ms: tuple[float, ...], infer_s: float) -> Performance:
        rows = (2,) * len(compute_ms)
        return Performance(images, rows, compute_ms, (1.0,), (), infer_s, infer_s)

    parts = [("a", part(4, (1.5, 2.5), 2.0)), ("b", part(2, (3.5,), 3.0)), ("a", part(2, (), 2.0))]
    whole = together(parts, 6.0, 2)
    assert (whole.images, whole.rows) == (8, (2, 2, 2))
    assert (whole.compute_ms, whole.h2d_ms, whole.d2h_ms) == ((1.5, 2.5, 3.5), (1.0,) * 3, ())
    assert whole.images_per_second == 8 / 4.0
    assert whole.images_per_second_with_files == 8 / 6.0


def test_big_endian_inputs_are_refused(inputs: InputFiles, tmp_path: Path) -> None:
    """No inference is made of values that make sense only with their bytes turned over."""
    for file in inputs.files:
        np.fromfile(file, "<f4").astype(">f4").tofile(tmp_path / file.name)
    with pytest.raises(ResultError, match=r"1.bin holds big-endian values, but float32 .* was"):
        infer_files(DeclaringRunner(), open_inputs(tmp_path, SMALL), None, InferJob())
