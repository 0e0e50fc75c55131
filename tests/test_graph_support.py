"""Tests for `effd0.graph.onnx_info`: what ATC will not take is told before it is called."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from effd0.errors import GraphError
from effd0.graph.onnx_info import check_support, model_input
from effd0.graph.rewrites import apply_edits

from .onnx_models import pad_model, parsed


def sigmoid(opset: int = 11, sides: str = "N,3,512,512", kind: str = "float") -> Any:
    """Return a graph that any ATC takes, but for what is given."""
    return parsed(f"g ({kind}[{sides}] x) => ({kind}[{sides}] y) {{ y = Sigmoid(x) }}", opset)


def shapeless() -> Any:
    """Return a graph whose input has a type but no shape."""
    graph = sigmoid()
    graph.graph.input[0].type.tensor_type.ClearField("shape")
    return graph


def foreign() -> Any:
    """Return a graph with an operator of ONNX Runtime's own."""
    graph = sigmoid()
    graph.graph.node[0].domain, graph.graph.node[0].op_type = "com.microsoft", "QuickGelu"
    return graph


RESIZE = "g (float[1,1,2,2] x) => (float[1,1,4,4] y) <float[4] s = {1.0, 1.0, 2.0, 2.0}> "


@pytest.mark.parametrize("opset", [11, 17], ids="opset={}".format)
@pytest.mark.parametrize("sides", ["N,3,512,512", "1,3,512,512"], ids=["free-batch", "batch-of-1"])
def test_what_atc_takes_is_no_problem(opset: int, sides: str) -> None:
    """The first and last opset, with the batch free or fixed, pass without a word."""
    assert check_support(sigmoid(opset, sides)) == []


@pytest.mark.parametrize(
    ("graph", "told", "fatal"),
    [
        pytest.param(
            sigmoid(18),
            "the model (opset): is 18, but ATC takes 11 to 17; export with --opset 11",
            True,
            id="opset-too-new",
        ),
        pytest.param(
            sigmoid(10),
            "the model (opset): is 10, but ATC takes 11 to 17",
            True,
            id="opset-too-old",
        ),
        pytest.param(
            sigmoid(sides="1,3,H,W"),
            "x (input): is [1, 3, free, free], free beyond the batch; export with",
            True,
            id="sides-are-free",
        ),
        pytest.param(shapeless(), "x (input): has no shape; export with", True, id="no-shape"),
        pytest.param(
            foreign(), "y (QuickGelu): is of com.microsoft, which ATC does", True, id="foreign"
        ),
        pytest.param(
            parsed("g (float[4] x) => (int64[1,n] y) { y = NonZero(x) }"),
            "y (NonZero): makes shapes or branches that depend on data",
            False,
            id="shapes-from-data",
        ),
        pytest.param(
            parsed("g (float[4] x) => (float[4] y) { y = Atanh(x) }"),
            "y (Atanh): is not known to have a parser in ATC; try 'effd0 simplify' first",
            False,
            id="unknown-operator",
        ),
        pytest.param(
            parsed(RESIZE + '{ y = Resize(x, "", s) }', 13),
            "y (Resize): older versions of ATC have no parser for it at opset 13 (E19010); "
            "export with --opset 11",
            False,
            id="resize-of-opset-13",
        ),
        pytest.param(
            pad_model(),
            "p (Pad): pads with -inf, which not every NPU has in float16; run 'effd0 modify'",
            False,
            id="infinite-padding",
        ),
        pytest.param(
            pad_model(constants_are="inputs"),
            "p (Pad): computes its padding while the model runs; run 'effd0 simplify' first",
            False,
            id="computed-padding",
        ),
    ],
)
def test_a_problem_tells_place_reason_and_remedy(graph: Any, told: str, fatal: bool) -> None:
    """Each comes with the node, its operator, the reason and the next step."""
    (problem,) = check_support(graph)
    assert str(problem).startswith(told)
    assert problem.fatal == fatal


def test_a_resize_of_opset_12_is_no_problem() -> None:
    """Field reports are of opset 13 and later."""
    assert check_support(parsed(RESIZE + "{ y = Resize(x, s, s) }", 12)) == []


def test_a_problem_of_many_nodes_is_told_once() -> None:
    """A finding at several nodes is one, with the first place and the number of the others."""
    graph = parsed("""
      g (float[4] x) => (float[4] y) { a = Atanh(x) b = Atanh(a) c = Erf(b) y = Atanh(c) }
    """)
    assert [problem.node for problem in check_support(graph)] == ["a and 2 more"]


def test_fatal_problems_come_first() -> None:
    """What must be mended stands above what may go well."""
    graph = parsed("g (float[4] x) => (float[4] y) { y = Atanh(x) }", 18)
    assert [problem.fatal for problem in check_support(graph)] == [True, False]


def test_the_default_edits_remove_what_they_can() -> None:
    """Padding that is told as a problem is none after the edit that the message names."""
    graph = pad_model()
    apply_edits(graph, ["fold-pad"])
    assert check_support(graph) == []


@pytest.mark.parametrize(
    ("graph", "wanted"),
    [
        pytest.param(sigmoid(), ("x", [None, 3, 512, 512], np.float32), id="free-batch"),
        pytest.param(
            sigmoid(sides="4,3,512,512"), ("x", [4, 3, 512, 512], np.float32), id="batch-of-4"
        ),
        pytest.param(
            sigmoid(sides="1,3,8,8", kind="float16"), ("x", [1, 3, 8, 8], np.float16), id="float16"
        ),
        pytest.param(
            parsed(RESIZE + "{ y = Resize(x, s, s) }"), ("x", [1, 1, 2, 2], np.float32), id="weight"
        ),
    ],
)
def test_the_input_is_read_off_the_graph(graph: Any, wanted: tuple[str, list[int], Any]) -> None:
    """Name, sides and dtype are those of the one tensor that is fed."""
    name, sides, dtype = model_input(graph)
    assert (name, sides, dtype) == (wanted[0], wanted[1], np.dtype(wanted[2]))


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        pytest.param(
            pad_model(constants_are="inputs"),
            "the inputs are x, pads, weight, filler, but one was expected",
            id="many",
        ),
        pytest.param(shapeless(), "the input x has no shape", id="no-shape"),
        pytest.param(
            parsed("g (int64[1] x) => (int64[1] y) { y = Abs(x) }"),
            "x has .* type 7",
            id="integers",
        ),
    ],
)
def test_an_input_that_is_no_image_is_refused(graph: Any, message: str) -> None:
    """A graph that no image can be fed to is not one to compile."""
    with pytest.raises(GraphError, match=message):
        model_input(graph)
