"""What a well-formed annotation file gets wrong is a fault, and is named where one cause fits."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from effd0.data import fixture
from effd0.data.coco import NAMES, VAL2017, Dataset, Sample, load_coco
from effd0.diagnosis import dataset as checks
from effd0.diagnosis.dataset import (
    check_boxes,
    check_categories,
    check_contents,
    check_doubles,
    facts,
)
from effd0.errors import DatasetError
from effd0.results.check import Broken
from effd0.spec import D0

SIZE = (40, 30)
Annotation = dict[str, Any]
Check = Callable[[Dataset], object]


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


def broken_by(check: Check, dataset: Dataset, diagnosis: str | None = None) -> str:
    """The evidence of *check*, whose diagnosis begins with *diagnosis*; empty: there is none."""
    with pytest.raises(Broken) as caught:
        check(dataset)
    if diagnosis is not None:
        assert caught.value.diagnosis.startswith(diagnosis)
        assert bool(caught.value.diagnosis) == bool(diagnosis)
    return caught.value.evidence


def check_cocos(dataset: Dataset) -> None:
    """Check the categories of *dataset* for a model of COCO's classes."""
    check_categories(dataset, D0)


def test_categories_under_cocos_ids_pass() -> None:
    """Only a name of COCO's under another id is wrong."""
    for categories in (NAMES, {1: "person", 500: "person in a hurry"}, {}):
        check_cocos(dataset_of(categories=categories))


def _ranked(first: int) -> dict[int, str]:
    return {first + n: NAMES[id_] for n, id_ in enumerate(sorted(NAMES))}


@pytest.mark.parametrize(
    ("categories", "diagnosis"),
    [
        (_ranked(0), "80 categories numbered 0 to 79: every"),
        (_ranked(1), "80 categories numbered 1 to 80: every"),
        ({i - 1: n for i, n in NAMES.items()}, "category ids shifted down by one"),
        ({i + 1: n for i, n in NAMES.items()}, "category ids shifted up by one"),
        ({**_ranked(1), 90: "toothbrush", 80: "new"}, ""),
    ],
    ids=["from-zero", "from-one", "down", "up", "one-off-the-rule"],
)
def test_other_ids_are_named_by_their_rule(categories: dict[int, str], diagnosis: str) -> None:
    """A rule is named where it gives every id, and none where one id is left."""
    broken_by(check_cocos, dataset_of(categories=categories), diagnosis)


def test_the_evidence_counts_wrong_categories() -> None:
    """One name with both ids, and how many of those that COCO has are wrong."""
    categories = {1: "person", 7: "bicycle", 3: "car", 5: "forklift"}
    assert broken_by(check_cocos, dataset_of(categories=categories)) == (
        "category bicycle has id 7, but 2 in COCO, as have 1 of 3 categories in "
        "instances_val2017.json"
    )


def boxes(*given: Sequence[float]) -> Dataset:
    """One image of 40 by 30 pixels with the boxes *given*."""
    return dataset_of([{"id": n, "image_id": 1, "bbox": list(b)} for n, b in enumerate(given)])


#: x, y, width and height, so wide and high that no other reading fits.
RIGHT = ((2, 3, 10, 8), (20, 10, 18, 19), (0, 0, 40, 30), (35, 1, 5, 28))


def test_boxes_inside_pass() -> None:
    """Up to the borders, beyond them by what COCO's own are, and one in a hundred."""
    check_boxes(
        boxes(
            *RIGHT, (-checks.OVERHANG, -checks.OVERHANG, 41, 31), (0, 0, 40 + checks.OVERHANG, 31)
        )
    )
    check_boxes(boxes())
    check_boxes(boxes(*[(0, 0, 5, 5)] * 99, (0, 0, 99, 5)))
    broken_by(check_boxes, boxes(*[(0, 0, 5, 5)] * 98, (0, 0, 99, 5), (0, 0, 99, 5)))


def test_a_box_outside_is_shown() -> None:
    """On any side; the message shows the first, and the size of its image."""
    outside: list[list[float]] = [
        [0, 0, 41.1, 5], [0, 0, 5, 31.1], [-1.1, 0, 5, 5], [0, -1.1, 5, 5], [9, 9, -2, 5],
    ]  # fmt: skip
    for box in outside:
        assert broken_by(check_boxes, boxes((0, 0, 9, 9), box)) == (
            "1 of 2 boxes leave their images by more than 1.0 pixel; annotation 1 is "
            f"{box} in an image of {SIZE}"
        )


@pytest.mark.parametrize(
    ("write", "diagnosis"),
    [
        (lambda x, y, w, h: (x, y, x + w, y + h), "bbox holds x1, y1, x2, y2"),
        (lambda x, y, w, h: (y, x, h, w), "bbox holds y, x, height, width"),
        (lambda x, y, w, h: (x + w / 2, y + h / 2, w, h), "bbox holds the centre"),
        (lambda x, y, w, h: (4 * x, 4 * y, 4 * w, 4 * h), ""),
    ],
    ids=["corners", "yx", "centre", "another-size"],
)
def test_another_meaning_of_boxes_is_named(
    write: Callable[..., tuple[float, ...]], diagnosis: str
) -> None:
    """A reading that brings every box inside is named; where none does, there is no name."""
    broken_by(check_boxes, boxes(*(write(*box) for box in RIGHT)), diagnosis)


def test_moved_image_ids_are_named_by_sizes(scenes: Dataset) -> None:
    """Where every box fits the image before its own, or behind it."""
    ids = scenes.image_ids
    for side, others in (("next", ids[1:] + ids[:1]), ("previous", ids[-1:] + ids[:-1])):
        new = dict(zip(ids, others, strict=True))
        moved = tuple(a | {"image_id": new[a["image_id"]]} for a in scenes.annotations)
        named = f"annotations moved to the {side} image id: moved back, all"
        broken_by(check_boxes, replace(scenes, annotations=moved), named)


def test_annotations_that_are_there_twice_are_counted(scenes: Dataset) -> None:
    """Those of one image, category and box, from more than one in a hundred on."""
    hundred = scenes.annotations[:1] + tuple(
        {"image_id": 1, "category_id": n, "bbox": [1, 1, 9, 9]} for n in range(98)
    )
    check_doubles(replace(scenes, annotations=(*hundred, hundred[0])))
    check_doubles(dataset_of())
    twice = replace(scenes, annotations=(*hundred, *hundred[:2]))
    assert broken_by(check_doubles, twice, "annotations doubled: 99 are left") == (
        "2 of 101 annotations have the image, category and box of another, but at most 1% are "
        "allowed"
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, []),
        ({"bbox": [1.0, 2.0, 30.0, 4.0]}, ["boxes are of whole pixels"]),
        ({"area": 30.5 * 4}, ["areas are those of boxes, not of outlines"]),
        ({"iscrowd": 0}, ["none of 504 annotations is a crowd"]),
    ],
    ids=["nothing", "whole-pixels", "areas", "crowds"],
)
def test_what_is_unlike_coco_is_a_fact(
    change: Annotation, said: list[str], scenes: Dataset
) -> None:
    """Where it holds of all annotations: it may be meant."""
    plain = {"bbox": [1.0, 2.0, 30.5, 4.0], "area": 100.0, "iscrowd": 1}
    made = [plain | change | {"image_id": s.image_id} for s in scenes.samples for _ in range(63)]
    several = replace(scenes, samples=scenes.samples * 9, annotations=tuple(made))
    assert facts(several) == said


@pytest.mark.parametrize(
    ("mode", "quality", "said"),
    [
        ("RGB", 90, []),
        ("RGB", 30, ["JPEGs are of quality 30"]),
        ("L", 90, ["8 of 8 pictures are gray"]),
    ],
    ids=["colour", "quality-30", "gray"],
)
def test_pictures_that_are_all_alike_are_a_fact(
    mode: str, quality: int, said: list[str], scenes: Dataset, tmp_path: Path
) -> None:
    """Coarse quantisation and pictures without colour, more than COCO has."""
    for sample in scenes.samples:
        with Image.open(sample.path) as image:
            image.convert(mode).save(tmp_path / sample.path.name, quality=quality)
    copies = tuple(replace(s, path=tmp_path / s.path.name) for s in scenes.samples)
    assert facts(replace(scenes, samples=copies)) == ["boxes are of whole pixels", *said]
    few = replace(scenes, samples=copies, annotations=scenes.annotations[::4])
    assert facts(few)[1] == f"{len(few.annotations) / 8:.1f} objects per image"


def val2017(
    images: int = VAL2017[0],
    annotations: int = VAL2017[1],
    crowds: int = VAL2017[2],
    **more: Any,
) -> Dataset:
    """A set of as many images, annotations and crowds."""
    made = [{"image_id": 1, "iscrowd": int(n < crowds)} for n in range(annotations)]
    return dataset_of(made, images=images, **more)


def test_whole_and_unknown_sets_are_left_alone() -> None:
    """Nothing is known of a set that is not val2017, nor of a part of it."""
    for dataset in (
        val2017(), replace(val2017(3000, 9), total=5000), val2017(3999, 9), val2017(5001, 9),
        val2017(5000, 9, name="{}.jpg"),
    ):  # fmt: skip
        check_contents(dataset)


@pytest.mark.parametrize("images", [1, 80, 3999])
def test_a_part_of_val2017_is_called_a_subset(images: int, scenes: Dataset) -> None:
    """A set of any size under its file names is; one of other names, or the scenes, are not."""
    part = val2017(images, 9)
    assert (
        check_contents(part)
        == f"{images} of the 5000 images of val2017, by their file names: a subset"
    )
    other = replace(part, annotation_file=Path("instances_train2017.json"))
    for dataset in (val2017(), other, val2017(images, 9, name="{}.jpg"), scenes):
        assert check_contents(dataset) == ""


@pytest.mark.parametrize(
    ("dataset", "diagnosis"),
    [
        (
            val2017(VAL2017[0] - checks.VAL2017_EMPTY),
            "images without an object were filtered out",
        ),
        (val2017(crowds=0), "crowd flags lost"),
        (val2017(crowds=445), ""),
        (val2017(4000), ""),
    ],
    ids=["empty-images-filtered", "crowd-flags-lost", "one-crowd-lost", "smallest-part"],
)
def test_other_counts_than_val2017s_are_broken(dataset: Dataset, diagnosis: str) -> None:
    """All three counts are shown beside those published; a cause only where it gives them."""
    evidence = broken_by(check_contents, dataset, diagnosis)
    assert evidence.endswith("but (5000, 36781, 446) in val2017")
    assert f"are ({dataset.total}, {len(dataset.annotations)}, " in evidence


def test_pictures_that_no_annotation_names_are_a_fault() -> None:
    """A file that lists most of a folder of COCO's lost images; one that lists a part is a part."""
    dataset = replace(dataset_of(images=8), extra_files=("a.jpg", "b.jpg"))
    evidence = broken_by(check_contents, dataset, "images filtered out of the annotation file")
    assert evidence == "2 images in the folder are not in instances_val2017.json: a.jpg, b.jpg"
    check_contents(replace(dataset_of(images=7), extra_files=("a.jpg", "b.jpg")))
    check_contents(replace(dataset_of(images=8, name="{}.jpg"), extra_files=("a.jpg", "b.jpg")))


@pytest.fixture(scope="module")
def scenes() -> Dataset:
    """Eight embedded scenes."""
    dataset = load_coco(fixture.coco_root(), image_limit=8)
    assert any(a["iscrowd"] for a in dataset.annotations)
    return dataset


Change = Callable[[list[Annotation]], list[Annotation]]


def _each(**changed: Callable[[Annotation], Any]) -> Change:
    """Return what gives each annotation new values for some keys."""
    return lambda all_: [a | {key: of(a) for key, of in changed.items()} for a in all_]


@pytest.mark.parametrize(
    ("change", "diagnosis"),
    [
        (_each(iscrowd=lambda _: 0), "crowd flags lost"),
        (_each(image_id=lambda a: a["image_id"] + 1), "image ids of"),
        (_each(category_id=lambda a: a["category_id"] + 1), "categories changed"),
        (lambda all_: all_[3:], "annotations left out: the other"),
        (lambda all_: [*all_, all_[0]], "annotations added: all published"),
        (lambda all_: [a | {"iscrowd": 0} for a in all_[1:]] + all_[:1] * 2, ""),
    ],
    ids=["crowd-flags", "image-ids", "categories", "left-out", "one-twice", "two-faults"],
)
def test_changed_annotations_are_named(change: Change, diagnosis: str, scenes: Dataset) -> None:
    """A change that all differences come from is named; nothing where more than one is needed."""
    dataset = replace(scenes, annotations=tuple(change(list(scenes.annotations))))
    said = broken_by(check_contents, dataset, diagnosis)
    assert " published annotations are missing and " in said


def test_rounded_boxes_are_named(scenes: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes cut off to whole pixels are named, where the published ones have fractions."""
    fine = [a | {"bbox": [side + 0.4 for side in a["bbox"]]} for a in scenes.annotations]
    original = replace(scenes, annotations=tuple(fine))
    monkeypatch.setattr(checks, "load_coco", lambda _: original)
    broken_by(check_contents, scenes, "boxes rounded to whole pixels")


def test_changed_pictures_are_a_fault(scenes: Dataset, tmp_path: Path) -> None:
    """A picture with other contents under a published name is listed."""
    for sample in scenes.samples:
        shutil.copy(sample.path, tmp_path)
    copied = replace(
        scenes, samples=tuple(replace(s, path=tmp_path / s.path.name) for s in scenes.samples)
    )
    check_contents(replace(copied, annotations=copied.annotations[::-1]))
    one, two = (scenes.samples[n].path for n in (0, 1))
    shutil.copy(one, tmp_path / two.name)
    assert broken_by(check_contents, copied) == (
        f"1 of 8 pictures are not the published ones: {two.name}"
    )


def test_another_set_is_left_alone(scenes: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of other ids or names nothing is expected, nor without the embedded scenes."""
    first, *rest = scenes.samples
    for other in (replace(first, image_id=7), replace(first, path=Path("another.jpg"))):
        check_contents(replace(scenes, samples=(other, *rest), annotations=()))

    def absent() -> Path:
        raise DatasetError("the embedded default is nowhere")

    monkeypatch.setattr(fixture, "coco_root", absent)
    check_contents(replace(scenes, annotations=()))
