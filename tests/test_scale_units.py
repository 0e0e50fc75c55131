"""Units: every image once, batches where one process has them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from effd0.data.coco import Dataset, Sample
from effd0.scale.units import MOST_BATCHES, UNITS_A_WORKER, cut


def dataset_of(images: int) -> Dataset:
    """Return a dataset of so many images, ids from 100, each third one with two objects."""
    samples = tuple(Sample(100 + n, Path(f"/images/{n}.jpg"), (8, 8)) for n in range(images))
    annotations = tuple(
        {"id": 2 * n + twice + 1, "image_id": 100 + n, "category_id": 1, "bbox": [0, 0, 1, 1]}
        for n in range(0, images, 3)
        for twice in (0, 1)
    )
    return Dataset(Path("file"), samples, annotations, {1: "one"}, images, ())


@given(st.integers(1, 300), st.integers(1, 9), st.integers(1, 9), st.data())
def test_units_cover_what_is_left_once(
    images: int, batch_size: int, workers: int, data: st.DataObject
) -> None:
    """Units and what is done are all images once, in whole batches, each with its own objects."""
    dataset = dataset_of(images)
    batches = -(-images // batch_size)
    chosen = data.draw(st.sets(st.integers(0, batches - 1)))
    done = [(n * batch_size, min((n + 1) * batch_size, images)) for n in chosen]
    units = cut(dataset, batch_size, workers, done)
    places = [place for unit in units for place in range(unit.first, unit.stop)]
    places += [place for first, stop in done for place in range(first, stop)]
    assert sorted(places) == list(range(images))
    for unit in units:
        assert unit.first % batch_size == 0
        assert (
            unit.stop % batch_size == 0
            or unit.stop == images
            or (unit.stop in {f for f, _ in done})
        )
        assert unit.samples == dataset.samples[unit.first : unit.stop]
        own = [a for a in dataset.annotations if a["image_id"] in unit.image_ids]
        assert list(unit.annotations) == own
        assert len(unit.samples) <= MOST_BATCHES * batch_size


def test_each_worker_has_several_units() -> None:
    """However few the images, the fast can help out the slow."""
    units = cut(dataset_of(640), 4, 5)
    assert len(units) >= 5 * UNITS_A_WORKER


def test_a_unit_is_a_dataset_of_its_own() -> None:
    """It has the categories of the whole, and no image or object of another."""
    whole = replace(dataset_of(30), extra_files=("x.jpg",))
    unit = cut(whole, 2, 1)[1]
    own = unit.of(whole)
    assert own.image_ids == list(unit.image_ids)
    assert own.categories == whole.categories
    assert not own.limited
    assert own.extra_files == ()


def test_a_worker_finds_images_wherever_it_stands() -> None:
    """Paths are those of the driver's folder, but a URL is nobody's."""
    paths = (Path("coco/1.jpg"), Path("s3:/bucket/2.jpg"), Path("/coco/3.jpg"))
    samples = tuple(Sample(n, path, (8, 8)) for n, path in enumerate(paths))
    (unit,) = cut(replace(dataset_of(3), samples=samples), 3, 1)
    wanted = [Path.cwd() / paths[0], *paths[1:]]
    assert [sample.path for sample in unit.samples] == wanted
