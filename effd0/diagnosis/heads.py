"""
Which fault makes heads differ from a reference: each is planted in the reference, and one may fit.

So a fault that cannot be taken back, a sigmoid that ran to 1 or a lost digit, is tested like any
other.
"""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..data.coco import ids_of
from ..detection.postprocess import sigmoid
from ..errors import HeadError
from ..spec import ModelSpec
from ..tensors.diff import check_pair, compare_tensors
from ..types import Floats, Indices, Tensors
from .hypothesis import Diagnosis, Hypothesis, best

#: Relative L2 of a head that is as the reference: float32 in another order of sums differs by at
#: most 2e-5 and outputs stored in float16 by 2e-4 or more, measured 2026-11-23 (see `precision`).
CLEAN = 1e-4
#: With the fault planted, what float16 arithmetic may leave (2.2e-3 measured 2026-11-23, ten times
#: as much for chips), and no more than a tenth of what there was: chance gives no such fall.
EXPLAINED, FALL = 2e-2, 0.1
#: A head that differs by less than this part of the worst is taken for one without the fault.
_MINOR = 0.01
#: So many factors or bounds are listed.
_DETAILS = 3
#: Values of a slice that are looked at to find which slice of the reference it is.
_SAMPLE = 4096
#: Part of the values that has to lie on a grid of 16 bits: float32 does by chance, 1 in 3,000.
ON_GRID = 0.999

_FLOAT16_MAX = 65504.0
CODES = ("ty", "tx", "th", "tw")
KINDS = ("class", "box")
Mask = npt.NDArray[np.bool_]


class Planted(NamedTuple):
    """
    A reference head with the fault, *wanted*, and what it is compared with, *got*, alike in shape.

    Both lack the values of which the fault says nothing.  *detail* is what was found out about the
    fault: an order, a factor.
    """

    wanted: Floats
    got: Floats
    detail: str = ""


#: Reference and candidate, both (N, anchors, classes or 4 coordinates, rows, columns), and the spec
#: -> the reference with the fault; None where the fault cannot be, or would change nothing.
Plant = Callable[[Floats, Floats, ModelSpec], Planted | None]


def diagnose_heads(reference: Tensors, candidate: Tensors, spec: ModelSpec) -> Diagnosis | None:
    """
    Name the fault that makes heads *candidate* of *reference*, both (N, channels, rows, columns).

    The names are those of *spec*.  A fault counts where it explains all class heads that differ,
    or all such box heads; its errors are those of the worst of them.  Where none does, heads that
    differ while others are clean are named.  None where all are clean, or nothing fits.  Raises
    `HeadError` where names or shapes are not those of the spec, or not the same on both sides.
    """
    check_pair(reference, candidate)
    shapes = {name: head.shape[1:] for name, head in reference.items()}
    if shapes != spec.head_shapes:
        raise HeadError(
            f"heads of one image are {shapes}, but {spec.head_shapes} were wanted; "
            "name them as the spec does"
        )
    errors = {name: _error(reference[name], candidate[name]) for name in reference}
    least = max(CLEAN, min(_MINOR * max(errors.values()), EXPLAINED))
    wrong = [name for name, error in errors.items() if error > least]
    others = {name: error for name, error in errors.items() if error <= least}
    most = max(others.values(), default=np.inf)
    verb = "is" if len(others) == 1 else "are"
    state = f"{verb} clean" if most <= CLEAN else f"differ by at most {most:.2g}"
    clean = f"; {_in_words(others, errors)} {state}" if others else ""
    # As (N, anchors, classes or coordinates, rows, columns).
    wanted, got = (
        {n: h.reshape(len(h), spec.anchors_per_cell, -1, *h.shape[2:]) for n, h in side.items()}
        for side in (reference, candidate)
    )
    details: dict[str, str] = {}

    def error_with(fault: Hypothesis, heads: Sequence[str]) -> float:
        left = 0.0
        # The smallest first: most faults leave it as it is.
        for name in sorted(heads, key=lambda name: reference[name].size):
            planted: Planted | None = fault.apply(wanted[name], got[name], spec)
            after = np.inf if planted is None else _error(planted.wanted, planted.got)
            if planted is None or not after <= FALL * errors[name]:
                return np.inf
            details[name] = planted.detail
            left = max(left, after)
        return left

    found: dict[Hypothesis, list[str]] = {}
    left = 0.0
    for kind in KINDS:
        heads = [name for name in wrong if name.startswith(kind)]
        faults = [fault for fault in HEAD_HYPOTHESES if heads and fault.part in ("", kind)]
        one = best(faults, partial(error_with, heads=heads), EXPLAINED, enough=EXPLAINED)
        if one is not None:
            found.setdefault(one[0], []).extend(heads)
            left = max(left, one[1])
    if not found:
        # Where some heads differ and the others are clean, it is known where the fault lies.
        if not wrong or not most <= FALL * min(errors[name] for name in wrong):
            return None
        where = _in_words(wrong, errors)
        explanation = f"{where} {'is' if len(wrong) == 1 else 'are'} left out{clean}"
        worst = max(errors[name] for name in wrong)
        return Diagnosis(f"a fault in {where} alone", explanation, worst, most)
    explanations = []
    for fault, heads in found.items():
        known = [*dict.fromkeys(details[name] for name in heads)]
        shown = " or ".join([*known[:_DETAILS], *["..."] * (len(known) > _DETAILS)])
        explanations.append(f"{fault.inverse.format(shown)}, in {_in_words(heads, errors)}")
    explained = [name for heads in found.values() for name in heads]
    unexplained = [name for name in wrong if name not in explained]
    rest = f"; {_in_words(unexplained, errors)} differ otherwise" if unexplained else ""
    return Diagnosis(
        " and ".join(fault.name for fault in found),
        " and ".join(explanations) + rest + clean,
        max(errors[name] for name in explained),
        left,
    )


def _error(wanted: Floats, got: Floats) -> float:
    """Relative L2; infinite where a value is not finite."""
    return compare_tensors({"head": wanted}, {"head": got})[0].relative_l2


def _in_words(heads: Collection[str], every: Collection[str]) -> str:
    """The *heads* of *every* head in few words: all of them, all of a kind or of some levels."""
    if len(heads) == len(every):
        return "all heads"
    groups = []
    for kind in KINDS:
        names = [name for name in every if name.startswith(kind)]
        mine = [name for name in names if name in heads]
        groups += [f"all {kind} heads"] if mine == names else mine
    return ", ".join(groups)


# The catalogue.  First, how values may have come to other places.


def _changed(change: Callable[[Floats], Floats]) -> Plant:
    """A *change* that needs to know nothing but the reference."""
    return lambda wanted, got, _: Planted(change(wanted).reshape(got.shape), got)


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


def _row_order(wanted: Floats, got: Floats, _: ModelSpec, *, kind: str) -> Planted | None:
    """Rows of the batch in any order, if it is of *kind*: shifted by one, permuted or repeated."""
    order = _order(wanted, got, axis=0)
    if order is None:
        return None
    steps = set(((order - np.arange(len(order))) % len(order)).tolist())
    found = "shifted by one" if steps in ({1}, {len(order) - 1}) else "permuted"
    if len(set(order.tolist())) < len(order):
        found = "repeated"
    return Planted(wanted[order], got, ", ".join(map(str, order))) if found == kind else None


def _later(wanted: Floats, got: Floats, _: ModelSpec, *, axis: int, by: int) -> Planted | None:
    """Rows (axis 0) or classes (axis 2) *by* 1 or -1; of that at the end nothing is said."""
    wanted, got = (np.moveaxis(side, axis, 0)[::by] for side in (wanted, got))
    return None if len(wanted) == 1 else Planted(wanted[:-1], got[1:])


def _anchors(wanted: Floats, got: Floats, spec: ModelSpec) -> Planted | None:
    order = _order(wanted, got, axis=1)
    if order is None:
        return None
    # Orders of a cell's anchors that have a cause.
    grid = np.arange(spec.anchors_per_cell).reshape(spec.scales_per_octave, -1)
    causes = {
        "scales and aspects exchanged": grid.T,
        "all reversed": grid[::-1, ::-1],
        "scales reversed": grid[::-1],
        "aspects reversed": grid[:, ::-1],
        "the last two aspects exchanged": grid[:, [*range(grid.shape[1] - 2), -1, -2]],
    }
    cause = [f" ({name})" for name, known in causes.items() if (known.ravel() == order).all()]
    return Planted(wanted[:, order], got, "".join([", ".join(map(str, order)), *cause[:1]]))


def _mapped_classes(wanted: Floats, got: Floats, spec: ModelSpec) -> Planted | None:
    """The 80 categories in a row, as other tools number them; the last channels are left out."""
    ids = np.array(ids_of(spec)) - 1
    if spec.category_ids is not None or ids.size == spec.num_classes:
        return None
    return Planted(wanted[:, :, ids], got[:, :, : len(ids)])


# Then, how values may have been changed in their places.


def _softmax(head: Floats) -> Floats:
    scores = np.exp(head - head.max(axis=2, keepdims=True))
    return np.asarray(scores / scores.sum(axis=2, keepdims=True))


def _stuck(wanted: Floats, got: Floats, _: ModelSpec) -> Planted | None:
    first = got.flat[0]
    if not np.isfinite(first) or got.min() != got.max():
        return None
    return Planted(np.full_like(wanted, first), got, f"{first + 0.0:.3g}")


def _scaled(wanted: Floats, got: Floats, _: ModelSpec, *, axes: tuple[int, ...]) -> Planted:
    """One factor for all that lies along *axes*, by least squares."""
    one = wanted.astype(np.float64)
    with np.errstate(all="ignore"):
        factors = (one * got).sum(axis=axes, keepdims=True)
        factors /= (one * one).sum(axis=axes, keepdims=True)
    return Planted(one * factors, got, ", ".join(f"{factor:.3g}" for factor in factors.ravel()))


def _raised(wanted: Floats, got: Floats, _: ModelSpec) -> Planted | None:
    with np.errstate(all="ignore"):
        constant = np.mean(got - wanted, dtype=np.float64)
    if not np.isfinite(constant):
        return None
    return Planted(wanted + np.float32(constant), got, f"{constant:.3g}")


def _left_out(
    wanted: Floats, got: Floats, _: ModelSpec, *, bad: Callable[[Floats], Mask]
) -> Planted | None:
    """The values that are *bad* say nothing; at least half of a head has to be left."""
    lost = bad(got)
    if not 0 < lost.sum() <= lost.size / 2:
        return None
    return Planted(wanted[~lost], got[~lost], f"{lost.mean():.1%}")


def _clipped(wanted: Floats, got: Floats, _: ModelSpec) -> Planted | None:
    """Cut off where the candidate ends, if more than one value lies at that end."""
    low, high = got.min(), got.max()
    ends = {
        f"from {low:.4g}": np.count_nonzero(got == low) > 1,
        f"to {high:.4g}": low < high and np.count_nonzero(got == high) > 1,
    }
    if not np.isfinite([low, high]).all() or not any(ends.values()):
        return None
    return Planted(wanted.clip(low, high), got, " ".join(end for end in ends if ends[end]))


def on_bfloat16(head: Floats) -> Mask:
    """Which values have nothing in the 16 bits of mantissa that bfloat16 lacks."""
    bits = np.ascontiguousarray(head, np.float32).view(np.uint32)
    return np.asarray((bits & 0xFFFF) == 0)


def on_float16(head: Floats) -> Mask:
    """Which values are those of a float16."""
    with np.errstate(over="ignore"):
        return np.asarray(head.astype(np.float16) == head)


#: The grids of 16 bits on which values may lie, the coarser first.
GRIDS = {"bf16": on_bfloat16, "fp16": on_float16}


def _stored(wanted: Floats, got: Floats, _: ModelSpec, *, kind: str) -> Planted | None:
    """On the grid of fp16 or bf16, and no further from the reference than its rounding."""
    with np.errstate(all="ignore"):
        if GRIDS[kind](got).mean() < ON_GRID:
            return None
        # A whole step of bfloat16: values may have been cut off and not rounded.
        room = np.where(got == 0, np.float32(0), np.ldexp(np.float32(1), np.frexp(got)[1] - 8))
        if kind == "fp16":
            room = np.spacing(np.abs(got.astype(np.float16))).astype(np.float32) / 2
        return Planted(wanted + (got - wanted).clip(-room, room), got)


_LEFT_OUT = "these {} of the values are left out"
_TOO = "the reference goes through one too"
#: The first that explains a difference is named, so the narrower stand before the wider.
_HYPOTHESES: tuple[tuple[str, str, str, Plant], ...] = (
    *(("", f"batch rows {kind}", "the reference's rows are taken in the order {}",
       partial(_row_order, kind=kind)) for kind in ("shifted by one", "permuted", "repeated")),
    ("", "batch rows shifted by one",
     "row 0 is left out and each other one compared with the row before",
     partial(_later, axis=0, by=1)),
    ("", "batch rows shifted by one",
     "the last row is left out and each other one compared with the row after",
     partial(_later, axis=0, by=-1)),
    *(("box", f"box {what} swapped", f"({', '.join(CODES[i] for i in order)}) is read",
       _changed(partial(np.take, indices=order, axis=2)))
      for what, order in (("x and y", [1, 0, 3, 2]), ("h and w", [0, 1, 3, 2]),
                          ("centre x and y", [1, 0, 2, 3]), ("centre and size", [2, 3, 0, 1]))),
    ("", "anchors of a cell reordered", "the reference's anchors are taken in the order {}",
     _anchors),
    ("", "anchors laid out last", "channels run over anchors within each class or coordinate",
     _changed(lambda a: a.swapaxes(1, 2))),
    ("class", "class channels shifted up by one",
     "each class is read one channel later, as behind a background class",
     partial(_later, axis=2, by=1)),
    ("class", "class channels shifted down by one", "each class is read one channel earlier",
     partial(_later, axis=2, by=-1)),
    ("class", "classes mapped from 90 to 80",
     "the 80 categories are read without the unused ids between", _mapped_classes),
    ("", "rows and columns transposed", "the reference is transposed too",
     _changed(lambda head: head.swapaxes(3, 4))),
    ("", "flipped left to right", "the reference is flipped too",
     _changed(lambda head: head[..., ::-1])),
    ("", "flipped top to bottom", "the reference is flipped too",
     _changed(lambda head: head[..., ::-1, :])),
    ("", "NHWC data in NCHW shape", "it is read as NHWC",
     _changed(lambda head: head.transpose(0, 3, 4, 1, 2))),
    ("", "NCHW data taken for NHWC", "the reference is transposed from NHWC too",
     _changed(lambda head: np.moveaxis(
         head.reshape(len(head), *head.shape[3:], -1), 3, 1))),
    ("", "stuck at one value", "every value of the reference is {}", _stuck),
    ("", "saturated at 65504", _LEFT_OUT, partial(
        _left_out, bad=lambda head: np.abs(head) == _FLOAT16_MAX)),
    ("", "not finite", _LEFT_OUT, partial(_left_out, bad=lambda head: ~np.isfinite(head))),
    ("class", "logits already through a sigmoid", _TOO, _changed(sigmoid)),
    ("class", "logits already through a softmax", _TOO, _changed(_softmax)),
    ("", "stored in bfloat16", "the reference is too", partial(_stored, kind="bf16")),
    ("", "stored in float16", "the reference is too", partial(_stored, kind="fp16")),
    ("box", "boxes scaled", "(ty, tx, th, tw) of the reference are times {}",
     partial(_scaled, axes=(0, 1, 3, 4))),
    ("class", "logits scaled", "the reference is times {}",
     partial(_scaled, axes=(0, 1, 2, 3, 4))),
    ("class", "a constant added to the logits", "{} is added to the reference", _raised),
    ("", "clipped", "the reference is cut off {}", _clipped),
)  # fmt: skip
HEAD_HYPOTHESES = tuple(
    Hypothesis(name, inverse, plant, "runner", kind) for kind, name, inverse, plant in _HYPOTHESES
)
