"""Heads that are right for another input: the mistake of preprocessing made before them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..spec import ModelSpec
from ..tensor_diff import compare_tensors
from ..types import Tensor, Tensors
from .base import Suspicion
from .heads import CLEAN, EXPLAINED, FALL
from .mistakes import mistakes_for
from .source import Source

#: Network input, (1, 3, size, size) -> heads by the spec's names, as the reference computes them.
Infer = Callable[[Tensor], Tensors]

#: A later mistake has to leave less than this part of an earlier one's error: not by rounding.
_BETTER = 0.999


def suspect_feed(path: Path, heads: Tensors, infer: Infer, spec: ModelSpec) -> Suspicion | None:
    """
    Name the mistake in the input of the image *path* that explains its *heads*, (1, ...) each.

    Each is made and the reference run on it: where that gives *heads*, the model was right and its
    input was not.  None where the heads are right or no mistake fits.  Raises `ImageError` for an
    image that cannot be read.
    """
    source = Source(path, spec)
    before = _error(infer(source.tensor[None]), heads)
    if not CLEAN < before < np.inf:
        return None
    best: Suspicion | None = None
    for mistake in mistakes_for(spec):
        remade = np.ascontiguousarray(mistake.remake(source), np.float32)
        after = _error(infer(remade[None]), heads)
        if not after <= min(EXPLAINED, FALL * before):
            continue
        if best is None or after < _BETTER * best.error_after:
            best = Suspicion(f"input {mistake.name}", mistake.inverse, before, after)
    return best


def _error(wanted: Tensors, got: Tensors) -> float:
    """Relative L2 of the worst head."""
    return max(diff.relative_l2 for diff in compare_tensors(wanted, got))
