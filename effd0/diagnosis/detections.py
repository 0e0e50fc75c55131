"""
Detections that another tool wrote, compared with effd0's own: what differs, where, and why.

A fault is planted on the way from effd0's heads to its results: where that gives the other tool's
detections, the fault is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np

from ..data.coco import NAMES, Dataset
from ..detection.postprocess import Detections
from ..errors import listed
from ..metrics.detection_diff import detection_parity
from ..results.check import STAGES, Broken
from ..spec import ModelSpec
from . import detection_hypotheses as catalogue
from .detection_hypotheses import Found, ImageCandidates, as_xywh, make
from .hypothesis import Diagnosis, Hypothesis, best
from .results_json import (
    EXACT,
    FIELDS,
    NEAR,
    CocoResults,
    Rows,
    Tolerance,
    count_different,
    own_rows,
    same_rows,
)

#: Rows of one image that may differ, where they are not most of them: where scores or overlaps are
#: nearly equal, none did in float32 and 2 of 200 with noise of 2e-5, measured 2026-11-25.
STRAYS, MOST = 2, 0.5
#: Noise in the heads turns over what overlaps or scores nearly alike.  With noise of up to 5e-3 of
#: the heads' norm, at most a fifth of the rows that differ at all did so by more than `NEAR`, and
#: besides 10 rows of an image and 0.9 % of all, measured on groups of 5 images 2026-11-25.
FLIPS, GROSS, GROSS_SHARE = 0.2, 12, 0.015
#: Images on which faults are tried, and how many right ones are among them.
TRIED, RIGHT = 6, 2
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
#: The images on which most faults are seen to explain nothing, at little cost, and those to which a
#: threshold is fitted.
_SCREEN, _FIT = 1, 2
_COUNTS = (100, 200, 300, 400, 500, 1000, 2000)
_THRESHOLDS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, *(n / 20 for n in range(2, 20)))
#: Differences of boxes that are no more than rounding, in pixels and as a factor.
_STILL, _UNSTRETCHED = 0.1, 2e-3

ByImage: TypeAlias = Mapping[int, Rows]
Candidates: TypeAlias = Callable[[int], ImageCandidates]


def faults_of_detections(
    dataset: Dataset,
    reference: Mapping[int, Detections],
    given: CocoResults,
    spec: ModelSpec,
    candidates: Candidates,
) -> list[Broken]:
    """
    Return what is wrong with the detections *given* for *dataset*, in the order of stages.

    *reference* are effd0's own detections of all images, *candidates* gives an image's before
    suppression: it is called for at most `TRIED` images, where something differs.  Detections
    below the score threshold of *spec* may be there or not.
    """
    own = {id_: own_rows(reference[id_], spec) for id_ in dataset.image_ids}
    faults = []
    if given.text_ids:
        text = (
            f"{given.text_ids} of {len(given)} image ids in {given.path.name} are text, but COCO's "
            "are whole numbers: an evaluator finds no image of these"
        )
        faults.append(Broken(text, stage="evaluate"))
    rows = dict(given.images)
    copied = []
    for id_, part in given.images.items():
        table = np.column_stack([part.classes, part.boxes, part.scores])
        first = np.sort(np.unique(table, axis=0, return_index=True)[1])
        if len(part) >= 2 * len(first):
            copied.append(id_)
            rows[id_] = part[first]
    if copied:
        text = f"{len(copied)} of {len(rows)} images have all detections twice or more"
        faults.append(Broken(f"{text}: {listed(copied)}", stage="evaluate"))
    rows = {id_: part[: spec.max_detections] for id_, part in rows.items()}
    image_of, order, images = _image_order(dataset, own, rows)
    if order is not None:
        text = "detections are not of the images under whose ids they stand"
        faults.append(Broken(text, order, "evaluate"))
    rows = {image: rows[id_] for id_, image in image_of.items() if id_ in rows}
    differing, threshold = _compared(own, rows, reference, spec, candidates)
    faults += differing
    due = [id_ for id_ in dataset.image_ids if len(own[id_]) and own[id_].scores[0] > threshold]
    if missing := [id_ for id_ in due if id_ not in images]:
        text = f"{len(missing)} of {len(dataset.samples)} images have no detections"
        faults.append(
            Broken(f"{text}, where effd0 finds some: {listed(missing)}", stage="evaluate")
        )
    # A limited dataset does not know all the images that there are.
    if not dataset.limited and (foreign := sorted(images - set(dataset.image_ids))):
        text = f"{len(foreign)} of {len(images)} image ids are of no image: {listed(foreign)}"
        faults.append(Broken(text, stage="evaluate"))
    places: dict[str | None, int] = {stage: place for place, stage in enumerate(STAGES)}
    return sorted(faults, key=lambda fault: places[fault.stage])


# Which image each row is of.


def _image_order(
    dataset: Dataset, own: ByImage, given: ByImage
) -> tuple[dict[int, int], Diagnosis | None, set[int]]:
    """
    Find which images of *dataset* the rows *given* under an id are of; and which images have some.

    Tried, where they are not of the image of that id, are the next image's, the one before's,
    ids that count the images from 0 or from 1, the reversed order, and any other: then only some
    are known.
    """
    ids, count = dataset.image_ids, len(dataset.image_ids)
    right = {id_: id_ for id_ in ids}

    def unlike(image_of: Mapping[int, int]) -> float:
        return 1 - _alike(own, given, image_of)

    before = unlike(right)
    if before < 1 - UNLIKE:
        return right, None, set(given)
    orders = {
        "images shifted by one (each has the next one's detections)": {
            ids[i]: ids[(i + 1) % count] for i in range(count)
        },
        "images shifted by one (each has the detections of the one before)": {
            ids[i]: ids[i - 1] for i in range(count)
        },
        "images in reversed order": dict(zip(ids, reversed(ids), strict=True)),
        "image ids are the images' places, counted from 0": dict(enumerate(ids)),
        "image ids are the images' places, counted from 1": dict(enumerate(ids, 1)),
    }
    if (found := best(orders, lambda name: unlike(orders[name]), 1 - ALIKE)) is not None:
        name, after = found
        image_of = orders[name]
        named = Diagnosis(name, "each detection is compared with that image", before, after)
        return image_of, named, {image_of.get(id_, id_) for id_ in given}
    known = [id_ for id_, rows in given.items() if len(rows)][:MIXED]
    mixed = {id_: min(ids, key=lambda image: unlike({id_: image})) for id_ in known}
    after = unlike(mixed)
    if not mixed or after >= 1 - ALIKE:
        return right, None, set(given)
    pairs = ", ".join(f"{id_} with {other}" for id_, other in list(mixed.items())[:SHOWN])
    named = Diagnosis("images mixed up", f"{pairs}, ... are compared", before, after)
    return mixed, named, set(given)


def _alike(own: ByImage, given: ByImage, image_of: Mapping[int, int]) -> float:
    """The share of the best detections that are the same, whatever else was done to them."""
    known = [id_ for id_ in image_of if id_ in given and len(own.get(image_of[id_], ()))]
    pairs = [(given[id_][:BEST], own[image_of[id_]][: 2 * BEST]) for id_ in known[:LOOKED_AT]]
    count = sum(len(rows) for rows, _ in pairs)
    same = [
        sum(len(same_rows(rows, wanted, NEAR, but)[0]) for rows, wanted in pairs) for but in FIELDS
    ]
    return max(same) / count if count else 0.0


# What differs within images.


class Trial:
    """One image on which faults are planted: its candidates and the rows that were *given*."""

    def __init__(self, image: ImageCandidates, given: Rows, spec: ModelSpec) -> None:
        self.image, self.given, self.spec = image, given, spec
        self._made: dict[Callable[..., Found], Found] = {}

    def rows(self, *faults: Hypothesis) -> Rows:
        """Return the rows of a results file with *faults*, of different parts."""
        making = next((fault.apply for fault in faults if fault.part == "make"), make)
        # Suppression costs a hundred times what writing costs.
        if making not in self._made:
            self._made[making] = making(self.image, self.spec)
        found = self._made[making]
        written: dict[str, Any] = {
            "boxes": as_xywh(found.boxes),
            "scores": found.scores.astype(np.float64),
            "classes": found.classes,
        }
        for fault in faults:
            if fault.part != "make":
                written[fault.part] = fault.apply(found, self.image, self.spec)
        return Rows(**written)

    def candidates(self) -> Rows:
        """Return the rows of all candidates, of which suppression keeps the detections."""
        found = make(self.image, self.spec, keep=lambda *_: (slice(None), None))
        return Rows(as_xywh(found.boxes), found.scores.astype(np.float64), found.classes)


def _compared(
    own: ByImage,
    rows: ByImage,
    reference: Mapping[int, Detections],
    spec: ModelSpec,
    candidates: Candidates,
) -> tuple[list[Broken], float]:
    """The faults within images, and the score below which the other tool writes nothing."""
    threshold = spec.score_floor
    common = [id_ for id_ in own if id_ in rows]

    def counts(tolerance: Tolerance) -> dict[int, tuple[int, int]]:
        return {id_: count_different(rows[id_], own[id_], tolerance, threshold) for id_ in common}

    exact = counts(EXACT)
    wrong = [id_ for id_, (alone, counted) in exact.items() if alone > min(STRAYS, MOST * counted)]
    if not wrong:
        return [], threshold
    right = [id_ for id_ in common if id_ not in set(wrong)]
    trials = [
        Trial(candidates(ids[place]), rows[ids[place]], spec)
        for ids, most in ((wrong, TRIED - RIGHT), (right, RIGHT))
        for place in np.linspace(0, len(ids) - 1, min(most, len(ids))).round().astype(int)
    ]
    lowest = min(float(part.scores.min()) for part in rows.values())
    alone, counted = (sum(count[i] for count in exact.values()) for i in range(2))
    shown = ", ".join(map(str, wrong[:SHOWN])) + (", ..." if len(wrong) > SHOWN else "")
    text = (
        f"{100 * alone / counted:.3g} % of detections differ, in {len(wrong)} of {len(exact)} "
        f"images ({shown})"
    )
    unnamed = None
    named = _explained(trials, lowest, EXACT, text)
    if not named and (unnamed := _confined(trials, text)) is None:
        if _as_noise(exact, counts(NEAR)):
            return [], threshold
        named = _explained(trials, lowest, NEAR, text)
    if named:
        return named, lowest if any(fault.stage == "nms" for fault in named) else threshold
    fault = unnamed or _unexplained(trials, text)
    parity = detection_parity(
        {id_: reference[id_] for id_ in common}, {id_: _as_detections(rows[id_]) for id_ in common}
    )
    negative = sum(int((part.boxes[:, 2:] < 0).any(axis=1).sum()) for part in rows.values())
    unknown = {int(id_) for part in rows.values() for id_ in part.classes} - NAMES.keys()
    details = [
        str(parity),
        *([f"{negative} boxes have a negative width or height"] if negative else []),
        *([f"not COCO's category ids: {listed(sorted(unknown))}"] if unknown else []),
    ]
    return [Broken(fault.evidence, fault.diagnosis or None, fault.stage, details)], threshold


def _as_noise(exact: Mapping[int, tuple[int, int]], near: Mapping[int, tuple[int, int]]) -> bool:
    """Whether so few rows differ by more than noise in the heads as that noise itself leaves."""
    if any(
        alone > min(GROSS + FLIPS * exact[id_][0], MOST * counted)
        for id_, (alone, counted) in near.items()
    ):
        return False
    slight, gross = (
        sum(alone for alone, _ in every.values()) / max(sum(n for _, n in every.values()), 1)
        for every in (exact, near)
    )
    return gross <= GROSS_SHARE + FLIPS * slight


def _confined(trials: Sequence[Trial], text: str) -> Broken | None:
    """The fault of boxes, scores or classes alone, where nothing else differs; else None."""
    before = _share_different(trials, EXACT)
    for wrong, (others, stage) in _CONFINED.items():
        after = _share_different(trials, EXACT, but=wrong)
        if after <= min(EXACT.explained, EXACT.fall * before):
            name, explanation = f"a fault of {wrong} alone", f"only {others} are compared"
            return Broken(text, Diagnosis(name, explanation, before, after), stage)
    return None


def _unexplained(trials: Sequence[Trial], text: str) -> Broken:
    """The fault of detections that nothing explains, by whether they are candidates."""
    count = sum(len(trial.given) for trial in trials)
    pairs = [(trial.given, trial.candidates()) for trial in trials]
    shares = {
        wrong: sum(len(same_rows(*pair, EXACT, wrong)[0]) for pair in pairs) / count
        for wrong in ("", *_CONFINED)
    }
    whole = shares.pop("")
    if whole >= AMONG:
        return Broken(
            f"{text}: {whole:.0%} are among effd0's candidates, but others are kept", stage="nms"
        )
    wrong = max(shares, key=shares.__getitem__)
    if shares[wrong] >= AMONG:
        others, stage = _CONFINED[wrong]
        return Broken(
            f"{text}: {wrong} are wrong, {others} of {shares[wrong]:.0%} are those of candidates",
            stage=stage,
        )
    return Broken(
        f"{text}: only {whole:.0%} are among effd0's candidates; boxes and scores are computed "
        "otherwise, or the heads were others: compare those first",
        stage="decode",
    )


def _as_detections(rows: Rows) -> Detections:
    corners = np.concatenate([rows.boxes[:, :2], rows.boxes[:, :2] + rows.boxes[:, 2:]], 1)
    return Detections(corners.astype(np.float32), rows.scores.astype(np.float32), rows.classes)


# Which fault, or which two, make all of the rows.


def _explained(
    trials: Sequence[Trial], lowest: float, tolerance: Tolerance, text: str
) -> list[Broken]:
    """
    Name the fault that makes the rows given in *trials*, or, where none does, two that do.

    *lowest* is the lowest score of all that was given.
    """
    before = _share_different(trials, tolerance)
    limit = min(tolerance.explained, tolerance.fall * before)

    def share_with(faults: tuple[Hypothesis, ...]) -> float:
        if _share_different(trials[:_SCREEN], tolerance, *faults) > 3 * limit:
            return np.inf
        return _share_different(trials, tolerance, *faults)

    tried: list[Hypothesis] = []

    def single() -> Iterator[tuple[Hypothesis, ...]]:
        # Those that cost little first.
        for faults in (
            catalogue.writing_hypotheses(),
            _fitted_boxes(trials, tolerance),
            catalogue.making_hypotheses(trials[0].spec),
            _fitted_making(trials, lowest, tolerance),
        ):
            for fault in faults:
                tried.append(fault)
                yield (fault,)

    found = best(single(), share_with, limit)
    if found is None:
        pairs = ((a, b) for a, b in combinations(tried, 2) if a.part != b.part)
        found = best(pairs, share_with, limit)
    if found is None:
        return []
    together = " and ".join(fault.inverse for fault in found[0])
    return [
        Broken(text, Diagnosis(fault.name, together, before, found[1]), fault.stage)
        for fault in found[0]
    ]


def _share_different(
    trials: Sequence[Trial], tolerance: Tolerance, *faults: Hypothesis, but: str = ""
) -> float:
    """The share of rows that differ with *faults* planted; 1 where half of them are lost."""
    alone = counted = 0
    for trial in trials:
        rows = trial.rows(*faults)
        here = count_different(trial.given, rows, tolerance, trial.spec.score_floor, but)
        alone, counted = alone + here[0], counted + here[1]
    # Rows below the threshold do not count, but neither do they explain what was given.
    if counted - alone < sum(len(trial.given) for trial in trials):
        return 1.0
    return alone / counted if counted else 0.0


def _fitted_making(
    trials: Sequence[Trial], lowest: float, tolerance: Tolerance
) -> Iterator[Hypothesis]:
    """Faults with a parameter that the given rows tell: thresholds, caps, an IoU."""
    spec = trials[0].spec
    if lowest > 2 * spec.score_floor:
        reached = [score for score in _THRESHOLDS if score <= lowest + tolerance.score]
        for score in (*reached[-1:], lowest - tolerance.score):
            yield catalogue.with_candidates(
                f"score threshold {score:.3g}", f"scores below {score:.3g} are left out",
                least=score,
            )  # fmt: skip
    most = max(len(trial.given) for trial in trials)
    if most < spec.max_detections:
        yield catalogue.with_spec(
            f"at most {most} detections per image", f"the {most} best of an image are kept",
            max_detections=most,
        )  # fmt: skip
    for count in _COUNTS:
        if count < spec.max_candidates:
            yield catalogue.with_candidates(
                f"only {count} candidates before NMS", f"the {count} best candidates are taken",
                most=count,
            )  # fmt: skip
    # What was written otherwise besides must not hide which boxes were kept.
    fitted = trials[:_FIT]
    shares = {field: _share_different(fitted, tolerance, but=field) for field in FIELDS}
    but = min(shares, key=shares.__getitem__)
    if not shares[but]:
        return
    nearest = spec.nms_iou
    # The IoU that comes nearest, by twentieths and then by hundredths.
    for step, reach in ((0.05, 8), (0.01, 4)):
        ious = [round(nearest + step * n, 2) for n in range(-reach, reach + 1)]
        faults = {
            iou: catalogue.with_spec(
                f"IoU threshold {iou:.2f}", f"boxes are suppressed above an IoU of {iou:.2f}",
                nms_iou=iou,
            )
            for iou in ious if 0 < iou < 1 and iou != spec.nms_iou
        }  # fmt: skip
        left = {iou: _share_different(fitted, tolerance, faults[iou], but=but) for iou in faults}
        nearest = min(left, key=left.__getitem__)
    yield faults[nearest]


def _fitted_boxes(trials: Sequence[Trial], tolerance: Tolerance) -> Iterator[Hypothesis]:
    """Boxes moved, grown or stretched alike in all images."""
    ours, theirs = [], []
    for trial in trials:
        rows = trial.rows()
        left, right = same_rows(trial.given, rows, tolerance, but="boxes")
        theirs.append(trial.given.boxes[left])
        ours.append(rows.boxes[right])
    wanted, got = np.concatenate(ours), np.concatenate(theirs)
    if not len(wanted):
        return
    x, y, w, h = np.median(got - wanted, axis=0).round(2).tolist()
    move, grow = np.array([x, y, x, y]), np.array([0, 0, w, h])
    if max(abs(x), abs(y)) > _STILL:
        moved = f"moved by ({x:.3g}, {y:.3g}) pixels"
        yield catalogue.with_boxes(
            f"boxes {moved}", f"boxes are {moved}", lambda boxes: as_xywh(boxes + move)
        )
    if max(abs(w), abs(h)) > _STILL:
        larger = f"({w:.3g}, {h:.3g})"
        yield catalogue.with_boxes(
            f"widths and heights larger by {larger} pixels",
            f"{larger} is added to width and height",
            lambda boxes: as_xywh(boxes) + grow,
        )
    sides = wanted[:, 2:].min(axis=1) > 1
    if sides.any():
        across, down = np.median(got[sides, 2:] / wanted[sides, 2:], axis=0).tolist()
        if min(across, down) > 0 and max(abs(across - 1), abs(down - 1)) > _UNSTRETCHED:
            yield catalogue.with_boxes(
                f"boxes multiplied by ({across:.4g}, {down:.4g})",
                f"x are multiplied by {across:.4g} and y by {down:.4g}",
                lambda boxes: as_xywh(boxes * np.array([across, down, across, down])),
            )
