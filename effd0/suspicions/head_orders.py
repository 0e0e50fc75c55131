"""Faults of heads that leave every value as it is, but put it elsewhere."""

from __future__ import annotations

import numpy as np

from ..data.coco import NAMES
from ..spec import ModelSpec
from ..types import Floats, Indices
from .head_fault import HeadFault, Plant, Planted, always, by_anchor

#: Values of a slice that are looked at to find which slice of the reference it is.
_SAMPLE = 4096
_CLASS, _BOX = ("class",), ("box",)


def _order(reference: Floats, candidate: Floats, axis: int) -> Indices | None:
    """For each slice of *candidate* the nearest one of *reference*; None if all are in place."""
    wanted, got = (
        np.moveaxis(side, axis, 0).reshape(side.shape[axis], -1) for side in (reference, candidate)
    )
    step = max(wanted.shape[1] // _SAMPLE, 1)
    with np.errstate(all="ignore"):
        delta = got[:, None, ::step] - wanted[None, :, ::step]
        order = (delta * delta).sum(axis=-1).argmin(axis=1)
    return None if np.array_equal(order, np.arange(len(order))) else order


def _shown(order: Indices) -> str:
    return ", ".join(str(i) for i in order)


def _rows(kind: str) -> Plant:
    """Rows of the batch in any order, if it is of *kind*: shifted, permuted or repeated."""

    def plant(reference: Floats, candidate: Floats, spec: ModelSpec) -> Planted | None:
        del spec
        order = _order(reference, candidate, axis=0)
        if order is None or kind != _kind(order):
            return None
        return Planted(reference[order], candidate, _shown(order))

    return plant


def _kind(order: Indices) -> str:
    if len(set(order.tolist())) < len(order):
        return "repeated"
    steps = set(((order - np.arange(len(order))) % len(order)).tolist())
    return "shifted" if steps in ({1}, {len(order) - 1}) else "permuted"


def _slid(*, later: bool) -> Plant:
    """Rows one place later or earlier; the row at the end, of another batch, is left out."""

    def plant(reference: Floats, candidate: Floats, spec: ModelSpec) -> Planted | None:
        del spec
        if len(reference) == 1:
            return None
        if later:
            return Planted(reference[:-1], candidate[1:])
        return Planted(reference[1:], candidate[:-1])

    return plant


def _anchors(reference: Floats, candidate: Floats, spec: ModelSpec) -> Planted | None:
    wanted = by_anchor(reference, spec)
    order = _order(wanted, by_anchor(candidate, spec), axis=1)
    if order is None:
        return None
    known = _known_orders(spec).get(tuple(order.tolist()))
    detail = _shown(order) if known is None else f"{_shown(order)} ({known})"
    return Planted(wanted[:, order].reshape(reference.shape), candidate, detail)


def _known_orders(spec: ModelSpec) -> dict[tuple[int, ...], str]:
    """Orders of a cell's anchors that have a cause, and the cause."""
    shape = (spec.scales_per_octave, len(spec.aspect_ratios))
    grid = np.arange(spec.anchors_per_cell).reshape(shape)
    orders = {
        "scales and aspects exchanged": grid.T,
        "all reversed": grid[::-1, ::-1],
        "scales reversed": grid[::-1],
        "aspects reversed": grid[:, ::-1],
        "the last two aspects exchanged": grid[:, [*range(shape[1] - 2), -1, -2]],
    }
    return {tuple(order.ravel().tolist()): cause for cause, order in orders.items()}


def _coordinates(*order: int) -> Plant:
    def plant(reference: Floats, candidate: Floats, spec: ModelSpec) -> Planted:
        wanted = by_anchor(reference, spec)[:, :, list(order)]
        return Planted(wanted.reshape(reference.shape), candidate)

    return plant


def _anchors_last(reference: Floats, candidate: Floats, spec: ModelSpec) -> Planted:
    wanted = by_anchor(reference, spec).swapaxes(1, 2)
    return Planted(wanted.reshape(reference.shape), candidate)


def _shifted_classes(*, later: bool) -> Plant:
    """Each class one channel later or earlier; of the channel at the end nothing is said."""

    def plant(reference: Floats, candidate: Floats, spec: ModelSpec) -> Planted | None:
        if spec.num_classes == 1:
            return None
        wanted, got = by_anchor(reference, spec), by_anchor(candidate, spec)
        if later:
            return Planted(wanted[:, :, :-1], got[:, :, 1:])
        return Planted(wanted[:, :, 1:], got[:, :, :-1])

    return plant


def _mapped_classes(reference: Floats, candidate: Floats, spec: ModelSpec) -> Planted | None:
    """The 80 categories in a row, as other tools number them; the last channels are left out."""
    ids = np.array(sorted(NAMES)) - 1
    if spec.num_classes <= ids[-1]:
        return None
    wanted, got = by_anchor(reference, spec), by_anchor(candidate, spec)
    return Planted(wanted[:, :, ids], got[:, :, : len(ids)])


def _as_nhwc(head: Floats) -> Floats:
    return head.transpose(0, 2, 3, 1).reshape(head.shape)


def _from_nhwc(head: Floats) -> Floats:
    rows, channels, height, width = head.shape
    return head.reshape(rows, height, width, channels).transpose(0, 3, 1, 2)


_TAKEN = "the reference's rows are taken in the order {}"
#: The first that explains a difference is named, so the narrower stand before the wider.
ORDER_FAULTS = (
    HeadFault("batch rows shifted by one", _TAKEN, _rows("shifted")),
    HeadFault("batch rows permuted", _TAKEN, _rows("permuted")),
    HeadFault("batch rows repeated", _TAKEN, _rows("repeated")),
    HeadFault(
        "batch rows shifted by one",
        "row 0 is left out and each other one held against the row before",
        _slid(later=True),
    ),
    HeadFault(
        "batch rows shifted by one",
        "the last row is left out and each other one held against the row after",
        _slid(later=False),
    ),
    HeadFault("box x and y swapped", "(tx, ty, tw, th) is read", _coordinates(1, 0, 3, 2), _BOX),
    HeadFault("box h and w swapped", "(ty, tx, tw, th) is read", _coordinates(0, 1, 3, 2), _BOX),
    HeadFault(
        "box centre x and y swapped", "(tx, ty, th, tw) is read", _coordinates(1, 0, 2, 3), _BOX
    ),
    HeadFault(
        "box centre and size swapped", "(th, tw, ty, tx) is read", _coordinates(2, 3, 0, 1), _BOX
    ),
    HeadFault(
        "anchors of a cell reordered", "the reference's anchors are taken in the order {}", _anchors
    ),
    HeadFault(
        "anchors laid out last", "channels run over anchors within each class or coordinate",
        _anchors_last,
    ),
    HeadFault(
        "class channels shifted up by one",
        "each class is read one channel later, as behind a background class",
        _shifted_classes(later=True), _CLASS,
    ),
    HeadFault(
        "class channels shifted down by one", "each class is read one channel earlier",
        _shifted_classes(later=False), _CLASS,
    ),
    HeadFault(
        "classes mapped from 90 to 80", "the 80 categories are read without the unused ids between",
        _mapped_classes, _CLASS,
    ),
    HeadFault(
        "rows and columns transposed", "the reference is transposed too",
        always(lambda head: head.swapaxes(2, 3)),
    ),
    HeadFault(
        "flipped left to right", "the reference is flipped too",
        always(lambda head: head[..., ::-1]),
    ),
    HeadFault(
        "flipped top to bottom", "the reference is flipped too",
        always(lambda head: head[:, :, ::-1]),
    ),
    HeadFault("NHWC data in NCHW shape", "it is read as NHWC", always(_as_nhwc)),
    HeadFault(
        "NCHW data taken for NHWC", "the reference is transposed from NHWC too", always(_from_nhwc)
    ),
)  # fmt: skip
