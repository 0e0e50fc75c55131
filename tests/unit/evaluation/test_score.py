"""Tests for `effd0 score`: detections in a file of any tool, compared with pycocotools."""

import contextlib
import copy
import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from effd0.data.coco import COCO_CATEGORIES, load_coco
from effd0.evaluation.evaluate import score
from effd0.metrics import coco
from effd0.metrics.summary import METRICS
from effd0.results.run import read_run
from tests import helpers

Entries = list[dict[str, Any]]
IDS = [category["id"] for category in COCO_CATEGORIES]
SCORE = ("score", "found.json", "--annotations", "set/annotations/instances_val2017.json")


def drawn(images: int = 30) -> tuple[dict[str, Any], Entries]:
    """Return objects of all of COCO's categories, and boxes that are a part of theirs each."""
    rng = np.random.default_rng(3)
    content, found = helpers.coco_content(images), []
    content |= {"annotations": [], "categories": copy.deepcopy(COCO_CATEGORIES)}
    for n in range(8 * images):
        image, category = 10 * (1 + n % images), IDS[n % len(IDS)]
        x, y, w, h = (round(float(v), 2) for v in (*rng.uniform(0, 400, 2), *rng.uniform(9, 99, 2)))
        ids = {"image_id": image, "category_id": category}
        content["annotations"].append({"id": n + 1, **ids, "bbox": [x, y, w, h], "area": w * h})
        # Of so many sides, written with two digits, some give an IoU that is a threshold.
        box = [x, y, w, round(h * float(rng.choice(coco.THRESHOLDS)), 2)]
        found.append({**ids, "bbox": box, "score": round(float(rng.uniform(0, 1)), 1)})
        found.append({**ids, "bbox": [x + 200, y, w, h], "score": 0.0004})
    for annotation in content["annotations"]:
        annotation["iscrowd"] = int(annotation["id"] % 17 == 0)
    return content, found


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with an annotation file and found.json, and no image."""
    monkeypatch.chdir(tmp_path)
    content, found = drawn()
    helpers.write_annotations(Path("set"), content)
    Path("found.json").write_text(json.dumps(found))
    return tmp_path


@pytest.mark.usefixtures("place")
def test_figures_of_each_class_are_printed_and_written() -> None:
    """The table on the terminal is that of the file; its AP is the run's, its last row of all."""
    done = helpers.effd0(*SCORE, "--per-class", "--csv", "a.csv", "--json", "a.json")
    assert done.code == 0, done.err
    with Path("a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    flat = json.loads(Path("a.json").read_text())
    aps = {row["class"]: row["ap"] and float(row["ap"]) for row in rows}
    assert aps == {**flat["per_class"], "all": flat["metrics"]["AP"]}
    low_first = [float(row["ap"]) for row in rows[:-1]]
    assert low_first == sorted(low_first)
    printed = [line.strip("│ ").split("│") for line in done.out.splitlines() if "│" in line]
    shown = {name.strip(): [cell.strip() for cell in cells] for name, *cells in printed}
    for row in rows:
        fractions = (row[key] for key in ("ap", "precision", "recall", "f1"))
        percents = [f"{100 * float(text):.2f}" if text else "-" for text in fractions]
        assert shown[row["class"]] == [*percents, row["objects"], row["detections"]]
    assert sum(int(row["objects"]) for row in rows[:-1]) == int(rows[-1]["objects"])


def pycocotools(found: Entries) -> list[float]:
    """Return the twelve numbers of pycocotools for *found* in the working folder."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(SCORE[3])
        scored = COCOeval(truth, truth.loadRes(found), "bbox")
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    numbers: list[float] = scored.stats.tolist()
    return numbers


@pytest.mark.parametrize("together", [100_000, 50], ids=["at-once", "in-parts"])
@pytest.mark.usefixtures("place")
def test_a_file_scores_as_in_pycocotools(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes are taken as written: through corners, in float32 or not, the numbers are others."""
    monkeypatch.setattr(coco, "_MATCHED_TOGETHER", together)
    found = drawn()[1]
    numbers = score(Path(SCORE[1]), Path(SCORE[3])).metrics.values
    assert numbers == pytest.approx(dict(zip(METRICS, pycocotools(found), strict=True)), abs=1e-12)
    for kind in (np.float32, np.float64):
        moved = []
        for entry in found:
            x, y, w, h = entry["bbox"]
            u, v, right, low = np.array([x, y, x + w, y + h], kind)
            moved.append({**entry, "bbox": [float(s) for s in (u, v, right - u, low - v)]})
        assert abs(pycocotools(moved)[0] - float(numbers["AP"] or 0)) > 1e-5


@pytest.mark.parametrize("first", [2**53, 2**63 - 600], ids=["2**53", "highest"])
@pytest.mark.usefixtures("place")
def test_ids_of_any_size_score_alike(first: int) -> None:
    """Ids of images and categories are int64 from end to end: as float64, neighbours are one."""
    numbers = score(Path(SCORE[1]), Path(SCORE[3])).metrics.values
    content, found = drawn()
    for entry in (*content["images"], *content["categories"]):
        entry["id"] += first
    for entry in (*content["annotations"], *found):
        entry["image_id"] += first
        entry["category_id"] += first
    helpers.write_annotations(Path("set"), content)
    Path("found.json").write_text(json.dumps(found))
    assert score(Path(SCORE[1]), Path(SCORE[3])).metrics.values == numbers


@pytest.mark.usefixtures("place")
def test_a_file_is_judged_without_its_images() -> None:
    """Exit code, verdict and run file follow the threshold; the run names file and data set."""
    ap = 100 * pycocotools(drawn()[1])[0]
    for least, code, status in ((ap - 1e-9, 0, "INCOMPLETE"), (ap + 1e-9, 1, "FAIL")):
        files = ("--json", "a.json", "--report-json", "run.json", "--overwrite")
        done = helpers.effd0(*SCORE, "--min-map", least, *files)
        assert (done.code, status in done.out) == (code, True), done.err
        run = read_run(Path("run.json"))
        assert (run.verdict.status, run.exit_status) == (status.lower(), code)
    assert run.artefact.name == "found.json"
    assert str(run.artefact.dataset).startswith("30 images of set val2017 (annotations ")
    assert json.loads(Path("a.json").read_text())["metrics"] == run.accuracy[0].metrics
    assert helpers.effd0("report", "run.json", "--html", "page.html").code == 0


@pytest.mark.usefixtures("place")
def test_what_counts_for_nothing_is_said() -> None:
    """Categories that the annotations do not know and images without detection are named."""
    found = [entry for entry in drawn()[1] if entry["image_id"] != 50]
    Path("found.json").write_text(json.dumps([{**found[0], "category_id": 12}, *found]))
    done = helpers.effd0(*SCORE)
    assert f"1 detections are of categories unknown to {SCORE[3]}: 12" in done.err
    assert "1 of 30 images have no detection, so all of their objects are missed: 50" in done.err
    assert done.code == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: {"category_id": IDS.index(e["category_id"])},
         r"^EvaluationError: category ids in found\.json are places .* from 0: .* id 1 for 0, and"),
        (lambda e: {"category_id": 1 + IDS.index(e["category_id"])}, "counted from 1: .* 1 for 1"),
        (lambda e: {"image_id": e["image_id"] + 1},
         r"^EvaluationError: 30 of 30 image ids .* of no image of set.*: 11, 21, .*; give the an"),
        (lambda e: {"image_id": str(e["image_id"])},
         r"^ResultError: 480 image ids in found\.json are text, but .*; write them as numbers$"),
    ],
    ids=["places-from-0", "places-from-1", "other-images", "text"],
)  # fmt: skip
@pytest.mark.usefixtures("place")
def test_ids_of_another_kind_are_refused(change: Any, message: str) -> None:
    """Without a word, pycocotools would score such a file near 0, or stop at an assertion."""
    Path("found.json").write_text(json.dumps([{**e, **change(e)} for e in drawn()[1]]))
    helpers.assert_one_error(f"(?m){message}", *SCORE)


@helpers.EVERY_SEED
@pytest.mark.parametrize("kind", ["annotations", "results"])
def test_a_mutated_file_gives_an_error_of_its_own_or_finite_numbers(
    kind: str, seeds: range, tmp_path: Path
) -> None:
    """Whatever a file holds, no other error comes out, and nothing that is not finite goes in."""
    content, found = helpers.coco_content(), tmp_path / "found.json"
    keys = ("image_id", "category_id", "bbox")
    entries = [{key: a[key] for key in keys} | {"score": 0.5} for a in content["annotations"]]
    file = helpers.write_annotations(helpers.write_coco(tmp_path, content), content)
    found.write_text(json.dumps(entries))

    def read() -> object:
        dataset = load_coco(tmp_path)
        values = score(found, file).metrics.values
        assert all(value is None or 0 <= value <= 1 for value in values.values())
        boxes = coco.truth_table(dataset)["box"], coco.read_results(found).rows["box"]
        return values, [box.tolist() for box in boxes]

    wrong, right = (file, content) if kind == "annotations" else (found, entries)
    helpers.assert_read_or_refused(wrong, right, seeds, read)


@pytest.mark.usefixtures("place")
def test_postprocess_points_to_it() -> None:
    """A results file in place of a folder of results is told which command scores it."""
    command = r"effd0 score found\.json --annotations FILE"
    helpers.assert_one_error(command, "postprocess", "--omfile", "found.json")
    helpers.assert_one_error(
        r"no\.json, which does not exist; check the path", *SCORE[:3], "no.json"
    )
