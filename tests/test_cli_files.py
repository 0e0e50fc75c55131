"""Tests for `effd0.cli`: infer and postprocess, the run line cut in two by files."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from effd0.data.coco import load_coco
from effd0.evaluation import model as choice_module
from effd0.io import sha256
from effd0.results.run import merge_runs, read_run
from effd0.spec import SPECS

from .cli_run import assert_one_error, effd0
from .fakes.recording import DeclaringRunner
from .helpers import SMALL, coco_content, names_in, write_coco
from .recordings import NAMINGS, write_bins

REDS = (0, 50, 100)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with coco, bins and a model that the fake runner stands for."""
    monkeypatch.setitem(SPECS, SMALL.arch, SMALL)
    monkeypatch.setattr(choice_module, "open_runner", lambda *_: DeclaringRunner(fixed=2))
    monkeypatch.chdir(tmp_path)
    content = coco_content()
    content["categories"] = [{"id": c, "name": f"c{c}"} for c in range(1, 6)]
    root = write_coco(Path("coco"), content, REDS)
    write_bins(Path("bins"), load_coco(root))
    Path("d0.onnx").write_bytes(b"a model")
    return tmp_path


INFER = ("infer", "--model", "d0.onnx", "--input", "bins", "--output", "out")


def summary() -> Any:
    """Return the summary that `INFER` wrote."""
    return json.loads(Path("out/result_summary.json").read_text())


@pytest.mark.usefixtures("place")
def test_infer_prints_both_figures() -> None:
    """ais_bench's line can be found by who looks for it, and ours says what it counts."""
    outcome = effd0(*INFER)
    assert outcome.code == 0, outcome.err
    pattern = (
        r"^\[INFO\] throughput 1000\*batchsize\.mean\(2\)/NPU_compute_time\.mean\((.*)\): (.*)$"
    )
    line = re.search(pattern, outcome.out, re.MULTILINE)
    assert line is not None
    # Printed with four digits after the point: a time of 0.1 ms has three of its own.
    assert float(line[2]) == pytest.approx(1000 * 2 / float(line[1]), rel=0.01)
    assert re.search(r"^images/s \d+\.\d+, copies included; \d", outcome.out, re.MULTILINE)
    assert "wrote out/result" in outcome.out


@pytest.mark.usefixtures("place")
def test_infer_leaves_results_summary_and_manifest() -> None:
    """The summary has ais_bench's keys and one of ours; the manifest is the inputs' own."""
    effd0(*INFER, "--batch-size", 2, "--loop", 3)
    assert names_in(Path("out")) == ["result", "result_manifest.json", "result_summary.json"]
    assert len(names_in(Path("out/result"))) == 30
    assert sha256(Path("out/result_manifest.json")) == sha256(Path("bins/manifest.json"))
    content = summary()
    assert set(content) == {
        "filesinfo", "args", "NPU_compute_time", "H2D_latency", "D2H_latency",
        "npu_compute_time_list", "throughput", "pid", "effd0",
    }  # fmt: skip
    assert content["filesinfo"]["1"]["infiles"] == ["bins/2.bin"]
    assert content["filesinfo"]["1"]["outfiles"][9] == "out/result/2_9.bin"
    assert content["NPU_compute_time"]["count"] == len(content["npu_compute_time_list"]) == 6
    assert content["pid"] == os.getpid()
    assert "--loop" in content["args"]
    own = content["effd0"]
    assert (own["images"], own["batch_size"], own["runner"]) == (9, 2, "fake")
    assert own["model_sha256"] == sha256(Path("d0.onnx"))
    assert own["manifest_sha256"] == sha256(Path("bins/manifest.json"))


@pytest.mark.usefixtures("place")
def test_infer_then_postprocess_is_evaluate() -> None:
    """Cut in two by files, the run line gives the numbers that it gives in one piece."""
    assert effd0("evaluate", "--model", "d0.onnx", "--root", "coco", "--json", "a.json").code == 0
    assert effd0(*INFER).code == 0
    outcome = effd0("postprocess", "--root", "coco", "--omfile", "out/result", "--json", "b.json")
    assert outcome.code == 0, outcome.err
    one, two = (json.loads(Path(name).read_text()) for name in ("a.json", "b.json"))
    for key in ("metrics", "per_class", "detections", "images", "model_sha256"):
        assert one[key] == two[key], key
    assert one["detections"] > 0
    assert set(two["stages_ms"]) == {"read results", "postprocess"}
    assert two["runner"] == "results in out/result, by fake"


@pytest.mark.parametrize(("floor", "code"), [(0, 0), (99, 1)], ids=["met", "not-met"])
@pytest.mark.usefixtures("place")
def test_the_floor_decides_the_exit_code(floor: float, code: int) -> None:
    """Below --min-map the gate fails, as in evaluate."""
    effd0(*INFER)
    floor_ = ("--min-map", floor)
    assert effd0("postprocess", "--root", "coco", "--omfile", "out/result", *floor_).code == code


@pytest.mark.parametrize(("floor", "status"), [(0, "pass"), (99, "fail")], ids=["met", "not-met"])
@pytest.mark.usefixtures("place")
def test_what_was_postprocessed_is_a_run(floor: float, status: str) -> None:
    """It has the figures, the gate and the pictures of `evaluate`'s, of the same model's file."""
    effd0(*INFER)
    data = ("--root", "coco", "--min-map", floor, "--report-json")
    effd0("evaluate", "--model", "d0.onnx", *data, "a.json")
    outcome = effd0("postprocess", "--omfile", "out/result", *data, "b.json")
    one, two = (read_run(Path(name)) for name in ("a.json", "b.json"))
    assert (two.verdict, two.exit_status) == (one.verdict, outcome.code)
    assert two.verdict.status == status
    for key in ("metrics", "per_class", "min_map", "insight"):
        assert getattr(one.accuracy[0], key) == getattr(two.accuracy[0], key), key
    assert len(merge_runs([one, two]).accuracy) == 2


@pytest.mark.usefixtures("place")
def test_infer_without_input_measures() -> None:
    """Zeros are run as often as asked, and nothing is written where nothing was asked for."""
    outcome = effd0("infer", "--model", "d0.onnx", "--loop", 4)
    assert outcome.code == 0, outcome.err
    assert "[INFO] throughput 1000*batchsize.mean(2)" in outcome.out
    assert not Path("out").exists()


@pytest.mark.usefixtures("place")
def test_an_existing_result_is_replaced_when_asked() -> None:
    """Without --overwrite it is refused; with it, the format may even be another."""
    effd0(*INFER)
    assert_one_error("OutputError: out/result exists, but .*--overwrite to replace it", *INFER)
    assert effd0(*INFER, "--overwrite", "--outfmt", "NPY").code == 0
    assert names_in(Path("out/result"))[:2] == ["1_0.npy", "1_1.npy"]


@pytest.mark.usefixtures("place")
def test_an_existing_result_is_refused_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model is opened, nor an hour spent, for results that could not be written."""
    effd0(*INFER)
    monkeypatch.setattr(choice_module, "open_runner", lambda *_: pytest.fail("was opened"))
    assert_one_error("OutputError: out/result exists", *INFER)


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        pytest.param(
            "ResultError: nowhere is not a folder; make one with 'effd0 preprocess",
            ["infer", "--model", "d0.onnx", "--input", "nowhere", "--output", "out"],
            id="input",
        ),
        pytest.param(
            r"RunnerError: no\.onnx does not exist",
            ["infer", "--model", "no.onnx", "--input", "bins"],
            id="model",
        ),
        pytest.param(
            "FeedError: --batch-size is 3, but the model takes 2",
            [*INFER, "--batch-size", 3],
            id="batch-size",
        ),
        pytest.param(
            "OutputError: --output-dirname is run1, but no --output is given; name",
            ["infer", "--model", "d0.onnx", "--output-dirname", "run1"],
            id="dirname-alone",
        ),
        pytest.param(
            "ResultError: nowhere is not a folder; make one with 'effd0 infer",
            ["postprocess", "--root", "coco", "--omfile", "nowhere"],
            id="results",
        ),
        pytest.param(
            r"ResultError: bins does not hold the results of 3 images; 3 foreign: 1\.bin",
            ["postprocess", "--root", "coco", "--omfile", "bins"],
            id="inputs-for-results",
        ),
    ],
)
@pytest.mark.usefixtures("place")
def test_bad_input_is_one_line(message: str, arguments: list[object]) -> None:
    """Exit code 2, and what to do."""
    assert_one_error(message, *arguments)
    assert list(Path("out").glob("*")) == []


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_whole_chain_is_evaluate(batch_size: int, onnx_model: Path, tmp_path: Path) -> None:
    """On the embedded scenes, ONNX Runtime by way of files gives what it gives in one piece."""
    whole, cut = tmp_path / "whole.json", tmp_path / "cut.json"
    model = ("--model", onnx_model, "--batch-size", batch_size)
    bins, out = tmp_path / "bins", tmp_path / "out"
    assert effd0("evaluate", *model, "--json", whole).code == 0
    assert effd0("preprocess", "--bin-save", bins).code == 0
    assert effd0("infer", *model, "--input", bins, "--output", out).code == 0
    results = ("postprocess", "--omfile", out / "result", "--json", cut)
    assert effd0(*results).code == 0
    one, two = (json.loads(path.read_text()) for path in (whole, cut))
    assert one["metrics"] == two["metrics"]
    for naming, name_of in NAMINGS.items():
        renamed = tmp_path / naming
        renamed.mkdir()
        for n, stem in enumerate(sorted({p.stem for p in bins.glob("*.bin")})):
            for i in range(10):
                os.link(out / "result" / f"{stem}_{i}.bin", renamed / f"{name_of(n, stem, i)}.bin")
        assert effd0("postprocess", "--omfile", renamed, "--json", cut).code == 0
        assert json.loads(cut.read_text())["metrics"] == one["metrics"], naming
        shutil.rmtree(renamed)
