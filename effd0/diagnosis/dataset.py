"""
What is known of a dataset beyond its format: categories, boxes, and the contents of published sets.

An annotation file can be well formed and still be wrong: COCO's metric does not show that flags of
crowds were lost or that images without an object were filtered out.  Here these are faults.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..data import fixture
from ..data.coco import NAMES, VAL2017, Dataset, load_coco
from ..data.preprocess import gray_and_quality
from ..errors import DatasetError, listed
from ..io import sha256
from ..results.check import Broken

Annotation = dict[str, Any]
#: A set of so many images under COCO's file names is taken for val2017, whole or filtered; smaller
#: ones are a part of it, larger ones are train2017 or no set of COCO's.
_NEARLY_VAL2017 = range(4000, VAL2017[0] + 1)
#: So large a part of a folder of COCO's file names is taken for the whole folder, filtered.
_MOST = 0.8
#: Images of val2017 without an object.
VAL2017_EMPTY = 48
#: Annotated boxes may leave their image by this, in pixels: COCO's own end up to 0.5 outside.
OVERHANG = 1.0
#: Part of the boxes that has to leave its image, or to be there twice, before a file is doubted.
_DOUBTFUL = 0.01

#: Pictures that are opened for `facts`.  COCO's are of quality 90 or 96, and one in 500 is gray.
_PICTURES, _QUALITY, _GRAY = 100, 70, 0.1
#: COCO has 7.4 objects per image, and so many without a crowd once in 400 draws.
_USUAL, _CROWDED = (3.7, 14.7), 500

#: Rule -> the id that it gives to a category of COCO's id and place.
NUMBERINGS: Mapping[str, Callable[[int, int], int]] = {
    "80 categories numbered 0 to 79": lambda _, place: place,
    "80 categories numbered 1 to 80": lambda _, place: place + 1,
    "category ids shifted down by one": lambda id_, _: id_ - 1,
    "category ids shifted up by one": lambda id_, _: id_ + 1,
}
#: What a bbox may contain -> x, y, width, height.
_READINGS: Mapping[str, Callable[[Any], Sequence[float]]] = {
    "bbox holds x1, y1, x2, y2": lambda b: (b[0], b[1], b[2] - b[0], b[3] - b[1]),
    "bbox holds y, x, height, width": lambda b: (b[1], b[0], b[3], b[2]),
    "bbox holds the centre, width and height":
        lambda b: (b[0] - b[2] / 2, b[1] - b[3] / 2, b[2], b[3]),
}  # fmt: skip
#: What may have been done to annotations -> (image, category, bbox, crowd) without that.
_CHANGES: Mapping[str, Callable[[tuple[Any, ...]], tuple[Any, ...]]] = {
    "crowd flags lost: without them the annotations are the published ones":
        lambda k: (*k[:3], 0),
    "boxes rounded to whole pixels: cut off, the published ones are the same":
        lambda k: (*k[:2], tuple(map(int, k[2])), k[3]),
    "image ids of annotations moved: all else is as published": lambda k: k[1:],
    "categories changed: all else is as published": lambda k: (k[0], *k[2:]),
}  # fmt: skip


def check_categories(dataset: Dataset) -> None:
    """Raise `Broken` unless each category that COCO has is under COCO's id, 1 to 90."""
    ids = {name: id_ for id_, name in NAMES.items()}
    known = {id_: name for id_, name in dataset.categories.items() if name in ids}
    wrong = {id_: name for id_, name in known.items() if ids[name] != id_}
    if not wrong:
        return
    places = {id_: place for place, id_ in enumerate(sorted(NAMES))}
    rules = (
        f"{rule}: every id is explained by it"
        for rule, number in NUMBERINGS.items()
        if all(number(ids[name], places[ids[name]]) == id_ for id_, name in known.items())
    )
    id_, name = next(iter(wrong.items()))
    raise Broken(
        f"category {name} has id {id_}, but {ids[name]} in COCO, as have {len(wrong)} of "
        f"{len(known)} categories in {dataset.annotation_file.name}",
        next(rules, None),
    )


def check_boxes(dataset: Dataset) -> None:
    """Raise `Broken` where boxes leave their images: they are no x, y, width, height in pixels."""
    sizes = {sample.image_id: sample.size for sample in dataset.samples}

    def outside(a: Annotation, box: Sequence[float]) -> bool:
        (width, height), (x, y, w, h) = sizes[a["image_id"]], box
        beyond = max(x + w - width, y + h - height, -x, -y)
        return beyond > OVERHANG or min(w, h) < 0

    left = [a for a in dataset.annotations if outside(a, a["bbox"])]
    if len(left) <= _DOUBTFUL * len(dataset.annotations):
        return
    fitting = [
        f"{name}: read so, all boxes lie inside their images"
        for name, read in _READINGS.items()
        if not any(outside(a, read(a["bbox"])) for a in dataset.annotations)
    ] + [
        f"{name}: moved back, all boxes lie inside their images"
        for name, ids in moved_ids(dataset).items()
        if not any(
            outside({"image_id": ids[a["image_id"]]}, a["bbox"]) for a in dataset.annotations
        )
    ]
    first = left[0]
    raise Broken(
        f"{len(left)} of {len(dataset.annotations)} boxes leave their images by more than "
        f"{OVERHANG} pixel; annotation {first['id']} is {first['bbox']} in an image of "
        f"{sizes[first['image_id']]}",
        next(iter(fitting), None),
    )


def moved_ids(dataset: Dataset) -> dict[str, dict[int, int]]:
    """How all annotations may have got the ids of other images -> what undoes it."""
    ids = dataset.image_ids
    return {
        f"annotations moved to the {side} image id": dict(zip(ids, ids[n:] + ids[:n], strict=True))
        for side, n in (("next", -1), ("previous", 1))
    }


def check_doubles(dataset: Dataset) -> None:
    """Raise `Broken` where objects are annotated twice: a detector finds each but once."""
    keys = [(a["image_id"], a["category_id"], *a["bbox"]) for a in dataset.annotations]
    once = len(set(keys))
    if len(keys) - once > _DOUBTFUL * len(keys):
        raise Broken(
            f"{len(keys) - once} of {len(keys)} annotations have the image, category and box of "
            f"another, but at most {_DOUBTFUL:.0%} are allowed",
            f"annotations doubled: {once} are left if each is there once",
        )


def facts(dataset: Dataset) -> list[str]:
    """
    In what all of *dataset* is unlike COCO, which may be meant and is no fault by itself.

    A hundred pictures, spread over the set, are opened.
    """
    boxes = [a["bbox"] for a in dataset.annotations]
    areas = [a.get("area", 0) - a["bbox"][2] * a["bbox"][3] for a in dataset.annotations]
    crowds, per_image = dataset.counts[2], len(boxes) / len(dataset.samples)
    some = dataset.samples[:: -(-len(dataset.samples) // _PICTURES)]
    seen = [gray_and_quality(sample.path) for sample in some]
    gray, best = sum(one for one, _ in seen), max(quality for _, quality in seen)
    said = {
        "boxes are of whole pixels": all(float(n).is_integer() for box in boxes for n in box),
        "areas are those of boxes, not of outlines": all(abs(off) < 1 for off in areas),
        f"none of {len(boxes)} annotations is a crowd": not crowds and len(boxes) >= _CROWDED,
        f"{per_image:.1f} objects per image": not _USUAL[0] <= per_image <= _USUAL[1],
        f"{gray} of {len(seen)} pictures are gray": gray > len(seen) * _GRAY,
        f"JPEGs are of quality {best}": best < _QUALITY,
    }
    return [text for text, holds in said.items() if holds and boxes]


def check_contents(dataset: Dataset) -> str:
    """
    Raise `Broken` where val2017, or the embedded scenes, are not as they were published.

    Gives a note on a part of val2017, by its names; empty for any other set.
    """
    # A file that lists a small part of the folder is meant to.
    extra = len(dataset.extra_files)
    if extra and dataset.has_cocos_names and dataset.total >= _MOST * (dataset.total + extra):
        raise Broken(
            f"{extra} images in the folder are not in "
            f"{dataset.annotation_file.name}: {listed(dataset.extra_files)}",
            "images filtered out of the annotation file: the folder still has them",
        )
    nearly = dataset.has_cocos_names and dataset.total in _NEARLY_VAL2017 and not dataset.limited
    if nearly and not dataset.is_val2017:
        found, cause = dataset.counts, None
        if found[0] == VAL2017[0] - VAL2017_EMPTY:
            cause = "images without an object were filtered out: so many are missing"
        elif found == (*VAL2017[:2], 0):
            cause = "crowd flags lost: every other number is right"
        raise Broken(f"images, annotations and crowds are {found}, but {VAL2017} in val2017", cause)
    # An installed effd0 without its data has nothing to compare with.
    with contextlib.suppress(DatasetError):
        if _check_embedded(dataset, load_coco(fixture.coco_root())):
            return ""
    named = dataset.has_cocos_names and dataset.annotation_file.stem.endswith("val2017")
    if not named or extra or dataset.total >= VAL2017[0]:
        return ""
    return f"{dataset.total} of the {VAL2017[0]} images of val2017, by their file names: a subset"


def _check_embedded(dataset: Dataset, original: Dataset) -> bool:
    """Compare with *original* what has the same image ids and file names; False for another set."""
    ours = {(sample.image_id, sample.path.name): sample.path for sample in original.samples}
    pictures = [(sample.path, ours.get((sample.image_id, sample.path.name)))
                for sample in dataset.samples]  # fmt: skip
    if not all(own for _, own in pictures):
        return False
    other = [path.name for path, own in pictures if own and sha256(path) != sha256(own)]
    if other:
        raise Broken(
            f"{len(other)} of {len(pictures)} pictures are not the published ones: {listed(other)}"
        )
    ids = set(dataset.image_ids)
    theirs, mine = (
        Counter(
            (a["image_id"], a["category_id"], tuple(a["bbox"]), a.get("iscrowd", 0))
            for a in side.annotations
            if a["image_id"] in ids or side is dataset
        )
        for side in (dataset, original)
    )
    if theirs == mine:
        return True
    lost, new = (mine - theirs).total(), (theirs - mine).total()
    causes = {
        name: Counter(map(change, theirs.elements())) == Counter(map(change, mine.elements()))
        for name, change in _CHANGES.items()
    }
    causes[f"annotations left out: the other {theirs.total()} are as published"] = not new
    causes["annotations added: all published ones are there"] = not lost
    raise Broken(
        f"{lost} of {mine.total()} published annotations are missing and {new} others are there",
        next((name for name, fits in causes.items() if fits), None),
    )
