"""One evaluation by workers, from the command line on: that of one process, and as well kept."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from effd0 import report
from effd0.data.coco import load_coco
from effd0.errors import ResultError
from effd0.evaluation import model as choice_module
from effd0.scale import start, subject
from effd0.scale.kept import SHARDS, kept_tables
from effd0.scale.shards import read_shard, shard_name, write_shard
from effd0.spec import SPECS

from .cli_run import Outcome, assert_one_error, effd0
from .fakes.here import HereCluster
from .helpers import SMALL
from .pool_runs import coloured_coco
from .rundir_runs import NeighbourRunner

IMAGES = 21


@pytest.fixture
def ray() -> HereCluster:
    """Three workers in this process."""
    return HereCluster(3)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray: HereCluster) -> Path:
    """A working folder with pictures and a model; workers are in this process."""
    fake = NeighbourRunner()
    monkeypatch.setitem(SPECS, SMALL.arch, SMALL)
    monkeypatch.setattr(choice_module, "open_runner", lambda *_: fake)
    monkeypatch.setattr(subject, "open_runner", lambda *_: fake)
    monkeypatch.setattr(report, "installed_version", lambda _name: "1.0")
    monkeypatch.setattr(subject, "installed_version", lambda _name: "1.0")
    monkeypatch.setattr(start, "cluster", ray.started)
    monkeypatch.chdir(tmp_path)
    coloured_coco(Path("coco"), IMAGES)
    Path("d0.onnx").write_bytes(b"a model")
    return tmp_path


def words(*more: object, root: object = "coco") -> tuple[object, ...]:
    """Return an evaluation of the model on *root*."""
    model = ("--model", "d0.onnx", "--runner", "ort", "--batch-size", 2)
    return "evaluate", "--root", root, *model, *more


def evaluated(*more: object, root: object = "coco") -> Outcome:
    """Return what such an evaluation printed; it succeeds."""
    outcome = effd0(*words(*more, root=root))
    assert outcome.code == 0, outcome.err
    return outcome


def metrics(name: str) -> Any:
    """Return the metrics in the file *name*."""
    return json.loads(Path(name).read_text())["metrics"]


def boxes(folder: str) -> list[Any]:
    """Return what the run directory *folder* says was found, in the order of its images."""
    found: list[Any] = json.loads(Path(folder, "detections.json").read_text())
    return found


def test_images_by_url_are_scored_as_those_of_a_folder(place: Path) -> None:
    """The copy of the annotation file is there until the last who asks for it."""
    pytest.importorskip("fsspec", reason="needs fsspec: pip install 'effd0[ray]'")
    evaluated("--json", "alone.json")
    evaluated("--workers", 3, "--json", "pool.json", root=f"file://{place}/coco")
    assert metrics("pool.json") == metrics("alone.json")
    settings = json.loads(Path("pool.json").read_text())["settings"]
    assert settings["annotation_file"].startswith("file:///")


def test_an_image_of_another_size_is_refused_as_in_one_process() -> None:
    """Whose objects lie elsewhere must not be scored; the message is the one that it would be."""
    path = Path("coco/val2017/000003.png")
    with Image.open(path) as image:
        image.resize((image.width + 5, image.height)).save(path)
    message = r"000003\.png is 37x24 pixels, but annotated as 32x24\ncopy or download them again"
    assert_one_error(message, *words())
    assert_one_error(message, *words("--workers", 3))


def test_a_run_without_a_fault_tells_none() -> None:
    """What each worker did is shown, and nothing is said of workers that were lost."""
    evaluated("--workers", 3, "--json", "pool.json")
    pool = json.loads(Path("pool.json").read_text())["settings"]["pool"]
    assert sum(one["images"] for one in pool["workers"]) == pool["images"] == IMAGES
    assert pool["faults"] == []


def test_a_run_directory_is_that_of_one_process() -> None:
    """The same boxes in the same order, whoever wrote them."""
    evaluated("--out", "alone", "--json", "alone.json")
    evaluated("--out", "pool", "--json", "pool.json", "--workers", 3)
    assert boxes("pool") == boxes("alone")
    assert metrics("pool.json") == metrics("alone.json")


def test_a_run_goes_on_with_other_workers(ray: HereCluster) -> None:
    """Units are cut anew about what is there, in the same batches: the result is the same."""
    evaluated("--out", "whole", "--workers", 3)
    shutil.copytree("whole", "rest")
    Path("rest/evaluation.json").unlink()
    shards = sorted(Path("rest", SHARDS).glob("*.parquet"))
    for shard in shards[1:3]:
        shard.unlink()
    ray.begun.clear()
    evaluated("--out", "rest", "--workers", 1, "--resume")
    assert 0 < len(ray.begun) < len(shards)
    assert boxes("rest") == boxes("whole")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ((), ("--workers", 3), "out was begun without workers; leave --workers and --devices out"),
        (("--workers", 3), (), "out was begun with workers; ask for some"),
    ],
    ids=["begun-by-one-process", "begun-by-workers"],
)
def test_workers_and_one_process_do_not_take_over_from_each_other(
    before: tuple[object, ...], after: tuple[object, ...], message: str
) -> None:
    """They keep detections in other files; the message says so, and what is there stays."""
    evaluated("--out", "out", *before)
    kept = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    assert_one_error(message, *words("--out", "out", "--resume", *after))
    assert {path: path.read_bytes() for path in kept} == kept
    evaluated("--out", "out", "--resume", *before)


def test_a_shard_that_hides_another_is_an_error_which_a_resumed_run_mends() -> None:
    """What a worker of a killed driver wrote meanwhile may overlap; no image vanishes by that."""
    evaluated("--out", "alone")
    evaluated("--out", "pool", "--workers", 3)
    folder, manifest = Path("pool", SHARDS), Path("pool/manifest.json").read_bytes()
    seed, said = hashlib.sha256(manifest).hexdigest(), list[str]()
    units = [read_shard(path, seed) for path in sorted(folder.glob("*.parquet"))[:2]]
    assert None not in [unit.detections for unit in units]
    both = replace(
        units[0],
        image_ids=units[0].image_ids + units[1].image_ids,
        sha256=units[0].sha256 + units[1].sha256,
        twins=units[0].twins + units[1].twins,
        detections=(units[0].detections or ()) + (units[1].detections or ()),
    )
    write_shard(folder, both, seed)
    (folder / shard_name(units[1].first, units[1].stop)).unlink()
    place: Any = SimpleNamespace(folder=Path("pool"), say=said.append)
    with pytest.raises(ResultError, match=r"holds 19 of 21 images, .* do the rest with --resume"):
        list(kept_tables(place, seed, load_coco(Path("coco")), SMALL))
    assert "holds images of the shard before it" in said[0]
    evaluated("--out", "pool", "--workers", 3, "--resume")
    assert boxes("pool") == boxes("alone")


def test_without_ray_it_is_said_before_anything_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever lacks the extra is told the command that brings it, and waits for no export."""
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr("effd0.build.exported", lambda *_: pytest.fail("exported"))
    assert_one_error(
        r"ray is not installed, .*pip install 'effd0\[ray\]'",
        "evaluate", "--root", "coco", "--workers", 2,
    )  # fmt: skip
