"""Tests for `effd0.known`: what a well-formed annotation file gets wrong is told, and named."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from effd0 import known
from effd0.data import fixture as embedded
from effd0.data.coco import NAMES, Dataset, Sample, load_coco
from effd0.errors import DatasetError
from effd0.known import (
    OVERHANG,
    VAL2017_ANNOTATIONS,
    VAL2017_CROWDS,
    VAL2017_EMPTY,
    VAL2017_IMAGES,
    hold_boxes,
    hold_categories,
    hold_contents,
)
from effd0.results.check import Broken

SIZE = (40, 30)
Annotation = dict[str, Any]


def dataset_of(
    annotations: Sequence[Annotation] = (),
    *,
    categories: dict[int, str] = NAMES,
    images: int = 1,
    name: str = "{:012}.jpg",
) -> Dataset:
    """Images 1, 2, ... of `SIZE`, which need not exist."""
    return Dataset(
        annotation_file=Path("instances_val2017.json"),
        samples=tuple(Sample(n, Path(name.format(n)), SIZE) for n in range(1, images + 1)),
        annotations=tuple(annotations),
        categories=categories,
        total=images,
        extra_files=(),
    )


def refused(hold: Callable[[Dataset], None], dataset: Dataset) -> Broken:
    """What *hold* says of *dataset*."""
    with pytest.raises(Broken) as caught:
        hold(dataset)
    return caught.value


# Categories.


@pytest.mark.parametrize(
    "categories",
    [
        pytest.param(NAMES, id="cocos-own"),
        pytest.param({1: "person", 90: "toothbrush"}, id="a-part"),
        pytest.param({1: "forklift", 500: "person in a hurry"}, id="none-of-cocos"),
        pytest.param({1: "person", 2: "forklift"}, id="others-beside-cocos"),
        pytest.param({}, id="none"),
    ],
)
def test_categories_under_cocos_ids_hold(categories: dict[int, str]) -> None:
    """Only a name of COCO's under another id is wrong."""
    hold_categories(dataset_of(categories=categories))


def _ranked(first: int) -> dict[int, str]:
    return {first + n: NAMES[id_] for n, id_ in enumerate(sorted(NAMES))}


@pytest.mark.parametrize(
    ("categories", "suspicion"),
    [
        pytest.param(_ranked(0), "80 categories numbered 0 to 79: every", id="from-zero"),
        pytest.param(_ranked(1), "80 categories numbered 1 to 80: every", id="from-one"),
        pytest.param(
            {i - 1: n for i, n in NAMES.items()}, "category ids shifted down by one", id="down"
        ),
        pytest.param(
            {i + 1: n for i, n in NAMES.items()}, "category ids shifted up by one", id="up"
        ),
        pytest.param({**NAMES, 1: NAMES[2], 2: NAMES[1]}, "", id="two-exchanged"),
        pytest.param({**_ranked(1), 90: "toothbrush", 80: "new"}, "", id="one-off-the-rule"),
    ],
)
def test_other_ids_are_told_by_their_rule(categories: dict[int, str], suspicion: str) -> None:
    """A rule is named where it gives every id, and none where one id is left."""
    broken = refused(hold_categories, dataset_of(categories=categories))
    assert broken.suspicion.startswith(suspicion)
    assert bool(broken.suspicion) == bool(suspicion)


def test_the_evidence_counts_wrong_categories() -> None:
    """One name with both ids, and how many of those that COCO has are wrong."""
    categories = {1: "person", 7: "bicycle", 3: "car", 5: "forklift"}
    broken = refused(hold_categories, dataset_of(categories=categories))
    assert broken.evidence == (
        "category bicycle has id 7, but 2 in COCO, as have 1 of 3 categories in "
        "instances_val2017.json"
    )


# Boxes.


def boxes(*given: Sequence[float]) -> Dataset:
    """One image of 40 by 30 pixels with the boxes *given*."""
    return dataset_of([{"id": n, "image_id": 1, "bbox": list(b)} for n, b in enumerate(given)])


#: x, y, width and height, so wide and high that no other reading fits.
RIGHT = ((2, 3, 10, 8), (20, 10, 18, 19), (0, 0, 40, 30), (35, 1, 5, 28))


def test_boxes_inside_hold() -> None:
    """Up to the borders, and beyond them by what COCO's own are."""
    hold_boxes(boxes(*RIGHT, (-OVERHANG, -OVERHANG, 41, 31), (0, 0, 40 + OVERHANG, 30 + OVERHANG)))
    hold_boxes(boxes())


@pytest.mark.parametrize(
    "box",
    [
        pytest.param((0, 0, 41.1, 5), id="right"),
        pytest.param((0, 0, 5, 31.1), id="bottom"),
        pytest.param((-1.1, 0, 5, 5), id="left"),
        pytest.param((0, -1.1, 5, 5), id="top"),
        pytest.param((9, 9, -2, 5), id="negative-width"),
        pytest.param((9, 9, 5, -2), id="negative-height"),
    ],
)
def test_a_box_outside_is_told(box: tuple[float, ...]) -> None:
    """On any side; the message shows the first, and the size of its image."""
    broken = refused(hold_boxes, boxes((0, 0, 9, 9), box))
    assert broken.evidence == (
        "1 of 2 boxes leave their images by more than 1.0 pixel; annotation 1 is "
        f"{list(box)} in an image of {SIZE}"
    )


def test_one_box_in_a_hundred_is_no_rule() -> None:
    """A stray box is a slip of the annotator's; the next one is looked at."""
    hold_boxes(boxes(*[(0, 0, 5, 5)] * 99, (0, 0, 99, 5)))
    refused(hold_boxes, boxes(*[(0, 0, 5, 5)] * 98, (0, 0, 99, 5), (0, 0, 99, 5)))


@pytest.mark.parametrize(
    ("write", "suspicion"),
    [
        pytest.param(
            lambda x, y, w, h: (x, y, x + w, y + h), "bbox holds x1, y1, x2, y2", id="corners"
        ),
        pytest.param(lambda x, y, w, h: (y, x, h, w), "bbox holds y, x, height, width", id="yx"),
        pytest.param(
            lambda x, y, w, h: (x + w / 2, y + h / 2, w, h), "bbox holds the centre", id="centre"
        ),
        pytest.param(lambda x, y, w, h: (4 * x, 4 * y, 4 * w, 4 * h), "", id="another-size"),
    ],
)
def test_another_meaning_of_boxes_is_named(
    write: Callable[..., tuple[float, ...]], suspicion: str
) -> None:
    """A reading that brings every box inside is named; where none does, there is no name."""
    broken = refused(hold_boxes, boxes(*(write(*box) for box in RIGHT)))
    assert broken.suspicion.startswith(suspicion)
    assert bool(broken.suspicion) == bool(suspicion)


# val2017, by its counts.


def val2017(
    images: int = VAL2017_IMAGES,
    annotations: int = VAL2017_ANNOTATIONS,
    crowds: int = VAL2017_CROWDS,
    **more: Any,
) -> Dataset:
    """A set of as many images, annotations and crowds."""
    made = [{"image_id": 1, "iscrowd": int(n < crowds)} for n in range(annotations)]
    return dataset_of(made, images=images, **more)


@pytest.mark.parametrize(
    "dataset",
    [
        pytest.param(val2017(), id="val2017"),
        pytest.param(replace(val2017(3000, 9), total=5000), id="limited"),
        pytest.param(val2017(3999, 9), id="a-small-part"),
        pytest.param(val2017(5001, 9), id="a-larger-set"),
        pytest.param(val2017(5000, 9, name="{}.jpg"), id="other-names"),
    ],
)
def test_whole_and_unknown_sets_are_left_alone(dataset: Dataset) -> None:
    """Nothing is known of a set that is not val2017, nor of a part of it."""
    hold_contents(dataset)


@pytest.mark.parametrize(
    ("dataset", "suspicion"),
    [
        pytest.param(
            val2017(VAL2017_IMAGES - VAL2017_EMPTY),
            "images without an object were filtered out",
            id="empty-images-filtered",
        ),
        pytest.param(val2017(crowds=0), "crowd flags lost", id="crowd-flags-lost"),
        pytest.param(val2017(crowds=445), "", id="one-crowd-lost"),
        pytest.param(val2017(annotations=36_335, crowds=0), "", id="crowds-left-out"),
        pytest.param(val2017(4000), "", id="smallest-part"),
    ],
)
def test_other_counts_than_val2017s_are_broken(dataset: Dataset, suspicion: str) -> None:
    """All three counts are shown beside those published; a cause only where it gives them."""
    broken = refused(hold_contents, dataset)
    assert broken.evidence.endswith("but (5000, 36781, 446) in val2017")
    assert f"are ({dataset.total}, {len(dataset.annotations)}, " in broken.evidence
    assert broken.suspicion.startswith(suspicion)
    assert bool(broken.suspicion) == bool(suspicion)


def test_pictures_that_no_annotation_names_are_told() -> None:
    """An image without a truth is not detected in, so the file is not all of the folder."""
    broken = refused(hold_contents, replace(dataset_of(), extra_files=("a.jpg", "b.jpg")))
    assert (
        broken.evidence == "2 images in the folder are not in instances_val2017.json: a.jpg, b.jpg"
    )
    assert broken.suspicion.startswith("images filtered out of the annotation file")


# The embedded scenes, by their contents.


@pytest.fixture(scope="module")
def scenes() -> Dataset:
    """Eight embedded scenes."""
    dataset = load_coco(embedded.coco_root(), image_limit=8)
    assert any(a["iscrowd"] for a in dataset.annotations)
    return dataset


Change = Callable[[list[Annotation]], list[Annotation]]


def _each(**changed: Callable[[Annotation], Any]) -> Change:
    """Return what gives each annotation new values for some keys."""
    return lambda all_: [a | {key: of(a) for key, of in changed.items()} for a in all_]


def _first(**changed: Any) -> Change:
    """Return what gives the first annotation new values for some keys."""
    return lambda all_: [all_[0] | changed, *all_[1:]]


def test_the_published_scenes_hold(scenes: Dataset) -> None:
    """All of them or some, in any order of their annotations."""
    hold_contents(scenes)
    hold_contents(replace(scenes, annotations=scenes.annotations[::-1]))


@pytest.mark.parametrize(
    ("change", "suspicion"),
    [
        pytest.param(_each(iscrowd=lambda _: 0), "crowd flags lost", id="crowd-flags-lost"),
        pytest.param(_each(image_id=lambda a: a["image_id"] + 1), "image ids of", id="image-ids"),
        pytest.param(
            _each(category_id=lambda a: a["category_id"] + 1), "categories changed", id="categories"
        ),
        pytest.param(
            lambda all_: all_[3:], "annotations left out: the other", id="annotations-left-out"
        ),
        pytest.param(
            lambda all_: [*all_, all_[0]], "annotations added: all published", id="one-twice"
        ),
        pytest.param(_first(bbox=[1.0, 2.0, 3.0, 4.0]), "", id="one-box-changed"),
        pytest.param(
            lambda all_: [a | {"iscrowd": 0} for a in all_[1:]] + all_[:1] * 2, "", id="two-faults"
        ),
    ],
)
def test_changed_annotations_are_named(change: Change, suspicion: str, scenes: Dataset) -> None:
    """A change that all differences come from is named; nothing where more than one is needed."""
    changed = change([dict(a) for a in scenes.annotations])
    broken = refused(hold_contents, replace(scenes, annotations=tuple(changed)))
    assert " published annotations are missing and " in broken.evidence
    assert broken.suspicion.startswith(suspicion)
    assert bool(broken.suspicion) == bool(suspicion)


def test_rounded_boxes_are_named(scenes: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes cut off to whole pixels are told, where the published ones have fractions."""
    fine = [a | {"bbox": [side + 0.4 for side in a["bbox"]]} for a in scenes.annotations]
    original = replace(scenes, annotations=tuple(fine))
    monkeypatch.setattr(known, "load_coco", lambda _: original)
    broken = refused(hold_contents, scenes)
    assert broken.suspicion.startswith("boxes rounded to whole pixels")
    count = len(fine)
    assert broken.evidence.startswith(f"{count} of {count} published annotations are missing")


def test_twins_are_counted(scenes: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crowd with an object's box becomes a second one of it as its flag is lost."""
    crowd = next(a for a in scenes.annotations if a["iscrowd"])
    both = replace(scenes, annotations=(*scenes.annotations, crowd | {"iscrowd": 0}))
    monkeypatch.setattr(known, "load_coco", lambda _: both)
    lost = _each(iscrowd=lambda _: 0)([dict(a) for a in both.annotations])
    broken = refused(hold_contents, replace(scenes, annotations=tuple(lost)))
    assert broken.suspicion.startswith("crowd flags lost")


def _copied(scenes: Dataset, folder: Path) -> Dataset:
    """*scenes* with their pictures in *folder*."""
    for sample in scenes.samples:
        shutil.copy(sample.path, folder)
    samples = tuple(replace(s, path=folder / s.path.name) for s in scenes.samples)
    return replace(scenes, samples=samples)


def test_exchanged_pictures_are_named(scenes: Dataset, tmp_path: Path) -> None:
    """A picture that is another one's is told to be that one's."""
    copied = _copied(scenes, tmp_path)
    hold_contents(copied)
    one, two = (scenes.samples[n].path for n in (0, 1))
    shutil.copy(one, tmp_path / two.name)
    shutil.copy(two, tmp_path / one.name)
    broken = refused(hold_contents, copied)
    assert broken.evidence == (
        f"2 of 8 pictures are not the published ones: {one.name}, {two.name}"
    )
    assert broken.suspicion == (
        f"pictures exchanged: {one.name} holds {two.name}, {two.name} holds {one.name}"
    )


def test_a_new_picture_has_no_name(scenes: Dataset, tmp_path: Path) -> None:
    """What a picture was made into cannot be told from its fingerprint."""
    copied = _copied(scenes, tmp_path)
    (tmp_path / scenes.samples[2].path.name).write_bytes(b"another")
    broken = refused(hold_contents, copied)
    assert broken.evidence.startswith("1 of 8 pictures")
    assert broken.suspicion == ""


@pytest.mark.parametrize("other", ["id", "name"])
def test_other_pictures_are_another_set(other: str, scenes: Dataset) -> None:
    """One image that the embedded scenes do not have, and nothing is expected of the rest."""
    first, *rest = scenes.samples
    changed = {"id": replace(first, image_id=7), "name": replace(first, path=Path("another.jpg"))}
    hold_contents(replace(scenes, samples=(changed[other], *rest), annotations=()))


def test_without_the_embedded_scenes_nothing_is_compared(
    scenes: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installation without its data has no opinion on a set that might be its own."""

    def absent() -> Path:
        raise DatasetError("the embedded default is nowhere")

    monkeypatch.setattr(embedded, "coco_root", absent)
    hold_contents(replace(scenes, annotations=()))
