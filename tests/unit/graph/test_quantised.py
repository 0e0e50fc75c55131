"""Tests for `effd0.graph.quantised`: the float32 graph that a rounded one stands for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from effd0.errors import GraphError
from effd0.graph.onnx_info import constants
from effd0.graph.quantised import Quantiser, in_float32
from tests.helpers import onnx_models as graphs

FINITE = st.floats(-8, 8, width=32)


@pytest.mark.parametrize("form", graphs.FORMS)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_float32_graph_is_the_source_within_half_a_step(
    form: str, seed: int, tmp_path: Path
) -> None:
    """The operators are the source's, and each stored weight lies within half its step of it."""
    source = graphs.small_model(seed)
    model = graphs.quantised(source, form, tmp_path)
    before = model.SerializeToString()
    found = in_float32(model)
    assert model.SerializeToString() == before
    onnx.checker.check_model(found.model, full_check=True)
    nodes, wanted_nodes = ({n.name: n for n in m.graph.node} for m in (found.model, source))
    assert {n: node.op_type for n, node in nodes.items()} == {
        n: node.op_type for n, node in wanted_nodes.items()
    }
    mine, theirs = constants(found.model), constants(source)
    for key, other in wanted_nodes.items():
        one = nodes[key]
        for name, wanted in zip(one.input[1:], other.input[1:], strict=True):
            if wanted in theirs:
                step = found.steps.get(name, np.zeros(1))
                assert np.all(np.abs(mine[name] - theirs[wanted]) <= 1.001 * step + 1e-9)
    assert len(found.steps) >= len(graphs.nodes_of(source, "Conv"))


@pytest.mark.parametrize("form", graphs.QUANTISED)
def test_what_quantises_a_tensor_turns_it_back_alike(form: str, tmp_path: Path) -> None:
    """A pair is of one scale and zero point, and its tensor is one of the float32 graph."""
    found = in_float32(graphs.quantised(graphs.small_model(), form, tmp_path))
    tensors = {"x"} | {name for node in found.model.graph.node for name in node.output}
    assert found.pairs
    for one, back in found.pairs:
        assert one.tensor == back.tensor
        assert one.tensor in tensors
        assert (one.scale, one.zero_point) == (back.scale, back.zero_point)


@given(st.lists(FINITE, min_size=1, max_size=20), st.floats(1e-3, 1), st.integers(-128, 127))
@settings(max_examples=50)
def test_rounding_moves_a_value_by_half_a_step_or_to_an_end(
    values: list[float], scale: float, zero: int
) -> None:
    """What lies between the ends moves by half a step at most, and what was rounded not again."""
    one = Quantiser("q", "x", np.array([scale]), np.array([float(zero)]), 1, -128, 127)
    low, high = (float(end[0]) for end in one.ends)
    given_ = np.array(values, np.float32)
    got = one.rounded(given_)
    assert np.all(np.abs(got - np.clip(given_, low, high)) <= scale * 0.5001)
    assert np.array_equal(one.rounded(got), got)


def test_a_float32_graph_is_left_as_it_is() -> None:
    """Where nothing is rounded, nothing is taken away."""
    source = graphs.small_model()
    found = in_float32(source)
    assert not found.rounded
    assert graphs.operators(found.model) == graphs.operators(source)


def test_a_scale_that_is_computed_is_refused(tmp_path: Path) -> None:
    """A scale that the file does not store cannot be compared with anything."""
    model = graphs.quantised(graphs.small_model(), "qdq-per-tensor", tmp_path)
    node = graphs.nodes_of(model, "QuantizeLinear")[0]
    (stored,) = [t for t in model.graph.initializer if t.name == node.input[1]]
    model.graph.initializer.remove(stored)
    value = numpy_helper.from_array(numpy_helper.to_array(stored).reshape(()), "half")
    twice = onnx.helper.make_node("Add", ["half", "half"], [stored.name])
    model.graph.initializer.append(value)
    model.graph.node.insert(0, twice)
    with pytest.raises(GraphError, match="computed while the model runs"):
        in_float32(model)


def test_a_convolution_in_another_form_is_refused(tmp_path: Path) -> None:
    """A ConvInteger whose scales are not where they are expected is named, not guessed at."""
    model = graphs.quantised(graphs.small_model(), "dynamic", tmp_path)
    for node in graphs.nodes_of(model, "Mul"):
        node.output[0] += "_elsewhere"
    with pytest.raises(GraphError, match="ConvInteger is not followed by"):
        in_float32(model)
