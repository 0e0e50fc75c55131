"""One evaluation by workers, from the command line on: that of one process, and as well kept."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from effd0.distributed import engine, worker
from effd0.distributed.pool import Pool
from effd0.evaluation import model as choice
from effd0.spec import SPECS
from tests.helpers import SMALL, assert_one_error, effd0
from tests.helpers.runners import HereCluster, NeighbourRunner, coloured_coco

IMAGES = 21


@pytest.fixture
def ray() -> HereCluster:
    """Three workers in this process."""
    return HereCluster(Pool(3))


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray: HereCluster) -> Path:
    """A working folder with pictures and a model; workers are in this process."""
    fake = NeighbourRunner()
    monkeypatch.setitem(SPECS, SMALL.arch, SMALL)
    monkeypatch.setattr(choice, "open_runner", lambda *_: fake)
    monkeypatch.setattr(worker, "open_runner", lambda *_: fake)
    monkeypatch.setattr(engine, "started", ray.started)
    monkeypatch.chdir(tmp_path)
    coloured_coco(Path("coco"), IMAGES)
    Path("d0.onnx").write_bytes(b"a model")
    return tmp_path


def words(*more: object, root: object = "coco") -> tuple[object, ...]:
    """Return an evaluation of the model on *root*."""
    model = ("--model", "d0.onnx", "--runner", "ort", "--batch-size", 2)
    return "evaluate", "--root", root, *model, *more


def evaluated(*more: object, root: object = "coco") -> Any:
    """Return what such an evaluation, which succeeds, says in JSON."""
    outcome = effd0(*words(*more, "--json", "json", root=root))
    assert outcome.code == 0, outcome.err
    return json.loads(Path("json").read_text())


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
    torn = [Path(f"coco/val2017/0000{n}.png") for n in ("03", "12")]
    whole = [path.read_bytes() for path in torn]
    for path, data in zip(torn, whole, strict=True):
        path.write_bytes(data[: len(data) // 2])
    pool = ("--out", "pool", "--workers", 3)
    outcome = effd0(*words(*pool))
    assert outcome.code == 2
    assert all(path.name in outcome.err for path in torn)
    assert "ImageError: 2 units of work (4 images) could not be done" in outcome.err
    for path, data in zip(torn, whole, strict=True):
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
    assert_one_error(
        r"ray is not installed, .*pip install 'effd0\[ray\]'",
        "evaluate", "--root", "coco", "--workers", 2,
    )  # fmt: skip
