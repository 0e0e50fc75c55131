"""
What other tools do otherwise on the way from heads to a results file: one step at a time.

A hypothesis of the part ``make`` gives other detections of the same candidates, one of ``boxes``,
``classes`` or ``scores`` writes the same detections otherwise.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np

from ..detection.boxes import anchor_boxes, clip_boxes, decode_boxes, nms
from ..detection.heads import HeadOutputs
from ..detection.postprocess import category_ids, gather_codes, select_topk, sigmoid
from ..metrics.detection_diff import box_iou, once_each
from ..spec import ModelSpec
from ..types import Boxes, Floats, Fractions, Indices
from .heads import CODES
from .hypothesis import Hypothesis

#: Deviation of the Gaussian by which soft NMS lowers scores, in effdet and in its paper.
_SIGMA = 0.5
#: What a row of a results file says of a detection, and the columns of a table in which it stands:
#: x, y, width and height in pixels, score, category id.
FIELDS: dict[str, Any] = {"boxes": slice(4), "scores": 4, "classes": 5}
#: A score is also off by this part of itself, for logits written as scores.
_RELATIVE = 6e-4
#: Boxes that are written as parts of the image are compared to this part of the largest number.
_PART = 1e-3
#: The images to which a threshold is fitted.
_FIT = 2
_COUNTS = (100, 200, 300, 400, 500, 1000, 2000)
_THRESHOLDS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, *(n / 20 for n in range(2, 20)))


class ImageCandidates(NamedTuple):
    """
    What may become a detection of one image, by falling *logits*, and the image's geometry.

    *anchors* are indices, *classes* run from 0, *codes* are (ty, tx, th, tw); *image_scale* times
    input pixels gives pixels of the image, whose *image_size* is (width, height).
    """

    logits: Floats
    anchors: Indices
    classes: Indices
    codes: Floats
    image_scale: float
    image_size: tuple[int, int]


class Found(NamedTuple):
    """Detections by falling score: *boxes* xyxy in pixels of the image, *classes* COCO's ids."""

    boxes: Fractions
    logits: Floats
    scores: Fractions
    classes: Indices


def image_candidates(
    heads: HeadOutputs, image_scale: float, image_size: tuple[int, int], spec: ModelSpec
) -> ImageCandidates:
    """Return the candidates of one image; the arguments are those of `postprocess`."""
    logits, anchors, classes = select_topk(heads.classes, spec)
    codes = gather_codes(heads.boxes, anchors, spec)
    return ImageCandidates(logits, anchors, classes, codes, image_scale, image_size)


# The steps, each as effd0 does it.


def decoded(image: ImageCandidates, spec: ModelSpec) -> Boxes:
    """Boxes of all candidates, xyxy in input pixels, not clipped."""
    return decode_boxes(image.codes, anchor_boxes(spec)[image.anchors])


def clipped(boxes: Boxes, image: ImageCandidates) -> Boxes:
    """*boxes* clipped to the picture, in input pixels."""
    return clip_boxes(boxes, image.image_size, np.float32(image.image_scale))


def suppressed(
    boxes: Boxes,
    image: ImageCandidates,
    spec: ModelSpec,
    *,
    iou: float | None = None,
    most: int | None = None,
    candidates: int | None = None,
    least: float = 0.0,
) -> Indices:
    """
    Indices of the candidates that NMS keeps by their *boxes*, xyxy, as effd0 does by default.

    At most *most* are kept, none that overlaps a surer one of its class by more than *iou*, of the
    first *candidates* or those of score *least* or more.
    """
    # Candidates are in order, so those that reach the score stand first.
    some = slice(int((sigmoid(image.logits) >= least).sum()) if candidates is None else candidates)
    return nms(boxes[some], image.classes[some], iou or spec.nms_iou, most or spec.max_detections)


def make_detections(
    image: ImageCandidates,
    spec: ModelSpec,
    *,
    boxes: Callable[[ImageCandidates, ModelSpec], Boxes] = decoded,
    clip: Callable[[Boxes, ImageCandidates], Boxes] = clipped,
    keep: Callable[[Boxes, ImageCandidates, ModelSpec], Any] = suppressed,
) -> Found:
    """
    Return detections as `postprocess` gives them, but for a step that is done otherwise.

    *keep* gives the candidates that are kept, or these and their scores.
    """
    corners = clip(boxes(image, spec), image)
    kept = keep(corners, image, spec)
    kept, scores = kept if isinstance(kept, tuple) else (kept, sigmoid(image.logits[kept]))
    return Found(
        (corners[kept] * np.float32(image.image_scale)).astype(np.float64),
        image.logits[kept],
        scores.astype(np.float64),
        category_ids(image.classes[kept], spec),
    )


def as_xywh(boxes: Fractions) -> Fractions:
    """Corners xyxy as COCO's x, y, width, height."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)


# Rows of a results file, planted and compared.


class RowTolerance(NamedTuple):
    """
    How far a box's four numbers may be off, in pixels and as part of its size, and a score.

    A fault explains rows if it leaves at most the share *explained* of them different, and at
    most the part *fall* of those that differed without it: chance gives no such fall.
    """

    box: float
    size: float
    score: float
    explained: float
    fall: float


#: Of the same heads: JSON rounded to one decimal leaves 0.05 pixels of a box, three decimals
#: 0.0005 of a score.  No row differed so of ONNX Runtime's heads and torch's, and 0.5 % of heads
#: stored in float16, measured 2026-11-25.
EXACT = RowTolerance(box=0.06, size=0.0, score=6e-4, explained=0.05, fall=0.1)
#: Of heads in another precision: with noise as of float16 arithmetic (2.2e-3 of the heads' norm)
#: 8 % of the rows differed so, with 5e-3 16 %, and a float32 tolerance would have 85 %, measured
#: 2026-11-25.
NEAR = RowTolerance(box=1.5, size=0.03, score=0.02, explained=0.15, fall=0.25)


def same_rows(
    given: Fractions, wanted: Fractions, tolerance: RowTolerance, but: str = ""
) -> tuple[Indices, Indices]:
    """
    Pair rows that are the same within *tolerance*, each at most once, the nearest scores first.

    Both are tables of `FIELDS`, of which *but* names the one that may differ.
    """
    gap = np.abs(given[:, None, 4] - wanted[:, 4])
    near = np.ones(gap.shape, bool)
    if but != "classes":
        near &= given[:, None, 5] == wanted[:, 5]
    if but != "scores":
        near &= gap <= tolerance.score + _RELATIVE * np.abs(wanted[:, 4])
    rows, columns = np.nonzero(near)
    if but != "boxes" and rows.size:
        one, other = given[:, :4], wanted[:, :4]
        reach = min(tolerance.box, _PART * float(np.abs(other).max()))
        allowed = reach + tolerance.size * np.abs(other[:, 2:]).max(axis=1)
        close = np.abs(one[rows] - other[columns]).max(axis=1) <= allowed[columns]
        rows, columns = rows[close], columns[close]
    return once_each(rows, columns, np.argsort(gap[rows, columns], kind="stable"))


def count_different(
    given: Fractions, wanted: Fractions, tolerance: RowTolerance, threshold: float, but: str = ""
) -> tuple[int, int]:
    """
    Count the rows of both sides that have no like on the other, and the rows that count at all.

    A row alone counts only if its score is above *threshold* by more than the tolerance: what is
    below may be written or not.
    """
    pairs = same_rows(given, wanted, tolerance, but)
    alone = sum(
        int((np.delete(side[:, 4], paired) >= threshold + tolerance.score).sum())
        for side, paired in zip((given, wanted), pairs, strict=True)
    )
    return alone, alone + 2 * len(pairs[0])


class Trial:
    """One image on which faults are planted: its candidates and the rows that were *given*."""

    def __init__(self, image: ImageCandidates, given: Fractions, spec: ModelSpec) -> None:
        self.image, self.given, self.spec = image, given, spec
        # Suppression costs a hundred times what writing costs.
        self._made = cache(lambda making: making(image, spec))

    def rows(self, *faults: Hypothesis) -> Fractions:
        """Return the rows of a results file with *faults*, of different parts."""
        steps = {fault.part: fault.apply for fault in faults}
        found: Found = self._made(steps.pop("make", make_detections))
        table = np.column_stack([as_xywh(found.boxes), found.scores, found.classes])
        for part, written in steps.items():
            table[:, FIELDS[part]] = written(found, self.image, self.spec)
        return table


def share_different(
    trials: Sequence[Trial], tolerance: RowTolerance, *faults: Hypothesis, but: str = ""
) -> float:
    """The share of rows that differ with *faults* planted; 1 where half of them are lost."""
    counts = [
        count_different(trial.given, trial.rows(*faults), tolerance, trial.spec.score_floor, but)
        for trial in trials
    ]
    alone, counted = np.sum(counts, axis=0).tolist()
    # Rows below the threshold do not count, but neither do they explain what was given.
    if counted - alone < sum(len(trial.given) for trial in trials):
        return 1.0
    return float(alone / counted) if counted else 0.0


# The catalogue: decoding and suppression.


#: No suppression at all: the rows of all candidates, of which others may have kept some.
ALL_KEPT = Hypothesis("all", "", partial(make_detections, keep=lambda *_: slice(None)), part="make")


def suppressing(name: str, inverse: str, **settings: Any) -> Hypothesis:
    """Return the fault of suppressing with other *settings*, those of `suppressed`."""
    keep = partial(suppressed, **settings)
    return Hypothesis(name, inverse, partial(make_detections, keep=keep), "nms", "make")


def making_hypotheses(spec: ModelSpec) -> Iterator[Hypothesis]:
    """Return the faults in making detections that have no parameter, decoding first."""
    turned = replace(spec, aspect_ratios=tuple((h, w) for w, h in spec.aspect_ratios))
    variances = np.array([0.1, 0.1, 0.2, 0.2], np.float32)

    def coded(change: Callable[[Floats], Floats]) -> dict[str, Any]:
        return {"boxes": lambda image, _: decoded(image._replace(codes=change(image.codes)), spec)}

    rows: tuple[tuple[str, str, dict[str, Any]], ...] = (
        *((f"{what} of the codes swapped", f"({', '.join(CODES[i] for i in order)}) is decoded",
           coded(partial(np.take, indices=order, axis=1)))
          for what, order in (("ty and tx", [1, 0, 2, 3]), ("th and tw", [0, 1, 3, 2]),
                              ("x and y", [1, 0, 3, 2]))),
        ("codes multiplied by variances", "codes are multiplied by 0.1, 0.1, 0.2, 0.2",
         coded(lambda codes: codes * variances)),
        ("anchors around corners", "anchors are half a stride nearer the corner",
         {"boxes": _cornered}),
        ("boxes not clipped", "no box is clipped", {"clip": lambda boxes, _: boxes}),
        ("boxes clipped to the padded square",
         "boxes are clipped to the network's input, not to the picture in it",
         {"clip": lambda boxes, _: boxes.clip(0, np.array(spec.image_size[::-1] * 2, np.float32))}),
        ("no NMS", "the best candidates are all kept",
         {"keep": lambda *_: slice(spec.max_detections)}),
        ("class-agnostic NMS", "boxes are suppressed by those of other classes too",
         {"keep": lambda boxes, image, _: suppressed(
             boxes, image._replace(classes=np.zeros_like(image.classes)), spec)}),
        ("best class only of each anchor", "of an anchor, the best class alone is taken",
         {"keep": _best_class}),
        ("soft NMS (Gaussian): scores lowered where boxes overlap",
         "overlapping boxes are kept with scores lowered by a Gaussian",
         {"keep": partial(_soft, lower=lambda iou: np.exp(-(iou**2) / _SIGMA))}),
        ("soft NMS (linear): scores lowered where boxes overlap",
         "overlapping boxes are kept with scores lowered by 1 - IoU",
         {"keep": partial(_soft, lower=lambda iou: np.where(
             iou > spec.nms_iou, 1 - iou, np.float32(1)))}),
        ("anchors with width and height exchanged", "the aspects are turned over",
         {"boxes": lambda image, _: decoded(image, turned)}),
        *((f"anchors of {scale:g} strides",
           f"anchors of {scale:g} strides, not {spec.anchor_scale:g}, are decoded from",
           {"boxes": lambda image, _, scale=scale: decoded(
               image, replace(spec, anchor_scale=scale))})
          for scale in (3.0, 1.0) if scale != spec.anchor_scale),
    )  # fmt: skip
    for name, inverse, step in rows:
        stage = "nms" if "keep" in step else "decode"
        yield Hypothesis(name, inverse, partial(make_detections, **step), stage, "make")


def _cornered(image: ImageCandidates, spec: ModelSpec) -> Boxes:
    """Anchors around the corners of the cells, not their centres."""
    cells = np.array(spec.feature_sizes)
    strides = np.tile(spec.image_size / cells, 2)  # of y and x, for both corners
    by_anchor = np.repeat(strides, cells.prod(axis=1) * spec.anchors_per_cell, axis=0)
    moved = anchor_boxes(spec) - (by_anchor / 2).astype(np.float32)
    return decode_boxes(image.codes, moved[image.anchors])


def _best_class(boxes: Boxes, image: ImageCandidates, spec: ModelSpec) -> Indices:
    first = np.sort(np.unique(image.anchors, return_index=True)[1])
    return first[nms(boxes[first], image.classes[first], spec.nms_iou, spec.max_detections)]


def _soft(
    boxes: Boxes, image: ImageCandidates, spec: ModelSpec, *, lower: Callable[[Floats], Floats]
) -> tuple[Indices, Floats]:
    """Scores lowered by overlap, not left out: Bodla et al. 2017."""
    left, keep, scores = sigmoid(image.logits), [], []
    for _ in range(min(spec.max_detections, left.size)):
        best = int(left.argmax())
        keep.append(best)
        scores.append(left[best])
        rivals = np.flatnonzero((image.classes == image.classes[best]) & (left >= 0))
        left[rivals] *= lower(box_iou(boxes[best : best + 1], boxes[rivals])[0])
        left[best] = -1
    return np.array(keep, np.int64), np.array(scores, np.float32)


def fitted_making(
    trials: Sequence[Trial], lowest: float, tolerance: RowTolerance
) -> Iterator[Hypothesis]:
    """
    Faults in suppression with a parameter that the given rows tell: thresholds, caps, an IoU.

    *lowest* is the lowest score of all that was given.
    """
    spec, most = trials[0].spec, max(len(trial.given) for trial in trials)
    if lowest > 2 * spec.score_floor:
        reached = [score for score in _THRESHOLDS if score <= lowest + tolerance.score]
        for score in (*reached[-1:], lowest - tolerance.score):
            shown = f"{score:.3g}"
            inverse = f"scores below {shown} are left out"
            yield suppressing(f"score threshold {shown}", inverse, least=score)
    if most < spec.max_detections:
        inverse = f"the {most} best of an image are kept"
        yield suppressing(f"at most {most} detections per image", inverse, most=most)
    for count in (count for count in _COUNTS if count < spec.max_candidates):
        inverse = f"the {count} best candidates are taken"
        yield suppressing(f"only {count} candidates before NMS", inverse, candidates=count)
    # What was written otherwise besides must not hide which boxes were kept.
    fitted = trials[:_FIT]
    but = min(FIELDS, key=lambda field: share_different(fitted, tolerance, but=field))
    if not share_different(fitted, tolerance, but=but):
        return

    def with_iou(iou: float) -> Hypothesis:
        inverse = f"boxes are suppressed above an IoU of {iou:.2f}"
        return suppressing(f"IoU threshold {iou:.2f}", inverse, iou=iou)

    nearest = spec.nms_iou
    # The IoU that comes nearest, by twentieths and then by hundredths.
    for step, reach in ((0.05, 8), (0.01, 4)):
        ious = [round(nearest + step * n, 2) for n in range(-reach, reach + 1)]
        nearest = min(
            (iou for iou in ious if 0 < iou < 1 and iou != spec.nms_iou),
            key=lambda iou: share_different(fitted, tolerance, with_iou(iou), but=but),
        )
    yield with_iou(nearest)


# Writing.


def writing_hypotheses(known: Sequence[int]) -> Iterator[Hypothesis]:
    """
    Return the faults in writing right detections; each of `Found`, the image and the spec.

    *known* are the category ids, rising.
    """
    ids = np.array(known)
    whole = "are written as whole numbers"
    rows: tuple[tuple[str, str, str, str, Callable[..., Any]], ...] = (
        ("boxes", "evaluate", "xyxy written where xywh is wanted",
         "each bbox is read as x1, y1, x2, y2", lambda f, *_: f.boxes),
        ("boxes", "evaluate", "yxyx written where xywh is wanted",
         "each bbox is read as y1, x1, y2, x2", lambda f, *_: f.boxes[:, [1, 0, 3, 2]]),
        ("boxes", "decode", "x and y swapped", "each bbox is read as y, x, height, width",
         lambda f, *_: as_xywh(f.boxes)[:, [1, 0, 3, 2]]),
        ("boxes", "decode", "width and height swapped", "each bbox is read as x, y, height, width",
         lambda f, *_: as_xywh(f.boxes)[:, [0, 1, 3, 2]]),
        ("boxes", "decode", "centres written where corners are wanted",
         "each bbox is read as centre x, centre y, width, height",
         lambda f, *_: as_xywh(f.boxes) + np.pad((f.boxes[:, 2:] - f.boxes[:, :2]) / 2,
                                                 ((0, 0), (0, 2)))),
        ("boxes", "decode", "scale not applied", "boxes are left in pixels of the network's input",
         lambda f, i, _: as_xywh(f.boxes / i.image_scale)),
        ("boxes", "decode", "scale inverted", "boxes are divided by the scale, not multiplied",
         lambda f, i, _: as_xywh(f.boxes / i.image_scale**2)),
        ("boxes", "decode", "scale applied twice", "boxes are multiplied by the scale once more",
         lambda f, i, _: as_xywh(f.boxes * i.image_scale)),
        ("boxes", "decode", "boxes scaled as if the picture had been stretched",
         "x and y are scaled by the sides of the whole input",
         lambda f, i, s: as_xywh(f.boxes * np.tile(i.image_size, 2)
                                 / (np.tile(s.image_size[::-1], 2) * i.image_scale))),
        ("boxes", "decode", "padding taken off as if the picture had lain in the middle",
         "half of the padding is taken off",
         lambda f, i, s: as_xywh(f.boxes - (np.tile(s.image_size[::-1], 2) * i.image_scale
                                            - np.tile(i.image_size, 2)) / 2)),
        ("boxes", "decode", "boxes normalised by the image (0..1)",
         "boxes are parts of width and height",
         lambda f, i, _: as_xywh(f.boxes / np.tile(i.image_size, 2))),
        ("boxes", "decode", "boxes normalised by the network's input (0..1)",
         "boxes are parts of the input",
         lambda f, i, s: as_xywh(f.boxes / (i.image_scale * np.tile(s.image_size[::-1], 2)))),
        ("boxes", "decode", "boxes rounded to whole pixels",
         f"x, y, width, height {whole}, rounded", lambda f, *_: np.rint(as_xywh(f.boxes))),
        ("boxes", "decode", "corners rounded to whole pixels",
         f"x1, y1, x2, y2 {whole}, rounded", lambda f, *_: as_xywh(np.rint(f.boxes))),
        ("boxes", "decode", "boxes cut to whole pixels",
         f"x, y, width, height {whole}, cut off", lambda f, *_: np.trunc(as_xywh(f.boxes))),
        ("boxes", "decode", "corners cut to whole pixels",
         f"x1, y1, x2, y2 {whole}, cut off", lambda f, *_: as_xywh(np.trunc(f.boxes))),
        ("classes", "evaluate", "classes shifted down by one", "1 is taken off each category id",
         lambda f, *_: f.classes - 1),
        ("classes", "evaluate", "classes shifted up by one", "1 is added to each category id",
         lambda f, *_: f.classes + 1),
        # An id that is none of these takes the number of the one before it.
        *(("classes", "evaluate", f"classes numbered {first} to {first + len(ids) - 1}",
           f"the {len(ids)} categories are numbered without gaps, from {first}",
           lambda f, *_, first=first: np.maximum(
               np.searchsorted(ids, f.classes, side="right") - 1, 0) + first)
          for first in (0, 1)),
        ("classes", "evaluate", f"ids mapped from {len(ids)} to {ids[-1]} a second time",
         f"each id is taken for a number from 1 to {len(ids)}",
         lambda f, *_: np.where(f.classes <= len(ids),
                                ids[np.minimum(f.classes, len(ids)) - 1], f.classes)),
        ("scores", "decode", "sigmoid missing", "logits are written as scores",
         lambda f, *_: f.logits),
        ("scores", "decode", "sigmoid applied twice", "a second sigmoid is applied",
         lambda f, *_: 1 / (1 + np.exp(-f.scores))),
        ("scores", "evaluate", "scores in percent", "scores are multiplied by 100",
         lambda f, *_: f.scores * 100),
        ("scores", "evaluate", "scores rounded to 2 decimals",
         "scores are rounded to 2 decimals", lambda f, *_: f.scores.round(2)),
    )  # fmt: skip
    for part, stage, name, inverse, apply in rows:
        yield Hypothesis(name, inverse, apply, stage, part)


def fitted_boxes(trials: Sequence[Trial], tolerance: RowTolerance) -> Iterator[Hypothesis]:
    """Boxes moved, grown or stretched alike in all images."""
    parts = []
    for trial in trials:
        own = trial.rows()
        left, right = same_rows(trial.given, own, tolerance, but="boxes")
        parts.append(np.stack([own[right, :4], trial.given[left, :4]]))
    wanted, got = np.concatenate(parts, 1)
    if not len(wanted):
        return

    x, y, w, h = np.median(got - wanted, axis=0).round(2).tolist()
    across, down = np.median(got[:, 2:] / np.maximum(wanted[:, 2:], 1), axis=0).tolist()
    moved, grown = f"({x:.3g}, {y:.3g}) pixels", f"({w:.3g}, {h:.3g})"
    rows: tuple[tuple[str, str, Callable[..., Fractions]], ...] = (
        (f"boxes moved by {moved}", f"boxes are moved by {moved}",
         lambda f, *_: as_xywh(f.boxes + np.tile((x, y), 2))),
        (f"widths and heights larger by {grown} pixels", f"{grown} is added to width and height",
         lambda f, *_: as_xywh(f.boxes) + np.array((0, 0, w, h))),
        (f"boxes multiplied by ({across:.4g}, {down:.4g})",
         f"x are multiplied by {across:.4g} and y by {down:.4g}",
         lambda f, *_: as_xywh(f.boxes * np.tile((across, down), 2))),
    )  # fmt: skip
    for name, inverse, change in rows:
        yield Hypothesis(name, inverse, change, "decode", "boxes")
