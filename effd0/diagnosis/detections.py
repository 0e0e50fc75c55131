"""
Detections that another tool wrote, compared with effd0's own: what differs, where, and why.

A fault is planted on the way from effd0's heads to its results: where that gives the other tool's
detections, the fault is named.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, combinations, tee
from typing import TypeAlias

import numpy as np

from ..data.coco import Dataset, Sample, ids_of
from ..detection.postprocess import Detections
from ..errors import listed
from ..metrics.coco import CocoResults, Rows, to_coco_results
from ..metrics.detection_diff import detection_parity
from ..results.check import STAGES, Broken
from ..spec import ModelSpec
from ..types import Fractions, Indices
from . import detection_hypotheses as catalogue
from .detection_hypotheses import EXACT, FIELDS, NEAR, Trial, same_rows, share_different
from .hypothesis import Diagnosis, Hypothesis, best
from .images import in_common, misplaced

#: Rows of one image that may differ, where they are not most of them: where scores or overlaps are
#: nearly equal, none did in float32 and 2 of 200 with noise of 2e-5, measured 2026-11-25.
STRAYS, MOST = 2, 0.5
#: Noise in the heads turns over what overlaps or scores nearly alike.  With noise of up to 5e-3 of
#: the heads' norm, at most a fifth of the rows that differ at all did so by more than `NEAR`, and
#: besides 10 rows of an image and 0.9 % of all, measured on groups of 5 images 2026-11-25.
FLIPS, GROSS, GROSS_SHARE = 0.2, 12, 0.015
#: Images on which faults are tried, and how many right ones are among them; on the first, most
#: faults are seen to explain nothing, at little cost.
TRIED, RIGHT, _SCREEN = 6, 2, 1
#: So many images, next to each other, are looked at for their order, and so many of their best
#: detections: what they have in common with those of other images is chance.
LOOKED_AT, BEST = 24, 20
#: The share of detections that images of the right order have in common, and of a wrong one: at
#: least 0.85 with float16 heads and at most 0.17, measured 2026-11-25.
ALIKE, UNLIKE = 0.6, 0.4
#: Images whose like is looked for among all others, and how many ids a line shows.
MIXED, SHOWN = 8, 3
#: What differs -> what is then compared, and the stage at fault.
_CONFINED = {
    "boxes": ("classes and scores", "decode"),
    "scores": ("classes and boxes", "decode"),
    "classes": ("boxes and scores", "evaluate"),
}
#: The share of detections that have to be among the candidates for suppression alone to be wrong:
#: all are if it is, and of other heads 15 % with noise of 2.2e-3, measured 2026-11-25.
AMONG = 0.9

#: Image id -> its detections, a table of `FIELDS` by falling score.
ByImage: TypeAlias = Mapping[int, Fractions]


def faults_of_detections(
    dataset: Dataset,
    reference: Mapping[int, Detections],
    given: CocoResults,
    spec: ModelSpec,
    candidates: Callable[[int], catalogue.ImageCandidates],
) -> list[Broken]:
    """
    Return what is wrong with the detections *given* for *dataset*, in the order of stages.

    *reference* are effd0's own detections of all images, *candidates* gives an image's before
    suppression: it is called for at most `TRIED` images, where something differs.  Detections
    below the score threshold of *spec* may be there or not.
    """
    own = {id_: _fields(to_coco_results({0: reference[id_]}, spec)) for id_ in dataset.image_ids}
    faults: list[Broken] = []

    def add(text: str, diagnosis: Diagnosis | None = None) -> None:
        faults.append(Broken(text, diagnosis, "evaluate"))

    if given.text_ids:
        total = sum(map(len, given.images.values()))
        add(
            f"{given.text_ids} of {total} image ids in {given.path.name} are text, but COCO's "
            "are whole numbers: an evaluator finds no image of these"
        )
    rows = {id_: _fields(part) for id_, part in given.images.items()}
    first = {id_: np.sort(np.unique(part, axis=0, return_index=True)[1])
             for id_, part in rows.items()}  # fmt: skip
    if copied := [id_ for id_, part in rows.items() if len(part) >= 2 * len(first[id_])]:
        text = f"{len(copied)} of {len(rows)} images have all detections twice or more"
        add(f"{text}: {listed(copied)}")
        rows |= {id_: rows[id_][first[id_]] for id_ in copied}
    rows = {id_: part[: spec.max_detections] for id_, part in rows.items()}
    image_of, order, images = _image_order(own, rows)
    if order is not None:
        add("detections are not of the images under whose ids they stand", order)
    rows = {image: rows[id_] for id_, image in image_of.items() if id_ in rows}
    differing, threshold = _compared(dataset, own, rows, reference, spec, candidates)
    faults += differing
    due = [id_ for id_, part in own.items() if len(part) and part[0, 4] > threshold]
    if missing := [id_ for id_ in due if id_ not in images]:
        text = f"{len(missing)} of {len(own)} images have no detections"
        add(f"{text}, where effd0 finds some: {listed(missing)}")
    # A limited dataset does not know all the images that there are.
    if not dataset.limited and (foreign := sorted(images - own.keys())):
        add(f"{len(foreign)} of {len(images)} image ids are of no image: {listed(foreign)}")
    places: dict[str | None, int] = {stage: place for place, stage in enumerate(STAGES)}
    return sorted(faults, key=lambda fault: places[fault.stage])


def _fields(results: Rows) -> Fractions:
    """The rows of *results* as a table of `FIELDS`."""
    return np.column_stack([results["box"], results["score"], results["category"]])


def _image_order(
    own: ByImage, given: ByImage
) -> tuple[Mapping[int, int], Diagnosis | None, set[int]]:
    """
    Find which images of *own* the rows *given* under an id are of; and which images have some.

    Tried, where they are not of the image of that id, are the next image's, the one before's,
    ids that count the images from 0 or from 1, the reversed order, and any other: then only some
    are known.
    """
    ids, unlike = [*own], partial(_unlike, own, given)

    def orders() -> Iterator[tuple[str, str, Mapping[int, int]]]:
        shifted, places = "images shifted by one", "image ids are the images' places, counted"
        for name, keys, others in (
            (f"{shifted} (each has the next one's detections)", ids, ids[1:] + ids[:1]),
            (f"{shifted} (each has the detections of the one before)", ids, ids[-1:] + ids[:-1]),
            ("images in reversed order", ids, ids[::-1]),
            (f"{places} from 0", range(len(ids)), ids),
            (f"{places} from 1", range(1, len(ids) + 1), ids),
        ):
            order = dict(zip(keys, others, strict=True))
            yield name, "each detection is compared with that image", order
        some = [id_ for id_, rows in given.items() if len(rows)][:MIXED]
        mixed = {id_: min((unlike({id_: image}), image) for image in ids)[1] for id_ in some}
        pairs = ", ".join(f"{id_} with {other}" for id_, other in [*mixed.items()][:SHOWN])
        yield "images mixed up", f"{pairs}, ... are compared", mixed

    right, found = {id_: id_ for id_ in ids}, None
    if (before := unlike(right)) >= 1 - UNLIKE:
        found = best(orders(), lambda order: unlike(order[2]), 1 - ALIKE, enough=1 - ALIKE)
    if found is None:
        return right, None, set(given)
    (name, inverse, image_of), after = found
    images = {image_of.get(id_, id_) for id_ in given}
    mixed = name == "images mixed up"
    return image_of, Diagnosis(name, inverse, before, after), set(given) if mixed else images


def _unlike(own: ByImage, given: ByImage, image_of: Mapping[int, int]) -> float:
    """One less the share of the best rows that are there, whatever else was done to them."""
    known = [id_ for id_ in image_of if id_ in given and len(own.get(image_of[id_], ()))]
    pairs = [(given[id_][:BEST], own[image_of[id_]][: 2 * BEST]) for id_ in known[:LOOKED_AT]]
    same = [sum(len(same_rows(*pair, NEAR, but)[0]) for pair in pairs) for but in FIELDS]
    return 1 - max(same) / sum(len(rows) for rows, _ in pairs) if pairs else 1.0


# What differs within images.


def _compared(
    dataset: Dataset,
    own: ByImage,
    rows: ByImage,
    reference: Mapping[int, Detections],
    spec: ModelSpec,
    candidates: Callable[[int], catalogue.ImageCandidates],
) -> tuple[list[Broken], float]:
    """The faults within images, and the score below which the other tool writes nothing."""
    threshold = spec.score_floor
    common = [id_ for id_ in own if id_ in rows]

    def counts(tolerance: catalogue.RowTolerance) -> Indices:
        """The rows of each image that differ, and those that count, (images, 2)."""
        pairs = ((rows[id_], own[id_]) for id_ in common)
        found = [catalogue.count_different(*pair, tolerance, threshold) for pair in pairs]
        return np.array(found, np.int64).reshape(-1, 2)

    exact = counts(EXACT)
    differ = exact[:, 0] > np.minimum(STRAYS, MOST * exact[:, 1])
    if not differ.any():
        return [], threshold
    wrong, right = (np.array(common)[some].tolist() for some in (differ, ~differ))
    bad = [sample for sample in dataset.samples if sample.image_id in {*wrong}]
    shared = in_common(bad, dataset.samples, {})
    trials = [
        Trial(candidates(ids[place]), rows[ids[place]], spec)
        for ids, most in ((wrong, TRIED - RIGHT), (right, RIGHT))
        for place in np.linspace(0, len(ids) - 1, min(most, len(ids))).round().astype(int)
    ]
    lowest = min(float(part[:, 4].min()) for part in rows.values())
    alone, counted = exact.sum(axis=0)
    shown = ", ".join(map(str, wrong[:SHOWN])) + (", ..." if len(wrong) > SHOWN else "")
    text = (
        f"{100 * alone / counted:.3g} % of detections differ, in {len(wrong)} of {len(exact)} "
        f"images ({shown}){shared and f': {shared}'}"
    )

    def unlike(one: Sample, other: Sample) -> float:
        return _unlike(own, rows, {one.image_id: other.image_id})

    order = misplaced(bad, bad, unlike, 1 - ALIKE) if len(bad) <= LOOKED_AT else None
    if order is not None:
        return [Broken(text, order, "evaluate")], threshold
    named, unnamed = _explained(trials, lowest, EXACT, text), None
    if not named and (unnamed := _of_one_field(trials, text)) is None:
        if _as_noise(exact, counts(NEAR)):
            return [], threshold
        named = _explained(trials, lowest, NEAR, text)
    if named:
        return named, lowest if any(fault.stage == "nms" for fault in named) else threshold
    fault = unnamed or _unexplained(trials, text)
    theirs = {}
    for id_, part in rows.items():
        boxes, scores = np.hstack([part[:, :2], part[:, :2] + part[:, 2:4]]), part[:, 4]
        kinds = part[:, 5].astype(np.int64)
        theirs[id_] = Detections(boxes.astype(np.float32), scores.astype(np.float32), kinds)
    every = np.concatenate([*rows.values()])
    negative = int((every[:, 2:4] < 0).any(axis=1).sum())
    unknown = sorted(set(every[:, 5].astype(int).tolist()) - {*ids_of(trials[0].spec)})
    details = [
        str(detection_parity({id_: reference[id_] for id_ in theirs}, theirs)),
        *([f"{negative} boxes have a negative width or height"] if negative else []),
        *([f"not the category ids of the data: {listed(unknown)}"] if unknown else []),
    ]
    return [Broken(fault.evidence, fault.diagnosis, fault.stage, details)], threshold


def _as_noise(exact: Indices, near: Indices) -> bool:
    """Whether so few rows differ by more than noise in the heads as that noise itself leaves."""
    if (near[:, 0] > np.minimum(GROSS + FLIPS * exact[:, 0], MOST * near[:, 1])).any():
        return False
    slight, gross = (every[:, 0].sum() / max(every[:, 1].sum(), 1) for every in (exact, near))
    return bool(gross <= GROSS_SHARE + FLIPS * slight)


def _explained(
    trials: Sequence[Trial], lowest: float, tolerance: catalogue.RowTolerance, text: str
) -> list[Broken]:
    """
    Name the fault that makes the rows given in *trials*, or, where none does, two that do.

    *lowest* is the lowest score of all that was given.
    """
    spec, before = trials[0].spec, share_different(trials, tolerance)
    limit = min(tolerance.explained, tolerance.fall * before)

    def share_with(faults: tuple[Hypothesis, ...]) -> float:
        if share_different(trials[:_SCREEN], tolerance, *faults) > 3 * limit:
            return np.inf
        return share_different(trials, tolerance, *faults)

    # Those that cost little first, and none is made before it is tried.
    single, tried = tee(chain(
        catalogue.writing_hypotheses(ids_of(spec)), catalogue.fitted_boxes(trials, tolerance),
        catalogue.making_hypotheses(spec),
        catalogue.fitted_making(trials, lowest, tolerance),
    ))  # fmt: skip
    faults: Iterator[tuple[Hypothesis, ...]] = ((fault,) for fault in single)
    found = best(faults, share_with, limit)
    if found is None:
        faults = (pair for pair in combinations(tried, 2) if pair[0].part != pair[1].part)
        found = best(faults, share_with, limit)
    if found is None:
        return []
    together = " and ".join(fault.inverse for fault in found[0])
    return [
        Broken(text, Diagnosis(fault.name, together, before, found[1]), fault.stage)
        for fault in found[0]
    ]


def _of_one_field(trials: Sequence[Trial], text: str) -> Broken | None:
    """The fault of boxes, scores or classes alone, where nothing else differs; else None."""
    before = share_different(trials, EXACT)
    for wrong, (others, stage) in _CONFINED.items():
        after = share_different(trials, EXACT, but=wrong)
        if after <= min(EXACT.explained, EXACT.fall * before):
            name, explanation = f"a fault of {wrong} alone", f"only {others} are compared"
            return Broken(text, Diagnosis(name, explanation, before, after), stage)
    return None


def _unexplained(trials: Sequence[Trial], text: str) -> Broken:
    """The fault of detections that nothing explains, by whether they are candidates."""
    pairs = [(trial.given, trial.rows(catalogue.ALL_KEPT)) for trial in trials]
    count = sum(len(given) for given, _ in pairs)

    def among(but: str = "") -> float:
        """The share of rows that are those of candidates, but for one field."""
        return sum(len(same_rows(*pair, EXACT, but)[0]) for pair in pairs) / count

    whole, wrong = among(), max(_CONFINED, key=among)
    others, stage = _CONFINED[wrong]
    if whole >= AMONG:
        said, stage = f"{whole:.0%} are among effd0's candidates, but others are kept", "nms"
    elif among(wrong) >= AMONG:
        said = f"{wrong} are wrong, {others} of {among(wrong):.0%} are those of candidates"
    else:
        stage, said = "decode", f"only {whole:.0%} are among effd0's candidates; boxes and scores "
        said += "are computed otherwise, or the heads were others: compare those first"
    return Broken(f"{text}: {said}", stage=stage)
