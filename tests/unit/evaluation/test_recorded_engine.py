"""effd0.evaluation.engines: a folder of results is scored as its images would have been."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effd0.data.coco import load_coco
from effd0.data.preprocess import input_scale
from effd0.detection.heads import split_heads
from effd0.detection.postprocess import Detections, postprocess
from effd0.errors import EvaluationError, HeadError, ResultError
from effd0.evaluation.engines import RecordedEngine
from effd0.evaluation.evaluate import Evaluation, EvaluationJob, evaluate, run_of
from effd0.metrics.coco import entries_of, to_coco_results
from effd0.metrics.summary import coco_metrics
from effd0.results.run import flat
from tests.helpers import SMALL, coco_content, write_annotations, write_coco
from tests.helpers.results import NAMINGS, heads_of, write_bins, write_results, write_summary

STEMS = ("1", "2", "3")
SIZE = (100, 60)


def found_in(seed: int) -> Detections:
    """Return what the heads of *seed* say of an image."""
    (heads,) = split_heads(heads_of(seed), SMALL)
    return postprocess(heads, 1.0 / input_scale(SIZE, SMALL), SIZE, SMALL)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three images of noise, ids 10 to 30, whose truths are what their heads find."""
    content = coco_content(3, SIZE)
    content["categories"] = [{"id": c, "name": f"c{c}"} for c in range(1, 6)]
    found = {image["id"]: found_in(seed) for seed, image in enumerate(content["images"])}
    best = [to_coco_results({id_: one}, SMALL)[:8] for id_, one in found.items()]
    content["annotations"] = [
        entry | {"id": n, "area": entry["bbox"][2] * entry["bbox"][3], "iscrowd": 0}
        for n, entry in enumerate(entries_of(np.concatenate(best)), 1)
    ]
    return write_coco(tmp_path / "coco", content)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """The results of the images, as another tool has named them."""
    write_results(tmp_path / "result", STEMS, "whole-stem")
    return tmp_path / "result"


def score(results: Path, root: Path, bins: Path | None = None, **job: Any) -> Evaluation:
    """Return the score of *results* on the images of *root*."""
    return evaluate(EvaluationJob(root, **job), RecordedEngine(results, bins=bins, spec=SMALL))


def fill(results: Path, value: float, pattern: str = "*") -> None:
    """Put *value* in place of each logit and box of the files of *pattern*."""
    for path in results.glob(pattern):
        np.full(path.stat().st_size // 4, value, np.float32).tofile(path)


@pytest.mark.parametrize(
    ("naming", "suffix"),
    [*((naming, ".bin") for naming in NAMINGS), ("cut-at-dot", ".npy"), ("cut-at-dot", ".txt")],
)
def test_each_naming_scores_as_the_heads_do(
    naming: str, suffix: str, root: Path, tmp_path: Path
) -> None:
    """All twelve numbers are those of the same heads without a file between."""
    write_results(tmp_path / "result", STEMS, naming, suffix)
    dataset = load_coco(root)
    found = {sample.image_id: found_in(n) for n, sample in enumerate(dataset.samples)}
    wanted = coco_metrics(dataset, found, SMALL)
    assert wanted.ap is not None
    assert wanted.ap > 0.5
    metrics = score(tmp_path / "result", root).metrics
    assert (metrics.values, metrics.per_class) == (wanted.values, wanted.per_class)


def test_the_record_says_where_it_comes_from(results: Path, root: Path) -> None:
    """Stages are those that ran here, the runner and the model those of the summary."""
    files = [[f"bins/{stem}.bin"] for stem in STEMS]
    own = {"runner": "ACL, 310P3", "model_sha256": "ab12"}
    write_summary(results.with_name("result_summary.json"), files, effd0=own)
    evaluation = score(results, root)
    accuracy = evaluation.accuracy
    counts = {name: times.count for name, times in accuracy.stages_ms.items()}
    assert counts == {"read results": 3, "postprocess": 3}
    assert accuracy.backend == f"results in {results}, by ACL, 310P3"
    assert accuracy.model_sha256 == "ab12"
    assert accuracy.settings["results"] == str(results)
    assert evaluation.verdict.status == "not gated"
    json.dumps(flat(run_of(evaluation, RecordedEngine(results, spec=SMALL))))


def test_a_limited_score_never_passes(results: Path, root: Path) -> None:
    """It fails where the images that were left out cannot lift it to the threshold."""
    fill(results, -30, "[23]_*")
    evaluation = score(results, root, image_limit=2, min_map=99.0)
    assert evaluation.verdict.status == "fail"
    message = r"on the first 2 of 3 images by id and cannot reach 99\.00 %"
    assert re.search(message, evaluation.reason)
    assert evaluation.metrics.images == 2
    assert score(results, root, image_limit=2, min_map=1.0).verdict.status == "undecided"


def test_results_without_a_detection_fail(results: Path, root: Path) -> None:
    """Heads that find nothing anywhere are no success, even without a threshold."""
    fill(results, -30)
    evaluation = score(results, root, min_map=0.0)
    assert evaluation.verdict.status == "fail"
    assert "not one detection in 3 images" in evaluation.reason


def test_results_that_stand_for_two_images_are_refused(results: Path, root: Path) -> None:
    """A copy of another image's heads is complete and fresh, and yet a result too few."""
    for path in results.glob("2_*"):
        shutil.copyfile(path, results / path.name.replace("2_", "3_", 1))
    message = r"images 20 \(2\.png\) and 30 \(3\.png\) differ, but their detections"
    with pytest.raises(EvaluationError, match=message):
        score(results, root)


def test_a_broken_head_names_its_image(results: Path, root: Path) -> None:
    """Of thousands of files, the one that overflowed can be found."""
    fill(results, np.nan, "2_*")
    with pytest.raises(HeadError, match=r"class_p3 holds .* not finite") as caught:
        score(results, root)
    assert caught.value.__notes__ == ["in the results of 2"]


def test_the_manifest_leads_by_image_id(root: Path, tmp_path: Path) -> None:
    """The score is the same with it, and its fingerprint is on record; a new picture is refused."""
    results = tmp_path / "result"
    write_results(results, STEMS, "input-n")
    plain = score(results, root)
    bins = write_bins(tmp_path / "bins", load_coco(root))
    shutil.copy(bins / "manifest.json", tmp_path / "result_manifest.json")
    evaluation = score(results, root)
    assert evaluation.metrics == plain.metrics
    assert plain.accuracy.settings["manifest_sha256"] is None
    assert re.fullmatch("[0-9a-f]{64}", evaluation.accuracy.settings["manifest_sha256"])
    shutil.copy(root / "val2017/1.png", root / "val2017/2.png")
    message = r"2\.png has changed since the inputs of .*_manifest\.json were made of it; pre"
    with pytest.raises(ResultError, match=message):
        score(results, root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            {"id": 11}, r"has no image 11 \(1\.png\); preprocess all images of --root", id="id"
        ),
        pytest.param(
            {"width": 101},
            r"image 10 is 1, \(100, 60\) pixels at scale 0\.78125, but it is 1, \(101, 60\)",
            id="size",
        ),
        pytest.param({"file_name": "4.png"}, r"image 10 is 1, .*, but it is 4, ", id="file"),
    ],
)
def test_inputs_of_other_images_are_refused(
    change: dict[str, Any], message: str, results: Path, root: Path, tmp_path: Path
) -> None:
    """Where manifest and annotations speak of different images, neither is believed."""
    bins = write_bins(tmp_path / "bins", load_coco(root))
    content = json.loads((root / "annotations/instances_val2017.json").read_text())
    content["images"][0] |= change
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 10]
    write_annotations(root, content)
    shutil.copy(root / "val2017/1.png", root / "val2017/4.png")
    with pytest.raises(ResultError, match=message):
        score(results, root, bins)
