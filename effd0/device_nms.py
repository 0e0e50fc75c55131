"""
Greedy non-maximum suppression of a batch, in torch, in fixed shapes and without a word to the host.

Blocks of candidates go down their order.  Within a block, who is suppressed follows from who is
not, round by round; a chain that is longer than the rounds is told, not cut.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .errors import require
from .spec import ModelSpec

#: Whoever gives heads and takes detections has tensors of torch, which is not imported here.
TorchTensor = Any
#: What is known of a candidate: x1, y1, x2, y2, logit, class.
FIELDS = 6
#: Candidates that are suppressed at a time: their pairs are looked at, and pairs with what is kept.
BLOCK = 512
#: How often suppression is taken back for boxes that are suppressed themselves.  Measured
#: 2026-11-25 on trained heads of 12 drawn scenes: chains take 8 rounds at most.
ROUNDS = 12


def earlier(spec: ModelSpec, device: Any) -> TorchTensor:
    """Who may suppress whom of a block: what is kept all of it, and of the block who is before."""
    kept = np.ones((spec.max_detections, BLOCK), bool)
    own = np.triu(np.ones((BLOCK, BLOCK), bool), 1)
    tensor: Any = require("torch", extra="torch").tensor(np.concatenate([kept, own]), device=device)
    return tensor


def greedy_nms(
    torch: Any, candidates: TorchTensor, may_suppress: TorchTensor, spec: ModelSpec
) -> tuple[TorchTensor, TorchTensor, TorchTensor]:
    """
    The first ``spec.max_detections`` of *candidates* that `effd0.boxes.nms` keeps.

    *torch* is the module, whose import a compiler could not follow.  *candidates* is (N, n,
    `FIELDS`) by falling score, *may_suppress* what `earlier` gives.  Returns the kept in their
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
