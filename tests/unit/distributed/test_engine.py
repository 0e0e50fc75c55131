"""Evaluation and inference by workers, from the command line on: those of one process."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from effd0.data.coco import load_coco
from effd0.distributed import engine, worker
from effd0.distributed.pool import Pool
from effd0.evaluation import model as choice
from effd0.spec import SPECS
from effd0.tensors.inputs import open_inputs
from effd0.tensors.writer import ResultWriter
from effd0.types import Tensors
from tests.helpers import SMALL, assert_one_error, effd0, names_in
from tests.helpers.results import write_bins
from tests.helpers.runners import HereCluster, Killed, NeighbourRunner, coloured_coco

IMAGES = 21


@pytest.fixture
def ray() -> HereCluster:
    """Three workers in this process."""
    return HereCluster(Pool(3))


@pytest.fixture
def runner() -> NeighbourRunner:
    """The runner that every process opens."""
    return NeighbourRunner()


@pytest.fixture(autouse=True)
def place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runner: NeighbourRunner, ray: HereCluster
) -> Path:
    """A working folder with pictures, their inputs and a model; workers are in this process."""
    monkeypatch.setitem(SPECS, SMALL.arch, SMALL)
    monkeypatch.setattr(choice, "open_runner", lambda *_: runner)
    monkeypatch.setattr(worker, "open_runner", lambda *_: runner)
    monkeypatch.setattr(engine, "started", ray.started)
    monkeypatch.chdir(tmp_path)
    coloured_coco(Path("coco"), IMAGES)
    Path("d0.onnx").write_bytes(b"a model")
    return tmp_path


@pytest.fixture
def bins(place: Path) -> Path:
    """The inputs of the pictures."""
    return write_bins(place / "bins", load_coco(place / "coco"))


def words(*more: object, root: object = "coco") -> tuple[object, ...]:
    """Return an evaluation of the model on *root*."""
    model = ("--model", "d0.onnx", "--runner", "ort", "--batch-size", 2)
    return "evaluate", "--root", root, *model, *more


def evaluated(*more: object, root: object = "coco") -> Any:
    """Return what such an evaluation, which succeeds, says in JSON."""
    outcome = effd0(*words(*more, "--json", "json", "--overwrite", root=root))
    assert outcome.code == 0, outcome.err
    return json.loads(Path("json").read_text())


#: An inference of the inputs.
INFER = ("infer", "--model", "d0.onnx", "--input", "bins", "--batch-size", 2)


def inferred(out: str, *more: object) -> str:
    """Infer into the folder *out*, which succeeds; return what is printed."""
    outcome = effd0(*INFER, "--output", out, *more)
    assert outcome.code == 0, outcome.err
    return outcome.out


def results(out: str) -> dict[str, bytes]:
    """Return all files of results in *out*, and the manifest; nothing else is beside them."""
    assert names_in(Path(out)) == ["result", "result_manifest.json", "result_summary.json"]
    files = [*Path(out, "result").iterdir(), Path(out, "result_manifest.json")]
    return {path.name: path.read_bytes() for path in files}


def summary(out: str) -> Any:
    """Return the summary in *out*."""
    return json.loads(Path(out, "result_summary.json").read_text())


def test_a_run_is_that_of_one_process() -> None:
    """The same metrics and boxes, by the stages of the workers, and who did what beside it."""
    alone = evaluated("--out", "alone")
    pool = evaluated("--out", "pool", "--workers", 3)
    assert pool["metrics"] == alone["metrics"]
    assert Path("pool/detections.json").read_bytes() == Path("alone/detections.json").read_bytes()
    assert pool["runner"] == alone["runner"] + ", 3 workers"
    assert pool["stages_ms"].keys() == alone["stages_ms"].keys()
    assert pool["stages_ms"]["preprocess"]["count"] == IMAGES
    shares = pool["settings"]["pool"]
    assert sum(one["images"] for one in shares["workers"]) == shares["images"] == IMAGES
    assert (shares["faults"], len(shares["workers"])) == ([], 3)


@pytest.mark.parametrize("resumed", [(), ("--workers", 3)], ids=["alone", "by-workers"])
@pytest.mark.parametrize("begun", [(), ("--workers", 2)], ids=["alone", "by-workers"])
def test_a_run_is_resumed_whoever_began_it(
    begun: tuple[object, ...], resumed: tuple[object, ...], ray: HereCluster
) -> None:
    """The rest is run in the same batches, so that the result is the same."""
    evaluated("--out", "whole")
    evaluated("--out", "rest", *begun)
    records = Path("rest/detections.records")
    os.truncate(records, records.stat().st_size * 2 // 5)
    Path("rest/evaluation.json").unlink()
    ray.begun.clear()
    evaluated("--out", "rest", "--resume", *resumed)
    assert len(ray.begun) < IMAGES // 2
    assert Path("rest/detections.json").read_bytes() == Path("whole/detections.json").read_bytes()


def test_torn_images_are_named_when_the_rest_is_kept(ray: HereCluster) -> None:
    """Once they are mended, only their units are run again."""
    evaluated("--out", "alone")
    paths = [Path(f"coco/val2017/0000{n}.png") for n in ("03", "12")]
    torn = {path: path.read_bytes() for path in paths}
    for path, data in torn.items():
        path.write_bytes(data[: len(data) // 2])
    pool = ("--out", "pool", "--workers", 3)
    outcome = effd0(*words(*pool))
    assert outcome.code == 2
    assert all(path.name in outcome.err for path in torn)
    assert "ImageError: 2 units of work (4 images) could not be done" in outcome.err
    for path, data in torn.items():
        path.write_bytes(data)
    ray.begun.clear()
    evaluated(*pool, "--resume")
    assert len(ray.begun) == 2
    assert Path("pool/detections.json").read_bytes() == Path("alone/detections.json").read_bytes()


def test_images_by_url_are_scored_as_those_of_a_folder(place: Path) -> None:
    """Workers copy the images of a unit; the annotation file is named by its URL."""
    pytest.importorskip("fsspec", reason="needs fsspec: pip install 'effd0[ray]'")
    alone = evaluated()
    pool = evaluated("--workers", 3, root=f"file://{place}/coco")
    assert pool["metrics"] == alone["metrics"]
    assert pool["settings"]["annotation_file"].startswith("file:///")


def test_an_image_of_another_size_is_refused_as_in_one_process() -> None:
    """Whose objects lie elsewhere must not be scored; the message is the one that it would be."""
    path = Path("coco/val2017/000003.png")
    with Image.open(path) as image:
        image.resize((image.width + 5, image.height)).save(path)
    message = r"000003\.png is 37x24 pixels, but annotated as 32x24\ncopy or download them again"
    assert_one_error(message, *words())
    assert_one_error(message, *words("--workers", 3))


def test_the_reference_is_run_by_workers_too(ray: HereCluster) -> None:
    """What a model loses against another is measured on the same images."""
    options = ("--workers", 3, "--reference", "d0.onnx", "--max-drop", 1, "--json", "json")
    assert effd0(*words(*options)).code == 1  # for so few images decide nothing
    assert json.loads(Path("json").read_text())["against"]["drop"]["images"] == IMAGES
    assert {sample.image_id for sample in ray.begun} >= {10, 10 + IMAGES - 1}


def test_without_ray_it_is_said_before_anything_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever lacks the extra is given the command that brings it, and waits for no export."""
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(choice.ModelChoice, "file", lambda *_: pytest.fail("exported"))
    message = r"ray is not installed, .*pip install 'effd0\[ray\]'"
    assert_one_error(message, "evaluate", "--workers", 2)


@pytest.mark.parametrize("outfmt", ["BIN", "NPY"])
@pytest.mark.usefixtures("bins")
def test_results_are_those_of_one_process(outfmt: str) -> None:
    """The same names and bytes; files stand in its order, and who did what beside its figures."""
    inferred("alone", "--outfmt", outfmt)
    inferred("pool", "--outfmt", outfmt, "--workers", 3)
    assert results("pool") == results("alone")
    one, many = summary("alone"), summary("pool")
    assert list(many) == list(one)
    assert set(many["effd0"]) - set(one["effd0"]) == {"pool"}
    assert json.dumps(one["filesinfo"]).replace("alone/", "pool/") == json.dumps(many["filesinfo"])
    assert len(many["npu_compute_time_list"]) == len(one["npu_compute_time_list"])
    assert many["effd0"]["images"] == many["effd0"]["pool"]["images"] == IMAGES
    assert many["effd0"]["runner"] == "fake, 3 workers"


@pytest.mark.usefixtures("bins")
def test_what_a_killed_worker_had_begun_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that dies between two files has its inputs done again, and that is told."""
    inferred("alone")
    save, saved = ResultWriter.save, list[str]()

    def torn(self: ResultWriter, stem: str, *rest: Any) -> None:
        saved.append(stem)
        if len(saved) == 5:
            raise Killed
        save(self, stem, *rest)

    monkeypatch.setattr(ResultWriter, "save", torn)
    assert "worker lost: here pid" in inferred("pool", "--workers", 3)
    assert results("pool") == results("alone")


def test_an_input_that_kills_each_worker_is_named(runner: NeighbourRunner, bins: Path) -> None:
    """The others are done; the message says which file it is, and no folder is left."""
    inputs = open_inputs(bins, SMALL)
    bad, answer = inputs.read(inputs.files[8]), runner.infer

    def die(feed: Tensors) -> Tensors:
        if any(np.array_equal(row, bad) for row in feed["in"]) and len(feed["in"]) == 2:
            raise Killed
        return answer(feed)

    runner.infer = die  # type: ignore[method-assign]  # this one alone
    message = r"workers died over images .*000008\.bin.*'effd0 infer --input'"
    assert_one_error(message, *INFER, "--output", "out", "--workers", 3)
    assert names_in(Path("out")) == []


@pytest.mark.usefixtures("bins")
def test_each_worker_is_warmed_up_once(runner: NeighbourRunner) -> None:
    """What --warmup asks for comes before a worker's first batch; nothing has to be written."""
    runner.fed.clear()
    before = names_in(Path())
    outcome = effd0(*INFER, "--workers", 1, "--warmup", 3)
    assert len(runner.fed) == -(-IMAGES // 2) + 3
    assert f"{IMAGES} images in" in outcome.out
    assert names_in(Path()) == before


def _lose_file(monkeypatch: pytest.MonkeyPatch) -> None:
    save = ResultWriter.save

    def elsewhere(self: ResultWriter, stem: str, *rest: Any) -> None:
        save(self, stem, *rest)
        self.path(stem, 0).unlink()

    monkeypatch.setattr(ResultWriter, "save", elsewhere)


def _lose_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_folder(self: NeighbourRunner) -> NeighbourRunner:
        for left in Path("out").glob(".result.*"):
            shutil.rmtree(left)
        return self

    monkeypatch.setattr(NeighbourRunner, "__enter__", without_folder)


@pytest.mark.parametrize(
    ("lose", "message"),
    [
        pytest.param(_lose_file, r"wrote \d+_0\.bin to .*, but it is not there on the", id="file"),
        pytest.param(_lose_folder, r"is not there on a worker's host; give --output", id="folder"),
    ],
)
@pytest.mark.usefixtures("bins")
def test_hosts_that_share_no_folder_are_an_error(
    lose: Callable[[pytest.MonkeyPatch], None], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends at once, and says what to give."""
    lose(monkeypatch)
    assert_one_error(message, *INFER, "--output", "out", "--workers", 2)
    assert names_in(Path("out")) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param((), "share the files of --input, but none is given", id="zeros"),
        pytest.param(("--input", "bins", "--loop", 3), "--loop is 3, but workers", id="loop"),
        pytest.param(("--input", "bins"), r"inputs are float32 \(3, 128, 128\), but", id="size"),
    ],
)
@pytest.mark.usefixtures("bins")
def test_what_workers_cannot_do_is_refused(
    words: tuple[object, ...], message: str, ray: HereCluster, runner: NeighbourRunner
) -> None:
    """The message says what to change, before a unit is dealt out."""
    runner.inputs = [type(runner.inputs[0])("in", (None, 3, 64, 64), np.dtype(np.float32))]
    assert_one_error(message, "infer", "--model", "d0.onnx", "--workers", 2, *words)
    assert ray.begun == []
