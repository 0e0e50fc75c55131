"""In what a node differs from its partner as they stand in the files: settings, weights, edges."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from .network import COMMUTATIVE, Node
from .pairs import Pairs

Array = npt.NDArray[Any]
_ABSENT = "absent"
_SHOWN = 8
#: A ratio is told only where it explains the difference to this part of it.
_EXPLAINED = 1e-3


def differences(node: Node, partner: Node, pairs: Pairs) -> tuple[str, ...]:
    """Sentences on what differs between *node* and its *partner*; none where nothing does."""
    return (
        *_attributes(node, partner),
        *_constants(node, partner, pairs),
        *_edges(node, partner, pairs),
    )


def _attributes(node: Node, partner: Node) -> Iterator[str]:
    if node.op != partner.op:
        yield f"is {node.op}, but {partner.op} in the reference"
    for name in sorted(node.attributes.keys() | partner.attributes.keys()):
        got, wanted = (_shown(n.attributes.get(name, _ABSENT)) for n in (node, partner))
        if got != wanted:
            yield f"attribute {name} is {got}, but {wanted} in the reference"


def _shown(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _constants(node: Node, partner: Node, pairs: Pairs) -> Iterator[str]:
    for position in sorted(node.constants.keys() | partner.constants.keys()):
        mine, theirs = node.constants.get(position), partner.constants.get(position)
        if mine is None or theirs is None:
            got, wanted = mine or "no constant", theirs or "no constant"
            yield f"input {position} is {got}, but {wanted} in the reference"
            continue
        got_value, wanted_value = pairs.bad.network.values[mine], pairs.good.network.values[theirs]
        told = _values(got_value, wanted_value)
        if told:
            yield f"weight {mine} differs: {told}"


def _values(got: Array, wanted: Array) -> str:
    """How *got* differs from *wanted*; empty where it does not."""
    if got.shape != wanted.shape:
        return f"shape {got.shape}, but {wanted.shape} in the reference"
    if not np.issubdtype(wanted.dtype, np.floating) or got.size <= 1:
        same = np.array_equal(got, wanted)
        return "" if same else f"{_list(got)}, but {_list(wanted)} in the reference"
    one, other = got.astype(np.float64), wanted.astype(np.float64)
    changed = ~((one == other) | (np.isnan(one) & np.isnan(other)))
    if not changed.any():
        return ""
    moved = np.abs(one - other)[changed]
    count = f"{int(changed.sum())} of {one.size} values"
    return f"max abs {moved.max():.3g} in {count}{_manner(one, other)}"


def _list(value: Array) -> str:
    shown = ", ".join(f"{v:g}" for v in value.reshape(-1)[:_SHOWN])
    return shown if value.size <= _SHOWN else f"{shown}, ..."


def _manner(got: Array, wanted: Array) -> str:
    """The rounding or the factor that makes *wanted* into *got*; empty where neither does."""
    with np.errstate(over="ignore"):
        if np.array_equal(got, wanted.astype(np.float16).astype(np.float64)):
            return ", rounded to float16"
    size = float(np.vdot(wanted, wanted))
    if not size or not np.isfinite(got).all():
        return ""
    factor = float(np.vdot(got, wanted)) / size
    left = float(np.linalg.norm(got - factor * wanted))
    scaled = left <= _EXPLAINED * float(np.linalg.norm(got - wanted))
    return f", scaled by {factor:.6g}" if scaled else ""


def _edges(node: Node, partner: Node, pairs: Pairs) -> Iterator[str]:
    """Inputs that are not partners, where both sides know whose they are."""
    partners = {theirs: mine for mine, theirs in pairs.tensors.items()}
    if len(node.data) != len(partner.data):
        yield f"reads {len(node.data)} tensors, but {len(partner.data)} in the reference"
    got = [pairs.tensors.get(name) for name in node.data]
    if node.op in COMMUTATIVE and sorted(map(str, got)) == sorted(partner.data):
        return
    for name, theirs in zip(node.data, partner.data, strict=False):
        if pairs.tensors.get(name) != theirs:
            yield f"reads {name}, but {partners.get(theirs, theirs)} in the reference"
