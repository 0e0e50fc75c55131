"""
Heads that differ from a reference -> the fault that did it, tested.

A fault is planted in the reference: where that gives the candidate, the fault is named.  So one
that cannot be taken back, a sigmoid that ran to 1 or a lost digit, is tested like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import HeadError
from ..spec import ModelSpec
from ..tensor_diff import check_pair, compare_tensors
from ..types import Floats, Tensors
from .base import Suspicion
from .head_fault import KINDS, HeadFault
from .head_orders import ORDER_FAULTS
from .head_values import VALUE_FAULTS

FAULTS = (*ORDER_FAULTS, *VALUE_FAULTS)
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
#: Reference, candidate and the error between them.
_Pair = tuple[Floats, Floats, float]


@dataclass(frozen=True)
class _Finding:
    """A fault that explains *heads*, and the error it leaves of the worst of them."""

    fault: HeadFault
    details: tuple[str, ...]
    heads: tuple[str, ...]
    left: float

    @property
    def explanation(self) -> str:
        """What is assumed, with what was found out about it in each head."""
        details = list(dict.fromkeys(self.details))
        more = ["..."] if len(details) > _DETAILS else []
        return self.fault.explanation.format(" or ".join(details[:_DETAILS] + more))


def suspect_heads(reference: Tensors, candidate: Tensors, spec: ModelSpec) -> Suspicion | None:
    """
    Name the fault that makes heads *candidate* of *reference*, both (N, channels, rows, columns).

    The names are those of *spec*.  A fault counts where it explains all class heads that differ,
    or all such box heads; its errors are those of the worst of them.  Where none does, heads that
    differ while others are clean are named.  None where all are clean, or nothing fits.  Raises
    `HeadError` where names or shapes are not those of the spec, or not the same on both sides.
    """
    _check(reference, candidate, spec)
    errors = {name: _error(reference[name], candidate[name]) for name in reference}
    least = max(CLEAN, min(_MINOR * max(errors.values()), EXPLAINED))
    wrong = [name for name, error in errors.items() if error > least]
    findings = []
    for kind, names in zip(KINDS, (spec.class_names, spec.box_names), strict=True):
        heads = {n: (reference[n], candidate[n], errors[n]) for n in names if n in wrong}
        tried = (_tested(fault, heads, spec) for fault in FAULTS if kind in fault.kinds)
        findings += [next(filter(None, tried), None)] if heads else []
    found = [finding for finding in findings if finding is not None]
    return _combined(found, errors, wrong) if found else _confined(errors, wrong)


def _check(reference: Tensors, candidate: Tensors, spec: ModelSpec) -> None:
    check_pair(reference, candidate)
    shapes = {name: head.shape[1:] for name, head in reference.items()}
    if shapes != spec.head_shapes:
        raise HeadError(
            f"heads of one image are {shapes}, but {spec.head_shapes} were wanted; "
            "name them as the spec does"
        )


def _error(wanted: Floats, got: Floats) -> float:
    """Relative L2; infinite where a value is not finite."""
    return compare_tensors({"head": wanted}, {"head": got})[0].relative_l2


def _tested(fault: HeadFault, heads: Mapping[str, _Pair], spec: ModelSpec) -> _Finding | None:
    """Plant *fault* in each of *heads*, the smallest first; None at the first it leaves."""
    details, left = {}, 0.0
    for name, (reference, candidate, before) in sorted(heads.items(), key=_size):
        planted = fault.plant(reference, candidate, spec)
        if planted is None:
            return None
        after = _error(planted.wanted, planted.got)
        if not after <= min(EXPLAINED, FALL * before):
            return None
        details[name] = planted.detail
        left = max(left, after)
    return _Finding(fault, tuple(details[name] for name in heads), tuple(heads), left)


def _size(item: tuple[str, _Pair]) -> int:
    return item[1][0].size


def _combined(found: list[_Finding], errors: dict[str, float], wrong: list[str]) -> Suspicion:
    """One suspicion of what explains the class heads and what explains the box heads."""
    explained = [name for finding in found for name in finding.heads]
    left = max(finding.left for finding in found)
    if len({finding.fault for finding in found}) == 1:
        details = tuple(detail for finding in found for detail in finding.details)
        found = [_Finding(found[0].fault, details, tuple(explained), left)]
    unexplained = [name for name in wrong if name not in explained]
    rest = f"; {_shown(unexplained, errors)} differ otherwise" if unexplained else ""
    return Suspicion(
        " and ".join(finding.fault.name for finding in found),
        " and ".join(f"{f.explanation}, in {_shown(f.heads, errors)}" for f in found)
        + rest
        + _clean(errors, wrong),
        max(errors[name] for name in explained),
        left,
    )


def _confined(errors: dict[str, float], wrong: list[str]) -> Suspicion | None:
    """Some heads differ and the others are clean: where the fault lies, not what it is."""
    left = max((error for name, error in errors.items() if name not in wrong), default=np.inf)
    if not wrong or not left <= FALL * min(errors[name] for name in wrong):
        return None
    where = _shown(wrong, errors)
    return Suspicion(
        f"a fault in {where} alone",
        f"{where} {'is' if len(wrong) == 1 else 'are'} left out{_clean(errors, wrong)}",
        max(errors[name] for name in wrong),
        left,
    )


def _clean(errors: dict[str, float], wrong: Sequence[str]) -> str:
    """What is known of the heads that have no fault."""
    clean = [name for name in errors if name not in wrong]
    if not clean:
        return ""
    most = max(errors[name] for name in clean)
    if most > CLEAN:
        return f"; {_shown(clean, errors)} differ by at most {most:.2g}"
    return f"; {_shown(clean, errors)} {'is' if len(clean) == 1 else 'are'} clean"


def _shown(heads: Sequence[str], every: Iterable[str]) -> str:
    """The *heads* of *every* head in few words: all of them, all of a kind or of some levels."""
    kinds = {kind: [name for name in every if name.startswith(kind)] for kind in KINDS}
    if set(heads) == set(every):
        return "all heads"
    groups = []
    for kind, names in kinds.items():
        mine = [name for name in names if name in heads]
        groups += [f"all {kind} heads"] if mine == names else mine
    return ", ".join(groups)
