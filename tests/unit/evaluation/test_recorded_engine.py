"""effd0.evaluation.engines: a folder of results is scored as its images would have been."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effd0.data.coco import load_coco
from effd0.data.preprocess import input_scale
from effd0.detection.heads import split_heads
from effd0.detection.postprocess import postprocess
from effd0.errors import EvaluationError, HeadError, ResultError
from effd0.evaluation.engines import RecordedEngine
from effd0.evaluation.evaluate import Evaluation, EvaluationJob, evaluate, run_of
from effd0.metrics.summary import coco_metrics
from effd0.results.run import flat
from effd0.spec import ModelSpec
from tests.helpers import SMALL, coco_content, write_annotations, write_coco
from tests.helpers.results import NAMINGS, heads_of, write_bins, write_results, write_summary

STEMS = ("1", "2", "3")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three images of noise, ids 10 to 30, whose truths are what their heads find."""
    content = coco_content(3, (100, 60))
    content["categories"] = [{"id": c, "name": f"c{c}"} for c in range(1, 6)]
    content["annotations"] = []
    for seed, image in enumerate(content["images"]):
        (heads,) = split_heads(heads_of(seed), SMALL)
        found = postprocess(heads, image_scale((100, 60), SMALL), (100, 60), SMALL)
        for box, category in list(zip(found.boxes, found.classes, strict=True))[:8]:
            x1, y1, x2, y2 = (float(side) for side in box)
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": image["id"],
                    "category_id": int(category),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )
    return write_coco(tmp_path / "coco", content)


@dataclass(frozen=True)
class Job:
    """The scoring of results that `write_results` made."""

    results: Path
    root: Path
    bins: Path | None = None
    image_limit: int | None = None
    min_map: float | None = None

    def run(self) -> Evaluation:
        """Return the score."""
        engine = RecordedEngine(self.results, bins=self.bins, spec=SMALL)
        job = EvaluationJob(self.root, image_limit=self.image_limit, min_map=self.min_map)
        return evaluate(job, engine)


@pytest.fixture
def job(root: Path, tmp_path: Path) -> Job:
    """The scoring of tmp_path/result."""
    return Job(tmp_path / "result", root)


def image_scale(size: tuple[int, int], spec: ModelSpec) -> float:
    """Return the factor from input pixels to those of an image."""
    return 1.0 / input_scale(size, spec)


@pytest.mark.parametrize(
    ("naming", "suffix"),
    [*((naming, ".bin") for naming in NAMINGS), ("cut-at-dot", ".npy"), ("cut-at-dot", ".txt")],
)
def test_each_naming_scores_as_the_heads_do(naming: str, suffix: str, job: Job) -> None:
    """All twelve numbers are those of the same heads without a file between."""
    write_results(job.results, STEMS, naming, suffix)
    dataset = load_coco(job.root)
    scale = image_scale((100, 60), SMALL)
    found = {
        sample.image_id: postprocess(split_heads(heads_of(n), SMALL)[0], scale, (100, 60), SMALL)
        for n, sample in enumerate(dataset.samples)
    }
    wanted = coco_metrics(dataset, found, SMALL)
    assert wanted.ap is not None
    assert wanted.ap > 0.5
    metrics = job.run().metrics
    assert (metrics.values, metrics.per_class) == (wanted.values, wanted.per_class)


def test_the_record_says_where_it_comes_from(job: Job, tmp_path: Path) -> None:
    """Stages are those that ran here, the runner and the model those of the summary."""
    write_results(job.results, STEMS, "whole-stem")
    files = [[f"bins/{stem}.bin"] for stem in STEMS]
    own = {"runner": "ACL, 310P3", "model_sha256": "ab12"}
    write_summary(tmp_path / "result_summary.json", files, effd0=own)
    evaluation = job.run()
    counts = {name: times.count for name, times in evaluation.accuracy.stages_ms.items()}
    assert counts == {"read results": 3, "postprocess": 3}
    assert evaluation.accuracy.backend == f"results in {job.results}, by ACL, 310P3"
    assert evaluation.accuracy.model_sha256 == "ab12"
    assert evaluation.accuracy.settings["results"] == str(job.results)
    assert evaluation.verdict.status == "not gated"
    json.dumps(flat(run_of(evaluation, RecordedEngine(job.results, spec=SMALL))))


def test_a_limited_score_never_passes(job: Job) -> None:
    """The first images by id are scored, of a folder that holds more; the gate stays open."""
    write_results(job.results, STEMS, "sample-id")
    evaluation = replace(job, image_limit=2, min_map=1.0).run()
    assert evaluation.metrics.images == 2
    assert evaluation.verdict.status == "undecided"


def test_results_without_a_detection_fail(job: Job) -> None:
    """Heads that find nothing anywhere are no success, even without a floor."""
    write_results(job.results, STEMS, "whole-stem")
    for path in job.results.iterdir():
        np.full(path.stat().st_size // 4, -30, np.float32).tofile(path)
    evaluation = replace(job, min_map=0.0).run()
    assert evaluation.verdict.status == "fail"
    assert "not one detection in 3 images" in evaluation.reason


def test_results_that_stand_for_two_images_are_refused(job: Job) -> None:
    """A copy of another image's heads is complete and fresh, and yet a result too few."""
    write_results(job.results, STEMS, "whole-stem")
    for path in job.results.glob("2_*"):
        shutil.copyfile(job.results / path.name.replace("2_", "3_", 1), path)
    message = r"images 20 \(2\.png\) and 30 \(3\.png\) differ, but their detections"
    with pytest.raises(EvaluationError, match=message):
        job.run()


def test_a_limited_score_fails_where_the_floor_is_out_of_reach(job: Job) -> None:
    """Of three images two that show nothing rightly leave at most what the third could give."""
    write_results(job.results, STEMS, "sample-id")
    for path in job.results.iterdir():
        np.full(path.stat().st_size // 4, -30, np.float32).tofile(path)
    write_results(job.results, STEMS[:1], "sample-id")
    limited = replace(job, image_limit=2)
    evaluation = replace(limited, min_map=99.0).run()
    assert evaluation.verdict.status == "fail"
    message = r"on the first 2 of 3 images by id and cannot reach 99\.00 %"
    assert re.search(message, evaluation.reason)
    assert replace(limited, min_map=1.0).run().verdict.status == "undecided"


def test_a_broken_head_names_its_image(job: Job) -> None:
    """Of thousands of files, the one that overflowed can be found."""
    write_results(job.results, STEMS, "whole-stem")
    for path in job.results.glob("2_*"):
        np.full(path.stat().st_size // 4, np.nan, np.float32).tofile(path)
    with pytest.raises(HeadError, match=r"class_p3 holds .* not finite") as caught:
        job.run()
    assert caught.value.__notes__ == ["in the results of 2"]


def test_the_manifest_leads_by_image_id(job: Job, tmp_path: Path) -> None:
    """With the inputs' manifest the score is the same, and its fingerprint is on record."""
    write_results(job.results, STEMS, "input-n")
    plain = job.run()
    bins = write_bins(tmp_path / "bins", load_coco(job.root))
    shutil.copy(bins / "manifest.json", tmp_path / "result_manifest.json")
    evaluation = job.run()
    assert evaluation.metrics == plain.metrics
    assert plain.accuracy.settings["manifest_sha256"] is None
    assert re.fullmatch("[0-9a-f]{64}", evaluation.accuracy.settings["manifest_sha256"])


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
    change: dict[str, Any], message: str, job: Job, tmp_path: Path
) -> None:
    """Where manifest and annotations speak of different images, neither is believed."""
    write_results(job.results, STEMS, "whole-stem")
    bins = write_bins(tmp_path / "bins", load_coco(job.root))
    content = json.loads((job.root / "annotations/instances_val2017.json").read_text())
    content["images"][0] |= change
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 10]
    write_annotations(job.root, content)
    shutil.copy(job.root / "val2017/1.png", job.root / "val2017/4.png")
    with pytest.raises(ResultError, match=message):
        replace(job, bins=bins).run()


def test_a_picture_that_changed_is_refused(job: Job, tmp_path: Path) -> None:
    """Of a picture that was replaced since, there is no result, whatever its name and size."""
    write_results(job.results, STEMS, "whole-stem")
    bins = write_bins(tmp_path / "bins", load_coco(job.root))
    shutil.copy(bins / "manifest.json", tmp_path / "result_manifest.json")
    job.run()
    shutil.copy(job.root / "val2017/1.png", job.root / "val2017/2.png")
    message = r"2\.png has changed since the inputs of .*_manifest\.json were made of it; pre"
    with pytest.raises(ResultError, match=message):
        job.run()
