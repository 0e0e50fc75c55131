"""`effd0.graph.rewrites`: weighted sums in the forms of the exporters, and look-alikes."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from effd0.graph.rewrites import apply_edits

from .onnx_models import Array, halved, operators, parsed, run

#: As torch's older exporter writes it: weights are computed while the model runs.
RAW = """
  raw (float[N,2,3,4] x) => (float[N,2,3,4] y)
  <float[2] w = {1.5, 0.75}, float tiny = {0.0001}, int64 first = {0}, int64 second = {1}>
  {
    a = Abs(x)
    r = Relu(w)
    total = ReduceSum <keepdims = 0> (r)
    w0 = Gather <axis = 0> (r, first)
    m0 = Mul(x, w0)
    s = Add(total, tiny)
    d0 = Div(m0, s)
    w1 = Gather <axis = 0> (r, second)
    m1 = Mul(a, w1)
    d1 = Div(m1, s)
    u0 = Unsqueeze <axes = [-1]> (d0)
    u1 = Unsqueeze <axes = [-1]> (d1)
    stack = Concat <axis = -1> (u0, u1)
    y = ReduceSum <axes = [-1], keepdims = 0> (stack)
  }
"""
#: As onnxsim leaves it: constants, here a sum in a node, and no product where the weight is 1.
SIMPLIFIED = """
  simplified (float[N,2,3,4] x) => (float[N,2,3,4] y)
  <float w1 = {0.5}>
  {
    s = Constant <value = float {1.5001}> ()
    a = Abs(x)
    d0 = Div(x, s)
    m1 = Mul(w1, a)
    d1 = Div(m1, s)
    u0 = Unsqueeze <axes = [-1]> (d0)
    u1 = Unsqueeze <axes = [-1]> (d1)
    stack = Concat <axis = -1> (u0, u1)
    y = ReduceSum <axes = [-1], keepdims = 0> (stack)
  }
"""
#: As torch's newer exporter writes it at opset 18, with axes as inputs; three terms.
DYNAMO = """
  dynamo (float[N,2,3,4] x) => (float[N,2,3,4] y)
  <float w0 = {1.25}, float w1 = {0.5}, float w2 = {0.25}, float s = {2.0001}, int64[1] last = {-1}>
  {
    a = Abs(x)
    n = Neg(x)
    m0 = Mul(x, w0)
    d0 = Div(m0, s)
    m1 = Mul(a, w1)
    d1 = Div(m1, s)
    m2 = Mul(n, w2)
    d2 = Div(m2, s)
    u0 = Unsqueeze(d0, last)
    u1 = Unsqueeze(d1, last)
    u2 = Unsqueeze(d2, last)
    stack = Concat <axis = -1> (u0, u1, u2)
    y = ReduceSum <keepdims = 0, noop_with_empty_axes = 0> (stack, last)
  }
"""
#: Form -> its text, opset, and the weights of x, |x| and -x.
FORMS = {
    "raw": (RAW, 11, (1.5 / 2.2501, 0.75 / 2.2501, 0)),
    "simplified": (SIMPLIFIED, 11, (1 / 1.5001, 0.5 / 1.5001, 0)),
    "dynamo": (DYNAMO, 18, (1.25 / 2.0001, 0.5 / 2.0001, 0.25 / 2.0001)),
}
#: Some roundings of sums up to 9.  Measured 2026-11-23: at most 7.5e-7 in float32 and 4.5e-3 in
#: float16, before the edits too.
ROUNDING = {np.float32: 4e-6, np.float16: 1.5e-2}


def numbers(dtype: Any = np.float32) -> Array:
    """Input of both signs, two rows."""
    return np.random.default_rng(0).uniform(-9, 9, (2, 2, 3, 4)).astype(dtype)


@pytest.mark.parametrize(
    "edits",
    [["fold-weights"], ["fuse-sums"], ["fold-weights", "fuse-sums"], ["fuse-sums", "fold-weights"]],
    ids="-then-".join,
)
@pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=["float32", "float16"])
@pytest.mark.parametrize("form", FORMS)
def test_a_weighted_sum_stays_the_same(form: str, dtype: Any, edits: list[str]) -> None:
    """Each term and the sum are found in every form and order, and give the sum in float64."""
    text, opset, weights = FORMS[form]
    graph = parsed(text, opset)
    graph = halved(graph) if dtype == np.float16 else graph
    terms = sum(weight != 0 for weight in weights)
    found = {"fold-weights": terms, "fuse-sums": 1}
    assert [c.matches for c in apply_edits(graph, edits)] == [found[name] for name in edits]
    x = numbers(dtype).astype(np.float64)
    wanted = x * weights[0] + np.abs(x) * weights[1] - x * weights[2]
    (got,) = run(graph, numbers(dtype))
    assert got.dtype == dtype
    assert np.abs(got - wanted).max() <= ROUNDING[dtype]


@pytest.mark.parametrize("form", FORMS)
def test_both_edits_leave_products_and_additions(form: str) -> None:
    """No division, no tensor of rank 5, and no constant but one weight a term is left."""
    text, opset, weights = FORMS[form]
    graph = parsed(text, opset)
    apply_edits(graph, ["fold-weights", "fuse-sums"])
    terms = sum(weight != 0 for weight in weights)
    assert sorted(operators(graph)) == sorted(
        ["Abs", "Neg"][: terms - 1] + ["Mul"] * terms + ["Add"] * (terms - 1)
    )
    held = [float(numpy_helper.to_array(tensor)) for tensor in graph.graph.initializer]
    # Two roundings to float32: of the divisor in the file, and of the quotient.
    assert held == pytest.approx([weight for weight in weights if weight], rel=2**-23)


def test_a_product_that_others_read_stays_for_them() -> None:
    """The term is computed anew; the product is still there for its other reader."""
    graph = parsed("""
      shared (float[1,2,3,4] x) => (float[1,2,3,4] y, float[1,2,3,4] product)
      <float w = {1.5}, float s = {2.0}> { product = Mul(x, w) y = Div(product, s) }
    """)
    assert apply_edits(graph, ["fold-weights"])[0].matches == 1
    assert operators(graph) == ["Mul", "Mul"]
    x = numbers()[:1]
    y, product = run(graph, x)
    assert y.tolist() == (x * np.float32(0.75)).tolist()
    assert product.tolist() == (x * np.float32(1.5)).tolist()


def test_a_stack_that_others_read_stays_for_them() -> None:
    """The sum no longer needs the stack, but the stack is an output of the graph as well."""
    graph = parsed("""
      shared (float[1,2,3,4] x) => (float[1,2,3,4] y, float[1,2,3,4,2] stack)
      {
        a = Abs(x)
        u0 = Unsqueeze <axes = [-1]> (x)
        u1 = Unsqueeze <axes = [-1]> (a)
        stack = Concat <axis = -1> (u0, u1)
        y = ReduceSum <axes = [-1], keepdims = 0> (stack)
      }
    """)
    x = numbers()[:1]
    before = run(graph, x)
    assert apply_edits(graph, ["fuse-sums"])[0].matches == 1
    assert sorted(operators(graph)) == ["Abs", "Add", "Concat", "Unsqueeze", "Unsqueeze"]
    assert [tensor.tolist() for tensor in run(graph, x)] == [t.tolist() for t in before]


def test_integers_are_summed_too() -> None:
    """The sum of a stack is a sum in any type."""
    graph = parsed("""
      integers (int64[3] x) => (int64[3] y)
      {
        u = Unsqueeze <axes = [0]> (x)
        stack = Concat <axis = 0> (u, u, u)
        y = ReduceSum <axes = [0], keepdims = 0> (stack)
      }
    """)
    assert apply_edits(graph, ["fuse-sums"])[0].matches == 1
    assert operators(graph) == ["Add", "Add"]
    assert run(graph, np.array([1, -2, 3]))[0].tolist() == [3, -6, 9]


@settings(max_examples=30, deadline=None)
@given(axis=st.integers(-4, 3), terms=st.integers(2, 5), seed=st.integers(0, 9))
def test_a_stack_on_any_axis_is_summed(axis: int, terms: int, seed: int) -> None:
    """Wherever the new axis is put, and counted from either end, the sum is that of the parts."""
    layers = "".join(
        f"t{n} = Mul(x, c{n}) u{n} = Unsqueeze <axes = [{axis}]> (t{n}) " for n in range(terms)
    )
    graph = parsed(f"""
      any (float[1,2,3] x) => (float[1,2,3] y)
      <{", ".join(f"float c{n} = {{{n + 1}.0}}" for n in range(terms))}>
      {{
        {layers}
        stack = Concat <axis = {axis}> ({", ".join(f"u{n}" for n in range(terms))})
        y = ReduceSum <axes = [{axis}], keepdims = 0> (stack)
      }}
    """)
    assert apply_edits(graph, ["fuse-sums"])[0].matches == 1
    assert operators(graph).count("Add") == terms - 1
    # Whole numbers: no order of the sum rounds.
    x = np.random.default_rng(seed).integers(-99, 99, (1, 2, 3)).astype(np.float32)
    assert run(graph, x)[0].tolist() == (x * (terms * (terms + 1) // 2)).tolist()


def stacked(unsqueeze: str = "axes = [-1]", concat: str = "-1", total: str = "axes = [-1]") -> Any:
    """Return a sum over a stack of x and |x| with these attributes."""
    return parsed(f"""
      stacked (float[2,2,2] x) => (float y)
      {{
        a = Abs(x)
        u0 = Unsqueeze <{unsqueeze}> (x)
        u1 = Unsqueeze <{unsqueeze}> (a)
        stack = Concat <axis = {concat}> (u0, u1)
        s = ReduceSum <{total}> (stack)
        y = ReduceSum <keepdims = 0> (s)
      }}
    """)


FED = parsed(DYNAMO, 18)
FED.graph.input.append(copy.deepcopy(FED.graph.input[0]))
FED.graph.input[1].name = "last"
FED.graph.input[1].type.tensor_type.elem_type = 7
FED.graph.input[1].type.tensor_type.shape.dim[0].dim_value = 1
del FED.graph.input[1].type.tensor_type.shape.dim[1:]


@pytest.mark.parametrize(
    "graph",
    [
        pytest.param(stacked(total="axes = [-1], keepdims = 1"), id="axis-kept"),
        pytest.param(stacked(total="axes = [0], keepdims = 0"), id="sum-over-another-axis"),
        pytest.param(stacked(total="axes = [0, -1], keepdims = 0"), id="sum-over-more"),
        pytest.param(stacked(total="keepdims = 0"), id="sum-over-all"),
        pytest.param(
            stacked(concat="0", total="axes = [0], keepdims = 0"), id="joined-on-an-old-axis"
        ),
        pytest.param(FED, id="axes-are-fed"),
        pytest.param(
            parsed("""
              joined (float[2,3] x) => (float[3] y)
              { c = Concat <axis = 0> (x, x) y = ReduceSum <axes = [0], keepdims = 0> (c) }
            """),
            id="joined-not-stacked",
        ),
        pytest.param(
            parsed("""
              one (float[2,3] x) => (float[2,3] y)
              {
                u = Unsqueeze <axes = [0]> (x)
                c = Concat <axis = 0> (u)
                y = ReduceSum <axes = [0], keepdims = 0> (c)
              }
            """),
            id="stack-of-one",
        ),
    ],
)
def test_other_sums_are_left_alone(graph: Any) -> None:
    """Only a sum over the very axis of a stack is a sum of its parts."""
    edited = copy.deepcopy(graph)
    assert apply_edits(edited, ["fuse-sums"])[0].matches == 0
    assert edited == graph


def divided(divisor: str, kind: str = "float", shape: str = "1,2,3,4") -> Any:
    """Return x divided by a constant given as *divisor* in ONNX's text form."""
    return parsed(f"g ({kind}[{shape}] x) => ({kind}[{shape}] y) <{divisor}> {{ y = Div(x, s) }}")


@pytest.mark.parametrize(
    "graph",
    [
        pytest.param(divided("float[4] s = {1.0, 2.0, 3.0, 4.0}"), id="a-divisor-each"),
        pytest.param(divided("int64 s = {2}", kind="int64"), id="integers"),
        # As shapes are computed, where rounding up comes next and must see no rounding.
        pytest.param(divided("float s = {3.0}", shape="4"), id="vector"),
        pytest.param(divided("float s = {0.0}"), id="zero"),
        pytest.param(
            parsed("g (float[1,2,3,4] x) => (float[1,2,3,4] y) { a = Abs(x) y = Div(x, a) }"),
            id="divisor-not-constant",
        ),
        pytest.param(
            parsed("g (float[1,2,3,4] x) => (float[1,2,3,4] y) <float s = {2.0}> {y = Div(s, x)}"),
            id="constant-divided",
        ),
    ],
)
def test_other_divisions_are_left_alone(graph: Any) -> None:
    """Only a feature map that is divided by one constant becomes a product."""
    edited = copy.deepcopy(graph)
    assert apply_edits(edited, ["fold-weights"])[0].matches == 0
    assert edited == graph
