"""Tests for `effd0.metrics.coco`: the match table, compared with pycocotools to the last bit."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from effd0.data.coco import Dataset, Sample
from effd0.detection.postprocess import Detections
from effd0.errors import EvaluationError
from effd0.metrics import coco
from effd0.metrics.coco import entries_of, match_table, to_coco_results
from effd0.metrics.summary import METRICS, accumulate, coco_metrics, summarize
from effd0.spec import D0
from tests.helpers.results import drawn_scenes, jittered, scene
from tests.suite.truth import NOTHING, Found, made, perfect

#: Corners and sides of drawn boxes.  Few, so that boxes, scores and IoUs are often equal, and of
#: areas on both sides of COCO's 32² and 96², and on them.
SIDES = (8, 16, 32, 64, 96, 100)


def pycocotools(dataset: Dataset, found: Found) -> Any:
    """Return COCOeval of *found* after it has accumulated and summed up."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": sample.image_id} for sample in dataset.samples],
            "annotations": [dict(a) for a in dataset.annotations],
            "categories": [{"id": id_} for id_ in dataset.categories],
        }
        truth.createIndex()
        scored = COCOeval(truth, truth.loadRes([*entries_of(to_coco_results(found, D0))]), "bbox")
        scored.params.imgIds = dataset.image_ids
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    return scored


def assert_as_pycocotools(dataset: Dataset, found: Found) -> None:
    """Compare all curves and numbers, without any tolerance."""
    __tracebackhide__ = True
    wanted, matches = pycocotools(dataset, found), match_table(dataset, found, D0)
    precision, recall = accumulate(matches)
    assert np.array_equal(precision, wanted.eval["precision"][..., -1])
    assert np.array_equal(recall, wanted.eval["recall"])
    numbers = [None if value == -1 else value for value in wanted.stats.tolist()]
    assert summarize(matches).values == dict(zip(METRICS, numbers, strict=True))


def random_set(seed: int) -> tuple[Dataset, Found]:
    """
    Images with objects, crowds and detections, half of the sets on a coarse grid with few scores.

    In every tenth set an image has more than 100 detections of one category; in every third, image
    ids are so large that neighbours are one float64.
    """
    rng = np.random.default_rng(seed)
    images, objects = int(rng.integers(1, 5)), int(rng.integers(1, 13))
    on_grid, many = seed % 2 == 0, seed % 10 < 1
    first = 2**53 if seed % 3 == 0 else 1

    def boxes(count: int) -> Any:
        if on_grid:
            return np.hstack([8 * rng.integers(0, 6, (count, 2)), rng.choice(SIDES, (count, 2))])
        return np.hstack([rng.uniform(0, 60, (count, 2)), rng.uniform(4, 120, (count, 2))])

    annotations = tuple(
        {
            "id": n,
            "image_id": int(rng.integers(0, images)) + first,
            "category_id": int(rng.choice([2, 3, 7])),
            "bbox": box.tolist(),
            "area": float(box[2] * box[3] * rng.choice([0.5, 1])),
            "iscrowd": int(rng.random() < 0.2),
        }
        for n, box in enumerate(boxes(objects), start=1)
    )
    samples = tuple(Sample(n + first, Path(f"{n}.png"), (200, 200)) for n in range(images))
    # Category 7 has objects and no detections, 4 neither, 9 is none of the dataset's.
    dataset = Dataset(
        Path("drawn"), samples, annotations, {7: "c", 3: "b", 2: "a", 4: "d"}, images, ()
    )
    found = {}
    for sample in samples:
        count = 130 if many else int(rng.integers(sample is samples[0], 20))
        corners = boxes(count).astype(np.float32)
        corners[:, 2:] += corners[:, :2]
        scores = rng.choice([0.25, 0.5, 0.75], count) if on_grid else rng.random(count)
        kinds = np.full(count, 2) if many else rng.choice([2, 3, 9], count)
        found[sample.image_id] = made(np.column_stack([corners, scores, kinds]))
    return dataset, found


@pytest.mark.parametrize(
    "seeds",
    [range(30), pytest.param(range(30, 300), marks=pytest.mark.slow)],
    ids=["30-sets", "270-more"],
)
def test_every_number_of_random_sets_is_that_of_pycocotools(seeds: range) -> None:
    """Whatever ties, is crowd, or is beyond the hundredth detection, curves and numbers agree."""
    for seed in seeds:
        assert_as_pycocotools(*random_set(seed))


@pytest.mark.parametrize(
    ("objects", "found"),
    [
        ([(0, 0, 20, 10)], [(0, 0, 10, 10)]),
        ([(0, 0, 100, 10)], [(0, 0, 75, 10)]),
        # The best detection overlaps both objects by 9/11; the next one finds only one of them.
        ([(0, 0, 10, 10), (2, 0, 10, 10)], [(1, 0, 10, 10), (0, 0, 10, 10)]),
        ([(0, 0, 10, 10), (2, 0, 10, 10)], [(1, 0, 10, 10), (2, 0, 10, 10)]),
    ],
    ids=["iou=1/2", "iou=3/4", "tie-for-the-one", "tie-for-the-other"],
)
def test_exact_overlaps_go_as_in_pycocotools(
    objects: list[tuple[int, ...]], found: list[tuple[int, ...]]
) -> None:
    """An IoU that is a threshold reaches it, and of two objects as near the later one is taken."""
    rows = [(x, y, x + w, y + h, 0.9 - 0.1 * n, 1) for n, (x, y, w, h) in enumerate(found)]
    dataset = scene([(*box, 1, 0) for box in objects])
    assert_as_pycocotools(dataset, {1: made(rows), 2: NOTHING})


def test_detections_in_any_order_go_as_in_pycocotools() -> None:
    """Postprocessing gives them by falling score, but whoever makes them may not."""
    for seed in range(20):
        dataset, found = random_set(seed)
        rng = np.random.default_rng(seed)
        for image_id, one in found.items():
            order = rng.permutation(len(one))
            found[image_id] = Detections(one.boxes[order], one.scores[order], one.classes[order])
        assert_as_pycocotools(dataset, found)


def test_a_match_names_its_object() -> None:
    """It is of the same image and category and no crowd, and no object is named twice."""
    for seed in range(40):
        matches = match_table(*random_set(seed), D0)
        for category, own in matches.by_category():
            assert (np.diff(own["score"]) <= 0).all()
            hit = own["truth"] >= 0
            assert np.array_equal(hit, own["hit"] & 1 == 1)
            truths = matches.truths[own["truth"][hit]]
            assert (truths["category"] == category).all()
            assert np.array_equal(truths["image"], own["image"][hit])
            assert not truths["crowd"].any()
            assert len(set(own["truth"][hit].tolist())) == hit.sum()


def test_memory_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few detections are in memory at a time, the numbers are the same."""
    dataset = drawn_scenes(2, 10)
    found = jittered(dataset, 2)
    whole = coco_metrics(dataset, found, D0)
    monkeypatch.setattr(coco, "_MATCHED_TOGETHER", 7)
    assert coco_metrics(dataset, found, D0) == whole


@pytest.mark.parametrize(
    ("image_ids", "message"),
    [
        ([1, 3], r"2 images, .* has 3: 1 are missing \[2\], 0 are foreign \[\]"),
        ([1, 2, 3, 5], r"4 images, .* has 3: 0 are missing \[\], 1 are foreign \[5\]"),
    ],
    ids=["missing", "foreign"],
)
def test_other_images_than_the_datasets_are_refused(image_ids: list[int], message: str) -> None:
    """A run that lost images, or is of other images, gets no score."""
    with pytest.raises(EvaluationError, match=f"detections cover {message}"):
        match_table(drawn_scenes(0, 3), dict.fromkeys(image_ids, NOTHING), D0)


def test_detections_below_the_threshold_are_left_out(embedded_dataset: Dataset) -> None:
    """Scores of 0.001 count, those below do not, neither in the metric nor in the number."""
    found = perfect(embedded_dataset)
    best = coco_metrics(embedded_dataset, found, D0)
    first = embedded_dataset.image_ids[0]
    one = found[first]
    rows = np.column_stack([one.boxes, one.scores, one.classes])
    faint = [(0, 0, 50, 50, score, 1) for score in (np.float32(0.001), 0.0009, 0.0)]
    more, fewer = (
        coco_metrics(embedded_dataset, found | {first: made([*rows, *extra])}, D0)
        for extra in (faint, faint[1:])
    )
    assert more.detections == best.detections + 1
    assert fewer == best
