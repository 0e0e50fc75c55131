"""Faults of detections that another tool made of the same heads."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from effd0.data.preprocess import input_scale
from effd0.detection.heads import HeadOutputs
from effd0.detection.postprocess import Detections

from .other_detector import Entries, Entry, Picture, Wrong, entries, write_entries
from .run import Fault, Good, Plant, Planted, base_options

RIGHT = Wrong()
#: COCO's ids.
IDS = sorted(set(range(1, 91)) - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83})


Change = Callable[[Entries], Entries]


def each(**new: Callable[[Entry], Any]) -> Change:
    """Give each detection the *new* values."""
    return lambda content: [{**e, **{key: of(e) for key, of in new.items()}} for e in content]


def of_box(change: Callable[..., Sequence[float]]) -> Change:
    """Rewrite bbox from x, y, width, height, the picture's scale and its size."""
    return each(bbox=lambda e: [*change(*e["bbox"], e["picture"].scale, e["picture"].size)])


def of_sides(change: Callable[[float, float], float]) -> Change:
    """Rewrite each of x, y, width and height, given the picture's scale."""
    return of_box(lambda *v: [change(side, v[4]) for side in v[:4]])


def _corner(change: Callable[[float], float]) -> Change:
    def bbox(entry: Entry) -> list[float]:
        left, top, right, bottom = map(change, entry["corners"])
        return [left, top, right - left, bottom - top]

    return each(bbox=bbox)


def _corners(*order: int) -> Change:
    return each(bbox=lambda e: [e["corners"][i] for i in order])


def of_class(change: Callable[[int], int]) -> Change:
    """Rewrite each category id."""
    return each(category_id=lambda e: change(e["category_id"]))


def _numbered(first: int) -> Change:
    """Number the categories without gaps, as other tools do; what is none is the first."""

    def number(entry: Entry) -> int:
        id_, ids = entry["category_id"], entry["picture"].spec.category_ids or IDS
        return first + (ids.index(id_) if id_ in ids else 0)

    return each(category_id=number)


def _image(change: Callable[[int, list[int]], int]) -> Change:
    """Give each detection another image id, by the place of its own among all ids."""

    def order(content: Entries) -> Entries:
        ids = sorted({entry["image_id"] for entry in content})
        place = {id_: n for n, id_ in enumerate(ids)}
        return [{**e, "image_id": change(place[e["image_id"]], ids)} for e in content]

    return order


def _anchored(change: Callable[[Any, Any], tuple[Any, Any]]) -> Wrong:
    """A detector whose anchors are made of their centres (y, x) and halves as *change*."""

    def anchors(boxes: torch.Tensor) -> torch.Tensor:
        centre, half = change((boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2)
        return torch.cat([centre - half, centre + half], 1)

    return Wrong(anchors=anchors)


def _to_corner(centre: Any, half: Any) -> tuple[Any, Any]:
    levels = ((64, 8), (32, 16), (16, 32), (8, 64), (4, 128))
    steps = [torch.full((9 * cells**2, 1), stride / 2) for cells, stride in levels]
    return centre - torch.cat(steps), half


def _uncentred(x: float, y: float, w: float, h: float, scale: float, size: Any) -> Any:
    return x - (512 * scale - size[0]) / 2, y - (512 * scale - size[1]) / 2, w, h


DECODE, NMS, EVALUATE = "decode", "nms", "evaluate"
#: Words of the name -> what is written of right boxes, scores and classes.
WRITTEN = {
    DECODE: {
        "x and y swapped": of_box(lambda x, y, w, h, *_: (y, x, h, w)),
        "width and height swapped": of_box(lambda x, y, w, h, *_: (x, y, h, w)),
        "centres written": of_box(lambda x, y, w, h, *_: (x + w / 2, y + h / 2, w, h)),
        "scale not applied": of_sides(lambda side, scale: side / scale),
        "scale inverted": of_sides(lambda side, scale: side / scale**2),
        "scale applied twice": of_sides(lambda side, scale: side * scale),
        "as if the picture had been stretched": of_box(
            lambda *v: [v[i] / v[4] * v[5][i % 2] / 512 for i in range(4)]
        ),
        "as if the picture had lain in the middle": of_box(_uncentred),
        "normalised by the image": of_box(
            lambda *v: [round(v[i] / v[5][i % 2], 5) for i in range(4)]
        ),
        "normalised by the network's input": of_sides(lambda side, scale: side / scale / 512),
        "moved by (1, 1) pixels": of_box(lambda x, y, w, h, *_: (x + 1, y + 1, w, h)),
        "larger by (1, 1) pixels": of_box(lambda x, y, w, h, *_: (x, y, w + 1, h + 1)),
        "multiplied by (1.1, 1)": of_box(lambda x, y, w, h, *_: (1.1 * x, y, 1.1 * w, h)),
        "boxes rounded to whole": of_sides(lambda side, _: round(side)),
        "boxes cut to whole": of_sides(lambda side, _: int(side)),
        "corners rounded to whole": _corner(round),
        "corners cut to whole": _corner(int),
        "sigmoid missing": each(score=lambda e: e["logit"]),
        "sigmoid applied twice": each(score=lambda e: (1 + math.tanh(e["score"] / 2)) / 2),
    },
    EVALUATE: {
        "xyxy written": _corners(0, 1, 2, 3),
        "yxyx written": _corners(1, 0, 3, 2),
        "classes shifted down by one": of_class(lambda id_: id_ - 1),
        "classes shifted up by one": of_class(lambda id_: id_ + 1),
        "classes numbered 0 to 79": _numbered(0),
        "classes numbered 1 to 80": _numbered(1),
        "mapped from 80 to 90 a second": of_class(lambda id_: IDS[id_ - 1] if id_ <= 80 else id_),
        "scores in percent": each(score=lambda e: 100 * e["score"]),
        "scores rounded to 2": each(score=lambda e: round(e["score"], 2)),
        "each has the next one's": _image(lambda n, ids: ids[n - 1]),
        "of the one before": _image(lambda n, ids: ids[(n + 1) % 5]),
        "images in reversed order": _image(lambda n, ids: ids[-1 - n]),
        "images mixed up": _image(lambda n, ids: ids[n * 2 % 5]),
        "places, counted from 0": _image(lambda n, _: n),
        "places, counted from 1": _image(lambda n, _: n + 1),
    },
}
#: Words of the name -> how boxes are made, and which are kept.
MADE = {
    DECODE: {
        "boxes not clipped": Wrong(clip="none"),
        "clipped to the padded square": Wrong(clip="square"),
        "ty and tx of the codes swapped": Wrong(codes=(1, 0, 2, 3)),
        "th and tw of the codes swapped": Wrong(codes=(0, 1, 3, 2)),
        "x and y of the codes swapped": Wrong(codes=(1, 0, 3, 2)),
        "codes multiplied by variances": Wrong(factors=(0.1, 0.1, 0.2, 0.2)),
        "anchors with width and height": _anchored(lambda centre, half: (centre, half.flip(1))),
        "anchors of 3 strides": _anchored(lambda centre, half: (centre, half * 0.75)),
        "anchors around corners": _anchored(_to_corner),
    },
    NMS: {
        "no NMS": Wrong(nms="none"),
        "class-agnostic NMS": Wrong(nms="agnostic"),
        "best class only of each anchor": Wrong(best_class=True),
        "soft NMS (Gaussian)": Wrong(nms="gaussian"),
        "soft NMS (linear)": Wrong(nms="linear"),
        "IoU threshold 0.63": Wrong(iou=0.63),
        "IoU threshold 0.65": Wrong(iou=0.65),
        "at most 20 detections per image": Wrong(keep=20),
        "score threshold 0.4": Wrong(floor=0.4),
        "only 1000 candidates before NMS": Wrong(topk=1000),
    },
}
#: Words of the name -> the stage, how the detector is set up, and what is done to its file.
PLANTED: dict[str, tuple[str, Wrong, Change]] = {
    **{n: (s, RIGHT, change) for s, rows in WRITTEN.items() for n, change in rows.items()},
    **{n: (s, wrong, list) for s, rows in MADE.items() for n, wrong in rows.items()},
}


def _planted(change: Change, wrong: Wrong | None = None, *, runs: bool = True) -> Plant:
    """The list that another detector, which is *wrong*, or effd0 wrote, after a *change*."""

    def plant(good: Good, folder: Path) -> Planted:
        if wrong is None:
            content = change(json.loads(good.detections.read_text()))
        else:
            content = change(entries(_pictures(good), wrong))
        path = write_entries(folder / "detections.json", content)
        found = (lambda: _read(good, content)) if runs else None
        file = f"--detections={path}"
        options = (*base_options(good), f"--model={good.model}", file, "--runner=ort")
        return Planted(options, found=found)

    return plant


def _pictures(good: Good) -> dict[int, Picture]:
    """The heads that the good model has of each image."""
    pictures = {}
    for sample in good.dataset.samples:
        heads = [
            np.fromfile(good.results / f"{sample.path.stem}_{n}.bin", np.float32).reshape(shape)
            for n, shape in enumerate(good.spec.head_shapes.values())
        ]
        both = HeadOutputs(tuple(heads[:5]), tuple(heads[5:]))
        scale = 1 / input_scale(sample.size, good.spec)
        pictures[sample.image_id] = Picture(both, scale, sample.size, good.spec)
    return pictures


def _read(good: Good, content: Entries) -> dict[int, Detections]:
    """The entries as COCO's evaluator takes them."""
    found = {}
    for id_ in good.dataset.image_ids:
        mine = [entry for entry in content if entry["image_id"] == id_]
        boxes = np.array([e["bbox"] for e in mine], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        scores = np.array([e["score"] for e in mine], np.float32)
        classes = np.array([e["category_id"] for e in mine], np.int64)
        found[id_] = Detections(boxes, scores, classes)
    return found


def _half(content: Entries) -> Entries:
    kept = sorted({entry["image_id"] for entry in content})[::2]
    return [entry for entry in content if entry["image_id"] in kept]


FAULTS = (
    *(Fault(id_, PLANTED[name][0], source, said, _planted(PLANTED[name][2], PLANTED[name][1]))
      for id_, source, said, name in (
        ("x-and-y-swapped", "peers F27", "x and y", "x and y swapped"),
        ("boxes-of-the-input", "peers F29", "pixels of the input|network|input",
         "scale not applied"),
        ("scale-applied-twice", "peers F29", "twice", "scale applied twice"),
        ("boxes-from-0-to-1", "YOLO's normalised boxes", "0 to 1|normalised|0..1",
         "normalised by the image"),
        ("centre-for-corner", "YOLO's cx, cy, w, h", "cent", "centres written"),
        ("boxes-moved-by-a-pixel", "peers F9", "moved by", "moved by (1, 1) pixels"),
        ("widths-inclusive", "the +1 of older box code", "larger by", "larger by (1, 1) pixels"),
        ("scores-twice-through-sigmoid", "TensorRT's samples", "sigmoid", "sigmoid applied twice"),
        ("no-suppression", "peers F43", "[Nn]o NMS|without|no suppression", "no NMS"),
        ("iou-0.65", "peers F44", "0.65", "IoU threshold 0.65"),
        ("nms-over-classes", "peers F43", "agnostic|over all classes|across",
         "class-agnostic NMS"),
        ("best-class-only", "peers F43", "best class", "best class only of each anchor"),
        ("capped-at-20", "peers F44", "20", "at most 20 detections per image"),
        ("score-floor-0.4", "peers 3.1", "0.4", "score threshold 0.4"),
        ("corners-for-xywh", "peers F28", "xyxy", "xyxy written"),
        ("classes-from-0", "peers F46", "class|id", "classes shifted down by one"),
        ("classes-1-to-80", "peers F46", "80", "classes numbered 1 to 80"),
        ("detections-shifted-by-one", "peers F18", "next|shifted|one before",
         "each has the next one's"),
    )),
    Fault("half-of-the-images", "evaluate", "peers F17", "", _planted(_half)),
    Fault("every-image-twice", "evaluate", "peers F21", "", _planted(lambda c: c + c)),
    Fault("ids-as-text", "evaluate", "peers F47", "",
          _planted(each(image_id=lambda e: f"{e['image_id']:012}"), runs=False)),
)  # fmt: skip
