"""What makes `other_detector` go wrong, and what that is called: a stage and a name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from .other_detector import Entries, Entry, Wrong

#: COCO's ids without gaps, as other tools number them.
UNUSED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
IDS = [id_ for id_ in range(1, 91) if id_ not in UNUSED]
NUMBER = {id_: n for n, id_ in enumerate(IDS)}
#: Cells of each level and their stride.
CELLS, STRIDES = (64, 32, 16, 8, 4), (8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Planted:
    """A mistake: *wrong* in the detector, *spoil* in what it writes, *order* in the whole file."""

    stage: str
    name: str
    wrong: Wrong = field(default_factory=Wrong)
    spoil: Callable[[Entry], Entry] = dict
    order: Callable[[Entries], Entries] = list

    def written(self, found: Callable[[Wrong], Entries]) -> Entries:
        """Return the content of the file that has the mistake, of what a detector *found*."""
        return self.order([self.spoil(entry) for entry in found(self.wrong)])


def _box(change: Callable[..., list[float]]) -> Callable[[Entry], Entry]:
    """Return what rewrites bbox from x, y, width, height and the picture."""
    return lambda entry: {**entry, "bbox": change(*entry["bbox"], entry["picture"])}


def _corner(change: Callable[[float], float]) -> Callable[[Entry], Entry]:
    def spoil(entry: Entry) -> Entry:
        left, top, right, bottom = map(change, entry["corners"])
        return {**entry, "bbox": [left, top, right - left, bottom - top]}

    return spoil


def _category(change: Callable[[int], int]) -> Callable[[Entry], Entry]:
    return lambda entry: {**entry, "category_id": change(entry["category_id"])}


def _score(change: Callable[[Entry], float]) -> Callable[[Entry], Entry]:
    return lambda entry: {**entry, "score": change(entry)}


def _image(change: Callable[[int, list[int]], int]) -> Callable[[Entries], Entries]:
    """Return what gives each detection another image id: of its own and all of them."""

    def order(content: Entries) -> Entries:
        ids = sorted({entry["image_id"] for entry in content})
        return [{**entry, "image_id": change(entry["image_id"], ids)} for entry in content]

    return order


def _next_to(step: int) -> Callable[[Entries], Entries]:
    return _image(lambda id_, ids: ids[(ids.index(id_) + step) % len(ids)])


def _anchored(change: Callable[[torch.Tensor, torch.Tensor], list[torch.Tensor]]) -> Wrong:
    """Return a detector whose anchors are made of their centres (y, x) and halves as *change*."""

    def anchors(boxes: torch.Tensor) -> torch.Tensor:
        centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
        centre, half = change(centre, half)
        return torch.cat([centre - half, centre + half], 1)

    return Wrong(anchors=anchors)


def _to_corner(centre: torch.Tensor, half: torch.Tensor) -> list[torch.Tensor]:
    steps = [
        torch.full((9 * n * n, 1), stride / 2) for n, stride in zip(CELLS, STRIDES, strict=True)
    ]
    return [centre - torch.cat(steps), half]


def _logistic(value: float) -> float:
    return (1 + math.tanh(value / 2)) / 2


DECODE, NMS, EVALUATE = "decode", "nms", "evaluate"
PLANTED: dict[str, Planted] = {
    # decode: what is written of right boxes
    "x-and-y": Planted(DECODE, "x and y swapped", spoil=_box(lambda x, y, w, h, _: [y, x, h, w])),
    "w-and-h": Planted(
        DECODE, "width and height swapped", spoil=_box(lambda x, y, w, h, _: [x, y, h, w])
    ),
    "centres": Planted(
        DECODE, "centres written", spoil=_box(lambda x, y, w, h, _: [x + w / 2, y + h / 2, w, h])
    ),
    "network-pixels": Planted(
        DECODE, "scale not applied", spoil=_box(lambda *v: [side / v[4].scale for side in v[:4]])
    ),
    "scale-inverted": Planted(
        DECODE, "scale inverted", spoil=_box(lambda *v: [side / v[4].scale ** 2 for side in v[:4]])
    ),
    "scale-twice": Planted(
        DECODE, "scale applied twice", spoil=_box(lambda *v: [side * v[4].scale for side in v[:4]])
    ),
    "stretched": Planted(
        DECODE,
        "as if the picture had been stretched",
        spoil=_box(lambda *v: [v[i] / v[4].scale * v[4].size[i % 2] / 512 for i in range(4)]),
    ),
    "letterbox-centred": Planted(
        DECODE,
        "as if the picture had lain in the middle",
        spoil=_box(
            lambda x, y, w, h, p: [
                x - (512 * p.scale - p.size[0]) / 2,
                y - (512 * p.scale - p.size[1]) / 2,
                w,
                h,
            ]
        ),
    ),
    "normalised": Planted(
        DECODE,
        "normalised by the image",
        spoil=_box(lambda *v: [round(v[i] / v[4].size[i % 2], 5) for i in range(4)]),
    ),
    "normalised-by-input": Planted(
        DECODE,
        "normalised by the network's input",
        spoil=_box(lambda *v: [side / v[4].scale / 512 for side in v[:4]]),
    ),
    "half-a-pixel": Planted(
        DECODE,
        "boxes moved by (0.5, 0.5) pixels",
        spoil=_box(lambda x, y, w, h, _: [x + 0.5, y + 0.5, w, h]),
    ),
    "one-pixel-left": Planted(
        DECODE, "boxes moved by (-1, 0) pixels", spoil=_box(lambda x, y, w, h, _: [x - 1, y, w, h])
    ),
    "inclusive-sides": Planted(
        DECODE,
        "widths and heights larger by (1, 1) pixels",
        spoil=_box(lambda x, y, w, h, _: [x, y, w + 1, h + 1]),
    ),
    "multiplied": Planted(
        DECODE,
        "boxes multiplied by (1.1, 1)",
        spoil=_box(lambda x, y, w, h, _: [1.1 * x, y, 1.1 * w, h]),
    ),
    "rounded": Planted(
        DECODE, "boxes rounded to whole", spoil=_box(lambda *v: [round(side) for side in v[:4]])
    ),
    "cut": Planted(
        DECODE, "boxes cut to whole", spoil=_box(lambda *v: [int(side) for side in v[:4]])
    ),
    "corners-rounded": Planted(DECODE, "corners rounded to whole", spoil=_corner(round)),
    "corners-cut": Planted(DECODE, "corners cut to whole", spoil=_corner(int)),
    "logits": Planted(DECODE, "sigmoid missing", spoil=_score(lambda entry: entry["logit"])),
    "sigmoid-twice": Planted(
        DECODE, "sigmoid applied twice", spoil=_score(lambda entry: _logistic(entry["score"]))
    ),
    # decode: how boxes are made
    "not-clipped": Planted(DECODE, "boxes not clipped", Wrong(clip="none")),
    "clipped-to-square": Planted(DECODE, "clipped to the padded square", Wrong(clip="square")),
    "tx-ty": Planted(DECODE, "ty and tx of the codes swapped", Wrong(codes=(1, 0, 2, 3))),
    "tw-th": Planted(DECODE, "th and tw of the codes swapped", Wrong(codes=(0, 1, 3, 2))),
    "xywh-codes": Planted(DECODE, "x and y of the codes swapped", Wrong(codes=(1, 0, 3, 2))),
    "variances": Planted(
        DECODE, "codes multiplied by variances", Wrong(factors=(0.1, 0.1, 0.2, 0.2))
    ),
    "aspects": Planted(
        DECODE,
        "anchors with width and height exchanged",
        _anchored(lambda centre, half: [centre, half.flip(1)]),
    ),
    "anchor-scale": Planted(
        DECODE, "anchors of 3 strides", _anchored(lambda centre, half: [centre, half * 0.75])
    ),
    "anchor-corners": Planted(DECODE, "anchors around corners", _anchored(_to_corner)),
    # nms
    "no-nms": Planted(NMS, "no NMS", Wrong(nms="none")),
    "class-agnostic": Planted(NMS, "class-agnostic NMS", Wrong(nms="agnostic")),
    "best-class": Planted(NMS, "best class only of each anchor", Wrong(best_class=True)),
    "soft-gaussian": Planted(NMS, "soft NMS (Gaussian)", Wrong(nms="gaussian")),
    "soft-linear": Planted(NMS, "soft NMS (linear)", Wrong(nms="linear")),
    "iou-0.45": Planted(NMS, "IoU threshold 0.45", Wrong(iou=0.45)),
    "iou-0.7": Planted(NMS, "IoU threshold 0.70", Wrong(iou=0.7)),
    "iou-0.63": Planted(NMS, "IoU threshold 0.63", Wrong(iou=0.63)),
    "ten-per-image": Planted(NMS, "at most 10 detections per image", Wrong(keep=10)),
    "fifty-per-image": Planted(NMS, "at most 50 detections per image", Wrong(keep=50)),
    "floor-0.05": Planted(NMS, "score floor 0.05", Wrong(floor=0.05)),
    "floor-0.3": Planted(NMS, "score floor 0.3", Wrong(floor=0.3)),
    "top-1000": Planted(NMS, "only 1000 candidates before NMS", Wrong(topk=1000)),
    "top-300": Planted(NMS, "only 300 candidates before NMS", Wrong(topk=300)),
    # evaluate
    "xyxy": Planted(
        EVALUATE, "xyxy written", spoil=lambda entry: {**entry, "bbox": entry["corners"]}
    ),
    "yxyx": Planted(
        EVALUATE,
        "yxyx written",
        spoil=lambda entry: {**entry, "bbox": [entry["corners"][i] for i in (1, 0, 3, 2)]},
    ),
    "classes-from-0": Planted(
        EVALUATE, "classes shifted down by one", spoil=_category(lambda id_: id_ - 1)
    ),
    "classes-plus-1": Planted(
        EVALUATE, "classes shifted up by one", spoil=_category(lambda id_: id_ + 1)
    ),
    "80-from-0": Planted(
        EVALUATE, "classes numbered 0 to 79", spoil=_category(lambda id_: NUMBER.get(id_, 0))
    ),
    "80-from-1": Planted(
        EVALUATE, "classes numbered 1 to 80", spoil=_category(lambda id_: NUMBER.get(id_, 0) + 1)
    ),
    "mapped-again": Planted(
        EVALUATE,
        "ids mapped from 80 to 90 a second time",
        spoil=_category(lambda id_: IDS[id_ - 1] if id_ <= 80 else id_),
    ),
    "percent": Planted(
        EVALUATE, "scores in percent", spoil=_score(lambda entry: 100 * entry["score"])
    ),
    "score-decimals": Planted(
        EVALUATE, "scores rounded to 2", spoil=_score(lambda entry: round(entry["score"], 2))
    ),
    "next-image": Planted(EVALUATE, "each has the next one's", order=_next_to(-1)),
    "image-before": Planted(EVALUATE, "of the one before", order=_next_to(1)),
    "reversed": Planted(
        EVALUATE,
        "images in reversed order",
        order=_image(lambda id_, ids: ids[-1 - ids.index(id_)]),
    ),
    "mixed-images": Planted(
        EVALUATE, "images mixed up", order=_image(lambda id_, ids: ids[ids.index(id_) * 2 % 5])
    ),
    "places-from-0": Planted(
        EVALUATE, "places, counted from 0", order=_image(lambda id_, ids: ids.index(id_))
    ),
    "places-from-1": Planted(
        EVALUATE, "places, counted from 1", order=_image(lambda id_, ids: ids.index(id_) + 1)
    ),
}
