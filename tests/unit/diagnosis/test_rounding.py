"""Tests for `effd0.diagnosis.rounding`: honest rounding is undone, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effd0.diagnosis.bisect import Finding
from effd0.diagnosis.graph_pairing import Network
from effd0.diagnosis.rounding import Restored, restored
from effd0.tolerances import NOISE
from tests.helpers import onnx_models as graphs

IMAGES = graphs.small_images(1, seed=5)


def undone(model: Any) -> Restored:
    """The rounded *model* beside the small network that it was made of."""
    return restored(model, Network(graphs.small_model()), IMAGES)


def found(model: Any) -> Finding:
    """What a bisection finds once the rounding is undone."""
    return undone(model).bisect(IMAGES)


@pytest.mark.parametrize("form", graphs.FORMS)
def test_honest_rounding_is_undone(form: str, tmp_path: Path) -> None:
    """What is left of a model that was only rounded is its source, up to float32's noise."""
    mine = undone(graphs.quantised(graphs.small_model(), form, tmp_path))
    assert mine.rounding.rounded
    finding = mine.bisect(IMAGES)
    assert (finding.status, mine.wrong, mine.notes) == ("same", {}, ())
    assert finding.worst <= NOISE.limit


def _stored(model: Any, node: str, position: int, part: int) -> str:
    """The initializer behind what *node* reads at *position*: values 0, scale 1, zero point 2."""
    makers = {out: one for one in model.graph.node for out in one.output}
    (reader,) = [one for one in model.graph.node if one.name == node]
    return str(makers[reader.input[position]].input[part])


def _channel(value: np.ndarray, change: Callable[[Any], Any]) -> np.ndarray:
    value[3] = change(value[3])
    return value


def _plant(node: str, position: int, part: int, change: Callable[[Any], Any]) -> Callable[..., str]:
    def plant(model: Any) -> str:
        graphs.change_stored(model, _stored(model, node, position, part), change)
        return node

    return plant


def _attribute(model: Any) -> str:
    return graphs.other_corner(model, graphs.nodes_of(model, "MaxPool")[0])


#: The fault, its stage, and what is said of it, in a model that is quantised by channel.
FAULTS = [
    pytest.param(_plant("node_a", 1, 1, lambda s: s * 1.5), "export", "is scaled by 1.5",
                 id="scale-of-a-weight"),
    pytest.param(_plant("node_b", 1, 1, lambda s: _channel(s, lambda v: v * 2)), "export",
                 "channel 3 is scaled by 2", id="scale-of-a-channel"),
    pytest.param(_plant("node_class", 1, 2, lambda z: z + 8), "export",
                 "is shifted by -8 steps: a zero point is off", id="zero-point-of-a-weight"),
    pytest.param(_plant("node_class", 2, 1, lambda s: s * 1.25), "export", "is scaled by 1.25",
                 id="scale-of-a-bias"),
    pytest.param(_plant("node_class", 1, 0, lambda w: np.clip(w, -60, 60)), "export",
                 "is saturated", id="saturated"),
    pytest.param(_plant("node_box", 1, 0, lambda w: w[::-1]), "export", "is off by up to",
                 id="other-weights"),
    pytest.param(_plant("node_b", 1, 0, lambda w: _channel(w, lambda v: 0 * v)), "export",
                 "channel 3 is zero", id="channel-gone"),
    pytest.param(_attribute, "graph", "pads is [1, 1, 0, 0]", id="padding"),
]  # fmt: skip


@pytest.mark.parametrize(("plant", "stage", "said"), FAULTS)
def test_a_fault_in_a_quantised_graph_is_named(
    plant: Callable[[Any], str], stage: str, said: str, tmp_path: Path
) -> None:
    """The node is named whose stored values or attributes are not the source's, and how."""
    model = graphs.quantised(graphs.small_model(), "qdq-per-channel", tmp_path)
    node = plant(model)
    finding = found(model)
    assert finding.status == "differs"
    assert finding.culprit is not None
    assert (finding.culprit.node, finding.culprit.stage) == (node, stage)
    assert said in finding.explanation


def test_rounding_to_either_side_is_a_note(tmp_path: Path) -> None:
    """Weights that were rounded up or down at will, as is learned, are rounding all the same."""
    model = graphs.quantised(graphs.small_model(), "weights-only", tmp_path)
    source = graphs.numpy_helper.to_array(graphs.small_model().graph.initializer[0])
    scale = np.abs(source).reshape(len(source), -1).max(1).astype(np.float32) / np.float32(127)
    graphs.change_stored(model, "wa", lambda _: np.floor(source / scale[:, None, None, None]))
    mine = undone(model)
    assert mine.wrong == {}
    assert mine.notes == ("1 of 4 weights are not rounded to the nearest value",)
    assert mine.bisect(IMAGES).status == "same"
