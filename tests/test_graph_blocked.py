"""Tests for `effd0.graph.rewrites_ort` and step-means: the same products and means, one layout."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from effd0.graph.rewrites import ORT_EDITS, apply_edits

from .onnx_models import halved, operators, parsed, run

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


@pytest.mark.parametrize(
    "graph",
    [
        pytest.param(product("x, w", w="float[3,1,1] w = {1, 2, 3}"), id="one-a-channel"),
        pytest.param(product("x, w", "int32", "int32 w = {2}"), id="integers"),
        pytest.param(gated("x, x"), id="square"),
        pytest.param(
            parsed("g (float[2,3,5] x) => (float[2,3,5] y) <float w = {2}> { y = Mul(x, w) }"),
            id="rank-3",
        ),
        pytest.param(
            parsed("g (float[2,C,5,7] x) => (float[2,C,5,7] y) <float w = {2}> { y = Mul(x, w) }"),
            id="channels-unknown",
        ),
    ],
)
def test_other_products_are_no_convolutions(graph: Any) -> None:
    """Only a feature map of known channels times one float number is taken."""
    edited = copy.deepcopy(graph)
    assert apply_edits(edited, ["scale-convs"])[0].matches == 0
    assert edited == graph


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


@pytest.mark.parametrize(
    "graph",
    [
        pytest.param(gated("x, gate", batch="N"), id="batch-free"),
        pytest.param(gated("x, gate", gate="Sigmoid"), id="same-size"),
        pytest.param(
            parsed(
                """g (float[2,3,5,7] x) => (float[2,3,1,1] y)
                { gate = GlobalAveragePool(x)  y = Mul(gate, gate) }"""
            ),
            id="gate-squared",
        ),
        pytest.param(
            parsed(
                """g (float[2,3,5,7] x, float[2,1,1,1] gate) => (float[2,3,5,7] y)
                { y = Mul(x, gate) }"""
            ),
            id="one-an-image",
        ),
        pytest.param(
            parsed(
                """g (float[2,3,5,7] x, float[1,3,1,1] gate) => (float[2,3,5,7] y)
                { y = Mul(x, gate) }"""
            ),
            id="one-for-all-images",
        ),
    ],
)
def test_other_products_have_no_gate_to_spread(graph: Any) -> None:
    """Only one number for each channel of each image, of fixed sizes, is taken."""
    edited = copy.deepcopy(graph)
    assert apply_edits(edited, ["spread-gates"])[0].matches == 0
    assert edited == graph


def mean_of(rows: int, columns: int, axes: str = "axes = [2, 3]") -> Any:
    """Return a mean over the rows and columns of a free batch of maps."""
    return parsed(
        f"g (float[N,3,{rows},{columns}] x) => (float[N,3,1,1] y) {{ y = ReduceMean <{axes}> (x) }}"
    )


@pytest.mark.parametrize("sides", [(8, 8), (16, 40), (256, 256)], ids="{0[0]}x{0[1]}".format)
def test_a_mean_is_taken_in_two_steps(sides: tuple[int, int]) -> None:
    """The mean of equal parts' means is the mean, with sums too short to lose digits."""
    edited = mean_of(*sides)
    assert apply_edits(edited, ["step-means"])[0].matches == 1
    assert operators(edited) == ["AveragePool", "GlobalAveragePool"]
    x = RNG.uniform(0, 9, (2, 3, *sides)).astype("f4")
    # A last bit of 9 is 9.5e-7; measured 2026-11-25: 1.0e-6, and 2.7e-5 in a single step.
    assert np.abs(run(edited, x)[0] - x.mean((2, 3), "f8", keepdims=True)).max() <= 5e-6


@pytest.mark.parametrize(
    "graph",
    [
        pytest.param(mean_of(12, 16), id="rows-in-no-eighths"),
        pytest.param(mean_of(16, 12), id="columns-in-no-eighths"),
        pytest.param(
            parsed("g (float[2,3,8,W] x) => (float[2,3,1,1] y)"
                   " { y = ReduceMean <axes = [2, 3]> (x) }"),
            id="columns-unknown",
        ),
        pytest.param(
            parsed("g (float[2,3,8,8] x) => (float[2,1,8,8] y)"
                   " { y = ReduceMean <axes = [1]> (x) }"),
            id="over-channels",
        ),
    ],
)  # fmt: skip
def test_other_means_take_one_step(graph: Any) -> None:
    """What has no equal parts stays as it is."""
    edited = copy.deepcopy(graph)
    assert apply_edits(edited, ["step-means"])[0].matches == 0
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
