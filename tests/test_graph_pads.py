"""Tests for `effd0.graph.rewrites`: tiny graphs with max-pools, run before and after."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from onnx import numpy_helper

from effd0.graph.rewrites import DEFAULT_EDITS, apply_edits

from .onnx_models import pad_model, run

NAMES = ["fold-pad", "finite-pad", "zero-pad"]
EXACT = ["fold-pad", "finite-pad"]


def negative(dtype: Any = np.float32) -> npt.NDArray[Any]:
    """Input that is below zero everywhere, so that a padding of zero would win and show."""
    return np.random.default_rng(0).uniform(-9, -1, (1, 2, 7, 7)).astype(dtype)


def fillers(graph: Any) -> list[npt.NDArray[Any]]:
    """Return the padding value of each Pad node that has one."""
    constants = {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer}
    pads = [node for node in graph.graph.node if node.op_type == "Pad"]
    return [constants[node.input[2]] for node in pads]


@pytest.mark.parametrize("edit", EXACT)
@pytest.mark.parametrize("constants_are", ["initializers", "nodes"])
@pytest.mark.parametrize("opset", [11, 18], ids="opset={}".format)
@pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=["float32", "float16"])
def test_an_exact_edit_keeps_every_number(
    edit: str, constants_are: str, opset: int, dtype: Any
) -> None:
    """Before and after, the pool gives the same bits, on data that a zero at the border beats."""
    graph = pad_model(opset=opset, dtype=dtype, constants_are=constants_are)
    (before,) = run(graph, negative(dtype))
    assert [change.matches for change in apply_edits(graph, [edit])] == [1]
    (after,) = run(graph, negative(dtype))
    assert after.dtype == dtype
    assert after.tolist() == before.tolist()


def test_fold_pad_leaves_no_pad() -> None:
    """The padding is the pool's own afterwards."""
    graph = pad_model()
    apply_edits(graph, ["fold-pad"])
    assert [node.op_type for node in graph.graph.node] == ["MaxPool"]


def test_fold_pad_adds_to_the_padding_that_a_pool_has() -> None:
    """A pool with padding of its own keeps it, side by side with the new one."""
    graph = pad_model(pads=(0, 0, 0, 1, 0, 0, 1, 0), pool={"pads": [1, 0, 0, 1]})
    (before,) = run(graph, negative())
    apply_edits(graph, ["fold-pad"])
    (pads,) = [list(a.ints) for a in graph.graph.node[0].attribute if a.name == "pads"]
    assert pads == [1, 1, 1, 1]
    assert run(graph, negative())[0].tolist() == before.tolist()


@pytest.mark.parametrize("edit", EXACT)
def test_a_pad_read_by_two_pools_is_one_match(edit: str) -> None:
    """All pools behind a Pad are changed together."""
    graph = pad_model(["MaxPool", "MaxPool"])
    before = run(graph, negative())
    assert apply_edits(graph, [edit])[0].matches == 1
    after = run(graph, negative())
    assert [tensor.tolist() for tensor in after] == [tensor.tolist() for tensor in before]


@pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=["float32", "float16"])
@pytest.mark.parametrize(
    ("edit", "value"), [("finite-pad", -65504.0), ("zero-pad", 0.0)], ids=["finite", "zero"]
)
def test_a_new_filler_has_the_dtype_of_its_graph(edit: str, value: float, dtype: Any) -> None:
    """A float32 graph gets a float32 constant and a float16 graph a float16 one, finite in both."""
    graph = pad_model(dtype=dtype)
    apply_edits(graph, [edit])
    (filler,) = fillers(graph)
    assert (filler.dtype, filler.shape, float(filler)) == (dtype, (), value)


def test_zero_pad_changes_the_border_and_nothing_else() -> None:
    """Windows that reach into the padding give the zero; those inside are as they were."""
    graph = pad_model()
    (before,) = run(graph, negative())
    assert apply_edits(graph, ["zero-pad"])[0].matches == 1
    (after,) = run(graph, negative())
    assert after.shape == (1, 2, 4, 4)
    assert after[:, :, 1:3, 1:3].tolist() == before[:, :, 1:3, 1:3].tolist()
    border = np.ones((4, 4), bool)
    border[1:3, 1:3] = False
    assert (after[:, :, border] == 0).all()
    assert (before[:, :, border] < 0).all()


@pytest.mark.parametrize("edit", NAMES)
@pytest.mark.parametrize(
    "graph",
    [
        pytest.param(pad_model(["Conv"], filler=0.0), id="zeros-before-a-convolution"),
        pytest.param(pad_model(["Conv"], filler=None), id="no-filler"),
        pytest.param(pad_model(filler=0.0), id="zeros-before-a-pool"),
        pytest.param(pad_model(["MaxPool", "Relu"]), id="other-reader"),
        pytest.param(pad_model(["MaxPool", "output"]), id="graph-output"),
    ],
)
def test_what_does_not_match_is_left_alone(graph: Any, edit: str) -> None:
    """An edit touches -inf before max-pools only; it says so, and the file stays the same."""
    edited = copy.deepcopy(graph)
    (change,) = apply_edits(edited, [edit])
    assert str(change) == f"{edit}: nothing to do"
    assert edited.SerializeToString() == graph.SerializeToString()


INDICES = pad_model()
INDICES.graph.node[1].output.append("indices")


@pytest.mark.parametrize(
    "graph",
    [
        pytest.param(pad_model(pool={"ceil_mode": 1}), id="ceil-mode"),
        pytest.param(pad_model(pool={"auto_pad": "SAME_UPPER"}), id="auto-pad"),
        pytest.param(pad_model(pads=(0, 1, 1, 1, 0, 0, 1, 1)), id="channels"),
        pytest.param(pad_model(pads=(0, 0, -1, 1, 0, 0, 1, 1)), id="cropping"),
        pytest.param(pad_model(pads=(0, 0, 3, 1, 0, 0, 1, 1)), id="wider-than-the-kernel"),
        pytest.param(INDICES, id="indices"),
    ],
)
def test_what_a_pool_cannot_take_is_made_finite_instead(graph: Any) -> None:
    """Folding would change these, so by default their padding becomes finite: same numbers."""
    edited = copy.deepcopy(graph)
    changes = apply_edits(edited, DEFAULT_EDITS)[:2]
    assert [str(c) for c in changes] == ["fold-pad: nothing to do", "finite-pad: 1 matches"]
    # Three rows of padding hold windows of padding alone; those show the value itself.
    before, after = run(graph, negative())[0], run(edited, negative())[0]
    assert np.maximum(before, -65504).tolist() == after.tolist()


@pytest.mark.parametrize("edit", NAMES)
def test_an_edit_done_twice_has_nothing_to_do(edit: str) -> None:
    """The first run says how many it changed, the second that nothing is left."""
    graph = pad_model()
    assert str(apply_edits(graph, [edit])[0]) == f"{edit}: 1 matches"
    assert str(apply_edits(graph, [edit])[0]) == f"{edit}: nothing to do"
