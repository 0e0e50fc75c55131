"""Tests for `effd0.diagnosis.explain_drop`, and for the graphs of `effd0.graph.quantised`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from onnxruntime import quantization as ort_quantization

from effd0.cli.show import show_drop
from effd0.data import fixture
from effd0.data.coco import load_coco
from effd0.diagnosis import explain_drop as module
from effd0.diagnosis.bisect import distance
from effd0.diagnosis.explain_drop import explain_drop, group_of, node_errors
from effd0.diagnosis.graph_pairing import Network
from effd0.diagnosis.parity import fresh_export
from effd0.errors import GraphError
from effd0.evaluation.evaluate import EvaluationJob
from effd0.export.quantize import quantize_onnx
from effd0.graph.quantised import InFloat32, given_back, in_float32
from effd0.metrics.bootstrap import PairedDrop
from effd0.report.markdown import markdown
from effd0.spec import D0
from effd0.tolerances import AP_ARITHMETIC
from tests.helpers.runs import run as run_file

IMAGES = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
GROUPS = dict.fromkeys("csmpy", "rest")
FLOAT = """
<ir_version: 8, opset_import: ["": 17]>
small (float[2,3,8,8] x) => (float[2,2,4,4] y)
<float[4,3,3,3] v, float[4] b, float[2,4,1,1] w>
{
    [one] c = Conv <pads = [1,1,1,1]> (x, v, b)
    [two] s = Sigmoid (c)
    [three] m = Mul (c, s)
    [four] p = MaxPool <kernel_shape = [2,2], strides = [2,2]> (m)
    [five] y = Conv (p, w)
}
"""


class Calibration(ort_quantization.CalibrationDataReader):  # type: ignore[misc]  # no types
    """Feeds `IMAGES`, once."""

    def __init__(self) -> None:
        self.feeds = iter([{"x": IMAGES}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next feed."""
        return next(self.feeds, None)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A small float model and three quantised builds of it, by format."""
    folder, rng = tmp_path_factory.mktemp("small"), np.random.default_rng(1)
    model = parser.parse_model(FLOAT)
    for name, shape in {"v": (4, 3, 3, 3), "b": (4,), "w": (2, 4, 1, 1)}.items():
        value = rng.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    del model.graph.value_info[:]
    source = folder / "float.onnx"
    onnx.save(model, source)
    for kind, form in (
        ("qdq", ort_quantization.QuantFormat.QDQ),
        ("qoperator", ort_quantization.QuantFormat.QOperator),
    ):
        ort_quantization.quantize_static(
            source, folder / f"{kind}.onnx", Calibration(), quant_format=form
        )
    ort_quantization.quantize_dynamic(
        source, folder / "dynamic.onnx", weight_type=ort_quantization.QuantType.QUInt8
    )
    return {path.stem: onnx.load(path) for path in folder.glob("*.onnx")}


def run(model: Any) -> np.ndarray:
    """The output of *model*, unoptimised."""
    return Network(model).run(["y"], IMAGES)[0]


def weights_of(model: Any, read: InFloat32) -> dict[tuple[str, int], np.ndarray]:
    """The weights of the small *model* by place in the build *read*."""
    output, values = {n.name: n.output[0] for n in read.model.graph.node}, Network(model).values
    one, five = output["one"], output["five"]
    return {(one, 1): values["v"], (one, 2): values["b"], (five, 1): values["w"]}


@pytest.mark.parametrize(("kind", "limit"), [("qdq", 0.0), ("qoperator", 5e-3), ("dynamic", 1e-6)])
def test_the_rounding_of_a_build_is_computed_between_float_operators(
    small: dict[str, Any], kind: str, limit: float
) -> None:
    """With nothing given back, the graph in float operators computes what the build does."""
    plain = given_back(in_float32(small[kind]), ())
    assert {node.op_type for node in plain.graph.node} & {"Conv", "MaxPool"} == {"Conv", "MaxPool"}
    assert distance(run(plain), run(small[kind])) <= limit
    assert distance(run(plain), run(small["float"])) > 2e-3


@pytest.mark.parametrize("kind", ["qdq", "qoperator", "dynamic"])
def test_all_nodes_given_back_are_the_float_model(small: dict[str, Any], kind: str) -> None:
    """With the reference's weights, nothing of the rounding is left."""
    names = {"one", "two", "three", "four", "five"}
    read = in_float32(small[kind])
    back = given_back(read, names, weights_of(small["float"], read))
    assert distance(run(back), run(small["float"])) == 0


@pytest.mark.parametrize(
    ("names", "rounded"),
    [
        pytest.param({"five"}, {"x", "c", "s", "m"}, id="one-node"),
        pytest.param({"three", "four", "five"}, {"x", "c", "s"}, id="three-in-a-row"),
        pytest.param({"one", "two", "three"}, {"m"}, id="the-first-three"),
    ],
)
def test_a_tensor_stays_rounded_where_a_quantised_node_touches_it(
    small: dict[str, Any], names: set[str], rounded: set[str]
) -> None:
    """What a node outside reads or makes is rounded for all of its readers."""
    back = given_back(in_float32(small["qdq"]), names)
    found = {n.input[0] for n in back.graph.node if n.op_type == "QuantizeLinear"}
    assert found >= rounded
    assert found & {"x", "c", "s"} == rounded & {"x", "c", "s"}


def with_scale(model: Any, tensor: str, factor: float) -> Any:
    """*model* whose QuantizeLinear of *tensor*, and what turns it back, have another scale."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    (scale,) = {
        node.input[1]
        for node in changed.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] == tensor
    }
    (stored,) = (one for one in changed.graph.initializer if one.name == scale)
    value = (numpy_helper.to_array(stored) * factor).astype(np.float32)
    stored.CopyFrom(numpy_helper.from_array(value, scale))
    return changed


@pytest.mark.parametrize(("tensor", "nodes"), [("c", {"one", "two", "three"}), ("x", {"one"})])
def test_the_node_at_a_bad_scale_errs_most_by_itself(
    small: dict[str, Any], tensor: str, nodes: set[str]
) -> None:
    """Where a scale 16 times too fine clips a tensor, what reads or makes it comes first."""
    bad = in_float32(with_scale(small["qdq"], tensor, 1 / 16))
    found = node_errors(bad, weights_of(small["float"], bad), GROUPS, IMAGES)
    assert {one.node for one in found[: len(nodes)]} == nodes
    assert found[0].error > 0.2 > 5 * found[len(nodes)].error


def test_no_node_of_a_good_build_errs_much_by_itself(small: dict[str, Any]) -> None:
    """Eight bits lose about a percent at each node."""
    good = in_float32(small["qdq"])
    found = node_errors(good, weights_of(small["float"], good), GROUPS, IMAGES)
    assert {one.node for one in found} >= {"one", "two", "three", "five"}
    assert 1e-4 < found[0].error < 0.03


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("/network/backbone/conv_stem/Conv", "stem"),
        ("/network/backbone/blocks.1/blocks.1.0/bn1/act/Mul", "blocks.1.0"),
        ("/network/fpn/cell/cell.0/fnode.0/combine/resample.4/upsample/Resize", "cell.0"),
        ("/network/fpn/resample.3/conv/conv/Conv", "resample"),
        ("/network/class_net/predict/conv_pw_1/Conv", "class_net"),
        ("Conv_17", "rest"),
    ],
)
def test_a_group_is_a_module_of_the_network(name: str, group: str) -> None:
    """The name of a node says to which part of the network it belongs."""
    assert group_of(name) == group


def drop(points: float) -> PairedDrop:
    """A drop of *points*, give or take one."""
    return PairedDrop(points, points - 1, points + 1, 80, 0.6, 0.6 - points / 100)


def test_the_recommendation_is_written_and_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each tool gets the nodes of the groups that were tried last, and 80 columns show them."""
    monkeypatch.setenv("COLUMNS", "80")
    errors = [module.NodeError(f"{g}/Conv", "Conv", g, 0.1) for g in ("cell.0", "class_net")]
    nodes = ("cell.0/Conv", "cell.0/Add"), ("class_net/Conv",)
    groups = [
        module.Group(one.group, some, one, 0.2, 0.1)
        for one, some in zip(errors, nodes, strict=True)
    ]
    found = module.DropExplained(
        drop(9),
        drop(4),
        [("AP", 60.0, 56.0)],
        errors,
        groups,
        {1: drop(0.1)},
        explained=True,
        unpaired=0,
    )
    found.write(tmp_path / "out")
    assert json.loads((tmp_path / "out/nodes_to_exclude.json").read_text()) == [*nodes[0]]
    assert (tmp_path / "out/keep_dtype.cfg").read_text() == "cell.0/Conv\ncell.0/Add\n"
    layers = json.loads((tmp_path / "out/skip_layers.json").read_text())
    assert layers == {"skip_layers": ["cell.0/Conv"]}
    rows = found.checks(0.2)
    assert {row.status for row in rows} == {"skipped"}
    assert [(row.name, row.figure, row.unit) for row in rows] == [
        ("what quantisation costs", 4, "points"),
        ("mAP with cell.0 in float", pytest.approx(59.9), "%"),
        ("cell.0/Conv (Conv, cell.0) by itself", 0.1, "relative L2"),
        ("class_net/Conv (Conv, class_net) by itself", 0.1, "relative L2"),
    ]
    assert rows[0].evidence.startswith("leave in float: cell.0 (2 nodes); that reaches 59.90 %: ")
    table = markdown(run_file(checks=[msgspec.to_builtins(row) for row in rows]))
    assert "| what quantisation costs | 4 points | leave in float: cell.0 (2 nodes); that" in table
    assert "| mAP with cell.0 in float | 59.9 % | – |" in table  # noqa: RUF001  # as in tables
    show_drop(found, 0.2)
    shown = capsys.readouterr().out
    assert "leave in float: cell.0 (2 nodes)" in shown
    assert "reach 51.00 % on this host, 5.00 points less: that is not of the graph" in shown
    assert json.loads(json.dumps(found.to_json()))["left_in_float"] == [*nodes[0]]


def test_a_float_model_has_no_drop_to_explain(small: dict[str, Any], tmp_path: Path) -> None:
    """What holds no rounding is refused before anything is run."""
    onnx.save(small["float"], tmp_path / "float.onnx")
    with pytest.raises(GraphError, match="holds no quantised node, but a quantised build"):
        explain_drop(tmp_path / "float.onnx", fixture.checkpoint(), EvaluationJob(), D0)


@pytest.mark.slow
def test_a_bad_scale_in_a_build_of_the_embedded_weights_is_named_first(tmp_path: Path) -> None:
    """Its nodes err most, its group is left in float first, and the mAP comes back."""
    source = fresh_export(fixture.checkpoint(), D0)
    dataset = load_coco(fixture.coco_root())
    quantize_onnx(source, tmp_path / "int8.onnx", D0, dataset, 4, per_channel=False)
    good = onnx.load(tmp_path / "int8.onnx")
    tensor = next(
        node.output[0]
        for node in good.graph.node
        if "cell.1/fnode.3" in node.name and node.op_type == "Conv"
    )
    onnx.save(with_scale(good, tensor, 1 / 16), tmp_path / "bad.onnx")
    found = explain_drop(
        tmp_path / "bad.onnx", fixture.checkpoint(), EvaluationJob(image_limit=12), D0
    )
    assert found.unpaired == 0
    assert "cell.1/fnode.3" in found.nodes[0].node
    assert found.nodes[0].group == found.groups[0].name == "cell.1"
    assert found.explained
    assert found.run is not None
    ap = pytest.approx(found.runtime.candidate_ap, abs=AP_ARITHMETIC.limit / 100)
    assert found.run.accuracy[0].metrics["AP"] == ap
    assert max(found.trials.items())[1].points < 0.5 * found.graph.points
