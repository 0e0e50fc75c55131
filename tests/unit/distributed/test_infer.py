"""Inference by workers: the folder that one process writes, whoever dies and wherever they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effd0.data.coco import load_coco
from effd0.distributed import engine, worker
from effd0.distributed.pool import Pool
from effd0.errors import RunnerError
from effd0.evaluation import model as choice_module
from effd0.evaluation.infer import Performance, together
from effd0.spec import SPECS
from effd0.tensors.inputs import open_inputs
from effd0.tensors.writer import ResultWriter
from effd0.types import Tensors
from tests.helpers import (
    SMALL,
    Outcome,
    assert_one_error,
    coco_content,
    effd0,
    names_in,
    write_coco,
)
from tests.helpers.results import write_bins
from tests.helpers.runners import DeclaringRunner, HereCluster, Killed

IMAGES = 21


class Scripted(DeclaringRunner):
    """A backend that gives an image other heads beside other images, as some real ones do."""

    def infer(self, feed: Tensors) -> Tensors:
        """Return the fake's heads, moved by what the whole batch is like."""
        heads = super().infer(feed)
        moved = np.float32(feed["in"].mean() + len(feed["in"]) / 3)
        return {name: head + moved for name, head in heads.items()}


@pytest.fixture
def runner() -> Scripted:
    """The runner that every process opens."""
    return Scripted()


@pytest.fixture
def ray() -> HereCluster:
    """Three workers in this process."""
    return HereCluster(Pool(3))


@pytest.fixture
def place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runner: Scripted, ray: HereCluster
) -> Path:
    """A working folder with inputs and a model; workers are in this process."""
    monkeypatch.setitem(SPECS, SMALL.arch, SMALL)
    monkeypatch.setattr(choice_module, "open_runner", lambda *_: runner)
    monkeypatch.setattr(worker, "open_runner", lambda *_: runner)
    monkeypatch.setattr(engine, "started", ray.started)
    monkeypatch.chdir(tmp_path)
    reds = [50 * (n % 5) for n in range(IMAGES)]
    write_bins(Path("bins"), load_coco(write_coco(Path("coco"), coco_content(IMAGES), reds)))
    Path("d0.onnx").write_bytes(b"a model")
    return tmp_path


def infer(out: str, *more: object) -> Outcome:
    """Infer the inputs in batches of two into the folder *out*; it succeeds."""
    words = ("--model", "d0.onnx", "--input", "bins", "--output", out, "--batch-size", 2)
    outcome = effd0("infer", *words, *more)
    assert outcome.code == 0, outcome.err
    return outcome


def results(out: str) -> dict[str, bytes]:
    """Return all files of results in *out*, and the manifest."""
    files = [*Path(out, "result").iterdir(), Path(out, "result_manifest.json")]
    return {path.name: path.read_bytes() for path in files}


def summary(out: str) -> Any:
    """Return the summary in *out*."""
    return json.loads(Path(out, "result_summary.json").read_text())


@pytest.mark.parametrize("outfmt", ["BIN", "NPY"])
@pytest.mark.usefixtures("place")
def test_the_folder_is_that_of_one_process(outfmt: str, ray: HereCluster) -> None:
    """The same names and the same bytes, and nothing of the workers' own is left beside them."""
    infer("alone", "--outfmt", outfmt)
    infer("pool", "--outfmt", outfmt, "--workers", 3)
    assert len(ray.begun) > 3
    assert results("pool") == results("alone")
    assert names_in(Path("pool")) == names_in(Path("alone"))


@pytest.mark.usefixtures("place")
def test_the_summary_is_that_of_one_process_and_more() -> None:
    """Files stand in its order, figures under its keys, and who did what beside them."""
    infer("alone")
    infer("pool", "--workers", 3)
    one, many = summary("alone"), summary("pool")
    assert list(many) == list(one)
    assert set(many["effd0"]) - set(one["effd0"]) == {"pool"}
    renamed = json.dumps(one["filesinfo"]).replace("alone/", "pool/")
    assert json.dumps(many["filesinfo"]) == renamed
    assert len(many["npu_compute_time_list"]) == len(one["npu_compute_time_list"])
    assert many["effd0"]["images"] == many["effd0"]["pool"]["images"] == IMAGES
    assert many["effd0"]["runner"] == "fake, 3 workers"


@pytest.mark.usefixtures("place")
def test_what_a_killed_worker_had_begun_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that dies between two files has its inputs done again, and that is told."""
    infer("alone")
    save, saved = ResultWriter.save, list[str]()

    def torn(self: ResultWriter, stem: str, *rest: Any) -> None:
        saved.append(stem)
        if len(saved) == 5:
            raise Killed
        save(self, stem, *rest)

    monkeypatch.setattr(ResultWriter, "save", torn)
    outcome = infer("pool", "--workers", 3)
    assert results("pool") == results("alone")
    assert names_in(Path("pool")) == names_in(Path("alone"))
    assert "worker lost: here pid" in outcome.out


@pytest.mark.usefixtures("place")
def test_an_input_that_kills_each_worker_is_named(runner: Scripted) -> None:
    """The others are done; the message says which file it is, and no folder is left."""
    bad = open_inputs(Path("bins"), SMALL)
    image = bad.read(bad.files[8])

    def die(self: Scripted, feed: Tensors) -> Tensors:
        if any(np.array_equal(row, image) for row in feed["in"]):
            raise Killed
        return DeclaringRunner.infer(self, feed)

    runner.infer = die.__get__(runner)  # type: ignore[method-assign]  # this one alone
    assert_one_error(
        r"3 workers died over images 9\.bin, 10\.bin; .*'effd0 infer --input'",
        "infer", "--model", "d0.onnx", "--input", "bins", "--output", "out", "--batch-size", 2,
        "--workers", 3,
    )  # fmt: skip
    assert names_in(Path("out")) == []


@pytest.mark.usefixtures("place")
def test_an_error_of_the_device_is_told_and_overcome(runner: Scripted) -> None:
    """The unit is done by a new process, and its results are those of one process."""
    infer("alone")
    failed: list[int] = []

    def fail_once() -> None:
        if len(runner.fed) > 12 and not failed:
            failed.append(1)
            raise RunnerError("the device forgot")

    runner.fed.clear()
    runner.on_infer = fail_once
    outcome = infer("pool", "--workers", 3)
    assert failed
    assert results("pool") == results("alone")
    assert "the device forgot with images" in outcome.out


@pytest.mark.usefixtures("place")
def test_each_worker_is_warmed_up_once(runner: Scripted) -> None:
    """What --warmup asks for comes before a worker's first batch, and is not counted."""
    runner.fed.clear()
    infer("pool", "--workers", 1, "--warmup", 3)
    batches = -(-IMAGES // 2)
    assert len(runner.fed) == batches + 3
    assert len(summary("pool")["npu_compute_time_list"]) == batches


@pytest.mark.usefixtures("place")
def test_without_output_it_only_measures() -> None:
    """Workers run all inputs, and nothing is written."""
    before = names_in(Path())
    outcome = effd0("infer", "--model", "d0.onnx", "--input", "bins", "--workers", 2)
    assert outcome.code == 0, outcome.err
    assert f"{IMAGES} images in" in outcome.out
    assert "on one of 2 workers" in outcome.out
    assert names_in(Path()) == before


@pytest.mark.usefixtures("place")
def test_results_that_the_driver_cannot_see_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where hosts share no folder, the run ends at once, and says what to give."""
    save = ResultWriter.save

    def elsewhere(self: ResultWriter, stem: str, *rest: Any) -> None:
        save(self, stem, *rest)
        self.path(stem, 0).unlink()

    monkeypatch.setattr(ResultWriter, "save", elsewhere)
    assert_one_error(
        r"wrote \d+_0\.bin to .*/result, but it is not there on the driver's host; give --output",
        "infer", "--model", "d0.onnx", "--input", "bins", "--output", "out", "--workers", 2,
    )  # fmt: skip
    assert names_in(Path("out")) == []


@pytest.mark.usefixtures("place")
def test_a_folder_that_a_worker_cannot_see_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host without the folder says so, and the message says what to give."""
    opened = DeclaringRunner.__enter__

    def without_folder(self: DeclaringRunner) -> DeclaringRunner:
        for left in Path("out").glob(".result.*"):
            shutil.rmtree(left)
        return opened(self)

    monkeypatch.setattr(DeclaringRunner, "__enter__", without_folder)
    assert_one_error(
        r"is not there on a worker's host; give --output a folder that all hosts share",
        "infer", "--model", "d0.onnx", "--input", "bins", "--output", "out", "--workers", 2,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param((), "share the files of --input, but none is given", id="zeros"),
        pytest.param(("--input", "bins", "--loop", 3), "--loop is 3, but workers", id="loop"),
        pytest.param(("--input", "none"), "none is not a folder", id="no-folder"),
        pytest.param(("--input", "bins", "--devices", "0"), "computes on the CPU", id="devices"),
    ],
)
@pytest.mark.usefixtures("place")
def test_what_workers_cannot_do_is_refused(
    words: tuple[object, ...], message: str, ray: HereCluster
) -> None:
    """The message says what to leave out, before anything is started."""
    pool = () if "--devices" in words else ("--workers", 2)
    assert_one_error(message, "infer", "--model", "d0.onnx", *pool, *words)
    assert ray.begun == []


@pytest.mark.usefixtures("place")
def test_inputs_of_another_model_are_refused_at_once(ray: HereCluster, runner: Scripted) -> None:
    """They are held against the model before a unit is dealt out."""
    runner.inputs = [type(runner.inputs[0])("in", (None, 3, 64, 64), np.dtype(np.float32))]
    assert_one_error(
        r"inputs are float32 \(3, 128, 128\), but the model's in is",
        "infer", "--model", "d0.onnx", "--input", "bins", "--workers", 2,
    )  # fmt: skip
    assert ray.begun == []


def part(images: int, compute_ms: tuple[float, ...], infer_s: float) -> Performance:
    """Return what a unit took."""
    return Performance(images, (2,) * len(compute_ms), compute_ms, (1.0,), (), infer_s, infer_s)


def test_times_of_units_are_those_of_one_run() -> None:
    """Batches stand in order; images a second are as many as while the slowest worker inferred."""
    parts = [("a", part(4, (1.5, 2.5), 2.0)), ("b", part(2, (3.5,), 3.0)), ("a", part(2, (), 2.0))]
    whole = together(parts, 6.0, 2)
    assert (whole.images, whole.rows) == (8, (2, 2, 2))
    assert (whole.compute_ms, whole.h2d_ms, whole.d2h_ms) == ((1.5, 2.5, 3.5), (1.0,) * 3, ())
    assert whole.images_per_second == 8 / 4.0
    assert whole.images_per_second_with_files == 8 / 6.0
