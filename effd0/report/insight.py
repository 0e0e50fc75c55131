"""What pictures of an evaluation need: curves, scores, kinds of error, images to look at first."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data.coco import Dataset, names_of
from ..data.preprocess import read_image
from ..detection.postprocess import Detections
from ..errors import ImageError
from ..evaluation.evaluate import Evaluation
from ..metrics import coco, detection_diff, summary, tide
from ..results.run import Detection, ErrorKind, Insight, Picture, Scores, Sides, Truth
from ..spec import ModelSpec
from ..types import Fractions

#: Bounds of the bins that scores are counted in.
EDGES: Fractions = np.arange(21) / 20
#: Names of the curves, and the IoU thresholds that each is averaged over.
_CURVES = {"0.50": slice(0, 1), "0.75": slice(5, 6), "0.50:0.95": slice(0, len(coco.THRESHOLDS))}
#: Images shown; detections shown of each, and the score from which on they are.
PICTURES, BOXES, SHOWN = 80, 50, 0.3
#: The longest side of a thumbnail in pixels.
LONGEST = 320
#: Bytes of base64: eighty of them stay under 3 MB.
LARGEST = 37_500
#: Tried in turn until the text is small enough.  Measured 2026-11-25: the bundled images take
#: 13 kB at most, noise of 320 x 320 pixels 72 kB at the first and 12 kB at the last.
QUALITIES = (70, 50, 30, 10)


def insight_of(evaluation: Evaluation) -> Insight:
    """
    What pictures of *evaluation*, and of its reference if it has one, need.

    Images are opened for thumbnails alone; one that cannot be read has none.
    """
    dataset, spec = evaluation.dataset, evaluation.spec
    other = None if evaluation.reference is None else evaluation.reference.matches
    tables = [evaluation.matches, *([] if other is None else [other])]
    found = [table.detections for table in tables]
    errors = [tide.find_errors(table) for table in tables]
    if other is None:
        differences = mistakes(dataset, errors[0])
    else:
        differences = {id_: difference(found[1][id_], found[0][id_]) for id_ in dataset.image_ids}

    def both(values: Iterable[Any]) -> list[Any]:
        """What is made of each table; the reference's is None without one."""
        return [*values, None][:2]

    scores = (coco.to_coco_results(some, spec)["score"] for some in found)
    kinds = (
        {kind: ErrorKind(one.count(kind), one.delta_ap(kind)) for kind in tide.KINDS}
        for one in errors
    )
    return Insight(
        recall=np.round(summary.RECALLS, 2).tolist(),
        curves=Sides(*both(_curves(table) for table in tables)),
        # The last bin holds its upper bound too.
        scores=Scores(EDGES.tolist(), *both(np.histogram(s, EDGES)[0].tolist() for s in scores)),
        errors=Sides(*both(kinds)),
        gallery=gallery(dataset, found, differences, spec),
    )


def _curves(matches: coco.MatchTable) -> dict[str, list[float | None]]:
    """Precision at each recall, the mean over the categories that have an object."""
    precision = summary.accumulate(matches)[0][..., 0]
    defined = precision[:, :, (precision > -1).all(axis=(0, 1))]
    if not defined.size:
        return {name: [None] * len(summary.RECALLS) for name in _CURVES}
    return {name: defined[ious].mean(axis=(0, 2)).tolist() for name, ious in _CURVES.items()}


def gallery(
    dataset: Dataset,
    sides: Sequence[Mapping[int, Detections]],
    differences: Mapping[int, float],
    spec: ModelSpec,
) -> list[Picture]:
    """
    The `PICTURES` images with the greatest of *differences* (by image id), greatest first.

    *sides* are the detections of the candidate and, where there is one, of the reference.
    """
    chosen = sorted(dataset.samples, key=lambda sample: -differences[sample.image_id])[:PICTURES]
    truth: dict[int, list[Truth]] = {sample.image_id: [] for sample in chosen}
    for one in dataset.annotations:
        if one["image_id"] in truth:
            name, crowd = dataset.categories[one["category_id"]], bool(one.get("iscrowd", 0))
            truth[one["image_id"]].append(Truth(_rounded(one["bbox"]), name, crowd))

    names = {**names_of(spec), **dataset.categories}

    def shown(found: Mapping[int, Detections], image_id: int) -> list[Detection]:
        rows = coco.to_coco_results({image_id: found[image_id]}, spec)
        rows = rows.compress(rows["score"] >= SHOWN)
        rows = rows.take(np.argsort(-rows["score"], kind="stable")[:BOXES])
        return [
            # A model may know more categories than its data set, and than COCO.
            Detection(_rounded(box), names.get(of, f"category {of}"), round(score, 4))
            for _, of, box, score in rows.tolist()
        ]

    pictures = []
    for sample in chosen:
        id_, path = sample.image_id, sample.path
        of = (id_, path.name, *sample.size, thumbnail(path), differences[id_], truth[id_])
        candidate, *others = [shown(found, id_) for found in sides]
        pictures.append(Picture(*of, candidate, others[0] if others else None))
    return pictures


def difference(reference: Detections, candidate: Detections) -> float:
    """
    How far what is shown of an image differs, 0 to 1: the detections' Dice distance.

    Detections pair up as in `match_detections`; a pair agrees by its IoU times its lower score,
    twice, and the difference is 1 less the sum of this over that of all scores.  Pairs, and
    detections without a partner, count where a score reaches `SHOWN`.
    """
    pairs = detection_diff.match_detections(reference, candidate)
    scores = np.stack([reference.scores[pairs.reference], candidate.scores[pairs.candidate]])
    shown = scores.max(axis=0) >= SHOWN
    agreed = 2 * (pairs.ious * scores.min(axis=0))[shown].sum(dtype=np.float64)
    alone = np.concatenate([pairs.missing, pairs.extra])
    total = scores[:, shown].sum(dtype=np.float64) + alone[alone >= SHOWN].sum(dtype=np.float64)
    return float(np.clip(1 - agreed / total, 0, 1)) if total else 0.0


def mistakes(dataset: Dataset, errors: tide.Errors) -> dict[int, float]:
    """
    How many mistakes are to be seen in each image, by its id.

    They are the shown detections that found nothing and the objects that no shown one found.
    """
    truths, images = errors.truths, len(dataset.samples)
    shown = errors.counted.compress(errors.counted["score"] >= SHOWN)
    right = shown["truth"] >= 0
    objects = np.bincount(truths["image"][~truths["ignored"][:, 0]], minlength=images)
    hits, wrong = (np.bincount(shown["image"][of], minlength=images) for of in (right, ~right))
    counts = (objects - hits + wrong).astype(float)
    return dict(zip(dataset.image_ids, counts.tolist(), strict=True))


def _rounded(box: Any) -> tuple[float, float, float, float]:
    """A box as it is drawn: hundredths of a pixel are below what is seen."""
    x, y, width, height = (round(float(value), 2) for value in box)
    return x, y, width, height


def thumbnail(path: Path) -> str | None:
    """The image *path* as a base64 JPEG of at most `LARGEST` bytes; None if it is unreadable."""
    try:
        picture = read_image(path)
    except ImageError:
        return None
    picture.thumbnail((LONGEST, LONGEST))
    for quality in QUALITIES:
        file = io.BytesIO()
        # A comment in the file, of whatever length, would be copied.
        picture.save(file, "JPEG", quality=quality, optimize=True, comment=b"")
        text = base64.b64encode(file.getvalue()).decode("ascii")
        if len(text) <= LARGEST:
            break
    return text
