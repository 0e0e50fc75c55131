"""Tests for `effd0.graph`: the registry of edits, and what is left of a graph after one."""

from __future__ import annotations

import pytest

from effd0.errors import GraphError
from effd0.graph.rewrites import DEFAULT_EDITS, EDITS, apply_edits

from .onnx_models import pad_model, parsed

#: A term of a weighted sum whose weight is read by a branch too, beside a node that nothing reads.
BRANCHED = """
  branched (float[1,2,3,3] x, bool choice) => (float[1,2,3,3] y)
  <float w = {1.5}, float s = {2.0}, float unread = {3.0}>
  {
    idle = Mul(x, unread)
    scaled = Mul(x, w)
    term = Div(scaled, s)
    y = If (choice) <
      then_branch = small () => (float[1,2,3,3] a) { a = Mul(term, w) },
      else_branch = large () => (float[1,2,3,3] b) { b = Identity(term) }
    >
  }
"""


def test_edits_are_done_in_the_order_given() -> None:
    """What was made zero cannot be folded any more, and the changes are told in that order."""
    changes = apply_edits(pad_model(), ["zero-pad", "fold-pad"])
    assert [(c.edit.name, c.matches) for c in changes] == [("zero-pad", 1), ("fold-pad", 0)]


def test_an_unknown_edit_changes_nothing() -> None:
    """All names are checked before the first edit is done."""
    graph = pad_model()
    with pytest.raises(GraphError, match="--edit is 'fold', but effd0 knows fold-pad, finite-pad"):
        apply_edits(graph, ["fold-pad", "fold"])
    assert graph == pad_model()


def test_default_edits_change_no_number() -> None:
    """What is done unasked is exact, and every edit says what it does and why."""
    assert all(EDITS[name].exact for name in DEFAULT_EDITS)
    assert all(edit.explanation and edit.benefit for edit in EDITS.values())


def test_what_nothing_reads_goes_with_an_edit() -> None:
    """Nodes and initializers that the outputs do not need are gone; what a branch reads stays."""
    graph = parsed(BRANCHED)
    assert apply_edits(graph, ["fold-weights"])[0].matches == 1
    assert [node.op_type for node in graph.graph.node] == ["Mul", "If"]
    assert [tensor.name for tensor in graph.graph.initializer] == ["w", "term_weight"]


def test_an_edit_without_a_match_leaves_the_rest_alone() -> None:
    """An unread node is not an edit's affair where it has nothing to do."""
    graph = parsed(BRANCHED)
    assert apply_edits(graph, ["fold-pad", "fuse-sums"])[1].matches == 0
    assert graph == parsed(BRANCHED)
