"""
What is wrong with a dataset beyond its format: by what is known of COCO, and by trained weights.

An annotation file can be well formed and still be wrong: COCO's metric does not show that flags of
crowds were lost or that images without an object were filtered out.  Here these are faults.

Weights find many objects of most images and categories.  Where they find next to none, a hypothesis
undoes a fault of the annotations, and the same detections are matched again.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..data import fixture
from ..data.coco import NAMES, VAL2017, Dataset, labelled, load_coco
from ..data.preprocess import gray_and_quality
from ..errors import DatasetError, listed
from ..io import sha256
from ..metrics.coco import MATCH, MatchTable, match_table
from ..metrics.operating_point import operating_point
from ..metrics.summary import summarize
from ..results.check import Broken
from ..spec import D0, ModelSpec
from ..tolerances import FAULT_UNDONE, TO_EXPECTED
from .hypothesis import Hypothesis

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
    "{count} categories numbered 0 to {last}": lambda _, place: place,
    "{count} categories numbered 1 to {count}": lambda _, place: place + 1,
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
#: Field of a match -> the key of an annotation that says the same.
_KEYS = {"image": "image_id", "category": "category_id"}
#: Images and categories of so many objects are asked: a person or two fill many pictures alike.  Of
#: a low one next to nothing is found; with _HIGH of its objects, more than by chance: in 5468 pairs
#: of images and 2598 of categories, one had it of the other's annotations once, both never.
_OBJECTS, _LOW, _HIGH = 3, 0.1, 0.4
#: A fault of some images is one of so many, and of this share of the low ones.  Among more than the
#: last number of these no pairs are looked for: it would be a fault of more than pairs.
_SOME, _SHARE, _PAIRED = 3, 0.1, 200
#: Fault -> a box x, y, width, height with it undone in an image of a width and height.  A quarter
#: turn is seen by the size of a picture.
_TURNS: Mapping[str, Callable[..., tuple[float, ...]]] = {
    "pictures mirrored": lambda x, y, w, h, across, _: (across - x - w, y, w, h),
    "pictures upside down": lambda x, y, w, h, _, down: (x, down - y - h, w, h),
    "pictures turned by 180 degrees":
        lambda x, y, w, h, across, down: (across - x - w, down - y - h, w, h),
}  # fmt: skip


def _numberings(count: int) -> Iterator[tuple[str, Callable[[int, int], int]]]:
    """`NUMBERINGS` of *count* categories."""
    for rule, number in NUMBERINGS.items():
        yield rule.format(count=count, last=count - 1), number


def check_categories(dataset: Dataset, spec: ModelSpec) -> None:
    """
    Raise `Broken` unless the classes of *spec* can be those of *dataset*.

    For COCO's number of classes, each category that COCO has is under COCO's id, 1 to 90.
    """
    if spec.num_classes != D0.num_classes:
        labelled(spec, dataset)
        return
    ids = {name: (id_, place) for place, (id_, name) in enumerate(sorted(NAMES.items()))}
    known = {id_: name for id_, name in dataset.categories.items() if name in ids}
    wrong = {id_: name for id_, name in known.items() if ids[name][0] != id_}
    rules = (f"{rule}: every id is explained by it" for rule, number in _numberings(len(NAMES))
             if all(number(*ids[name]) == id_ for id_, name in known.items()))  # fmt: skip
    if wrong:
        id_, name = next(iter(wrong.items()))
        raise Broken(
            f"category {name} has id {id_}, but {ids[name][0]} in COCO, as have {len(wrong)} of "
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
    boxes, so = dataset.annotations, "all boxes lie inside their images"
    fitting = [f"{name}: read so, {so}" for name, read in _READINGS.items()
               if not any(outside(a, read(a["bbox"])) for a in boxes)]  # fmt: skip
    fitting += [f"{name}: moved back, {so}" for name, ids in moved_ids(dataset).items()
                if not any(outside({"image_id": ids[a["image_id"]]}, a["bbox"]) for a in boxes)
                ]  # fmt: skip
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

    Gives a note on a part of val2017, by its names; empty for any other set, as one whose pictures
    are annotated with other categories is.
    """
    if dataset.categories != NAMES:
        return ""
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


# What trained weights say of annotations.


def hypotheses(dataset: Dataset) -> Iterator[Hypothesis]:
    """The faults that all of *dataset* may have; ``apply`` undoes one in an annotation."""
    sizes = {sample.image_id: sample.size for sample in dataset.samples}
    for name, turn in _TURNS.items():
        yield Hypothesis(
            name, "boxes are too", part="image",
            apply=lambda a, turn=turn: a | {"bbox": turn(*a["bbox"], *sizes[a["image_id"]])},
        )  # fmt: skip
    for name, back in moved_ids(dataset).items():
        yield Hypothesis(name, "they are moved back", _renaming("image", back), part="image")
    for rule, number in _numberings(len(dataset.categories)):
        ids = {number(id_, n): id_ for n, id_ in enumerate(sorted(dataset.categories))}
        undo = _renaming("category", ids)
        inverse = "these have the ids of the classes"
        yield Hypothesis(f"annotations of {rule}", inverse, undo, part="category")


def _renaming(of: str, names: Mapping[int, int]) -> Callable[[Annotation], Annotation]:
    """What gives an annotation another image or category by *names*."""
    key = _KEYS[of]
    return lambda a: a | {key: names.get(a[key], a[key])}


def found_shares(matches: MatchTable, of: str) -> dict[int, float]:
    """
    Id of each *image* or *category* (*of*) -> the share of its objects that are found, IoU 0.5.

    Of n objects, the n surest detections count.  What has fewer than three objects is left out.
    """
    rows = np.concatenate([np.empty(0, MATCH), *matches.parts])
    rows = rows.compress(rows["ignored"] & 1 == 0)
    rows = rows.take(np.lexsort((-rows["score"], rows[of])))
    unit, truth = rows[of].astype(np.int64), matches.truths
    objects = np.bincount(truth[of][~truth["ignored"][:, 0]], minlength=1 + unit.max(initial=0))
    sure = np.arange(unit.size) - np.searchsorted(unit, unit) < objects[unit]
    hits = np.bincount(unit[sure & (rows["truth"] >= 0)], minlength=objects.size)
    ids = matches.dataset.image_ids if of == "image" else range(objects.size)
    return {ids[n]: float(hits[n] / objects[n]) for n in np.flatnonzero(objects >= _OBJECTS)}


def diagnose_annotations(matches: MatchTable, spec: ModelSpec) -> str | None:
    """
    The fault of the annotations that explains what trained weights do not find; None without one.

    It is the one that raises mAP most if it is undone: in all of the data, in the images where that
    lets objects be found, or in pairs that were exchanged.
    """
    proved, before = [(0.0, "")], None
    for said, changed, least in (one for of in _KEYS for one in _trials(matches, of, spec)):
        before = _percent(matches) if before is None else before
        after = _percent(_matched(changed, matches, matches.dataset.image_ids, spec))
        if after - before > least:
            proved.append((after, said.format(f"mAP rises from {before:.2f} to {after:.2f} %")))
    return max(proved)[1] or None


def _trials(
    matches: MatchTable, of: str, spec: ModelSpec
) -> Iterator[tuple[str, list[Annotation], float]]:
    """A fault of images or categories, annotations without it, the rise of mAP that proves it."""
    dataset, key, own = matches.dataset, _KEYS[of], found_shares(matches, of)
    low = [id_ for id_, share in own.items() if share <= _LOW]
    images = low if of == "image" else dataset.image_ids

    def explained(changed: list[Annotation]) -> list[int]:
        """Those of whose objects enough are found with the annotations *changed* alone."""
        shares = found_shares(_matched(changed, matches, images, spec), of)
        return [n for n, share in shares.items() if share >= _HIGH and own.get(n, 0.0) <= _LOW]

    for fault in (one for one in hypotheses(dataset) if low and one.part == of):
        changed = [fault.apply(a) for a in dataset.annotations]
        said = f"{fault.name}: {{}} if {fault.inverse}"
        if ids := explained(changed):
            yield said, changed, FAULT_UNDONE.limit
        if of == "image" and len(ids) >= max(_SOME, _SHARE * len(low)):
            some = [a for a in changed if a[key] in ids]
            some += [a for a in dataset.annotations if a[key] not in ids]
            yield f"{said}, in {len(ids)} images: {listed(ids)}", some, 0.0
    # Each low one has the annotations of each other once.
    fits = set[tuple[int, int]]()
    for step in range(1, len(low) if len(low) <= _PAIRED else 1):
        names = dict(zip(low, low[step:] + low[:step], strict=True))
        right = explained([*map(_renaming(of, names), dataset.annotations)])
        fits |= {pair for pair in names.items() if pair[1] in right}
    if pairs := sorted((a, b) for a, b in fits if a < b and (b, a) in fits):
        shown = dataset.categories if of == "category" else {id_: id_ for id_ in low}
        text = listed(f"{shown[a]} and {shown[b]}" for a, b in pairs)
        back = _renaming(of, {a: b for pair in pairs for a, b in (pair, pair[::-1])})
        said = f"{of} {text} exchanged: {{}} if they are exchanged back"
        yield said, [*map(back, dataset.annotations)], 0.0


def _matched(
    annotations: Sequence[Annotation], matches: MatchTable, ids: Collection[int], spec: ModelSpec
) -> MatchTable:
    """The detections in the images *ids* of *matches*, matched with other *annotations*."""
    found = {id_: matches.detections[id_] for id_ in ids}
    samples = tuple(sample for sample in matches.dataset.samples if sample.image_id in found)
    own = tuple(a for a in annotations if a["image_id"] in found)
    return match_table(replace(matches.dataset, samples=samples, annotations=own), found, spec)


def _percent(matches: MatchTable) -> float:
    return 100 * (summarize(matches).ap or 0.0)


def check_reference(matches: MatchTable, spec: ModelSpec, expected: float | None) -> None:
    """
    Raise `Broken` of stage dataset where trained weights show that the data are wrong.

    *matches* are of torch with the checkpoint.  They show it where `diagnose_annotations` finds a
    fault, or where mAP of all images is below what was *expected*, in percent.
    """
    ap, diagnosis = _percent(matches), diagnose_annotations(matches, spec)
    said = f"torch with the checkpoint reaches {ap:.2f} % mAP on these images"
    if expected and not matches.dataset.limited and ap < expected - TO_EXPECTED.limit:
        said += f", but {expected:.2f} % was expected of it"
    elif diagnosis is None:
        return
    said += ", so that no build is at fault"
    if diagnosis is None:
        at = operating_point(matches)
        precision, recall = at.total.precision or 0.0, at.total.recall or 0.0
        said += f"; precision is {precision:.2f} and recall {recall:.2f} at score {at.threshold}"
        # In right data the surest detections are nearly all annotated, of weak weights too.
        said += ", as where annotations are missing" if precision < recall else ""
        said = "; ".join([said, *facts(matches.dataset)])
    raise Broken(said, diagnosis, "dataset")
