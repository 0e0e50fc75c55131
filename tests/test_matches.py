"""Tests for `effd0.matches`: units matched apart score as all images matched at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.scale import score_at_scale
from benchmarks.synthetic import scored_set
from effd0.data.coco import Dataset
from effd0.errors import EvaluationError
from effd0.evaluate import evaluate, metrics_of_hits, to_coco_results
from effd0.hits import MOST, THRESHOLDS, category_hits
from effd0.matches import MATCH, UnitMatches, merged_hits, pack_matches
from effd0.overlaps import SIZES
from effd0.spec import D0
from effd0.twins import twin_key

from .scored import NOTHING, Found, cut, drawn_scenes, jittered, made


def assert_as_at_once(dataset: Dataset, found: Found, units: Sequence[UnitMatches]) -> None:
    """Compare the hits of each category and all metrics, without any tolerance."""
    __tracebackhide__ = True
    parts = [unit.matches for unit in units]
    whole = list(category_hits(dataset, to_coco_results(found, D0)))
    merged = list(merged_hits(dataset, parts))
    assert [one.category for one in merged] == [one.category for one in whole]
    for got, wanted in zip(merged, whole, strict=True):
        for name in ("images", "ranks", "hits", "ignored", "truths"):
            one, other = getattr(got, name), getattr(wanted, name)
            assert one.dtype == other.dtype
            assert np.array_equal(one, other), name
    count = sum(unit.detections for unit in units)
    metrics = metrics_of_hits(dataset, merged_hits(dataset, parts), count)
    assert metrics == evaluate(dataset, found, D0, evaluator="numpy")


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Dataset, Found]:
    """Images with crowds, some without objects or detections, and few scores or many."""
    seed, images = draw(st.integers(0, 10**6)), draw(st.integers(1, 9))
    # Ids that are no places, and categories that have nothing, or detections alone.
    dataset = _renumbered(drawn_scenes(seed, images), draw(st.integers(1, 5)))
    dataset = replace(dataset, categories={**dataset.categories, 3: "car", 80: "toaster"})
    found = jittered(replace(dataset, categories={**dataset.categories, 7: "train"}), seed)
    if draw(st.booleans()):
        tied = np.random.default_rng(seed)
        found = {
            id_: made(
                [
                    (*box, tied.choice([0.0005, 0.25, 0.5]), c)
                    for box, c in zip(one.boxes, one.classes, strict=True)
                ]
            )
            for id_, one in found.items()
        }
    bare = draw(st.sets(st.sampled_from(dataset.image_ids)))
    return dataset, found | dict.fromkeys(bare, NOTHING)


def _renumbered(dataset: Dataset, step: int) -> Dataset:
    """Image n has the id n * step + 3 instead."""
    samples = tuple(replace(s, image_id=s.image_id * step + 3) for s in dataset.samples)
    own = tuple({**a, "image_id": a["image_id"] * step + 3} for a in dataset.annotations)
    return replace(dataset, samples=samples, annotations=own)


@given(scene=scenes(), data=st.data())
def test_any_cutting_in_any_order_scores_as_all_at_once(
    scene: tuple[Dataset, Found], data: st.DataObject
) -> None:
    """Wherever units begin and whenever they arrive, no bit of any number changes."""
    dataset, found = scene
    borders = data.draw(st.lists(st.integers(0, len(dataset.samples)), max_size=8))
    units = data.draw(st.permutations(cut(dataset, found, borders)))
    assert_as_at_once(dataset, found, units)


def crowded(count: int) -> tuple[Dataset, Found]:
    """Return four images with so many detections of one category, half of them tied."""
    dataset = drawn_scenes(5, 4)
    rng = np.random.default_rng(0)
    found = {}
    for id_ in dataset.image_ids:
        corners = rng.uniform(0, 200, (count, 2))
        scores = np.where(rng.random(count) < 0.5, 0.5, rng.random(count))
        boxes = np.concatenate([corners, corners + rng.uniform(20, 150, (count, 2))], 1)
        found[id_] = made(np.column_stack([boxes, scores, np.full(count, 5)]))
    return dataset, found


def test_what_is_beyond_the_hundredth_is_packed_by_no_unit() -> None:
    """COCO looks at a hundred of a category and image; the others count as detections alone."""
    dataset, found = crowded(MOST + 30)
    units = cut(dataset, found, [1, 2])
    assert_as_at_once(dataset, found, units[::-1])
    assert [len(unit.matches) for unit in units] == [MOST, MOST, 2 * MOST]
    assert sum(unit.detections for unit in units) == 4 * (MOST + 30)


def test_a_packed_detection_tells_what_was_matched() -> None:
    """Each field of each row is what `category_hits` says, and a row takes 23 bytes."""
    dataset, found = drawn_scenes(2, 10), jittered(drawn_scenes(2, 10), 2)
    results = to_coco_results(found, D0)
    packed = pack_matches(dataset, results, 1000)
    assert MATCH.itemsize == 23
    assert np.array_equal(packed["category"], np.sort(packed["category"]))
    flags = (len(SIZES), len(THRESHOLDS))
    rows = 0
    for wanted in category_hits(dataset, results):
        own = packed[packed["category"] == wanted.category]
        order = np.lexsort((wanted.ranks, wanted.images))
        rows += len(own)
        assert np.array_equal(own["image"], wanted.images[order] + 1000)
        assert np.array_equal(own["rank"], wanted.ranks[order])
        assert np.array_equal(own["score"], results[wanted.rows[order], 5])
        for name in ("hits", "ignored"):
            bits = np.unpackbits(own[name], axis=1).astype(bool).reshape(len(own), *flags)
            assert np.array_equal(bits, getattr(wanted, name)[order])
    assert rows == len(packed) == len(results)


def test_parts_may_be_read_only_and_stay_as_they_are() -> None:
    """What arrives from another process is often shared memory."""
    dataset, found = drawn_scenes(4, 6), jittered(drawn_scenes(4, 6), 4)
    units = cut(dataset, found, [2, 4])
    before = [unit.matches.tobytes() for unit in units]
    for unit in units:
        unit.matches.setflags(write=False)
    assert_as_at_once(dataset, found, units)
    assert [unit.matches.tobytes() for unit in units] == before


def test_a_score_that_is_no_float32_is_refused() -> None:
    """Rounded, it might tie with another and change places with it."""
    results = to_coco_results(jittered(drawn_scenes(0, 3), 0), D0)
    results[-1, 5] = 0.1
    with pytest.raises(EvaluationError, match=r"1 scores, as .*0\.1.*, are no float32"):
        pack_matches(drawn_scenes(0, 3), results, 0)


def test_a_unit_holds_the_twin_key_of_each_image() -> None:
    """Keys stand in the order of the images."""
    dataset, found = scored_set(5)
    (unit,) = cut(dataset, found, [])
    assert unit.image_ids == tuple(dataset.image_ids)
    assert list(unit.twin_keys) == [twin_key(found[id_]) for id_ in unit.image_ids]
    assert len(set(unit.twin_keys)) == 5


@pytest.mark.slow
@pytest.mark.parametrize("size", [16, 64, 1024], ids="unit={}".format)
def test_two_thousand_images_score_as_at_once(size: int, drawn: tuple[Dataset, Found]) -> None:
    """A hundred detections an image in eighty categories, in units as workers have them."""
    dataset, found = drawn
    images = len(dataset.samples)
    units = cut(dataset, found, range(0, images, size))
    order: Any = np.random.default_rng(0).permutation(len(units))
    count = sum(unit.detections for unit in units)
    parts = [units[n].matches for n in order]
    metrics = metrics_of_hits(dataset, merged_hits(dataset, parts), count)
    assert metrics == evaluate(dataset, found, D0, evaluator="numpy")
    assert count == 100 * images


@pytest.mark.slow
def test_the_benchmark_of_many_images_scores_as_at_once(drawn: tuple[Dataset, Found]) -> None:
    """What is drawn, matched and dropped unit by unit has the metrics of all of it at once."""
    scored = score_at_scale(len(drawn[0].samples))
    metrics = evaluate(*drawn, D0, evaluator="numpy")
    assert scored["metrics"] == metrics.values
    assert scored["per_class"] == metrics.per_class
    assert scored["detections"] == metrics.detections


@pytest.fixture(scope="module")
def drawn() -> tuple[Dataset, Found]:
    """Two thousand images."""
    return scored_set(2000)
