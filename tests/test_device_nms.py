"""
Tests for `effd0.detection.torch_ops`: whole blocks at a time keep what greedy NMS keeps one by
one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from effd0.detection import torch_ops as device_nms
from effd0.detection.boxes import nms
from effd0.detection.torch_ops import earlier, greedy_nms

from .helpers import TINY

#: A box, one half over it (IoU 1/3), one that is its half (IoU 1/2), and one away from them.
WHOLE, BESIDE, HALF, AWAY = (0, 0, 2, 1), (1, 0, 3, 1), (0, 0, 1, 1), (9, 9, 10, 10)
FLAT = (5, 5, 5, 7)


def kept_of(
    boxes: Sequence[tuple[int, ...]], classes: Sequence[int], most: int, iou: float
) -> tuple[list[tuple[int, ...]], bool]:
    """Return the boxes that are kept of one image, and whether that is decided."""
    spec = replace(TINY, max_detections=most, nms_iou=iou)
    rows = [(*box, -n, label) for n, (box, label) in enumerate(zip(boxes, classes, strict=True))]
    found, count, decided = greedy_nms(
        torch, torch.tensor([rows], dtype=torch.float32), earlier(spec, "cpu"), spec
    )
    return [tuple(row[:4]) for row in found[0, : count[0]].int().tolist()], bool(decided)


@pytest.mark.parametrize("block", [1, 2, 512])
@pytest.mark.parametrize(
    ("boxes", "classes", "iou"),
    [
        pytest.param([WHOLE, WHOLE, AWAY], [0, 0, 0], 0.5, id="same-box"),
        pytest.param([WHOLE, WHOLE, AWAY], [0, 1, 0], 0.5, id="same-box-other-class"),
        pytest.param([WHOLE, HALF, BESIDE], [0, 0, 0], 0.5, id="at-the-threshold"),
        pytest.param([HALF, WHOLE, BESIDE], [0, 0, 0], 0.3, id="chain"),
        pytest.param([FLAT, FLAT, FLAT], [0, 0, 0], 0.5, id="without-area"),
        pytest.param([WHOLE, AWAY, HALF], [1, 0, 0], -1.0, id="one-a-class"),
    ],
)
@pytest.mark.parametrize("most", [1, 2, 10])
def test_kept_is_what_the_host_keeps(
    boxes: Sequence[tuple[int, ...]],
    classes: Sequence[int],
    iou: float,
    most: int,
    block: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many are looked at at a time, and however few are wanted."""
    monkeypatch.setattr(device_nms, "BLOCK", block)
    wanted = nms(np.array(boxes, np.float32), np.array(classes), iou, most)
    assert kept_of(boxes, classes, most, iou) == ([boxes[n] for n in wanted], True)


def test_a_chain_that_is_longer_than_the_rounds_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A goes before B, which would have gone before C: one round is one step of it."""
    chain = [(n, 0, n + 3, 1) for n in range(6)]  # each overlaps the next one by half, IoU 1/2
    for rounds, decided in ((3, False), (8, True)):
        monkeypatch.setattr(device_nms, "ROUNDS", rounds)
        found = kept_of(chain, [0] * 6, 10, 0.4)
        assert found[1] is decided
    assert found[0] == chain[::2]


def test_what_follows_the_last_one_wanted_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks behind the hundredth detection may be as tangled as they like."""
    monkeypatch.setattr(device_nms, "BLOCK", 1)
    monkeypatch.setattr(device_nms, "ROUNDS", 1)
    assert kept_of([WHOLE, WHOLE, WHOLE], [0, 0, 0], 1, 0.5) == ([WHOLE], True)
    assert not kept_of([WHOLE, WHOLE, WHOLE], [0, 0, 0], 2, 0.5)[1]
