"""Tests for `effd0.cli`: evaluate, detect and preprocess, on the embedded default."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from effd0.data import fixture as embedded
from effd0.data.coco import load_coco
from effd0.data.preprocess import preprocess
from effd0.io import sha256
from effd0.metrics.summary import METRICS
from effd0.spec import ModelSpec

from .cli_run import Outcome, effd0
from .helpers import coco_content, write_coco
from .runs import content_of


@dataclass(frozen=True)
class Evaluated:
    """What a run of ``effd0 evaluate --json`` left behind."""

    outcome: Outcome
    record: dict[str, Any]
    run: dict[str, Any]


@pytest.fixture(scope="module")
def limited(onnx_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    """Two embedded images through the model under test, with a floor that they may not decide."""
    folder = tmp_path_factory.mktemp("evaluated")
    path, report = folder / "record.json", folder / "run.json"
    floor = ("--image-limit", 2, "--min-map", 1)
    outcome = effd0(
        "evaluate", "--model", onnx_model, *floor, "--json", path, "--report-json", report
    )
    return Evaluated(outcome, json.loads(path.read_text()), content_of(report))


def test_a_limited_run_is_undecided(limited: Evaluated) -> None:
    """A floor that could not be decided is a gate that did not pass: exit code 1, no error."""
    assert limited.outcome.code == 1
    assert limited.outcome.errors == []
    assert "UNDECIDED" in limited.outcome.out
    assert limited.record["verdict"]["status"] == "undecided"


def test_a_limited_run_fails_where_the_floor_is_out_of_reach(onnx_model: Path) -> None:
    """Two images that are not perfect have decided it, and the verdict says so; exit code 1."""
    floor = ("--image-limit", 2, "--min-map", 100)
    outcome = effd0("evaluate", "--model", onnx_model, *floor)
    assert outcome.code == 1
    assert "FAIL" in outcome.out
    assert "cannot reach 100.00 %" in " ".join(outcome.out.split())


def test_the_terminal_shows_the_twelve_numbers(limited: Evaluated) -> None:
    """Each metric has its row, and progress stays off stdout."""
    rows = [line.split() for line in limited.outcome.out.splitlines()]
    assert [name for name in METRICS if not any(name in row for row in rows)] == []
    assert "detecting: 2/2" in limited.outcome.err
    assert "detecting" not in limited.outcome.out


def test_the_record_is_complete(limited: Evaluated, onnx_model: Path) -> None:
    """The JSON holds metrics, times, memory, and what leads back to model and images."""
    record = limited.record
    assert list(record["metrics"]) == list(METRICS)
    defined = [value for value in record["metrics"].values() if value is not None]
    assert all(0 <= value <= 1 for value in defined)
    assert {name for name, value in record["metrics"].items() if value is None} == set(
        record["undefined"]
    )
    dataset = load_coco(embedded.coco_root())
    assert set(record["per_class"]) == set(dataset.categories.values())
    assert (record["images"], record["images_total"]) == (2, dataset.total)
    assert {name: stage["count"] for name, stage in record["stages_ms"].items()} == {
        "preprocess": 2,
        "inference": 2,
        "postprocess": 2,
    }
    assert record["images_per_second"] > 0
    assert record["peak_rss_mb"] > 100
    assert record["runner"].startswith("ONNX Runtime ")
    assert record["model_sha256"] == sha256(onnx_model)
    assert record["settings"]["image_limit"] == 2
    assert record["settings"]["annotations_sha256"] == sha256(dataset.annotation_file)


def test_the_run_holds_what_the_record_does(limited: Evaluated, onnx_model: Path) -> None:
    """`--report-json` has the same figures, and the gate as a check that is not decided."""
    run, record = limited.run, limited.record
    (one,) = run["accuracy"]
    assert (one["metrics"], one["per_class"]) == (record["metrics"], record["per_class"])
    assert (one["images"], one["images_total"]) == (2, record["images_total"])
    assert run["artefact"]["model_sha256"] == sha256(onnx_model)
    assert run["artefact"]["dataset"]["sha256"] == record["settings"]["annotations_sha256"]
    (check,) = run["checks"]
    assert (check["status"], check["tolerance"]) == ("undecided", 1)
    assert check["figure"] == pytest.approx(100 * record["metrics"]["AP"])
    assert (run["verdict"]["status"], run["exit_status"]) == ("undecided", 1)
    assert run["verdict"]["evidence"] == record["verdict"]["reason"]


def test_a_run_without_a_floor_claims_nothing(tmp_path: Path) -> None:
    """Without --min-map a run in torch ends well, and says that it was not gated."""
    path = tmp_path / "record.json"
    outcome = effd0("evaluate", "--runner", "torch", "--image-limit", 1, "--json", path)
    assert outcome.code == 0
    assert "NOT GATED" in outcome.out
    record = json.loads(path.read_text())
    assert record["runner"].startswith("PyTorch ")
    assert record["model_sha256"] == sha256(embedded.checkpoint())


@pytest.mark.parametrize(
    ("floor", "code", "status"), [(0, 0, "PASS"), (99.5, 1, "FAIL")], ids=["met", "not-met"]
)
def test_the_floor_decides_the_exit_code(
    floor: float, code: int, status: str, onnx_model: Path, tmp_path: Path
) -> None:
    """In a picture of noise nothing is found: it meets a floor of zero and no other."""
    root = write_coco(tmp_path / "coco", coco_content(1))
    outcome = effd0("evaluate", "--model", onnx_model, "--root", root, "--min-map", floor)
    assert outcome.code == code
    assert status in outcome.out
    assert outcome.errors == []


def test_detect_draws_the_picture(tmp_path: Path) -> None:
    """The drawn picture has the size of the one given, and is not the same."""
    image = load_coco(embedded.coco_root()).samples[0].path
    out = tmp_path / "drawn.png"
    outcome = effd0("detect", image, "--out", out, "--min-score", 0.0)
    assert outcome.code == 0
    assert re.search(r"drew [1-9]\d* boxes of at least 0\.0 to ", outcome.out)
    with Image.open(image) as given, Image.open(out) as drawn:
        assert drawn.size == given.size
        assert not np.array_equal(np.asarray(drawn), np.asarray(given.convert("RGB")))


def test_preprocess_writes_the_recipes_files(tmp_path: Path, spec: ModelSpec) -> None:
    """One <stem>.bin for each image holds its network input, and a manifest lists them."""
    outcome = effd0("preprocess", "--bin-save", tmp_path / "bins", "--image-limit", 2)
    assert outcome.code == 0
    assert "wrote 2 inputs to" in outcome.out
    samples = load_coco(embedded.coco_root(), image_limit=2).samples
    for sample in samples:
        written = np.fromfile(tmp_path / "bins" / f"{sample.path.stem}.bin", "<f4")
        assert np.array_equal(written, preprocess(sample.path, spec).tensor.ravel())
    manifest = json.loads((tmp_path / "bins" / "manifest.json").read_text())
    assert [entry["image_id"] for entry in manifest["images"]] == [s.image_id for s in samples]
