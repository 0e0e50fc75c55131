"""
Greedy non-maximum suppression of a batch, in torch, in fixed shapes and without a word to the host.

Blocks of candidates go down their order.  Within a block, who is suppressed follows from who is
not, round by round; a chain that is longer than the rounds is told, not cut.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import require
from ..spec import ModelSpec
from ..types import Floats
from .boxes import anchor_boxes
from .heads import HeadOutputs
from .postprocess import Detections, category_ids, postprocess

#: Whoever gives heads and takes detections has tensors of torch, which is not imported here.
TorchTensor = Any
#: What is known of a candidate: x1, y1, x2, y2, logit, class.
FIELDS = 6
#: Candidates that are suppressed at a time: their pairs are looked at, and pairs with what is kept.
BLOCK = 512
#: How often suppression is taken back for boxes that are suppressed themselves.  Measured
#: 2026-11-25 on trained heads of 12 drawn scenes: chains take 8 rounds at most.
ROUNDS = 12


def greedy_nms(
    torch: Any, candidates: TorchTensor, may_suppress: TorchTensor, spec: ModelSpec
) -> tuple[TorchTensor, TorchTensor, TorchTensor]:
    """
    The first ``spec.max_detections`` of *candidates* that `effd0.detection.boxes.nms` keeps.

    *torch* is the module, whose import a compiler could not follow.  *candidates* is (N, n,
    `FIELDS`) by falling score, *may_suppress* tells who may suppress whom of what is kept and of a
    block.  Returns the kept in their
    order, filled up, their number in each image, and whether that is decided.
    """
    most, rows = spec.max_detections, candidates.shape[0]
    kept = candidates.new_zeros(rows, most + 1, FIELDS)  # the last takes what is too much
    kept[..., 5] = -1  # no class: suppresses nobody
    count = torch.zeros(rows, dtype=torch.int64, device=candidates.device)
    decided = count == 0
    for block in candidates.split(BLOCK, 1):
        others = torch.cat([kept[:, :most], block], 1)
        overlaps = _overlap(torch, others, block, spec.nms_iou)
        overlaps &= may_suppress[: others.shape[1], : block.shape[1]]
        stays = torch.ones_like(others[..., 0], dtype=torch.bool)
        for _ in range(ROUNDS):
            # Who has nobody before it is right at once, who depends on those in the next round.
            before, own = stays, ~(overlaps & stays[:, :, None]).any(1)
            stays = torch.cat([stays[:, :most], own], 1)
        decided = decided & ((count >= most) | (stays == before).all(1))
        slots = torch.where(own, (count[:, None] + own.cumsum(1) - 1).clamp(max=most), most)
        kept = kept.scatter(1, slots[:, :, None].expand(-1, -1, FIELDS), block)
        count = count + own.sum(1)
    return kept[:, :most], count.clamp(max=most), decided


def _overlap(torch: Any, others: TorchTensor, block: TorchTensor, threshold: float) -> TorchTensor:
    """Whether each of *others* (rows) and of *block* are of one class, with a larger IoU."""
    others, block = others[:, :, None], block[:, None]
    near = torch.maximum(others[..., :2], block[..., :2])
    far = torch.minimum(others[..., 2:4], block[..., 2:4])
    common = (far - near).clamp(min=0).prod(-1)
    areas = [(one[..., 2:4] - one[..., :2]).prod(-1) for one in (others, block)]
    # Without area there is no IoU, but NaN, which is not above the threshold.
    iou = common / (areas[0] + areas[1] - common)
    return (iou > threshold) & (others[..., 5] == block[..., 5])


#: Candidates that are selected.  Measured 2026-11-25 on trained heads of 12 drawn scenes: the
#: hundredth detection is the 1,005th to 2,242nd candidate.
CANDIDATES = 3072


class DeviceSteps:
    """The constants of *spec* on *device*, made once, and what is computed with them."""

    def __init__(self, spec: ModelSpec, device: Any) -> None:
        self.spec = spec
        self._torch = torch = require("torch", extra="torch")
        self._mean, self._std = (
            torch.tensor([255 * value for value in three], device=device)
            for three in (spec.mean, spec.std)
        )
        self._anchors = torch.tensor(anchor_boxes(spec), device=device)
        # Of a block, who is before may suppress, and what is kept all of it.
        kept = np.ones((spec.max_detections, BLOCK), bool)
        own = np.triu(np.ones((BLOCK, BLOCK), bool), 1)
        self._earlier = torch.tensor(np.concatenate([kept, own]), device=device)

    def geometry(self, scales: Sequence[float], sizes: Sequence[tuple[int, int]]) -> TorchTensor:
        """What `packed` wants to know of images: image_scale, width, height; (N, 3) float32."""
        return self._mean.new_tensor([(s, *size) for s, size in zip(scales, sizes, strict=True)])

    def normalize(self, pixels: TorchTensor) -> TorchTensor:
        """Turn (N, size, size, 3) uint8 into (N, 3, size, size) float32, channels last."""
        return pixels.float().sub_(self._mean).div_(self._std).permute(0, 3, 1, 2)

    def packed(
        self, classes: Sequence[TorchTensor], boxes: Sequence[TorchTensor], geometry: TorchTensor
    ) -> TorchTensor:
        """
        The detections of a batch of heads, (N, 6 * max_detections + 2) float32; see `unpack`.

        *geometry* is what `geometry` gives.
        """
        logits, codes = self._rows(classes, self.spec.num_classes), self._rows(boxes, 4)
        lowest, highest = logits.aminmax(dim=2)
        # NaN is the extreme of whatever holds it.
        finite = lowest.isfinite().all(1) & highest.isfinite().all(1)
        finite &= codes.isfinite().flatten(1).all(1)
        candidates = self._candidates(logits, highest, codes, geometry)
        kept, count, decided = greedy_nms(self._torch, candidates, self._earlier, self.spec)
        # With all candidates looked at, there may be fewer detections than are wanted.
        every = candidates.shape[1] == min(self.spec.max_candidates, logits[0].numel())
        enough = (count >= self.spec.max_detections) | every
        found = self._torch.cat([kept[..., :4] * geometry[:, None, :1], kept[..., 4:]], 2)
        found[..., 4].sigmoid_()
        ends = self._torch.stack([count.float(), (finite & decided & enough).float()], 1)
        return self._torch.cat([found.flatten(1), ends], 1)

    def _rows(self, heads: Sequence[TorchTensor], width: int) -> TorchTensor:
        """All levels of *heads* side by side, (N, anchors, *width*)."""
        rows = [head.permute(0, 2, 3, 1).reshape(head.shape[0], -1, width) for head in heads]
        return self._torch.cat(rows, 1)

    def _candidates(
        self, logits: TorchTensor, highest: TorchTensor, codes: TorchTensor, geometry: TorchTensor
    ) -> TorchTensor:
        """The first `CANDIDATES` in their order, (N, k, 6), decoded and clipped."""
        torch, width = self._torch, logits.shape[2]
        # The k largest logits are among those of the k anchors with the largest maxima.
        count = min(CANDIDATES, self.spec.max_candidates)
        places = torch.arange(logits.shape[1], device=logits.device)
        keys = self._keys(highest, places).topk(min(count, logits.shape[1]), sorted=False).values
        anchors = self._unkeyed(keys)[1][:, :, None]
        flat = anchors * width + torch.arange(width, device=logits.device)
        keys = self._keys(logits.gather(1, anchors.expand(-1, -1, width)), flat).flatten(1)
        values, flat = self._unkeyed(keys.topk(min(count, keys.shape[1])).values)
        anchors = flat // width
        codes = codes.gather(1, anchors[:, :, None].expand(-1, -1, 4)).float()
        # Clipped to the picture, which may end before the padding does.
        ends = (geometry[:, 1:] / geometry[:, :1]).repeat(1, 2)[:, None]
        corners = torch.minimum(_decoded(torch, codes, self._anchors[anchors]).clamp(min=0), ends)
        return torch.cat([corners, values[:, :, None], (flat % width).float()[:, :, None]], 2)

    def _keys(self, values: TorchTensor, indices: TorchTensor) -> TorchTensor:
        """Whole numbers in the order of *values*, and of equal ones the smaller index first."""
        bits = (values.float() + 0.0).view(self._torch.int32)  # -0 and 0 are equal
        ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
        return (ordered.long() << 32) - indices

    def _unkeyed(self, keys: TorchTensor) -> tuple[TorchTensor, TorchTensor]:
        """The values and indices that *keys* were made of."""
        indices = -keys & 0xFFFFFFFF
        ordered = ((keys + indices) >> 32).int()
        return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(self._torch.float32), indices


def _decoded(torch: Any, codes: TorchTensor, anchors: TorchTensor) -> TorchTensor:
    """`effd0.detection.boxes.decode_boxes`, for a batch."""
    ty, tx, th, tw = codes.unbind(2)
    y1, x1, y2, x2 = anchors.unbind(2)
    height, width = y2 - y1, x2 - x1
    half_height, half_width = th.exp() * height / 2, tw.exp() * width / 2
    y, x = ty * height + (y1 + y2) / 2, tx * width + (x1 + x2) / 2
    return torch.stack([x - half_width, y - half_height, x + half_width, y + half_height], 2)


def unpack(packed: Floats, spec: ModelSpec) -> list[Detections | None]:
    """The detections of each image; None for one that the device left undecided."""
    rows = packed[:, :-2].reshape(len(packed), spec.max_detections, FIELDS)
    found: list[Detections | None] = []
    for row, (count, decided) in zip(rows, packed[:, -2:], strict=True):
        # Copies, so that the whole batch is not kept for what is kept of one image.
        kept = row[: int(count)].copy()
        classes = category_ids(kept[:, 5].astype(np.int64), spec)
        one = Detections(kept[:, :4], kept[:, 4], classes)
        found.append(one if decided else None)
    return found


def on_host(
    class_heads: Sequence[TorchTensor],
    box_heads: Sequence[TorchTensor],
    row: int,
    image_scale: float,
    image_size: tuple[int, int],
    spec: ModelSpec,
) -> Detections:
    """`postprocess` of one image of a batch, or its error, with all that the host can look at."""
    classes, boxes = (
        tuple(head[row].float().contiguous().cpu().numpy() for head in heads)
        for heads in (class_heads, box_heads)
    )
    return postprocess(HeadOutputs(classes, boxes), image_scale, image_size, spec)
