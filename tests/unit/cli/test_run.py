"""Tests for `effd0.cli.run`: evaluate, detect, preprocess, infer and postprocess, as typed."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from effd0.data import fixture
from effd0.data.coco import load_coco
from effd0.data.preprocess import preprocess
from effd0.errors import RunnerError
from effd0.evaluation import model as choice_module
from effd0.evaluation.run_dir import RECORDS
from effd0.io import sha256
from effd0.metrics.summary import METRICS
from effd0.results.run import merge_runs, read_run
from effd0.spec import SPECS, ModelSpec
from tests.helpers import (
    OBLONG,
    SMALL,
    assert_one_error,
    coco_content,
    effd0,
    names_in,
    write_coco,
)
from tests.helpers.onnx_models import head_model
from tests.helpers.results import write_bins
from tests.helpers.runners import DeclaringRunner, NeighbourRunner, outcome

INFER = ("infer", "--model", "d0.onnx", "--input", "bins", "--output", "out")
SCORE = ("postprocess", "--omfile", "out/result", "--root", "coco")
BATCHES = ("evaluate", "--model", "d0.onnx", "--root", "five", "--batch-size")
EVALUATE = ("evaluate", "--model", "d0.onnx", "--root", "coco")


def read(name: str) -> Any:
    """The content of a JSON file."""
    return json.loads(Path(name).read_text())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with coco, bins and a model that a fake runner stands for."""
    monkeypatch.setitem(SPECS, SMALL.arch, SMALL)
    monkeypatch.setattr(choice_module, "open_runner", lambda *_: DeclaringRunner(fixed=2))
    monkeypatch.chdir(tmp_path)
    content = coco_content()
    content["categories"] = [{"id": c, "name": f"c{c}"} for c in range(1, 6)]
    write_bins(Path("bins"), load_coco(write_coco(Path("coco"), content, (0, 50, 100))))
    Path("d0.onnx").write_bytes(b"a model")
    return tmp_path


def test_a_limited_run_is_undecided(onnx_model: Path, tmp_path: Path) -> None:
    """Exit code 1 without an error; terminal, JSON and run file give the same figures."""
    record, report = tmp_path / "record.json", tmp_path / "run.json"
    limits = ("--image-limit", 2, "--min-map", 1)
    files = ("--json", record, "--report-json", report)
    done = effd0("evaluate", "--model", onnx_model, *limits, *files)
    assert (done.code, done.errors) == (1, [])
    assert "UNDECIDED" in done.out
    rows = [line.split() for line in done.out.splitlines()]
    assert [name for name in METRICS if not any(name in row for row in rows)] == []
    assert "detecting: 2/2" in done.err
    assert "detecting" not in done.out
    flat, run = read(str(record)), read_run(report)
    (accuracy,), (check,) = run.accuracy, run.checks
    assert flat["metrics"] == accuracy.metrics
    assert list(flat["metrics"]) == list(METRICS)
    assert run.artefact.model_sha256 == sha256(onnx_model)
    assert (check.status, check.tolerance) == ("undecided", 1)
    assert check.figure == pytest.approx(100 * flat["metrics"]["AP"])
    assert (run.verdict.status, run.exit_status) == ("undecided", 1)
    assert run.verdict.next_step == f"effd0 check {onnx_model}"
    assert done.out.endswith(f"next step {run.verdict.next_step}\n")


@pytest.mark.parametrize(
    ("threshold", "code", "status"),
    [((), 0, "NOT GATED"), (("--min-map", 0), 0, "INCOMPLETE"), (("--min-map", 99.5), 1, "FAIL")],
    ids=["none", "met", "not-met"],
)
@pytest.mark.usefixtures("place")
def test_the_threshold_decides_the_exit_code(
    threshold: tuple[object, ...], code: int, status: str
) -> None:
    """Evaluated at once or by way of files: same verdict, figures and run file."""
    one = effd0(*EVALUATE, *threshold, "--json", "a.json", "--report-json", "a.run.json")
    assert effd0(*INFER).code == 0
    two = effd0(*SCORE, *threshold, "--json", "b.json", "--report-json", "b.run.json")
    assert [(done.code, status in done.out) for done in (one, two)] == [(code, True)] * 2
    for key in ("metrics", "per_class", "detections", "images", "model_sha256"):
        assert read("a.json")[key] == read("b.json")[key], key
    assert read("a.json")["detections"] > 0
    runs = [read_run(Path(name)) for name in ("a.run.json", "b.run.json")]
    assert [run.exit_status for run in runs] == [code, code]
    assert runs[0].verdict.status == runs[1].verdict.status
    assert runs[0].accuracy[0].insight == runs[1].accuracy[0].insight
    merged = merge_runs(runs)
    assert len(merged.accuracy) == 2
    assert merged.verdict.next_step == runs[0].verdict.next_step
    assert (merged.verdict.next_step == "") == (status == "NOT GATED")


@pytest.mark.slow
def test_other_weights_beside_a_model_are_another_model(
    onnx_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One weight changed in the data file: no resuming, no merging, another hash in the run."""
    monkeypatch.chdir(tmp_path)
    graph = onnx.load(onnx_model)
    onnx.save_model(graph, "d0.onnx", save_as_external_data=True, location="d0.data")
    asked = ("evaluate", "--model", "d0.onnx", "--image-limit", 2)
    assert effd0(*asked, "--out", "run", "--report-json", "a.json").code == 0
    resumed = effd0(*asked, "--out", "run", "--resume")
    assert (resumed.code, "run: 2 of 2 images are there" in resumed.err) == (0, True)
    content = bytearray(Path("d0.data").read_bytes())
    content[0] ^= 1
    Path("d0.data").write_bytes(content)
    assert_one_error("whose model_sha256 was .*, but is", *asked, "--out", "run", "--resume")
    assert effd0(*asked, "--report-json", "b.json").code == 0
    assert_one_error("b.json is of the model .*, but a.json of", "merge", "a.json", "b.json",
                     "--out", "both.json")  # fmt: skip
    hashes = {read_run(Path(name)).artefact.model_sha256 for name in ("a.json", "b.json")}
    assert len(hashes) == 2
    Path("d0.data").unlink()
    assert_one_error("d0.onnx has weights in d0.data, but no such file is there", *asked)


@pytest.fixture
def neighbour(place: Path, monkeypatch: pytest.MonkeyPatch) -> NeighbourRunner:
    """A runner whose heads depend on all images of a batch, and five images for it."""
    runner = NeighbourRunner()
    monkeypatch.setattr(choice_module, "open_runner", lambda *_: runner)
    monkeypatch.setitem(SPECS, "tf_efficientdet_d0", SMALL)
    write_coco(place / "five", coco_content(5))
    return runner


@pytest.mark.parametrize(
    ("error", "shown"),
    [(RunnerError("it is lost"), "RunnerError: it is lost"), (KeyboardInterrupt, "")],
    ids=["device-lost", "ctrl-c"],
)  # fmt: skip
def test_a_run_is_stopped_and_resumed(error: Any, shown: str, neighbour: NeighbourRunner) -> None:
    """The message says what is kept; with --resume the rest is run, and the table is the same."""
    whole = effd0(*BATCHES, 2, "--out", "whole", "--json", "record.json")
    assert whole.code == 0, whole.err
    assert read("record.json") == read("whole/evaluation.json")
    done = len(neighbour.fed)

    def stop() -> None:
        if len(neighbour.fed) == done + 2:
            raise error

    neighbour.on_infer = stop
    stopped = effd0(*BATCHES, 2, "--out", "run")
    assert stopped.code != 0
    assert shown in stopped.err
    assert "Traceback" not in stopped.err
    assert "run keeps 2 images; continue with --resume\n" in stopped.err
    assert names_in(Path("run")) == [RECORDS, "manifest.json"]
    neighbour.on_infer = lambda: None
    message = r"settings\.batch_size was 2, but is 3; ask"
    assert_one_error(message, *BATCHES, 3, "--out", "run", "--resume")
    resumed = effd0(*BATCHES, 2, "--out", "run", "--resume")
    assert "run: 2 of 5 images are there\n" in resumed.err
    assert "detecting: 3/3" in resumed.err
    assert outcome(Path("run")) == outcome(Path("whole"))
    tables = [
        [line for line in one.out.splitlines() if "IoU ." in line] for one in (whole, resumed)
    ]
    assert tables[0] == tables[1]
    assert len(tables[0]) == 12
    assert_one_error("--out is run, .*; continue it with --resume", *BATCHES, 3, "--out", "run")
    assert effd0(*BATCHES, 3, "--out", "run", "--overwrite").code == 0
    assert read("run/evaluation.json")["batch"] == 3


def test_detect_draws_the_image(tmp_path: Path) -> None:
    """The drawn image has the size of the one given, and is not the same."""
    image = load_coco(fixture.coco_root()).samples[0].path
    out = tmp_path / "drawn.png"
    done = effd0("detect", image, "--out", out, "--min-score", 0.0)
    assert done.code == 0
    assert re.search(r"drew [1-9]\d* boxes of at least 0\.0 to ", done.out)
    with Image.open(image) as given, Image.open(out) as drawn:
        assert drawn.size == given.size
        assert not np.array_equal(np.asarray(drawn), np.asarray(given.convert("RGB")))


def test_preprocess_writes_the_recipes_files(tmp_path: Path, spec: ModelSpec) -> None:
    """One <stem>.bin for each image holds its network input, and a manifest lists them."""
    done = effd0("preprocess", "--bin-save", tmp_path / "bins", "--image-limit", 2)
    assert done.code == 0
    assert "wrote 2 inputs to" in done.out
    samples = load_coco(fixture.coco_root(), image_limit=2).samples
    for sample in samples:
        written = np.fromfile(tmp_path / "bins" / f"{sample.path.stem}.bin", "<f4")
        assert np.array_equal(written, preprocess(sample.path, spec).tensor.ravel())
    manifest = read(str(tmp_path / "bins" / "manifest.json"))
    assert [entry["image_id"] for entry in manifest["images"]] == [s.image_id for s in samples]
    more = ("--bin-save", tmp_path / "bins", "--image-limit", 1, "--overwrite")
    assert effd0("preprocess", *more).code == 0
    assert names_in(tmp_path / "bins") == [f"{samples[0].path.stem}.bin", "manifest.json"]


@pytest.mark.usefixtures("place")
def test_infer_leaves_results_summary_and_manifest() -> None:
    """ais_bench's line and keys are there, with one of ours; the manifest is the inputs' own."""
    done = effd0(*INFER, "--batch-size", 2, "--loop", 3, "--host-threads", 1)
    assert done.code == 0, done.err
    pattern = (
        r"^\[INFO\] throughput 1000\*batchsize\.mean\(2\)/NPU_compute_time\.mean\((.*)\): (.*)$"
    )
    line = re.search(pattern, done.out, re.MULTILINE)
    assert line is not None
    # Printed with four digits after the point: a time of 0.1 ms has three of its own.
    assert float(line[2]) == pytest.approx(1000 * 2 / float(line[1]), rel=0.01)
    assert names_in(Path("out")) == ["result", "result_manifest.json", "result_summary.json"]
    assert len(names_in(Path("out/result"))) == 30
    assert sha256(Path("out/result_manifest.json")) == sha256(Path("bins/manifest.json"))
    summary = read("out/result_summary.json")
    assert set(summary) == {
        "filesinfo", "args", "NPU_compute_time", "H2D_latency", "D2H_latency",
        "npu_compute_time_list", "throughput", "pid", "effd0",
    }  # fmt: skip
    assert summary["filesinfo"]["1"]["outfiles"][9] == "out/result/2_9.bin"
    assert summary["NPU_compute_time"]["count"] == len(summary["npu_compute_time_list"]) == 6
    assert summary["effd0"]["model_sha256"] == sha256(Path("d0.onnx"))


@pytest.mark.usefixtures("place")
def test_infer_without_input_measures() -> None:
    """Zeros are run as often as asked, and nothing is written where nothing was asked for."""
    done = effd0("infer", "--model", "d0.onnx", "--loop", 4)
    assert done.code == 0, done.err
    assert "[INFO] throughput 1000*batchsize.mean(2)" in done.out
    assert not Path("out").exists()


@pytest.mark.usefixtures("place")
def test_an_existing_result_is_refused_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model is opened for results that could not be written; --overwrite replaces them."""
    effd0(*INFER)
    assert effd0(*INFER, "--overwrite", "--outfmt", "NPY").code == 0
    assert names_in(Path("out/result"))[:2] == ["1_0.npy", "1_1.npy"]
    monkeypatch.setattr(choice_module, "open_runner", lambda *_: pytest.fail("was opened"))
    assert_one_error("OutputError: out/result exists, but .*--overwrite to replace it", *INFER)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "infer --model d0.onnx --input no",
            "--input is no, which does not exist; .*effd0 preprocess",
        ),
        ("infer --model d0.onnx --batch-size 3", "FeedError: --batch-size is 3, but the model tak"),
        (
            "postprocess --root coco --omfile no",
            "--omfile is no, which does not exist; .*effd0 infer",
        ),
        ("postprocess --root coco --omfile coco/val2017", "val2017 holds no result file .*; give"),
    ],
)
@pytest.mark.usefixtures("place")
def test_files_that_do_not_fit_are_refused(words: str, message: str) -> None:
    """Exit code 2, and what to do."""
    assert_one_error(message, *words.split())


@pytest.mark.parametrize("classes", [2, 4, 5])
def test_a_model_of_other_classes_and_sides_goes_by_way_of_files(
    classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 512 rows and 384 columns, its detections are those that it has in one piece."""
    monkeypatch.chdir(tmp_path)
    spec = replace(OBLONG, num_classes=classes)
    onnx.save(head_model(spec.head_shapes, spec.image_size), "own.onnx")
    content = coco_content()
    content["categories"] = [{"id": 7 * c, "name": f"c{c}"} for c in range(1, classes + 1)]
    for n, annotation in enumerate(content["annotations"]):
        annotation["category_id"] = 7 * (1 + n % classes)
    write_coco(Path("coco"), content)
    size, images = ("--image-size", "512x384"), ("--root", "coco")
    whole = effd0("evaluate", "--model", "own.onnx", *images, *size, "--json", "whole.json")
    assert whole.code == 0, whole.err
    assert effd0("preprocess", *images, *size, "--bin-save", "bins").code == 0
    assert np.fromfile("bins/1.bin", "<f4").size == 3 * 512 * 384
    files = ("--input", "bins", "--output", "out")
    assert effd0("infer", "--model", "own.onnx", *size, *files).code == 0
    words = ("postprocess", "--omfile", "out/result", *images, *size)
    done = effd0(*words, "--num-classes", classes, "--json", "cut.json")
    assert done.code == 0, done.err
    one, other = read("whole.json"), read("cut.json")
    assert one["detections"] > 0
    for key in ("metrics", "per_class", "detections", "model_sha256"):
        assert one[key] == other[key], key
    message = f"has {classes} categories .*, but the model has 9 classes; give the images"
    assert_one_error(message, *words, "--num-classes", 9)


@pytest.mark.slow
def test_the_whole_chain_is_evaluate(onnx_model: Path, tmp_path: Path) -> None:
    """On the embedded scenes, ONNX Runtime by way of files gives what it gives in one piece."""
    whole, cut = tmp_path / "whole.json", tmp_path / "cut.json"
    model = ("--model", onnx_model, "--batch-size", 7)
    bins, out = tmp_path / "bins", tmp_path / "out"
    assert effd0("evaluate", *model, "--json", whole).code == 0
    assert effd0("preprocess", "--bin-save", bins).code == 0
    assert effd0("infer", *model, "--input", bins, "--output", out).code == 0
    assert effd0("postprocess", "--omfile", out / "result", "--json", cut).code == 0
    assert read(str(whole))["metrics"] == read(str(cut))["metrics"]
