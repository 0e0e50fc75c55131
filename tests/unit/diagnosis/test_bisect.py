"""Tests for `effd0.diagnosis.bisect`: faults in graphs of a few nodes, and in a D0."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from effd0.data import fixture
from effd0.diagnosis.bisect import (
    BATCH,
    Finding,
    batch_suspect,
    bisect,
    bisect_networks,
    distance,
    one_among,
)
from effd0.diagnosis.graph_pairing import Network
from effd0.errors import GraphError, RunnerError
from effd0.export.to_onnx import ExportSettings, write_onnx, write_simplified
from effd0.spec import D0
from effd0.tolerances import NOISE
from tests.helpers import SMALL
from tests.helpers import onnx_models as graphs
from tests.helpers.onnx_models import change_weight, moved_bias, nodes_of, parsed, renamed, scaled

#: Rows above, columns left, rows below and columns right.
Ring = tuple[int, int, int, int]
RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((1, 3, 8, 8), np.float32)
#: A trunk, two branches of the same kinds of nodes, and heads of one shape each.
GRAPH = """
tiny (float[1,3,8,8] x) => (float[1,4,8,8] y, float[1,5,4,4] z) {
  a = Conv<pads=[1,1,1,1]>(x, wa, ba)
  n = BatchNormalization<epsilon=0.001>(a, scale, shift, mean, var)
  s = Sigmoid(n)
  m = Mul(n, s)
  b = Conv(m, wb, bb)
  c = Conv(m, wc, bc)
  r = Relu(c)
  y = Add(b, r)
  p = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[0,0,1,1]>(r)
  z = Conv(p, wz, bz)
}
"""
SHAPES = {
    "wa": (4, 3, 3, 3), "wb": (4, 4, 1, 1), "wc": (4, 4, 1, 1), "wz": (5, 4, 1, 1),
    "ba": (4,), "bb": (4,), "bc": (4,), "bz": (5,),
    "scale": (4,), "shift": (4,), "mean": (4,), "var": (4,),
}  # fmt: skip


def tiny() -> Any:
    """The graph above, with weights and with nodes named after what they give."""
    model = parsed(_with_inputs(GRAPH))
    rng = np.random.default_rng(1)
    for name, shape in SHAPES.items():
        value = np.abs(rng.standard_normal(shape, np.float32)) + np.float32(0.1)
        model.graph.initializer.append(numpy_helper.from_array(value - (name[0] == "w"), name))
    del model.graph.input[1:]
    for node in model.graph.node:
        node.name = f"node_{node.output[0]}"
    return model


def _with_inputs(graph: str) -> str:
    """The text with all weights as inputs, so that it can be checked before they have values."""
    more = "".join(f", float[{','.join(map(str, shape))}] {name}" for name, shape in SHAPES.items())
    return graph.replace("] x)", f"] x{more})")


def folded() -> Any:
    """The same function with the batch normalisation folded into the convolution before it."""
    model = tiny()
    conv, norm = model.graph.node[:2]
    known = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    factor = known["scale"] / np.sqrt(known["var"] + np.float32(0.001))
    change_weight(model, conv, 1, lambda w: w * factor[:, None, None, None])
    change_weight(model, conv, 2, lambda b: (b - known["mean"]) * factor + known["shift"])
    model.graph.node.remove(norm)
    conv.output[0] = "n"
    return model


def found(bad: Any, good: Any) -> Finding:
    """What a bisection of two graphs finds."""
    return bisect_networks(Network(bad), Network(good), IMAGES)


def moved_epsilon(model: Any, node: Any) -> str:  # noqa: ARG001  # all faults are called alike
    """The batch normalisation divides by more."""
    graphs.set_attribute(node, "epsilon", 0.01)
    return str(node.name)


def another_operator(_: Any, node: Any) -> str:
    """A sigmoid became a tanh."""
    node.op_type = "Tanh"
    return str(node.name)


def other_weights_and_pads(model: Any, node: Any) -> str:
    """Weights and an attribute of one node are wrong."""
    graphs.set_attribute(node, "pads", [0, 0, 2, 2])
    return scaled(model, node)


def defaults_and_weights(model: Any, node: Any) -> str:
    """Weights are wrong; defaults that are spelled out, as by torch's new exporter, are not."""
    graphs.set_attribute(node, "auto_pad", "NOTSET")
    graphs.set_attribute(node, "group", 1)
    return scaled(model, node)


def extra_node(model: Any, node: Any) -> str:
    """What the node reads is doubled before it, in a node that the reference does not have."""
    twice = copy.deepcopy(nodes_of(model, "Add")[0])
    twice.name, twice.input[:], twice.output[0] = "extra", [node.input[0]] * 2, "doubled"
    node.input[0] = "doubled"
    model.graph.node.insert(list(model.graph.node).index(node), twice)
    return "extra"


#: Operator, which of its nodes, the fault, its stage and what is said of it.
FAULTS = [
    pytest.param("Conv", 0, scaled, "export", "scaled by 1.02", id="first-weights-scaled"),
    pytest.param("Conv", 2, graphs.one_channel, "export", "in 4 of 16 values", id="channel-gone"),
    pytest.param("Conv", 3, moved_bias, "export", "max abs 0.1 in 1 of 5", id="last-bias-moved"),
    pytest.param("Conv", 2, graphs.rounded, "export", "rounded to float16", id="rounded"),
    pytest.param("BatchNormalization", 0, moved_epsilon, "graph", "epsilon is", id="epsilon"),
    pytest.param("Sigmoid", 0, graphs.left_out, "graph", "reads ", id="sigmoid-left-out"),
    pytest.param("MaxPool", 0, graphs.other_corner, "graph", "pads is [1, 1, 0, 0]", id="padding"),
    pytest.param("Sigmoid", 0, another_operator, "graph", "no partner", id="operator"),
    pytest.param("MaxPool", 0, extra_node, "graph", "no partner", id="extra-node"),
    pytest.param("Conv", 2, defaults_and_weights, "export", ": weight ", id="defaults-written-out"),
    pytest.param("Conv", 0, other_weights_and_pads, "graph", "; weight ", id="weights-and-pads"),
]


@pytest.mark.parametrize("names", ["same-names", "renamed"])
@pytest.mark.parametrize(("op", "index", "plant", "stage", "evidence"), FAULTS)
def test_a_fault_is_named(
    op: str, index: int, plant: Callable[[Any, Any], str], stage: str, evidence: str, names: str
) -> None:
    """The first node in error is the one that was changed; weights alone are export's fault."""
    bad = tiny()
    wanted = plant(bad, nodes_of(bad, op)[index])
    if names == "renamed":
        wanted = renamed(bad)[wanted]
    finding = found(bad, tiny())
    assert finding.status == "differs"
    assert finding.culprit is not None
    assert (finding.culprit.node, finding.culprit.stage) == (wanted, stage)
    assert finding.culprit.upstream == 0
    assert finding.explanation.startswith(f"{finding.culprit.op} {wanted}: ")
    assert evidence in finding.explanation
    error = f"what it reads is off by 0, what it gives by {finding.culprit.error:.2g}"
    assert f"; {error}" in finding.explanation


@pytest.mark.parametrize("make", [tiny, folded], ids=["itself", "batch-normalisation-folded"])
@pytest.mark.parametrize("names", ["same-names", "renamed"])
def test_the_same_function_is_no_fault(make: Callable[[], Any], names: str) -> None:
    """Names, an order of outputs and a fusion do not make a difference."""
    bad = make()
    if names == "renamed":
        renamed(bad)
    finding = found(bad, tiny())
    assert (finding.status, finding.suspects) == ("same", ())
    assert finding.pairs is not None
    assert sum(finding.pairs.values()) == finding.nodes


@pytest.mark.parametrize(
    ("op", "index", "plant", "stage", "evidence"),
    [fault for fault in FAULTS if fault.values[0] != "BatchNormalization"],
)
@pytest.mark.parametrize("side", ["model", "reference"])
def test_norms_of_one_side_alone_hide_no_fault(
    op: str, index: int, plant: Callable[[Any, Any], str], stage: str, evidence: str, side: str
) -> None:
    """A batch norm that one file has as a node, and the other folded in, is no difference."""
    bad, good = (tiny(), folded()) if side == "model" else (folded(), tiny())
    wanted = plant(bad, nodes_of(bad, op)[index])
    finding = found(bad, good)
    assert [suspect.node for suspect in finding.suspects] == [wanted]
    assert (finding.suspects[0].stage, evidence in finding.explanation) == (stage, True)


def other_weights(*convolutions: int) -> Any:
    """The graph with other weights in some of its convolutions."""
    model = tiny()
    for number in convolutions:
        change_weight(model, nodes_of(model, "Conv")[number], 1, lambda w: w[:, ::-1] + 0.1)
    return model


def in_parts() -> Any:
    """The graph, the first two of its convolutions in the backbone and the others in the heads."""
    model = tiny()
    for number, part in enumerate(("backbone", "backbone", "box_net", "box_net")):
        nodes_of(model, "Conv")[number].name = f"/{part}/{number}"
    return model


ALL_AGREE = "; with the reference's all outputs agree; the first is Conv node_a: weight "


@pytest.mark.parametrize(
    ("convolutions", "said"),
    [
        pytest.param((0, 1, 2, 3), "another checkpoint: 4 of 4 convolutions have other weights: "
                     f"all 2 in backbone, all 2 in box_net{ALL_AGREE}", id="all"),
        pytest.param((0, 1), "another checkpoint: 2 of 4 convolutions have other weights: "
                     f"all 2 in backbone{ALL_AGREE}", id="backbone"),
        pytest.param((0, 3), "2 of 4 convolutions have other weights: 1 of 2 in backbone, "
                     "1 of 2 in box_net; the first is Conv node_a: weight ", id="here-and-there"),
        pytest.param((0,), "Conv node_a: weight ", id="one"),
    ],
)  # fmt: skip
def test_other_weights_are_counted_first(convolutions: tuple[int, ...], said: str) -> None:
    """How many are others, and in which parts, stands before the first of them."""
    finding = found(other_weights(*convolutions), in_parts())
    assert finding.explanation.startswith(said)
    assert finding.culprit is not None
    assert finding.culprit.stage == "export"


def test_another_checkpoint_is_named_where_its_weights_explain_all() -> None:
    """Beside a fault of the graph, other weights are counted, but named as no cause of it all."""
    bad = other_weights(0, 1, 2, 3)
    graphs.other_corner(bad, nodes_of(bad, "MaxPool")[0])
    assert found(bad, tiny()).explanation.startswith("4 of 4 convolutions have other weights; the")


def unfolded(ring: Ring = (1, 1, 1, 1), filler: float = 0, pool: Ring = (0, 0, 1, 1)) -> Any:
    """The graph with Pads in front of the first convolution and the pooling, as a raw export."""
    model = tiny()
    for op, sides, value in (("Conv", ring, filler), ("MaxPool", pool, -np.inf)):
        node = nodes_of(model, op)[0]
        around = np.array([0, 0, *sides[:2], 0, 0, *sides[2:]])
        for name, array in ((f"{op}_ring", around), (f"{op}_filler", np.array(value, np.float32))):
            model.graph.initializer.append(numpy_helper.from_array(array, name))
        inputs = [node.input[0], f"{op}_ring", f"{op}_filler"]
        pad = helper.make_node("Pad", inputs, [f"{op}_padded"], name=f"pad_{op}")
        model.graph.node.insert(list(model.graph.node).index(node), pad)
        node.input[0] = pad.output[0]
        graphs.set_attribute(node, "pads", [0, 0, 0, 0])
    return model


def unfolded_and_scaled() -> Any:
    """Beside it, the weights of that convolution are wrong."""
    model = unfolded()
    scaled(model, nodes_of(model, "Conv")[0])
    return model


@pytest.mark.parametrize(
    ("bad", "stage", "said"),
    [
        pytest.param(unfolded_and_scaled(), "export", "Conv node_a: weight ", id="weights"),
        pytest.param(
            unfolded(ring=(2, 2, 0, 0)), "graph", "Conv node_a: attribute pads is [2, 2, 0, 0], "
            "but [1, 1, 1, 1] in the reference; what", id="ring",
        ),
        pytest.param(
            unfolded(filler=3), "graph", "Conv node_a: attribute pads is [0, 0, 0, 0], "
            "but [1, 1, 1, 1] in the reference; reads", id="filler",
        ),
        pytest.param(
            unfolded(pool=(1, 1, 0, 0)), "graph", "MaxPool node_p: attribute pads is [1, 1, 0, 0], "
            "but [0, 0, 1, 1] in the reference; what", id="pooling",
        ),
    ],
)  # fmt: skip
def test_a_padding_of_its_own_is_no_difference(bad: Any, stage: str, said: str) -> None:
    """What a raw export pads in front of a node counts as the node's own padding."""
    assert found(unfolded(), tiny()).status == "same"
    finding = found(bad, tiny())
    assert finding.culprit is not None
    assert finding.culprit.stage == stage
    assert finding.explanation.startswith(said)


def test_a_fault_behind_a_fused_block_is_named() -> None:
    """Blocks that were fused differently are paired by what they give, and the search goes on."""
    bad = folded()
    wanted = scaled(bad, nodes_of(bad, "Conv")[2])
    finding = found(bad, tiny())
    assert finding.culprit is not None
    assert finding.culprit.node == wanted


def test_an_output_is_compared_whatever_gives_it() -> None:
    """A node behind an output's own, which the reference does not have, is no difference."""
    bad = tiny()
    (last,) = nodes_of(bad, "Add")
    behind = copy.deepcopy(nodes_of(bad, "Relu")[0])
    behind.op_type, behind.name, behind.input[0], behind.output[0] = "Identity", "last", "y0", "y"
    last.output[0] = "y0"
    bad.graph.node.append(behind)
    finding = found(bad, tiny())
    assert (finding.status, finding.worst) == ("same", 0)


def test_two_faults_are_both_suspects() -> None:
    """Behind the first node stand the next ones that make an error of their own."""
    bad = tiny()
    wanted = [scaled(bad, nodes_of(bad, "Conv")[1]), scaled(bad, nodes_of(bad, "Conv")[2])]
    finding = found(bad, tiny())
    assert [suspect.node for suspect in finding.suspects] == wanted
    assert finding.explanation.endswith(" (1 more node errs by itself)")


def test_a_fault_that_no_output_shows_is_hidden() -> None:
    """A branch that fades beside its trunk is still told, apart from what moves an output."""
    bad, good = tiny(), tiny()
    for model in (bad, good):
        change_weight(model, nodes_of(model, "Conv")[1], 1, lambda w: 1e-2 * w)
        change_weight(model, nodes_of(model, "Conv")[1], 2, lambda b: 0 * b)
    wanted = graphs.rounded(bad, nodes_of(bad, "Conv")[1])
    finding = found(bad, good)
    assert finding.status == "hidden"
    assert [suspect.node for suspect in finding.suspects] == [wanted]


@pytest.mark.parametrize(
    ("name", "shape", "status"),
    [
        pytest.param("image", (1, 3, 8, 8), "same", id="name-alone"),
        pytest.param("x", (1, 3, 9, 8), "inputs differ", id="shape"),
    ],
)
def test_inputs_that_differ_are_told(name: str, shape: tuple[int, ...], status: str) -> None:
    """Another name is a note; another shape cannot be fed the same."""
    bad = tiny()
    value = bad.graph.input[0]
    nodes_of(bad, "Conv")[0].input[0] = value.name = name
    for dim, side in zip(value.type.tensor_type.shape.dim, shape, strict=True):
        dim.dim_value = side
    finding = found(bad, tiny())
    assert finding.status == status
    assert len(finding.notes) == 1
    assert "in the reference" in finding.notes[0]


def test_a_nan_is_told_and_written() -> None:
    """A tensor that is not finite is infinitely far off, in words that JSON takes."""
    bad = tiny()
    change_weight(bad, nodes_of(bad, "Conv")[2], 1, lambda w: w * np.nan)
    finding = found(bad, tiny())
    assert finding.culprit is not None
    assert finding.culprit.node == "node_c"
    assert finding.to_json()["suspects"][0]["error"] == "inf"


def test_a_model_that_cannot_run_is_refused() -> None:
    """The runtime's own reason comes through; without an input there is nothing to feed."""
    bad = tiny()
    graphs.set_attribute(nodes_of(bad, "MaxPool")[0], "kernel_shape", [30, 30])
    with pytest.raises(RunnerError, match="it has to run before it can be bisected"):
        found(bad, tiny())
    del bad.graph.input[:]
    with pytest.raises(GraphError, match="the model has no input"):
        Network(bad)


#: Each image times its mean.
MEANS = "g (float[N,3,8,8] x) => (float[N,3,8,8] y) { m = ReduceMean<axes=[2,3]>(x) y = Mul(x, m) }"


@pytest.mark.parametrize(
    ("op", "plant", "row"),
    [("ReduceMean", graphs.over_batch, 0), ("Mul", graphs.from_row_five, 5)],
    ids=["mean-over-batch", "rows-from-five"],
)
def test_an_image_that_depends_on_its_batch_names_the_node(
    op: str, plant: Callable[[Any, Any], str], row: int
) -> None:
    """In a batch of eight, the first node that gives an image something else than alone."""
    model = parsed(MEANS)
    for node in model.graph.node:
        node.name = node.op_type
    batch = one_among(RNG.standard_normal((2, 3, 8, 8), np.float32), BATCH)
    assert batch_suspect(Network(model), batch) is None
    (node,) = nodes_of(model, op)
    wanted = plant(model, node)
    suspect = batch_suspect(Network(model), batch)
    assert suspect is not None
    assert (suspect.node, suspect.stage) == (wanted, "graph")
    assert suspect.differences[0].startswith(f"row {row} of a batch of 8 is not what")


@pytest.mark.parametrize("pixels", [False, True], ids=["planes-last", "pixels"])
def test_a_model_that_takes_another_input_is_bisected(pixels: bool, tmp_path: Path) -> None:
    """Both are fed the same images, each in its own form; a fault is found where it lies."""
    paths = good, bad, faulty, late = [tmp_path / f"{name}.onnx" for name in "abcd"]
    for path in paths:
        model = graphs.head_model(SMALL.head_shapes)
        if path is not good:
            graphs.with_foreign_input(model, SMALL, pixels=pixels, last=True)
        wanted = {
            faulty: lambda m: scaled(m, nodes_of(m, "Conv")[3]),
            late: lambda m: graphs.from_row_five(m, nodes_of(m, "Conv")[3]),
        }
        if path in wanted:
            wanted[path](model)
        onnx.save(model, str(path))
    finding = bisect(bad, good, SMALL)
    assert finding.status == "same"
    assert len(finding.notes) == 1
    assert [s.output for s in bisect(faulty, good, SMALL).suspects] == ["class_p6"]
    finding = bisect(late, good, SMALL)
    assert [suspect.node for suspect in finding.suspects] == ["joined"]
    assert (finding.status, finding.worst > NOISE.limit) == ("differs", True)


def test_what_is_no_number_is_compared() -> None:
    """An equal NaN or infinity is no difference; one on one side alone is infinitely far."""
    for got, wanted, error in (
        ([np.nan, np.inf], [np.nan, np.inf], 0), ([np.nan, 4], [3, 4], np.inf),
        ([0, 1], [0, 0], np.inf), ([3, 9], [3, 4], 1), ([1], [1, 1], np.inf),
    ):  # fmt: skip
        assert distance(np.array(got, np.float32), np.array(wanted, np.float32)) == error


# A whole D0.


@pytest.mark.slow
def test_raw_and_simplified_are_the_same(tmp_path: Path) -> None:
    """Every node of the simplified D0 has a partner in the raw one, none off by more than noise."""
    raw, simplified = tmp_path / "raw.onnx", tmp_path / "simplified.onnx"
    write_onnx(fixture.checkpoint(), raw, D0, ExportSettings(batch_size=1))
    write_simplified(raw, simplified)
    bad, good = (Network(onnx.load(str(path))) for path in (simplified, raw))
    finding = bisect_networks(bad, good, fixture.sample_inputs(1, D0))
    assert finding.status == "same"
    assert finding.pairs is not None
    assert sum(finding.pairs.values()) == finding.nodes
    # Outputs differ by 3.7e-7 (2026-11-23): a tenth of what is allowed leaves room for a CPU.
    assert finding.worst < NOISE.limit / 10
