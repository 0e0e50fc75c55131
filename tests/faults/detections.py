"""Faults of detections that another tool made of the same heads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torchvision.ops import batched_nms, nms

from effd0.data.coco import NAMES, Sample
from effd0.detection.heads import HeadOutputs
from effd0.detection.postprocess import Detections
from effd0.spec import D0
from effd0.types import Floats
from tests.helpers.reference import Geometry, effdet_candidates

from .run import Fault, Good, Plant, Planted, base_options

Entry = dict[str, Any]
Rows = npt.NDArray[np.float32]


def _planted(good: Good, folder: Path, entries: list[Entry], *, runs: bool = True) -> Planted:
    path = folder / "detections.json"
    path.write_text(json.dumps(entries))
    options = (*base_options(good), f"--model={good.model}", f"--detections={path}", "--runner=ort")
    return Planted(options, found=(lambda: _read(good, entries)) if runs else None)


def _read(good: Good, entries: list[Entry]) -> dict[int, Detections]:
    """The entries as COCO's evaluator takes them."""
    found = {}
    for id_ in good.dataset.image_ids:
        mine = [entry for entry in entries if entry["image_id"] == id_]
        boxes = np.array([e["bbox"] for e in mine], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        scores = np.array([e["score"] for e in mine], np.float32)
        classes = np.array([e["category_id"] for e in mine], np.int64)
        found[id_] = Detections(boxes, scores, classes)
    return found


def _listed(change: Callable[[list[Entry], list[int]], list[Entry]], *, runs: bool = True) -> Plant:
    """The list as a whole is wrong; *change* is given it and the image ids."""

    def plant(good: Good, folder: Path) -> Planted:
        entries = json.loads(good.detections.read_text())
        return _planted(good, folder, change(entries, good.dataset.image_ids), runs=runs)

    return plant


def _written(change: Callable[[Entry, Sample], Entry]) -> Plant:
    """Every detection is right, and written wrongly."""

    def plant(good: Good, folder: Path) -> Planted:
        samples = {sample.image_id: sample for sample in good.dataset.samples}
        entries = json.loads(good.detections.read_text())
        wrong = [change(dict(entry), samples[entry["image_id"]]) for entry in entries]
        return _planted(good, folder, wrong)

    return plant


def _made(choose: Callable[[Rows], Rows]) -> Plant:
    """What *choose* keeps of the candidates, rows x1, y1, x2, y2, score, category, falling."""

    def plant(good: Good, folder: Path) -> Planted:
        entries = []
        for sample in good.dataset.samples:
            heads: list[Floats] = [
                np.fromfile(good.results / f"{sample.path.stem}_{n}.bin", np.float32).reshape(shape)
                for n, shape in enumerate(D0.head_shapes.values())
            ]
            found = HeadOutputs(tuple(heads[:5]), tuple(heads[5:]))
            candidates = effdet_candidates(found, Geometry.of(sample.size, good.spec), good.spec)
            entries += [
                {"image_id": sample.image_id, "category_id": int(category),
                 "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
                for x1, y1, x2, y2, score, category in choose(candidates).tolist()
                if score >= D0.score_floor
            ]  # fmt: skip
        return _planted(good, folder, entries)

    return plant


def _suppressed(rows: Rows, iou: float, *, by_class: bool = True, limit: int = 100) -> Rows:
    boxes, scores = torch.from_numpy(rows[:, :4]), torch.from_numpy(rows[:, 4])
    classes = torch.from_numpy(rows[:, 5])
    kept = batched_nms(boxes, scores, classes, iou) if by_class else nms(boxes, scores, iou)
    chosen: Rows = rows[kept.numpy()[:limit]]
    return chosen


def _best_class(rows: Rows) -> Rows:
    """One class for each anchor: rows of one anchor have one box."""
    _, first = np.unique(rows[:, :4], axis=0, return_index=True)
    return _suppressed(rows[np.sort(first)], 0.5)


def _box(change: Callable[[list[float], Sample], list[float]]) -> Plant:
    return _written(lambda e, s: {**e, "bbox": change(e["bbox"], s)})


def _scale(sample: Sample) -> float:
    return 512 / max(sample.size)


_RANK = {id_: n for n, id_ in enumerate(sorted(NAMES))}


def _category(change: Callable[[int], int]) -> Plant:
    return _written(lambda e, _: {**e, "category_id": change(e["category_id"])})


def _next_image(entries: list[Entry], ids: list[int]) -> list[Entry]:
    after = dict(zip(ids, ids[1:] + ids[:1], strict=True))
    return [{**e, "image_id": after[e["image_id"]]} for e in entries]


def _half(entries: list[Entry], ids: list[int]) -> list[Entry]:
    kept = set(ids[::2])
    return [e for e in entries if e["image_id"] in kept]


FAULTS = (
    Fault("x-and-y-swapped", "decode", "peers F27", "x and y",
          _box(lambda b, _: [b[1], b[0], b[3], b[2]])),
    Fault("boxes-of-the-input", "decode", "peers F29", "pixels of the input|network|input",
          _box(lambda b, s: [side * _scale(s) for side in b])),
    Fault("scale-applied-twice", "decode", "peers F29", "twice",
          _box(lambda b, s: [side / _scale(s) for side in b])),
    Fault("boxes-from-0-to-1", "decode", "YOLO's normalised boxes", "0 to 1|normalised|0..1",
          _box(lambda b, s: [b[0] / s.size[0], b[1] / s.size[1], b[2] / s.size[0],
                             b[3] / s.size[1]])),
    Fault("centre-for-corner", "decode", "YOLO's cx, cy, w, h", "cent",
          _box(lambda b, _: [b[0] + b[2] / 2, b[1] + b[3] / 2, b[2], b[3]])),
    Fault("boxes-moved-by-a-pixel", "decode", "peers F9", "moved by",
          _box(lambda b, _: [b[0] + 1, b[1] + 1, b[2], b[3]])),
    Fault("widths-inclusive", "decode", "the +1 of older box code", "larger by",
          _box(lambda b, _: [b[0], b[1], b[2] + 1, b[3] + 1])),
    Fault("scores-twice-through-sigmoid", "decode", "TensorRT's samples", "sigmoid",
          _written(lambda e, _: {**e, "score": 1 / (1 + float(np.exp(-e["score"])))})),
    Fault("no-suppression", "nms", "peers F43", "[Nn]o NMS|without|no suppression",
          _made(lambda rows: rows[:100])),
    Fault("iou-0.65", "nms", "peers F44", "0.65", _made(lambda rows: _suppressed(rows, 0.65))),
    Fault("nms-over-classes", "nms", "peers F43", "agnostic|over all classes|across",
          _made(lambda rows: _suppressed(rows, 0.5, by_class=False))),
    Fault("best-class-only", "nms", "peers F43", "best class", _made(_best_class)),
    Fault("capped-at-20", "nms", "peers F44", "20", _made(lambda r: _suppressed(r, 0.5, limit=20))),
    Fault("score-floor-0.4", "nms", "peers 3.1", "0.4",
          _listed(lambda entries, _: [e for e in entries if e["score"] > 0.4])),
    Fault("corners-for-xywh", "evaluate", "peers F28", "xyxy",
          _box(lambda b, _: [b[0], b[1], b[0] + b[2], b[1] + b[3]])),
    Fault("classes-from-0", "evaluate", "peers F46", "class|id", _category(lambda c: c - 1)),
    Fault("classes-1-to-80", "evaluate", "peers F46", "80",
          _category(lambda c: _RANK.get(c, 0) + 1)),
    Fault("detections-shifted-by-one", "evaluate", "peers F18", "next|shifted|one before",
          _listed(_next_image)),
    Fault("half-of-the-images", "evaluate", "peers F17", "", _listed(_half)),
    Fault("every-image-twice", "evaluate", "peers F21", "", _listed(lambda e, _: e + e)),
    Fault("ids-as-text", "evaluate", "peers F47", "", _listed(
        lambda entries, _: [{**e, "image_id": f"{e['image_id']:012}"} for e in entries],
        runs=False)),
)  # fmt: skip
