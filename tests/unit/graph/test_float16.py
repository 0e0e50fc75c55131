"""Tests for `effd0.graph.float16`: float16 inside, float32 at the borders."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from effd0.errors import GraphError
from effd0.graph.rewrites import apply_edits
from tests.helpers.onnx_models import operators, pad_model, parsed, run

#: Weights in an initializer and in a node, an integer one, a cast, a Resize that shares a constant
#: with a Mul, and an output that is read inside.
NETWORK = """
  network (float[1,1,2,2] x) => (float[1,1,4,4] y, float[1,1,2,2] inner)
  <float[4] scales = {1.0, 1.0, 2.0, 2.0}, float w = {0.1}, int64 two = {2}>
  {
    half = Constant <value = float {0.3}> ()
    inner = Mul(x, w)
    n = Cast <to = 1> (two)
    doubled = Mul(inner, n)
    moved = Add(doubled, half)
    large = Resize <mode = "nearest", nearest_mode = "floor",
                    coordinate_transformation_mode = "asymmetric"> (moved, scales, scales)
    y = Mul(large, scales)
  }
"""
X = np.array([[[[1, -2], [3, 4.5]]]], np.float32)


def types(graph: Any) -> dict[str, int]:
    """Element types of all tensors of *graph*, by name."""
    inferred = onnx.shape_inference.infer_shapes(graph, strict_mode=True).graph
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    return {value.name: value.type.tensor_type.elem_type for value in values}


def done() -> Any:
    """The network above in float16."""
    graph = parsed(NETWORK)
    assert apply_edits(graph, ["fp16"]) == [3]
    return graph


def test_only_the_borders_stay_float32() -> None:
    """Names and types at the borders are as before; what is between is float16 throughout."""
    graph = done()
    onnx.checker.check_model(graph, full_check=True)
    found = types(graph)
    borders = {name for name, kind in found.items() if kind == TensorProto.FLOAT}
    assert borders == {"x", "y", "inner", "large_region", "large_scales"}
    inside = {kind for name, kind in found.items() if name not in {"two", *borders}}
    assert inside == {TensorProto.FLOAT16}
    kinds = {tensor.name: tensor.data_type for tensor in graph.graph.initializer}
    # A Resize takes its scales as float32, so those it shared are there twice.
    assert kinds == {
        "w": TensorProto.FLOAT16,
        "half": TensorProto.FLOAT16,
        "two": TensorProto.INT64,
        "scales": TensorProto.FLOAT16,
        "large_region": TensorProto.FLOAT,
        "large_scales": TensorProto.FLOAT,
    }


def test_float16_gives_the_numbers_to_its_rounding() -> None:
    """Ten bits of every number are right, at each output."""
    before, after = run(parsed(NETWORK), X), run(done(), X)
    for wanted, got in zip(before, after, strict=True):
        assert got.dtype == np.float32
        # Five roundings of 2**-11 each.  Measured 2026-11-23: at most three.
        assert got == pytest.approx(wanted, rel=5 * 2**-11)
        assert got.tolist() != wanted.tolist()


def test_scales_that_only_a_resize_reads_stay_where_they_are() -> None:
    """The usual Resize keeps its constant, initializer or node, and gets no copy of it."""
    graph = parsed("""
      g (float[1,1,2,2] x) => (float[1,1,4,4] y) <float w = {0.5}>
      {
        roi = Constant <value = float[0] {}> ()
        scales = Constant <value = float[4] {1.0, 1.0, 2.0, 2.0}> ()
        scaled = Mul(x, w)
        y = Resize(scaled, roi, scales)
      }
    """)
    assert apply_edits(graph, ["fp16"]) == [1]
    assert operators(graph) == ["Cast", "Mul", "Resize", "Cast"]
    assert run(graph, X)[0].tolist() == (X / 2).repeat(2, 2).repeat(2, 3).tolist()


@pytest.mark.parametrize(
    "graph",
    [
        pytest.param(
            parsed("g (int64[2] x) => (int64[2] y) <int64 w = {2}> { y = Mul(x, w) }"),
            id="integers",
        ),
        pytest.param(pad_model(dtype=np.float16), id="float16-already"),
    ],
)
def test_a_graph_without_float32_weights_has_nothing_to_do(graph: Any) -> None:
    """There is nothing to halve, so the file stays the same."""
    edited = copy.deepcopy(graph)
    assert apply_edits(edited, ["fp16"]) == [0]
    assert edited.SerializeToString() == graph.SerializeToString()


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        pytest.param(
            parsed("g (float[2] x) => (float[2] y) <float[2] w = {1.0, -70000.0}> {y = Mul(x, w)}"),
            r"w holds -70000, but float16 ends at 65504; leave fp16 out",
            id="weight-beyond-float16",
        ),
        pytest.param(
            parsed("""
              g (float[1,1,2,2] x, float[4] scales) => (float[a,b,c,d] y)
              { y = Resize(x, scales, scales) }
            """),
            r"the scales of y are computed .* run 'effd0 simplify' first",
            id="scales-not-constant",
        ),
        pytest.param(
            parsed("""
              g (float[2] x, bool choice) => (float[2] y)
              { y = If (choice) <
                  then_branch = small () => (float[2] a) { a = Relu(x) },
                  else_branch = large () => (float[2] b) { b = Abs(x) }
                > }
            """),
            r"y \(If\) has branches, but fp16 takes a graph without",
            id="branches",
        ),
    ],
)
def test_what_cannot_be_halved_is_refused(graph: Any, message: str) -> None:
    """No weight becomes infinite and no type is guessed: the message names the place."""
    with pytest.raises(GraphError, match=message):
        apply_edits(graph, ["fp16"])
