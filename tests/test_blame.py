"""Tests for `effd0.blame`: wrong weights are export's fault, another computation is the graph's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from effd0.bisect.job import Finding
from effd0.blame import Blame, blame

from .bisect_faults import (
    change_weight,
    left_out,
    moved_bias,
    nodes_of,
    one_channel,
    other_corner,
    rounded,
    scaled,
    set_attribute,
)
from .test_bisect import IMAGES, folded, found, moved_epsilon, tiny

Plant = Callable[[Any, Any], object]


def told_of(finding: Finding) -> Blame | None:
    """Who is blamed for *finding*."""
    return blame(finding, IMAGES.shape[1:])


def planted(op: str, index: int, plant: Plant) -> Finding:
    """What a bisection finds with *plant* done to a node of the tiny graph."""
    bad = tiny()
    plant(bad, nodes_of(bad, op)[index])
    return found(bad, tiny())


def _another_operator(_: Any, node: Any) -> None:
    node.op_type = "Tanh"


def _other_weights_and_pads(model: Any, node: Any) -> None:
    """Weights and an attribute of one node are wrong."""
    scaled(model, node)
    set_attribute(node, "pads", [0, 0, 2, 2])


def _an_extra_node(model: Any, node: Any) -> None:
    """What the node reads is doubled before it, in a node that the reference does not have."""
    twice = copy.deepcopy(nodes_of(model, "Add")[0])
    twice.name, twice.input[:], twice.output[0] = "extra", [node.input[0]] * 2, "doubled"
    node.input[0] = "doubled"
    model.graph.node.insert(list(model.graph.node).index(node), twice)


@pytest.mark.parametrize(
    ("op", "index", "plant", "stage", "says"),
    [
        pytest.param("Conv", 0, scaled, "export", "scaled by 1.02", id="weights-scaled"),
        pytest.param("Conv", 1, one_channel, "export", "weight wb_of_b", id="one-channel-gone"),
        pytest.param("Conv", 3, moved_bias, "export", "weight bz_of_z", id="bias-moved"),
        pytest.param("Conv", 2, rounded, "export", "rounded to float16", id="weights-rounded"),
        pytest.param(
            "BatchNormalization", 0, moved_epsilon, "graph", "attribute epsilon", id="epsilon"
        ),
        pytest.param("MaxPool", 0, other_corner, "graph", "attribute pads", id="pool-padding"),
        pytest.param("Relu", 0, left_out, "graph", "reads ", id="edge"),
        pytest.param("Sigmoid", 0, _another_operator, "graph", "no partner", id="operator"),
        pytest.param("MaxPool", 0, _an_extra_node, "graph", "no partner", id="extra-node"),
        pytest.param("Conv", 0, _other_weights_and_pads, "graph", "; weight wa", id="both"),
    ],
)
def test_what_a_node_differs_in_names_the_stage(
    op: str, index: int, plant: Plant, stage: str, says: str
) -> None:
    """Weights alone are export's; an attribute, an operator, an edge or a node are the graph's."""
    finding = planted(op, index, plant)
    told = told_of(finding)
    assert told is not None
    assert finding.culprit is not None
    assert told.stage == stage
    assert told.suspicion.startswith(f"{finding.culprit.op} {finding.culprit.node}: ")
    assert says in told.suspicion


def test_the_suspicion_says_how_it_was_tested() -> None:
    """What the node reads agrees with the reference, and what it gives does not."""
    finding = planted("Conv", 3, moved_bias)
    told, culprit = told_of(finding), finding.culprit
    assert told is not None
    assert culprit is not None
    assert told.suspicion == (
        f"Conv node_z: weight bz_of_z differs: max abs 0.1 in 1 of 5 values; "
        f"what it reads is off by 0, what it gives by {culprit.error:.2g}"
    )


def test_a_node_without_a_difference_is_the_graphs() -> None:
    """The same node with the same weights that gives something else computes otherwise."""
    finding = planted("Conv", 3, moved_bias)
    (suspect,) = finding.suspects
    told = told_of(replace(finding, suspects=(replace(suspect, differences=()),)))
    assert told is not None
    assert told.stage == "graph"
    assert told.suspicion.startswith("Conv node_z: the same node computes something else; what")


@pytest.mark.parametrize(
    ("nodes", "more"),
    [
        pytest.param(1, "", id="one"),
        pytest.param(2, " (1 more node errs by itself)", id="two"),
        pytest.param(3, " (2 more nodes err by themselves)", id="three"),
    ],
)
def test_more_nodes_in_error_are_counted(nodes: int, more: str) -> None:
    """The first is blamed; how many err beside it says whether all weights are wrong."""
    finding = planted("Conv", 1, scaled)
    told = told_of(replace(finding, suspects=finding.suspects * nodes))
    assert told is not None
    assert finding.culprit is not None
    assert told.suspicion.endswith(f" by {finding.culprit.error:.2g}{more}")


@pytest.mark.parametrize(
    ("index", "at_input"), [(0, True), (1, False)], ids=["first-node", "behind-it"]
)
def test_a_node_that_reads_the_images_is_told(index: int, at_input: bool) -> None:
    """What is wrong there may be what preprocessing has done already."""
    told = told_of(planted("Conv", index, scaled))
    assert told is not None
    assert told.at_input is at_input


def test_the_first_node_decides() -> None:
    """An attribute behind wrong weights does not make them the graph's."""
    bad = tiny()
    scaled(bad, nodes_of(bad, "Conv")[0])
    other_corner(bad, nodes_of(bad, "MaxPool")[0])
    told = told_of(found(bad, tiny()))
    assert told is not None
    assert (told.stage, told.suspicion[:12]) == ("export", "Conv node_a:")


def _same_input(_: Any) -> None:
    """Nothing is changed."""


def _another_input(model: Any) -> None:
    """The images are wider."""
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 9


def _noise(model: Any) -> None:
    """One weight is off by its last digit."""
    change_weight(model, nodes_of(model, "Conv")[0], 1, lambda w: np.nextafter(w, np.float32(9)))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(_same_input, id="the-same"),
        pytest.param(_noise, id="float-noise"),
        pytest.param(_another_input, id="another-input"),
    ],
)
def test_where_no_node_is_found_nobody_is_blamed(change: Callable[[Any], None]) -> None:
    """No guess is made where bisection found nothing or could not be done."""
    bad = tiny()
    change(bad)
    assert told_of(found(bad, tiny())) is None


def test_a_fused_graph_is_blamed_for_its_weights() -> None:
    """A batch normalisation folded into its convolution is no fault of the graph's."""
    bad = folded()
    scaled(bad, nodes_of(bad, "Conv")[2])
    told = told_of(found(bad, tiny()))
    assert told is not None
    assert told.stage == "export"
