"""Tests for `effd0.diagnosis.rounding`: honest rounding is undone, and nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

from effd0.diagnosis.bisect import Finding, bisect_restored
from effd0.diagnosis.graph_pairing import Network
from effd0.diagnosis.parity import compare_plain, fresh_export
from effd0.diagnosis.rounding import Own, Restored, check_quantisers, own_errors, restored
from effd0.graph.onnx_info import load_graph, read_model
from effd0.graph.rewrites import apply_edits, save_graph
from effd0.results.check import Broken
from effd0.spec import ModelSpec
from effd0.tolerances import NOISE
from effd0.types import Tensor, Tensors
from tests.helpers import onnx_models as graphs

IMAGES = graphs.small_images(1, seed=5)


def undone(model: Any) -> Restored:
    """The rounded *model* beside the small network that it was made of."""
    mine = restored(model, Network(graphs.small_model()), IMAGES)
    assert mine is not None
    return mine


def found(model: Any) -> Finding:
    """What a bisection finds once the rounding is undone."""
    return bisect_restored(undone(model), IMAGES)


@pytest.mark.parametrize("form", graphs.FORMS)
def test_honest_rounding_is_undone(form: str, tmp_path: Path) -> None:
    """What is left of a model that was only rounded is its source, up to float32's noise."""
    mine = undone(graphs.quantised(graphs.small_model(), form, tmp_path))
    assert mine.rounding.rounded
    finding = bisect_restored(mine, IMAGES)
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
    source = numpy_helper.to_array(graphs.small_model().graph.initializer[0])
    scale = np.abs(source).reshape(len(source), -1).max(1).astype(np.float32) / np.float32(127)
    graphs.change_stored(model, "wa", lambda _: np.floor(source / scale[:, None, None, None]))
    mine = undone(model)
    assert mine.wrong == {}
    assert mine.notes == ("1 of 4 weights are not rounded to the nearest value",)
    assert bisect_restored(mine, IMAGES).status == "same"


@pytest.mark.parametrize("form", graphs.FORMS)
def test_quantisers_of_an_honest_build_fit_their_tensors(form: str, tmp_path: Path) -> None:
    """Ranges that were calibrated on a few images fit others of their kind."""
    mine = undone(graphs.quantised(graphs.small_model(), form, tmp_path))
    check_quantisers(mine, graphs.small_images(2, seed=9))
    assert (len(own_errors(mine, IMAGES)) > 0) == (form in graphs.QUANTISED)


def _both(tensor: str, position: int, change: Callable[[Any], Any]) -> Callable[[Any], None]:
    """*change* of the scale (1) or zero point (2) of *tensor*, where it is rounded and back."""

    def plant(model: Any) -> None:
        (one,) = [n for n in graphs.nodes_of(model, "QuantizeLinear") if n.output[0] == tensor]
        graphs.change_stored(model, one.input[position], change)

    return plant


def _one_side(position: int, change: Callable[[Any], Any]) -> Callable[[Any], None]:
    """*change* of the scale (1) or zero point (2) of the gate's output, where it is turned back."""

    def plant(model: Any) -> None:
        nodes = graphs.nodes_of(model, "DequantizeLinear")
        (node,) = [n for n in nodes if n.input[0] == "s_QuantizeLinear_Output"]
        (stored,) = [t for t in model.graph.initializer if t.name == node.input[position]]
        own = numpy_helper.from_array(numpy_helper.to_array(stored), "own")
        model.graph.initializer.append(own)
        node.input[position] = "own"
        graphs.change_stored(model, "own", change)

    return plant


MISFITS = [
    pytest.param(_one_side(2, lambda zero: zero + 8), "the zero point -128, but", id="zero-point"),
    pytest.param(_one_side(1, lambda scale: scale * 1.5), "the scale 0.0", id="scale"),
    pytest.param(_both("f_QuantizeLinear_Output", 1, lambda scale: scale * 16),
                 "bits are unused", id="range-too-large"),
    pytest.param(_both("f_QuantizeLinear_Output", 1, lambda scale: scale / 4),
                 "% of the values are clipped", id="range-too-small"),
]  # fmt: skip


@pytest.mark.parametrize(("plant", "said"), MISFITS)
def test_a_quantiser_that_does_not_fit_is_named(
    plant: Callable[[Any], None], said: str, tmp_path: Path
) -> None:
    """The tensor is named whose range or zero point is not that of its values, and how far."""
    model = graphs.quantised(graphs.small_model(), "qdq-per-channel", tmp_path)
    plant(model)
    with pytest.raises(Broken) as caught:
        check_quantisers(undone(model), graphs.small_images(2, seed=9))
    assert caught.value.stage == "graph"
    assert said in caught.value.diagnosis


def test_clipped_classes_are_named(tmp_path: Path) -> None:
    """The largest values of a head decide what is detected: they are not clipped by much."""
    source = graphs.small_model()
    bias = {t.name: t for t in source.graph.initializer}["bc"]
    values = numpy_helper.to_array(bias)
    low = np.array([-120, 0, 0, 0, 0, 0], np.float32)
    bias.CopyFrom(numpy_helper.from_array(values + low, "bc"))
    model = graphs.quantised(source, "qdq-per-channel", tmp_path)
    _both("class_QuantizeLinear_Output", 2, lambda zero: zero + 10)(model)
    mine = restored(model, Network(source), IMAGES)
    assert mine is not None
    with pytest.raises(Broken, match="largest value of a head beyond its range"):
        check_quantisers(mine, IMAGES)


@pytest.mark.parametrize(
    ("clipped", "factor", "fails"),
    [(0.004, 0.6, False), (0.02, 0.6, True), (0.0, 20.0, True), (0.0, 0.9, False)],
    ids=["few-values", "many-values", "too-wide", "none"],
)
def test_a_range_is_too_small_where_it_clips_many_values(
    clipped: float, factor: float, fails: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Few values beyond it are those that another calibration did not have, however far."""
    mine = undone(graphs.quantised(graphs.small_model(), "qdq-per-channel", tmp_path))
    (first, *others) = own_errors(mine, IMAGES)
    wide = float((first.quantiser.ends[1] - first.quantiser.ends[0])[0]) / factor
    own = first._replace(error=9.0 * first.best, low=0.0, high=wide, clipped=clipped, many=True)
    others = [one._replace(error=one.best) for one in others]
    monkeypatch.setattr("effd0.diagnosis.rounding.own_errors", lambda *_: [own, *others])
    monkeypatch.setattr(Own, "beyond", 0.0)
    with pytest.raises(Broken) if fails else contextlib.nullcontext():
        check_quantisers(mine, IMAGES)


def test_a_calibration_on_other_images_is_named(tmp_path: Path) -> None:
    """Where most ranges are too small, it is not one quantiser that is wrong."""
    images = graphs.small_images(8) / 8
    model = graphs.quantised(graphs.small_model(), "qdq-per-channel", tmp_path, images)
    with pytest.raises(Broken) as caught:
        check_quantisers(undone(model), graphs.small_images(2, seed=9))
    assert "clipped" in caught.value.diagnosis


@pytest.mark.slow
@pytest.mark.parametrize("form", ["qdq-per-tensor", "fp16"])
def test_a_build_of_trained_weights_is_compared_without_its_rounding(
    form: str, checkpoint: Path, images: Tensor, torch_heads: Tensors, spec: ModelSpec,
    tmp_path: Path,
) -> None:  # fmt: skip
    """It passes as it is, and a weight of it that is twice too large is named."""
    model = load_graph(fresh_export(checkpoint, spec))
    if form == "fp16":
        apply_edits(model, ["fp16"])
    else:
        model = graphs.quantised(model, form, tmp_path, images[2:])
    convs = graphs.nodes_of(model, "Conv")
    node = convs[len(convs) // 2].name
    for broken in (False, True):
        if form == "fp16" and broken:
            graphs.change_stored(model, convs[len(convs) // 2].input[1], lambda w: 2 * w)
        elif broken:
            graphs.change_stored(model, _stored(model, node, 1, 1), lambda scale: 2 * scale)
        save_graph(model, path := tmp_path / "build.onnx")
        found, _ = compare_plain(
            read_model(path, spec), checkpoint, images, torch_heads, spec, lambda _: None
        )
        assert (found is None) == (not broken)
    assert found is not None
    assert found.stage == "export"
    assert f"Conv {node}: weight" in found.diagnosis
    assert "is scaled by 2" in found.diagnosis


def test_a_float16_weight_that_overflowed_is_named(tmp_path: Path) -> None:
    """An infinite weight has no step, so no rounding made it."""
    model = graphs.quantised(graphs.small_model(), "fp16", tmp_path)
    tensor = model.graph.initializer[0]
    values = numpy_helper.to_array(tensor).copy()
    values.flat[0] = np.inf
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    (said,) = undone(model).wrong.values()
    assert "is not finite in 1 of" in said
