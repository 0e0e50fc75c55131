"""Tests for `effd0.export.quantize`: an int8 build of what it was given, and how it was made."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest

from effd0.data import fixture as embedded
from effd0.data.coco import Dataset, load_coco
from effd0.errors import DatasetError, GraphError
from effd0.export import quantize
from effd0.export.quantize import Quantisation
from effd0.export.verify import quantize_onnx
from effd0.graph.quantised import in_float32
from effd0.spec import D0
from tests.helpers import assert_one_error, effd0, names_in, write_coco
from tests.helpers.onnx_models import halved, head_model, operators

ORIGIN = {"arch": D0.arch, "checkpoint_sha256": "5" * 64}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A little model with a D0's heads: a convolution for each."""
    path = tmp_path_factory.mktemp("float") / "d0.onnx"
    content = head_model(D0.head_shapes, D0.image_size, batch=1)
    content.opset_import[0].version = 11
    for number, node in enumerate(content.graph.node):
        node.name = f"{node.op_type}_{number}"
    onnx.helper.set_model_props(content, ORIGIN)
    onnx.save(content, str(path))
    return path


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Three images, of ids 10, 20 and 30."""
    return load_coco(write_coco(tmp_path_factory.mktemp("coco")))


def metadata(path: Path) -> dict[str, str]:
    """What a file says of its origin."""
    return {p.key: p.value for p in onnx.load(str(path)).metadata_props}


@pytest.mark.parametrize(
    ("per_channel", "opset", "scales"),
    [
        pytest.param(True, 13, {36, 810}, id="per-channel"),
        pytest.param(False, 11, {1}, id="per-tensor"),
    ],
)
def test_each_weight_has_the_scales_that_were_asked_for(
    per_channel: bool, opset: int, scales: set[int], model: Path, dataset: Dataset, tmp_path: Path
) -> None:
    """Scales per channel raise the opset to 13; weights have 7 bits, so that no host saturates."""
    out = tmp_path / "d0.onnx"
    built = quantize_onnx(model, out, D0, Quantisation(dataset, 2, per_channel))
    content, source = onnx.load(str(out)), onnx.load(str(model))
    assert content.opset_import[0].version == opset
    read = in_float32(content)
    assert operators(read.model) == operators(source)
    assert {step.size for step in read.steps.values()} == scales
    assert {(one.low, one.high) for pair in read.pairs for one in pair} == {(0, 255)}
    stored = [onnx.numpy_helper.to_array(tensor) for tensor in content.graph.initializer]
    assert max(abs(one.astype(int)).max() for one in stored if one.dtype == np.int8) == 64
    assert 0 < built.diffs[0].relative_l2 < 0.1
    assert "20 of 20 nodes are quantised" in built.notes


def test_the_last_images_calibrate_and_the_file_says_so(
    model: Path, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images that ``--image-limit`` takes are not read; origin and the ids' digest are kept."""
    fed, out = [], tmp_path / "d0.onnx"
    real = quantize.network_input
    monkeypatch.setattr(
        quantize, "network_input", lambda one, *more: fed.append(one.image_id) or real(one, *more)
    )
    built = quantize_onnx(model, out, D0, Quantisation(dataset, 2))
    assert fed == [20, 30]
    assert "calibrated on the last 2 of 3 images, ids 20 to 30" in built.notes
    said, digest = metadata(out), hashlib.sha256(b"20 30").hexdigest()
    assert said.items() >= ORIGIN.items()
    assert said["calibrated"] == f"2 images, sha256 of their ids {digest}"
    assert said["quantised"].endswith("QDQ, uint8 x int8 per channel, 7 bits, MinMax")


def test_excluded_nodes_stay_in_float(model: Path, dataset: Dataset, tmp_path: Path) -> None:
    """Their weights are the source's, bit for bit; all others lie within half a step."""
    out, excluded = tmp_path / "d0.onnx", ("Conv_1", "Conv_3")
    quantize_onnx(model, out, D0, Quantisation(dataset, 1, exclude=excluded))
    read, source = in_float32(onnx.load(str(out))), onnx.load(str(model))
    convs = {node.name: node.input[1] for node in source.graph.node if node.op_type == "Conv"}
    now = {node.name: node.input[1] for node in read.model.graph.node if node.op_type == "Conv"}
    assert {name for name in now if now[name] not in read.steps} == set(excluded)
    before, after = (
        {t.name: onnx.numpy_helper.to_array(t) for t in one.graph.initializer}
        for one in (source, read.model)
    )
    for name, weight in convs.items():
        step = read.steps.get(now[name], np.zeros(1))
        assert (abs(after[now[name]] - before[weight]) <= 1.001 * step).all(), name


@pytest.mark.parametrize(
    ("edit", "how", "error", "message"),
    [
        pytest.param(
            None, {"images": 4}, DatasetError, "4 images are to calibrate, but .* lists 3; give",
            id="too-few-images"),
        pytest.param(
            None, {"exclude": ["Conv_1", "Conv_0"]}, GraphError,
            "has no node called Conv_0; take the names", id="unknown-node"),
        pytest.param("halved", {}, GraphError, "is fp16, but fp32 is quantised", id="float16"),
        pytest.param("int8", {}, GraphError, "is int8, but fp32 is quantised", id="quantised"),
    ],
)  # fmt: skip
def test_what_cannot_be_quantised_is_one_error(
    edit: str | None,
    how: Mapping[str, object],
    error: type[Exception],
    message: str,
    model: Path,
    dataset: Dataset,
    tmp_path: Path,
) -> None:
    """It comes before any work, says what to do, and leaves no file."""
    source, out = tmp_path / "source.onnx", tmp_path / "out" / "d0.onnx"
    content = onnx.load(str(model))
    onnx.save(halved(content) if edit == "halved" else content, str(source))
    if edit == "int8":
        quantize_onnx(model, tmp_path / "source.onnx", D0, Quantisation(dataset, 1))
    with pytest.raises(error, match=message):
        quantize_onnx(source, out, D0, Quantisation(dataset, **{"images": 1, **how}))  # type: ignore[arg-type]  # of the table
    assert not names_in(out.parent)


def test_the_command_says_what_it_made(
    model: Path, dataset: Dataset, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nodes, images, sizes and the next step; what ONNX Runtime logs is kept out."""
    out, exclude = tmp_path / "d0.onnx", tmp_path / "float.json"
    exclude.write_text('["Conv_1"]')
    root = dataset.annotation_file.parents[1]
    words = ["--model", model, "--calibration", root, "--calibration-images", 2]
    done = effd0("quantize", *words, "--exclude", exclude, "--out", out)
    assert (done.code, done.errors) == (0, [])
    assert "19 of 20 nodes are quantised" in done.out
    assert "per channel, 7 bits, MinMax, 1 nodes left in float" in done.out
    assert f"next step effd0 evaluate --model {out} --reference {model}" in done.out
    assert "--image-limit 1" in done.out
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "0 of --model and --checkpoint are given; give one of them"),
        (["--model", "d0.onnx", "--exclude", "x.json"], "--exclude is x.json, but a list of names"),
    ],
    ids=["no-source", "exclude-is-no-list"],
)
def test_options_that_do_not_fit_are_one_error(
    options: list[str],
    message: str,
    model: Path,
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The error names the option and what is wanted."""
    monkeypatch.chdir(tmp_path)
    Path("d0.onnx").symlink_to(model)
    Path("x.json").write_text('{"nodes": []}')
    root = dataset.annotation_file.parents[1]
    words = ["quantize", "--calibration", root, "--out", "out.onnx", *options]
    assert_one_error(f"OptionError: {message}", *words)
    assert not Path("out.onnx").exists()


@pytest.mark.slow
def test_the_embedded_model_in_int8_finds_what_it_found(onnx_model: Path, tmp_path: Path) -> None:
    """A D0 with a convolution of every kind keeps its heads' shape, as far as 8 bits can."""
    scenes = load_coco(embedded.coco_root())
    built = quantize_onnx(onnx_model, tmp_path / "d0.onnx", D0, Quantisation(scenes, 4))
    # Measured 2026-11-30: 0.36 in a box head; logits 0.16.
    assert max(diff.relative_l2 for diff in built.diffs) < 0.6
    assert built.path.stat().st_size < 0.4 * onnx_model.stat().st_size
