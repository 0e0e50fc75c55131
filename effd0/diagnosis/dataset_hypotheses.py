"""
What trained weights say of annotations: faults of a data set, each undone on trial.

Weights find many objects of most images and categories.  Where they find next to none, a hypothesis
undoes a fault of the annotations, and the same detections are matched again.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..data.coco import Dataset
from ..errors import listed
from ..metrics.coco import MATCH, MatchTable, flags, match_table
from ..metrics.operating_point import operating_point
from ..metrics.summary import summarize
from ..results.check import Broken
from ..spec import ModelSpec
from ..tolerances import FAULT_UNDONE, TO_EXPECTED
from .dataset import NUMBERINGS, Annotation, facts, moved_ids
from .hypothesis import Hypothesis

#: Field of a match -> the key of an annotation that says the same.
_KEYS = {"image": "image_id", "category": "category_id"}
#: Images and categories of so many objects are asked: a person or two fill many pictures alike.  Of
#: a low one next to nothing is found; with _HIGH of its objects, more than by chance: in 5468 pairs
#: of images and 2598 of categories, one had it of the other's annotations once, both never.
_OBJECTS, _LOW, _HIGH = 3, 0.1, 0.4
#: A fault of some images is one of so many, and of this share of the low ones.  Among more than the
#: last number of these no pairs are looked for: it would be a fault of more than pairs.
_SOME, _SHARE, _MOST = 3, 0.1, 200
#: Fault -> a box x, y, width, height with it undone in an image of a width and height.  A quarter
#: turn is seen by the size of a picture.
_TURNS: Mapping[str, Callable[..., tuple[float, ...]]] = {
    "pictures mirrored": lambda x, y, w, h, across, _: (across - x - w, y, w, h),
    "pictures upside down": lambda x, y, w, h, _, down: (x, down - y - h, w, h),
    "pictures turned by 180 degrees":
        lambda x, y, w, h, across, down: (across - x - w, down - y - h, w, h),
}  # fmt: skip


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
    for rule, number in NUMBERINGS.items():
        ids = {number(id_, n): id_ for n, id_ in enumerate(sorted(dataset.categories))}
        undo = _renaming("category", ids)
        yield Hypothesis(f"annotations of {rule}", "these have COCO's ids", undo, part="category")


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
    rows = rows.compress(~flags(rows, "ignored")[:, 0, 0])
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
    for step in range(1, len(low) if len(low) <= _MOST else 1):
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
