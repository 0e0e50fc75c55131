"""Tests for `effd0.graph.rewrites`: tiny graphs, run before and after an edit, and look-alikes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from effd0.errors import GraphError
from effd0.graph.rewrites import DEFAULT_EDITS, ORT_EDITS, apply_edits, save_graph
from tests.helpers.onnx_models import RING, halved, operators, pad_model, parsed, run

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


def matches(graph: Any, *edits: str) -> list[int]:
    """How many places each of *edits* changes in *graph*."""
    found = apply_edits(graph, edits)
    onnx.checker.check_model(graph, full_check=True)
    return found


# All edits.


def test_a_broken_graph_is_not_written(tmp_path: Path) -> None:
    """The recipe's ``modify`` leaves a float16 zero in a float32 Pad; such never becomes a file."""
    graph = pad_model()
    (filler,) = [t for t in graph.graph.initializer if t.name == "filler"]
    filler.CopyFrom(numpy_helper.from_array(np.array(0, np.float16), "filler"))
    message = r"made\.onnx would be an invalid graph: [\s\S]*constant_value has inconsistent type"
    with pytest.raises(GraphError, match=message):
        save_graph(graph, tmp_path / "made.onnx")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_edit_changes_nothing() -> None:
    """All names are checked before the first edit is done."""
    graph = pad_model()
    with pytest.raises(GraphError, match="--edit is 'fold', but effd0 knows fold-pad, finite-pad"):
        apply_edits(graph, ["fold-pad", "fold"])
    assert graph == pad_model()


def test_what_nothing_reads_goes_with_an_edit() -> None:
    """Nodes and initializers that no output needs are gone; what a branch reads stays."""
    graph = parsed(BRANCHED)
    assert matches(graph, "fold-weights") == [1]
    assert operators(graph) == ["Mul", "If"]
    assert [tensor.name for tensor in graph.graph.initializer] == ["w", "term_weight"]


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


def divided(divisor: str, kind: str = "float", shape: str = "1,2,3,4") -> Any:
    """Return x divided by a constant given as *divisor* in ONNX's text form."""
    return parsed(f"g ({kind}[{shape}] x) => ({kind}[{shape}] y) <{divisor}> {{ y = Div(x, s) }}")


def mean(attributes: str, gives: str, takes: str = "2,3,5,7", kind: str = "float") -> Any:
    """Return a mean with these attributes."""
    node = f"ReduceMean <{attributes}> (x)" if attributes else "ReduceMean (x)"
    return parsed(f"g ({kind}[{takes}] x) => ({kind}[{gives}] y) {{ y = {node} }}")


def product(factors: str, dtype: str = "float", w: str = "float w = {1.25}") -> Any:
    """Return a product of a (N, 3, 5, 7) input x with the constant *w*."""
    return parsed(f"g ({dtype}[N,3,5,7] x) => ({dtype}[N,3,5,7] y) <{w}> {{ y = Mul({factors}) }}")


def gated(factors: str, batch: str = "2", gate: str = "GlobalAveragePool") -> Any:
    """Return a (batch, 3, 5, 7) input x times a gate that is made of it."""
    return parsed(
        f"""g (float[{batch},3,5,7] x) => (float[{batch},3,5,7] y)
        {{ gate = {gate}(x)  y = Mul({factors}) }}"""
    )


PADS = ("fold-pad", "finite-pad", "zero-pad")
MEANS = ("mean-pool", "step-means")
LOOK_ALIKES = {
    "zeros-before-a-pool": (PADS, pad_model(filler=0.0)),
    "padding-with-another-reader": (PADS, pad_model(["MaxPool", "Relu"])),
    "padding-that-is-an-output": (PADS, pad_model(["MaxPool", "output"])),
    "axis-kept": (("fuse-sums",), stacked(total="axes = [-1], keepdims = 1")),
    "sum-over-more": (("fuse-sums",), stacked(total="axes = [0, -1], keepdims = 0")),
    "joined-on-an-old-axis": (
        ("fuse-sums",), stacked(concat="0", total="axes = [0], keepdims = 0"),
    ),
    "joined-not-stacked": (("fuse-sums",), parsed(
        "g (float[2,3] x) => (float[3] y)"
        "{ c = Concat <axis = 0> (x, x) y = ReduceSum <axes = [0], keepdims = 0> (c) }"
    )),
    "axes-are-fed": (("fuse-sums", *MEANS), parsed(
        """g (float[2,3,5,7] x, int64[1] axes) => (float[2,3,5] y, float[a,b,c,d] m) {
        u = Unsqueeze(x, axes) s = Concat <axis = -1> (u, u)
        y = ReduceSum <keepdims = 0> (s, axes) m = ReduceMean(x, axes) }""", 18
    )),
    "a-divisor-each": (("fold-weights",), divided("float[4] s = {1.0, 2.0, 3.0, 4.0}")),
    "integers-divided": (("fold-weights",), divided("int64 s = {2}", kind="int64")),
    # As shapes are computed, where rounding up comes next and must see no rounding.
    "vector-divided": (("fold-weights",), divided("float s = {3.0}", shape="4")),
    "divided-by-zero": (("fold-weights",), divided("float s = {0.0}")),
    "constant-divided": (("fold-weights",), parsed(
        "g (float[1,2,3,4] x) => (float[1,2,3,4] y) <float s = {2.0}> {y = Div(s, x)}"
    )),
    "mean-that-drops-axes": (MEANS, mean("axes = [2, 3], keepdims = 0", "2,3")),
    "mean-over-channels": (MEANS, mean("axes = [1]", "2,1,8,8", "2,3,8,8")),
    "mean-of-rank-5": (MEANS, mean("axes = [2, 3]", "2,3,1,1,2", "2,3,8,8,2")),
    "mean-of-integers": (MEANS, mean("axes = [2, 3]", "2,3,1,1", kind="int32")),
    "rows-in-no-eighths": (("step-means",), mean("axes = [2, 3]", "2,3,1,1", "2,3,12,16")),
    "columns-unknown": (("step-means",), mean("axes = [2, 3]", "2,3,1,1", "2,3,8,W")),
    "one-number-a-channel": (("scale-convs",), product("x, w", w="float[3,1,1] w = {1, 2, 3}")),
    "integers-scaled": (("scale-convs",), product("x, w", "int32", "int32 w = {2}")),
    "square": (("scale-convs",), gated("x, x")),
    "channels-unknown": (("scale-convs",), parsed(
        "g (float[2,C,5,7] x) => (float[2,C,5,7] y) <float w = {2}> { y = Mul(x, w) }"
    )),
    "integers-halved": (("fp16",), parsed(
        "g (int64[2] x) => (int64[2] y) <int64 w = {2}> { y = Mul(x, w) }"
    )),
    "float16-already": (("fp16",), pad_model(dtype=np.float16)),
    "batch-free": (("spread-gates",), gated("x, gate", batch="N")),
    "gate-of-the-same-size": (("spread-gates",), gated("x, gate", gate="Sigmoid")),
    "one-an-image": (("spread-gates",), parsed(
        "g (float[2,3,5,7] x, float[2,1,1,1] z) => (float[2,3,5,7] y) { y = Mul(x, z) }"
    )),
}  # fmt: skip


@pytest.mark.parametrize(
    ("edit", "graph"),
    [
        pytest.param(edit, graph, id=f"{name}-{edit}")
        for name, (edits, graph) in LOOK_ALIKES.items()
        for edit in edits
    ],
)
def test_a_look_alike_is_left_alone(edit: str, graph: Any) -> None:
    """An edit says that it has nothing to do, and the file stays the same to the byte."""
    edited = copy.deepcopy(graph)
    assert apply_edits(edited, [edit]) == [0]
    assert edited.SerializeToString() == graph.SerializeToString()


# Padding in front of max-pools.


def negative(dtype: Any = np.float32) -> npt.NDArray[Any]:
    """Input that is below zero everywhere, so that a padding of zero would win and show."""
    return np.random.default_rng(0).uniform(-9, -1, (1, 2, 7, 7)).astype(dtype)


@pytest.mark.parametrize("edit", ["fold-pad", "finite-pad"])
@pytest.mark.parametrize(
    "graph",
    [
        pytest.param(pad_model(), id="opset-11"),
        pytest.param(pad_model(opset=18, dtype=np.float16), id="opset-18-float16"),
        pytest.param(pad_model(constants_are="nodes"), id="constant-nodes"),
        pytest.param(pad_model(["MaxPool", "MaxPool"]), id="two-pools"),
        pytest.param(
            pad_model(pads=(0, 0, 0, 1, 0, 0, 1, 0), pool={"pads": [1, 0, 0, 1]}), id="padded-pool"
        ),
    ],
)
def test_an_exact_edit_of_padding_keeps_every_bit(edit: str, graph: Any) -> None:
    """The pools give the same on data that a zero at the border beats; then nothing is left."""
    edited = copy.deepcopy(graph)
    assert matches(edited, edit, edit) == [1, 0]
    assert ("Pad" in operators(edited)) == (edit != "fold-pad")
    x = negative(np.float16 if graph.graph.input[0].type.tensor_type.elem_type == 10 else "f4")
    for before, after in zip(run(graph, x), run(edited, x), strict=True):
        assert (after.dtype, after.tolist()) == (x.dtype, before.tolist())


@pytest.mark.parametrize(
    "made",
    [
        pytest.param((), id="pad"),
        pytest.param(("fold-pad",), id="padded-pool"),  # as onnxsim folds it
    ],
)
def test_zero_pad_changes_the_border_and_nothing_else(made: tuple[str, ...]) -> None:
    """Windows that reach into the padding give the zero; those inside are as they were."""
    graph = pad_model()
    apply_edits(graph, made)
    (before,) = run(graph, negative())
    assert matches(graph, "zero-pad") == [1]
    (after,) = run(graph, negative())
    border = np.ones((4, 4), bool)
    border[1:3, 1:3] = False
    assert after[:, :, ~border].tolist() == before[:, :, ~border].tolist()
    assert (after[:, :, border] == 0).all()
    assert (before[:, :, border] < 0).all()


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
    assert apply_edits(edited, DEFAULT_EDITS)[:2] == [0, 1]
    # Three rows of padding hold windows of padding alone; those show the value itself.
    before, after = run(graph, negative())[0], run(edited, negative())[0]
    assert np.maximum(before, -65504).tolist() == after.tolist()


def unreadable(change: str) -> Any:
    """Return a graph whose Pad no edit can read: its padding or filler fed, axes, or attributes."""
    graph = pad_model(
        opset={"axes": 18, "attributes": 10}.get(change, 11),
        pads=(1, 1, 1, 1) if change == "axes" else RING,
        constants_are="inputs" if change in ("fed", "filler") else "initializers",
    )
    pad = graph.graph.node[0]
    if change == "axes":  # as opset 18 may
        graph.graph.initializer.append(numpy_helper.from_array(np.array([2, 3]), "axes"))
        pad.input.append("axes")
    elif change == "attributes":  # as before opset 11
        del pad.input[1:]
        pad.attribute.append(helper.make_attribute("pads", RING))
    elif change == "filler":
        graph.graph.initializer.append(numpy_helper.from_array(np.array(RING), "pads"))
    return graph


# Weighted sums.

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


@pytest.mark.parametrize(
    "edits",
    [["fold-weights"], ["fold-weights", "fuse-sums"], ["fuse-sums", "fold-weights"]],
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
    assert matches(graph, *edits) == [found[name] for name in edits]
    fed = np.random.default_rng(0).uniform(-9, 9, (2, 2, 3, 4)).astype(dtype)
    x = fed.astype(np.float64)
    wanted = x * weights[0] + np.abs(x) * weights[1] - x * weights[2]
    (got,) = run(graph, fed)
    assert got.dtype == dtype
    assert np.abs(got - wanted).max() <= ROUNDING[dtype]
    if len(edits) > 1:  # no division, no tensor of rank 5, and one weight a term
        held = [float(numpy_helper.to_array(tensor)) for tensor in graph.graph.initializer]
        assert held == pytest.approx([w for w in weights if w], rel=1e-3)
        made = ["Abs", "Neg"][: terms - 1] + ["Mul"] * terms + ["Add"] * (terms - 1)
        assert sorted(operators(graph)) == sorted(made)


def test_what_others_read_stays_for_them() -> None:
    """The term and the sum are computed anew; the product and the stack are outputs as well."""
    graph = parsed("""
      shared (float[1,2,3,4] x) => (float[1,2,3,4] y, float[1,2,3,4,2] stack, float[1,2,3,4] m)
      <float w = {1.5}, float s = {2.0}>
      {
        m = Mul(x, w)
        d = Div(m, s)
        u0 = Unsqueeze <axes = [-1]> (d)
        u1 = Unsqueeze <axes = [-1]> (x)
        stack = Concat <axis = -1> (u0, u1)
        y = ReduceSum <axes = [-1], keepdims = 0> (stack)
      }
    """)
    x = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    before = run(graph, x)
    assert matches(graph, "fold-weights", "fuse-sums") == [1, 1]
    assert [tensor.tolist() for tensor in run(graph, x)] == [t.tolist() for t in before]
    assert "Add" in operators(graph)


# Means over maps.

AXES_INPUT = """g (float[N,3,5,7] x) => (float[N,3,1,1] y) <int64[2] axes = {-1, -2}>
    { y = ReduceMean <keepdims = 1, noop_with_empty_axes = 0> (x, axes) }"""


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # A sum of 35 values up to 9 in another order.  Measured 2026-11-23: 2.4e-7 and 1.6e-3.
    [pytest.param("f4", 2e-6, id="float32"), pytest.param("f2", 8e-3, id="float16")],
)
@pytest.mark.parametrize(
    "graph",
    [
        pytest.param(mean("axes = [3, 2]", "N,3,1,1", "N,3,5,7"), id="kept-by-default"),
        pytest.param(mean("axes = [-2, -1]", "N,3,1,1", "N,3,5,7"), id="from-the-end"),
        pytest.param(parsed(AXES_INPUT, 18), id="opset-18"),
    ],
)
def test_a_mean_over_a_map_becomes_a_pooling(graph: Any, dtype: str, tolerance: float) -> None:
    """The pooling gives the mean that numpy gives, and the axes are gone with the old node."""
    edited = copy.deepcopy(graph) if dtype == "f4" else halved(graph)
    assert matches(edited, "mean-pool") == [1]
    assert operators(edited) == ["GlobalAveragePool"]
    assert len(edited.graph.initializer) == 0
    x = np.random.default_rng(0).uniform(-1, 9, (2, 3, 5, 7))
    (got,) = run(edited, x.astype(dtype))
    assert got.dtype == dtype
    assert np.abs(got - x.mean((2, 3), keepdims=True)).max() <= tolerance


def test_a_mean_is_taken_in_two_steps() -> None:
    """The mean of equal parts' means is the mean, with sums too short to lose digits."""
    edited = mean("axes = [2, 3]", "N,3,1,1", "N,3,256,160")
    assert matches(edited, "step-means") == [1]
    assert operators(edited) == ["AveragePool", "GlobalAveragePool"]
    x = np.random.default_rng(0).uniform(0, 9, (2, 3, 256, 160)).astype("f4")
    # A last bit of 9 is 9.5e-7; measured 2026-11-25: 1.0e-6, and 2.7e-5 in a single step.
    assert np.abs(run(edited, x)[0] - x.mean((2, 3), "f8", keepdims=True)).max() <= 5e-6


# Products for ONNX Runtime.


@pytest.mark.parametrize("dtype", ["f4", "f2"], ids=["float32", "float16"])
@pytest.mark.parametrize("factors", ["x, w", "w, x"], ids=["map-first", "constant-first"])
@pytest.mark.parametrize("shape", ["float", "float[1]", "float[1,1,1,1]"])
def test_a_product_with_a_constant_becomes_a_convolution(
    shape: str, factors: str, dtype: str
) -> None:
    """One multiplication an element is the same product, to the last bit."""
    graph = product(factors, w=f"{shape} w = {{1.1}}")
    graph = graph if dtype == "f4" else halved(graph)
    edited = copy.deepcopy(graph)
    assert matches(edited, "scale-convs") == [1]
    assert operators(edited) == ["Conv"]
    x = np.random.default_rng(0).normal(0, 3, (2, 3, 5, 7)).astype(dtype)
    assert np.array_equal(run(edited, x)[0], run(graph, x)[0])


@pytest.mark.parametrize("factors", ["x, gate", "gate, x"], ids=["map-first", "gate-first"])
def test_a_gate_is_spread_over_its_map(factors: str) -> None:
    """Each number of the gate meets its whole channel, of its own image, as before."""
    graph = gated(factors)
    edited = copy.deepcopy(graph)
    assert matches(edited, "spread-gates") == [1]
    assert operators(edited) == ["GlobalAveragePool", "Resize", "Mul"]
    x = np.random.default_rng(0).normal(0, 3, (2, 3, 5, 7)).astype("f4")
    assert np.array_equal(run(edited, x)[0], run(graph, x)[0])


def test_a_network_stays_in_one_layout(tmp_path: Path) -> None:
    """ONNX Runtime reorders a gated, weighted network at its ends alone once it is edited."""
    kernel = ", ".join(f"{value:.3f}" for value in np.random.default_rng(0).normal(0, 0.3, 256))
    graph = parsed(
        f"""g (float[1,16,32,32] x) => (float[1,16,32,32] y)
        <float[16,16,1,1] k = {{{kernel}}}, float w = {{0.25}}, float v = {{0.75}}>
        {{
          a = Conv(x, k)
          mean = ReduceMean <axes = [2, 3]> (a)
          b = Conv(mean, k)
          gate = Sigmoid(b)
          gated = Mul(a, gate)
          c = Conv(gated, k)
          one = Mul(c, w)
          other = Mul(a, v)
          sum = Add(one, other)
          y = Conv(sum, k)
        }}"""
    )
    edited = copy.deepcopy(graph)
    apply_edits(edited, ORT_EDITS)
    assert _reorderings(graph, tmp_path / "plain.onnx") > 2
    assert _reorderings(edited, tmp_path / "edited.onnx") <= 2


def _reorderings(model: Any, out: Path) -> int:
    """How often ONNX Runtime changes the layout in *model*, which it writes to *out*."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(out), 4
    onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return sum(name.startswith("Reorder") for name in operators(onnx.load(str(out))))


# Float16.

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


# Graphs that an edit cannot take.

COMPUTED = "the padding of p is computed while the model runs, .* run 'effd0 simplify' first"
BRANCHES = """g (float[2] x, bool choice) => (float[2] y)
    { y = If (choice) <
        then_branch = small () => (float[2] a) { a = Relu(x) },
        else_branch = large () => (float[2] b) { b = Abs(x) }
    > }"""
REFUSED = {
    "padding-fed": ("fold-pad", unreadable("fed"), COMPUTED),
    "filler-fed": ("fold-pad", unreadable("filler"), COMPUTED),
    "axes": ("fold-pad", unreadable("axes"), "the Pad of p pads chosen axes, .*'effd0 simplify'"),
    "attributes": ("fold-pad", unreadable("attributes"),
        "the Pad of p holds its padding in attr.*export at"),
    "weight-beyond-float16": ("fp16",
        parsed("g (float[2] x) => (float[2] y) <float[2] w = {1.0, -70000.0}> {y = Mul(x, w)}"),
        "w holds -70000, but float16 ends at 65504; leave fp16 out"),
    "scales-fed": ("fp16",
        parsed("g (float[1,1,2,2] x, float[4] s) => (float[a,b,c,d] y) { y = Resize(x, s, s) }"),
        "the scales of y are computed .* run 'effd0 simplify' first"),
    "branches": ("fp16", parsed(BRANCHES), r"y \(If\) has branches, but fp16 takes a graph"),
}  # fmt: skip


@pytest.mark.parametrize(("edit", "graph", "message"), REFUSED.values(), ids=REFUSED)
def test_what_an_edit_cannot_take_is_refused(edit: str, graph: Any, message: str) -> None:
    """An edit that cannot tell whether it applies names the place and says what to do."""
    with pytest.raises(GraphError, match=message):
        apply_edits(graph, [edit])
