"""Tests for `effd0.graph.rewrites`: means over maps in the forms of the opsets, and look-alikes."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from effd0.graph.rewrites import apply_edits

from .onnx_models import halved, operators, parsed, run

X = np.random.default_rng(0).uniform(-1, 9, (2, 3, 5, 7))


def mean(attributes: str, opset: int = 11) -> Any:
    """Return a mean of a (N, 3, 5, 7) input with these attributes, kept at rank 4."""
    return parsed(
        f"g (float[N,3,5,7] x) => (float[N,3,1,1] y) {{ y = ReduceMean <{attributes}> (x) }}", opset
    )


def mean_over_input(axes: str) -> Any:
    """Return a mean whose axes are an input, as opset 18 has them."""
    return parsed(
        f"""g (float[N,3,5,7] x) => (float[N,3,1,1] y) <int64[2] axes = {{{axes}}}>
        {{ y = ReduceMean <keepdims = 1, noop_with_empty_axes = 0> (x, axes) }}""",
        18,
    )


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # A sum of 35 values up to 9 in another order.  Measured 2026-11-23: 2.4e-7 and 1.6e-3.
    [pytest.param("f4", 2e-6, id="float32"), pytest.param("f2", 8e-3, id="float16")],
)
@pytest.mark.parametrize(
    "graph",
    [
        pytest.param(mean("axes = [2, 3], keepdims = 1"), id="opset-11"),
        pytest.param(mean("axes = [2, 3]"), id="kept-by-default"),
        pytest.param(mean("axes = [3, 2]", opset=13), id="other-order"),
        pytest.param(mean("axes = [-2, -1]", opset=17), id="from-the-end"),
        pytest.param(mean_over_input("2, 3"), id="opset-18"),
        pytest.param(mean_over_input("-1, -2"), id="opset-18-from-the-end"),
    ],
)
def test_a_mean_over_a_map_becomes_a_pooling(graph: Any, dtype: str, tolerance: float) -> None:
    """The pooling gives the mean that numpy gives, and the axes are gone with the old node."""
    edited = copy.deepcopy(graph) if dtype == "f4" else halved(graph)
    assert apply_edits(edited, ["mean-pool"])[0].matches == 1
    assert operators(edited) == ["GlobalAveragePool"]
    assert len(edited.graph.initializer) == 0
    (got,) = run(edited, X.astype(dtype))
    assert got.dtype == dtype
    assert np.abs(got - X.mean((2, 3), keepdims=True)).max() <= tolerance


@pytest.mark.parametrize(
    "graph",
    [
        pytest.param(
            parsed("g (float[2,3,5,7] x) => (float[2,3] y) { y = ReduceMean"
                   " <axes = [2, 3], keepdims = 0> (x) }"),
            id="axes-dropped",
        ),
        pytest.param(
            parsed("g (float[2,3,5,7] x) => (float[2,1,5,7] y)"
                   " { y = ReduceMean <axes = [1]> (x) }"),
            id="over-channels",
        ),
        pytest.param(
            parsed("g (float[2,3,5,7] x) => (float[1,1,1,1] y) { y = ReduceMean (x) }"),
            id="over-all",
        ),
        pytest.param(
            parsed("g (float[2,3,5,7,2] x) => (float[2,3,1,1,2] y)"
                   " { y = ReduceMean <axes = [2, 3]> (x) }"),
            id="rank-5",
        ),
        pytest.param(
            parsed("g (int32[2,3,5,7] x) => (int32[2,3,1,1] y)"
                   " { y = ReduceMean <axes = [2, 3]> (x) }"),
            id="integers",
        ),
        pytest.param(
            parsed(
                "g (float[2,3,5,7] x, int64[2] axes) => (float[2,3,1,1] y)"
                " { y = ReduceMean (x, axes) }",
                18,
            ),
            id="axes-are-fed",
        ),
    ],
)  # fmt: skip
def test_other_means_are_left_alone(graph: Any) -> None:
    """Only a mean over all rows and columns of a feature map, kept as such, is a pooling."""
    edited = copy.deepcopy(graph)
    assert apply_edits(edited, ["mean-pool"])[0].matches == 0
    assert edited == graph
