"""Tests for `effd0.hits` and `effd0.curves`: every number that COCOeval makes, to the last bit."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from effd0 import hits, overlaps
from effd0.curves import accumulate_curves
from effd0.data.coco import Dataset, Sample
from effd0.evaluate import to_coco_results
from effd0.spec import D0
from effd0.types import Fractions

from .scored import drawn_scenes, jittered

#: Corners and sides of drawn boxes.  Few, so that boxes, scores and IoUs are often equal, and of
#: areas on both sides of COCO's 32² and 96², and on them.
SIDES = (8, 16, 32, 64, 96, 100)


def _pycocotools(dataset: Dataset, results: Fractions) -> Any:
    """Return COCOeval after it has accumulated and summed up."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth, found = COCO(), COCO()
        truth.dataset = {
            "images": [{"id": sample.image_id} for sample in dataset.samples],
            "annotations": [dict(a) for a in dataset.annotations],
            "categories": [{"id": id_} for id_ in dataset.categories],
        }
        truth.createIndex()
        # What loadRes makes of a table, which it refuses where there is no row.
        found.dataset = truth.dataset | {
            "annotations": [
                {
                    "id": n,
                    "image_id": int(row[0]),
                    "bbox": row[1:5].tolist(),
                    "area": row[3] * row[4],
                    "score": row[5],
                    "category_id": int(row[6]),
                    "iscrowd": 0,
                }
                for n, row in enumerate(results, start=1)
            ]
        }
        found.createIndex()
        scored = COCOeval(truth, found, "bbox")
        scored.params.imgIds = dataset.image_ids
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    return scored


def _assert_as_pycocotools(dataset: Dataset, results: Fractions) -> None:
    """Compare all curves and numbers, without any tolerance."""
    __tracebackhide__ = True
    wanted, got = _pycocotools(dataset, results), accumulate_curves(dataset, results)
    assert np.array_equal(got.precision, wanted.eval["precision"][..., -1])
    assert np.array_equal(got.recall, wanted.eval["recall"])
    assert got.stats() == wanted.stats.tolist()


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Dataset, Fractions]:
    """Images with objects and detections on a coarse grid, of few scores, in any order."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    images, objects, found = draw(st.tuples(*[st.integers(1, n) for n in (4, 12, 40)]))

    def boxes(count: int) -> Any:
        return np.concatenate(
            [8 * rng.integers(0, 6, (count, 2)), rng.choice(SIDES, (count, 2))], 1
        )

    annotations = tuple(
        {
            "id": n,
            "image_id": 3 * int(rng.integers(0, images)) + 1,
            "category_id": int(rng.choice([2, 3, 7])),
            "bbox": box.tolist(),
            "area": float(box[2] * box[3] * rng.choice([0.5, 1])),
            "iscrowd": int(rng.random() < 0.2),
        }
        for n, box in enumerate(boxes(objects), start=1)
    )
    samples = tuple(Sample(3 * n + 1, Path(f"{n}.png"), (200, 200)) for n in range(images))
    # Category 7 has objects and no detections, 4 neither, 9 is none of the dataset's.
    categories = {7: "c", 3: "b", 2: "a", 4: "d"}
    results = np.column_stack(
        [
            3 * rng.integers(0, images, found) + 1,
            boxes(found),
            rng.choice([0.25, 0.5, 0.75], found),
            rng.choice([2, 3, 9], found),
        ]
    )
    return Dataset(Path("drawn"), samples, annotations, categories, images, ()), results


@given(scene=scenes())
def test_curves_are_those_of_pycocotools(scene: tuple[Dataset, Fractions]) -> None:
    """Whatever ties, in scores or IoUs, and whatever is crowd, each number is the reference's."""
    _assert_as_pycocotools(*scene)


@settings(max_examples=10)
@given(st.integers(0, 10**6))
def test_numbers_of_scenes_are_those_of_pycocotools(seed: int) -> None:
    """Boxes that are on no grid give the same too, with a middling detector."""
    dataset = drawn_scenes(seed, 12)
    _assert_as_pycocotools(dataset, to_coco_results(jittered(dataset, seed), D0))


@pytest.mark.parametrize(
    ("objects", "found"),
    [
        pytest.param([(0, 0, 20, 10)], [(0, 0, 10, 10)], id="iou=1/2"),
        pytest.param([(0, 0, 100, 10)], [(0, 0, 75, 10)], id="iou=3/4"),
        pytest.param([(0, 0, 10, 10)], [(0, 0, 10, 10)], id="iou=1"),
        # The best detection overlaps both objects by 9/11; the next one finds only one of them.
        pytest.param(
            [(0, 0, 10, 10), (2, 0, 10, 10)], [(1, 0, 10, 10), (0, 0, 10, 10)], id="tie-for-the-one"
        ),
        pytest.param(
            [(0, 0, 10, 10), (2, 0, 10, 10)], [(1, 0, 10, 10), (2, 0, 10, 10)], id="tie-for-other"
        ),
    ],
)
def test_exact_overlaps_go_as_in_pycocotools(
    objects: list[tuple[int, ...]], found: list[tuple[int, ...]]
) -> None:
    """An IoU that is a threshold reaches it, and of two objects as near the later one is taken."""
    annotations = tuple(
        {"id": n, "image_id": 1, "category_id": 1, "bbox": list(box), "area": 100.0, "iscrowd": 0}
        for n, box in enumerate(objects, start=1)
    )
    samples = (Sample(1, Path("1.png"), (200, 200)),)
    dataset = Dataset(Path("drawn"), samples, annotations, {1: "a"}, 1, ())
    results = np.array([(1, *box, 0.9 - 0.1 * n, 1) for n, box in enumerate(found)])
    _assert_as_pycocotools(dataset, results)


def test_no_more_than_a_hundred_of_an_image_are_looked_at() -> None:
    """Of 130 detections of one category, the 100 with the highest scores count, in any order."""
    dataset = drawn_scenes(5, 3)
    rng = np.random.default_rng(0)
    results = np.column_stack(
        [
            np.repeat([1, 2, 3], 130),
            rng.uniform(0, 150, (390, 2)),
            rng.uniform(20, 150, (390, 2)),
            rng.random(390),
            np.full(390, 5),
        ]
    )
    _assert_as_pycocotools(dataset, results)
    found = list(hits.category_hits(dataset, results))
    assert [len(one.ranks) for one in found] == [0, 0, 300, 0]
    by_image = np.argsort(results[:, 5].reshape(3, 130))[:, 30:] + [[0], [130], [260]]
    assert set(found[2].rows.tolist()) == set(by_image.ravel().tolist())


@given(scene=scenes())
def test_a_hit_names_its_row_and_its_object(scene: tuple[Dataset, Fractions]) -> None:
    """Both are of the same image and category, and no object, nor any crowd, is named twice."""
    dataset, results = scene
    truth = overlaps.placed_objects(dataset)
    for found in hits.category_hits(dataset, results):
        places = np.searchsorted(dataset.image_ids, results[found.rows, 0])
        assert np.array_equal(places, found.images)
        assert (results[found.rows, 6] == found.category).all()
        assert (np.diff(results[found.rows, 5]) <= 0).all()
        hit = found.objects >= 0
        assert np.array_equal(hit, found.hits[:, 0, 0])
        objects = found.objects[hit]
        assert (truth.categories[objects] == found.category).all()
        assert np.array_equal(truth.images[objects], found.images[hit])
        assert len(set(objects.tolist())) == objects.size
        assert not truth.crowds[objects].any()


@pytest.mark.parametrize("chunk", [1, 7], ids="chunk={}".format)
def test_memory_for_pairs_changes_nothing(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few pairs are in memory at a time, the numbers are the same."""
    dataset = drawn_scenes(2, 10)
    results = to_coco_results(jittered(dataset, 2), D0)
    whole = accumulate_curves(dataset, results)
    monkeypatch.setattr(overlaps, "_CHUNK", chunk)
    parts = accumulate_curves(dataset, results)
    assert np.array_equal(parts.precision, whole.precision)
    assert np.array_equal(parts.recall, whole.recall)


def test_results_are_left_alone() -> None:
    """The table is the caller's."""
    dataset = drawn_scenes(2, 10)
    results = to_coco_results(jittered(dataset, 2), D0)
    before = results.copy()
    accumulate_curves(dataset, results)
    assert np.array_equal(results, before)
