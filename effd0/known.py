"""
What is known of a dataset beyond its format: categories, boxes, and the contents of published sets.

An annotation file can be well formed and still be wrong: COCO's metric tells nobody that flags of
crowds were lost or that images without an object were filtered out.  Here these are faults.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from .data import fixture as embedded
from .data.coco import NAMES, Dataset, load_coco
from .errors import DatasetError
from .io import sha256
from .results.check import Broken
from .tensors.manifest import listed

Annotation = dict[str, Any]
#: val2017: 5,000 images, 48 of them without an object, 36,781 annotations of which 446 are crowds.
#: Source: instances_val2017.json as counted in public logs of detectron2 (36,335 boxes without
#: crowds) and COCO's own loader.
VAL2017_IMAGES, VAL2017_EMPTY, VAL2017_ANNOTATIONS, VAL2017_CROWDS = 5000, 48, 36_781, 446
#: A set of so many images under COCO's file names is taken for val2017, whole or filtered; smaller
#: ones are a part of it, larger ones are train2017 or no set of COCO's.
_NEARLY_VAL2017 = range(4000, VAL2017_IMAGES + 1)
#: Annotated boxes may leave their image by this, in pixels: COCO's own end up to 0.5 outside.
OVERHANG = 1.0
#: Part of the boxes that has to leave its image before the whole file is doubted.
_DOUBTFUL = 0.01


def hold_categories(dataset: Dataset) -> None:
    """Raise `Broken` unless each category that COCO has is under COCO's id, 1 to 90."""
    ids = {name: id_ for id_, name in NAMES.items()}
    known = {id_: name for id_, name in dataset.categories.items() if name in ids}
    wrong = {id_: name for id_, name in known.items() if ids[name] != id_}
    if not wrong:
        return
    id_, name = next(iter(wrong.items()))
    raise Broken(
        f"category {name} has id {id_}, but {ids[name]} in COCO, as have {len(wrong)} of "
        f"{len(known)} categories in {dataset.annotation_file.name}",
        _numbering(known, ids),
    )


def _numbering(known: dict[int, str], ids: dict[str, int]) -> str | None:
    """How all ids came about, if one rule gives them."""
    rank = {id_: n for n, id_ in enumerate(sorted(ids.values()))}
    rules: dict[str, Callable[[int], int]] = {
        "80 categories numbered 0 to 79": lambda id_: rank[id_],
        "80 categories numbered 1 to 80": lambda id_: rank[id_] + 1,
        "category ids shifted down by one": lambda id_: id_ - 1,
        "category ids shifted up by one": lambda id_: id_ + 1,
    }
    for rule, number in rules.items():
        if all(number(ids[name]) == id_ for id_, name in known.items()):
            return f"{rule}: every id is explained by it"
    return None


def hold_boxes(dataset: Dataset) -> None:
    """Raise `Broken` where boxes leave their images: they are no x, y, width, height in pixels."""
    sizes = {sample.image_id: sample.size for sample in dataset.samples}

    def outside(a: Annotation, box: Sequence[float]) -> bool:
        (width, height), (x, y, w, h) = sizes[a["image_id"]], box
        beyond = max(x + w - width, y + h - height, -x, -y)
        return beyond > OVERHANG or min(w, h) < 0

    left = [a for a in dataset.annotations if outside(a, a["bbox"])]
    if len(left) <= _DOUBTFUL * len(dataset.annotations):
        return
    readings: dict[str, Callable[[Any], Sequence[float]]] = {
        "bbox holds x1, y1, x2, y2": lambda b: (b[0], b[1], b[2] - b[0], b[3] - b[1]),
        "bbox holds y, x, height, width": lambda b: (b[1], b[0], b[3], b[2]),
        "bbox holds the centre, width and height": lambda b: (
            b[0] - b[2] / 2, b[1] - b[3] / 2, b[2], b[3],
        ),
    }  # fmt: skip
    told = [
        f"{name}: read so, all boxes lie inside their images"
        for name, read in readings.items()
        if not any(outside(a, read(a["bbox"])) for a in dataset.annotations)
    ]
    first = left[0]
    raise Broken(
        f"{len(left)} of {len(dataset.annotations)} boxes leave their images by more than "
        f"{OVERHANG} pixel; annotation {first['id']} is {first['bbox']} in an image of "
        f"{sizes[first['image_id']]}",
        told[0] if told else None,
    )


def hold_contents(dataset: Dataset) -> None:
    """Raise `Broken` where val2017, or the embedded scenes, are not as they were published."""
    if dataset.extra_files:
        raise Broken(
            f"{len(dataset.extra_files)} images in the folder are not in "
            f"{dataset.annotation_file.name}: {listed(dataset.extra_files)}",
            "images filtered out of the annotation file: the folder still has them",
        )
    if _is_val2017(dataset):
        _hold_counts(dataset)
    # An installed effd0 without its data has nothing to compare with.
    with contextlib.suppress(DatasetError):
        _hold_embedded(dataset, load_coco(embedded.coco_root()))


def _is_val2017(dataset: Dataset) -> bool:
    named = all(s.path.name == f"{s.image_id:012}.jpg" for s in dataset.samples)
    return named and dataset.total in _NEARLY_VAL2017 and not dataset.limited


def _hold_counts(dataset: Dataset) -> None:
    crowds = sum(bool(a.get("iscrowd", 0)) for a in dataset.annotations)
    found = (dataset.total, len(dataset.annotations), crowds)
    wanted = (VAL2017_IMAGES, VAL2017_ANNOTATIONS, VAL2017_CROWDS)
    if found == wanted:
        return
    empty = dataset.total == VAL2017_IMAGES - VAL2017_EMPTY
    lost = found == (VAL2017_IMAGES, VAL2017_ANNOTATIONS, 0)
    raise Broken(
        f"images, annotations and crowds are {found}, but {wanted} in val2017",
        "images without an object were filtered out: so many are missing"
        if empty
        else "crowd flags lost: every other number is right"
        if lost
        else None,
    )


def _hold_embedded(dataset: Dataset, original: Dataset) -> None:
    """Compare with *original* what has the same image ids and file names."""
    ours = {sample.image_id: sample for sample in original.samples}
    shared = [s for s in dataset.samples if s.image_id in ours]
    if len(shared) < len(dataset.samples) or any(
        s.path.name != ours[s.image_id].path.name for s in shared
    ):
        return  # it is another set
    faults = list(_differing_pictures(dataset, original))
    ids = set(dataset.image_ids)
    wanted = [a for a in original.annotations if a["image_id"] in ids]
    if faults:
        raise Broken(*faults[0])
    _hold_annotations(dataset.annotations, wanted)


def _differing_pictures(dataset: Dataset, original: Dataset) -> Iterator[tuple[str, str | None]]:
    ours = {sample.image_id: sha256(sample.path) for sample in original.samples}
    theirs = {sample.image_id: sha256(sample.path) for sample in dataset.samples}
    names = {sample.image_id: sample.path.name for sample in original.samples}
    wrong = [id_ for id_, digest in theirs.items() if digest != ours[id_]]
    if wrong:
        owner = {digest: id_ for id_, digest in ours.items()}
        moved = {id_: owner.get(theirs[id_]) for id_ in wrong}
        told = None
        if None not in moved.values():
            shown = listed(f"{names[i]} holds {names[m]}" for i, m in moved.items() if m)
            told = f"pictures exchanged: {shown}"
        count = f"{len(wrong)} of {len(theirs)} pictures are not the published ones"
        yield f"{count}: {listed(names[id_] for id_ in wrong)}", told


def _key(annotation: Annotation) -> tuple[Any, ...]:
    box = tuple(annotation["bbox"])
    return (annotation["image_id"], annotation["category_id"], box, annotation.get("iscrowd", 0))


def _hold_annotations(found: Sequence[Annotation], wanted: Sequence[Annotation]) -> None:
    """Raise `Broken` unless both are the same annotations."""
    theirs, ours = Counter(map(_key, found)), Counter(map(_key, wanted))
    if theirs == ours:
        return
    changes: dict[str, Callable[[tuple[Any, ...]], tuple[Any, ...]]] = {
        "crowd flags lost: without them the annotations are the published ones": (
            lambda k: (*k[:3], 0)
        ),
        "boxes rounded to whole pixels: cut off, the published ones are the same": (
            lambda k: (*k[:2], tuple(map(int, k[2])), k[3])
        ),
        "image ids of annotations moved: all else is as published": lambda k: k[1:],
        "categories changed: all else is as published": lambda k: (k[0], *k[2:]),
    }
    told = [
        name for name, change in changes.items() if _after(theirs, change) == _after(ours, change)
    ]
    lost, new = (ours - theirs).total(), (theirs - ours).total()
    if not told and not new:
        told = [f"annotations left out: the other {theirs.total()} are as published"]
    if not told and not lost:
        told = ["annotations added: all published ones are there"]
    raise Broken(
        f"{lost} of {ours.total()} published annotations are missing and {new} others are there",
        told[0] if told else None,
    )


def _after(
    keys: Counter[tuple[Any, ...]], change: Callable[[tuple[Any, ...]], tuple[Any, ...]]
) -> Counter[tuple[Any, ...]]:
    changed: Counter[tuple[Any, ...]] = Counter()
    for key, count in keys.items():
        changed[change(key)] += count
    return changed
