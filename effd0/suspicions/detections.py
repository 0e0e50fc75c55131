"""
Detections that another tool wrote, held against effd0's own: what differs, where, and why.

A mistake is made on purpose on the way from effd0's heads to its results: where that gives the
other tool's detections, the mistake is named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..data.coco import NAMES, Dataset
from ..detection.postprocess import Detections
from ..metrics.detection_diff import detection_parity
from ..results_json import CocoResults
from ..spec import ModelSpec
from ..tensors.manifest import listed
from .base import Suspicion
from .detection_fault import DetectionFault, confined_fault, unexplained_fault
from .detection_images import coverage, find_order, rows_by_image, without_copies
from .detection_mistake import Trial
from .detection_rows import EXACT, NEAR, Count, Rows, count_different, own_rows
from .detection_search import Explanation, explain
from .detection_steps import ImageCandidates

STAGES = ("decode", "nms", "evaluate")
#: Rows of one image that may differ, where they are not most of them: where scores or overlaps are
#: nearly equal, none did in float32 and 2 of 200 with noise of 2e-5, measured 2026-11-25.
STRAYS, MOST = 2, 0.5
#: Noise in the heads turns over what overlaps or scores nearly alike.  With noise of up to 5e-3 of
#: the heads' norm, at most a fifth of the rows that differ at all did so by more than `NEAR`, and
#: besides 10 rows of an image and 0.9 % of all, measured on groups of 5 images 2026-11-25.
FLIPS, GROSS, GROSS_SHARE = 0.2, 12, 0.015
#: Images on which mistakes are tried, and how many right ones are among them.
TRIED, RIGHT = 6, 2
#: Ids of images in a line that has to stay short.
SHOWN = 3


def faults_of_detections(
    dataset: Dataset,
    reference: Mapping[int, Detections],
    given: CocoResults,
    spec: ModelSpec,
    candidates: Callable[[int], ImageCandidates],
) -> list[DetectionFault]:
    """
    Say what is wrong with the detections *given* for *dataset*, in the order of stages.

    *reference* are effd0's own detections of all images, *candidates* gives an image's before
    suppression: it is called for at most `TRIED` images, where something differs.  Detections
    below the score floor of *spec* may be there or not.
    """
    own = {id_: own_rows(reference[id_], spec) for id_ in dataset.image_ids}
    faults = []
    if given.text_ids:
        faults.append(DetectionFault("evaluate", _text_ids(given)))
    given, copied = without_copies(given)
    if copied:
        faults.append(DetectionFault("evaluate", _copies(copied, given)))
    rows = rows_by_image(given, spec.max_detections)
    order = find_order(dataset, own, rows)
    if order.suspicion is not None:
        text = "detections are not of the images under whose ids they stand"
        faults.append(DetectionFault("evaluate", text, order.suspicion))
    images = {id_ if order.mixed else order.image_of.get(id_, id_) for id_ in rows}
    rows = {image: rows[id_] for id_, image in order.image_of.items() if id_ in rows}
    differing, floor = _compared(own, rows, reference, spec, candidates)
    faults += differing
    faults += [DetectionFault("evaluate", text) for text in coverage(dataset, own, images, floor)]
    return sorted(faults, key=lambda fault: STAGES.index(fault.stage))


def _compared(
    own: Mapping[int, Rows],
    rows: Mapping[int, Rows],
    reference: Mapping[int, Detections],
    spec: ModelSpec,
    candidates: Callable[[int], ImageCandidates],
) -> tuple[list[DetectionFault], float]:
    """The faults within images, and the score below which the other tool writes nothing."""
    floor = spec.score_floor
    common = [id_ for id_ in own if id_ in rows]
    counts = {id_: count_different(rows[id_], own[id_], EXACT, floor) for id_ in common}
    wrong = [id_ for id_, (alone, counted) in counts.items() if alone > min(STRAYS, MOST * counted)]
    if not wrong:
        return [], floor
    right = [id_ for id_ in common if id_ not in set(wrong)]
    tried = [*_spread(wrong, TRIED - RIGHT), *_spread(right, RIGHT)]
    trials = [Trial(candidates(id_), rows[id_], spec) for id_ in tried]
    lowest = min(float(part.scores.min()) for part in rows.values())
    text = _text(counts, wrong)
    if (found := explain(trials, lowest, EXACT)) is not None:
        return _named(text, found), lowest if _suppressed(found) else floor
    fault = confined_fault(trials, text)
    if fault is None:
        if _as_noise(
            counts, {id_: count_different(rows[id_], own[id_], NEAR, floor) for id_ in common}
        ):
            return [], floor
        if (found := explain(trials, lowest, NEAR)) is not None:
            return _named(text, found), lowest if _suppressed(found) else floor
        fault = unexplained_fault(trials, text)
    parity = detection_parity(
        {id_: reference[id_] for id_ in common},
        {id_: _as_detections(rows[id_]) for id_ in common},
    )
    return [replace(fault, details=f"{parity}{_oddities(rows)}")], floor


def _as_noise(exact: Mapping[int, Count], near: Mapping[int, Count]) -> bool:
    """Whether so few rows differ by more than noise in the heads as that noise itself leaves."""
    if any(
        alone > min(GROSS + FLIPS * exact[id_][0], MOST * counted)
        for id_, (alone, counted) in near.items()
    ):
        return False
    shares = (
        sum(c[0] for c in every.values()) / max(sum(c[1] for c in every.values()), 1)
        for every in (exact, near)
    )
    slight, gross = shares
    return gross <= GROSS_SHARE + FLIPS * slight


def _spread(ids: Sequence[int], count: int) -> list[int]:
    """At most *count* of *ids*, evenly."""
    places = np.linspace(0, len(ids) - 1, min(count, len(ids))).round().astype(int)
    return [ids[place] for place in places]


def _suppressed(found: Explanation) -> bool:
    return any(mistake.stage == "nms" for mistake in found.mistakes)


def _named(text: str, found: Explanation) -> list[DetectionFault]:
    together = " and ".join(mistake.explanation for mistake in found.mistakes)
    return [
        DetectionFault(
            mistake.stage, text, Suspicion(mistake.name, together, found.before, found.after)
        )
        for mistake in found.mistakes
    ]


def _text(counts: Mapping[int, tuple[int, int]], wrong: Sequence[int]) -> str:
    alone, counted = (sum(count[i] for count in counts.values()) for i in range(2))
    shown = ", ".join(map(str, wrong[:SHOWN])) + (", ..." if len(wrong) > SHOWN else "")
    return (
        f"{100 * alone / counted:.3g} % of detections differ, in {len(wrong)} of {len(counts)} "
        f"images ({shown})"
    )


def _text_ids(given: CocoResults) -> str:
    return (
        f"{given.text_ids} of {len(given)} image ids in {given.path.name} are text, but COCO's "
        "are whole numbers: an evaluator finds no image of these"
    )


def _copies(copied: Sequence[int], given: CocoResults) -> str:
    images = len(np.unique(given.image_ids))
    return f"{len(copied)} of {images} images have all detections twice or more: {listed(copied)}"


def _oddities(rows: Mapping[int, Rows]) -> str:
    """What no detector finds, if it is there."""
    negative = sum(int((part.boxes[:, 2:] < 0).any(axis=1).sum()) for part in rows.values())
    unknown = {int(id_) for part in rows.values() for id_ in part.classes} - NAMES.keys()
    said = f"\n  {negative} boxes have a negative width or height" if negative else ""
    return said + (f"\n  not COCO's category ids: {listed(sorted(unknown))}" if unknown else "")


def _as_detections(rows: Rows) -> Detections:
    corners = np.concatenate([rows.boxes[:, :2], rows.boxes[:, :2] + rows.boxes[:, 2:]], 1)
    return Detections(corners.astype(np.float32), rows.scores.astype(np.float32), rows.classes)
