"""ONNX -> ONNX that a compiler takes: named edits, each of which counts its matches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import GraphError
from . import blocked, fusion, pads, precision, reduce
from .base import GraphChange, GraphEdit, load_graph, save_graph
from .support import Problem, check_support, model_input

__all__ = [
    "DEFAULT_EDITS",
    "EDITS",
    "ORT_EDITS",
    "GraphChange",
    "GraphEdit",
    "Problem",
    "apply_edits",
    "check_support",
    "load_graph",
    "model_input",
    "named_edits",
    "save_graph",
]

EDITS = {
    edit.name: edit
    for module in (pads, fusion, reduce, blocked, precision)
    for edit in module.EDITS
}
#: Exact on every export tried (2026-11-23: heads move by 1.1e-5 at most), and of use to any
#: compiler; ONNX Runtime gains 6 % on one thread.  Not mean-pool, whose gain would be ATC's alone
#: and has not been seen there, while ONNX Runtime sums such pools less exactly (4.4e-4).
DEFAULT_EDITS = ("fold-pad", "finite-pad", "fold-weights", "fuse-sums")
#: What is of use to ONNX Runtime on a CPU alone, beside that, for a model of fixed batch size:
#: but for its own activations the whole D0 is then in one layout.
ORT_EDITS = ("fold-pad", "fold-weights", "fuse-sums", "step-means", "scale-convs", "spread-gates")


def named_edits(names: Sequence[str]) -> list[GraphEdit]:
    """Return the edits called *names*, in that order; raise `GraphError` for an unknown name."""
    unknown = [name for name in names if name not in EDITS]
    if unknown:
        raise GraphError(f"--edit is {unknown[0]!r}, but effd0 knows {', '.join(EDITS)}")
    return [EDITS[name] for name in names]


def apply_edits(model: Any, names: Sequence[str]) -> list[GraphChange]:
    """
    Apply the edits *names* to *model* in place, in the order given.

    Raises `GraphError` for a name that is none, before any edit, or for a graph that an edit
    cannot take.
    """
    return [edit.run(model) for edit in named_edits(names)]
