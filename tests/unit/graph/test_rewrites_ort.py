"""Tests for `effd0.graph.rewrites_ort` the same products in one layout."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from effd0.graph.rewrites import ORT_EDITS, apply_edits
from tests.helpers.onnx_models import halved, operators, parsed, run

RNG = np.random.default_rng(0)


def product(factors: str, dtype: str = "float", w: str = "float w = {1.25}") -> Any:
    """Return a product of a (N, 3, 5, 7) input x with the constant *w*."""
    return parsed(f"g ({dtype}[N,3,5,7] x) => ({dtype}[N,3,5,7] y) <{w}> {{ y = Mul({factors}) }}")


def gated(factors: str, batch: str = "2", gate: str = "GlobalAveragePool") -> Any:
    """Return a (batch, 3, 5, 7) input x times a gate that is made of it."""
    return parsed(
        f"""g (float[{batch},3,5,7] x) => (float[{batch},3,5,7] y)
        {{ gate = {gate}(x)  y = Mul({factors}) }}"""
    )


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
    assert apply_edits(edited, ["scale-convs"])[0].matches == 1
    onnx.checker.check_model(edited, full_check=True)
    assert operators(edited) == ["Conv"]
    x = RNG.normal(0, 3, (2, 3, 5, 7)).astype(dtype)
    assert np.array_equal(run(edited, x)[0], run(graph, x)[0])


@pytest.mark.parametrize("factors", ["x, gate", "gate, x"], ids=["map-first", "gate-first"])
def test_a_gate_is_spread_over_its_map(factors: str) -> None:
    """Each number of the gate meets its whole channel, of its own image, as before."""
    graph = gated(factors)
    edited = copy.deepcopy(graph)
    assert apply_edits(edited, ["spread-gates"])[0].matches == 1
    onnx.checker.check_model(edited, full_check=True)
    assert operators(edited) == ["GlobalAveragePool", "Resize", "Mul"]
    x = RNG.normal(0, 3, (2, 3, 5, 7)).astype("f4")
    assert np.array_equal(run(edited, x)[0], run(graph, x)[0])


LOOK_ALIKES = {
    "scale-convs": {
        "one-number-a-channel": product("x, w", w="float[3,1,1] w = {1, 2, 3}"),
        "integers": product("x, w", "int32", "int32 w = {2}"),
        "square": gated("x, x"),
        "rank-3": parsed(
            "g (float[2,3,5] x) => (float[2,3,5] y) <float w = {2}> { y = Mul(x, w) }"
        ),
        "channels-unknown": parsed(
            "g (float[2,C,5,7] x) => (float[2,C,5,7] y) <float w = {2}> { y = Mul(x, w) }"
        ),
    },
    "spread-gates": {
        "batch-free": gated("x, gate", batch="N"),
        "gate-of-the-same-size": gated("x, gate", gate="Sigmoid"),
        "gate-squared": parsed(
            """g (float[2,3,5,7] x) => (float[2,3,1,1] y)
            { gate = GlobalAveragePool(x)  y = Mul(gate, gate) }"""
        ),
        "one-an-image": parsed(
            "g (float[2,3,5,7] x, float[2,1,1,1] z) => (float[2,3,5,7] y) { y = Mul(x, z) }"
        ),
        "one-for-all-images": parsed(
            "g (float[2,3,5,7] x, float[1,3,1,1] z) => (float[2,3,5,7] y) { y = Mul(x, z) }"
        ),
    },
}


@pytest.mark.parametrize(
    ("edit", "graph"),
    [
        pytest.param(edit, graph, id=f"{edit}-{name}")
        for edit, graphs in LOOK_ALIKES.items()
        for name, graph in graphs.items()
    ],
)
def test_other_products_are_left_alone(edit: str, graph: Any) -> None:
    """A map of known channels times one number, or times one a channel of each image, is taken."""
    edited = copy.deepcopy(graph)
    assert apply_edits(edited, [edit])[0].matches == 0
    assert edited == graph


def test_a_network_stays_in_one_layout(tmp_path: Path) -> None:
    """ONNX Runtime reorders a gated, weighted network at its ends alone once it is edited."""
    kernel = ", ".join(f"{value:.3f}" for value in RNG.normal(0, 0.3, 256))
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
