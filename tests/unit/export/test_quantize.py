"""Tests for `effd0.export.quantize`: an int8 build of what it was given, and how it was made."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from effd0.data import fixture as embedded
from effd0.data.coco import Dataset, load_coco
from effd0.data.preprocess import ModelInput, preprocess
from effd0.errors import DatasetError, ExportError, GraphError
from effd0.export import quantize
from effd0.export.quantize import quantize_onnx
from effd0.export.to_onnx import write_simplified
from effd0.graph.quantised import InFloat32, in_float32
from effd0.runners.registry import RunnerOptions, open_runner
from effd0.spec import D0, ModelSpec
from effd0.tensors.diff import compare_tensors
from tests.helpers import assert_one_error, effd0, write_coco
from tests.helpers.onnx_models import halved, head_model, nodes_of, operators

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


@dataclass(frozen=True)
class Made:
    """A build per channel on two of three images, two convolutions in float: *fed* are its ids."""

    notes: tuple[str, ...]
    content: Any
    read: InFloat32
    fed: list[int]


EXCLUDED = ("Conv_1", "Conv_3")


@pytest.fixture(scope="module")
def made(model: Path, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The little model in 8 bits."""
    fed: list[int] = []

    def seen(path: Path, spec: ModelSpec) -> ModelInput:
        fed.append(next(one.image_id for one in dataset.samples if one.path == path))
        return preprocess(path, spec)

    out = tmp_path_factory.mktemp("int8") / "d0.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantize, "preprocess", seen)
        notes = quantize_onnx(model, out, D0, dataset, 2, per_channel=True, exclude=EXCLUDED)
    content = onnx.load(str(out))
    return Made(notes, content, in_float32(content), fed)


def test_no_host_saturates(made: Made, model: Path) -> None:
    """
    Activations are uint8, weights int8 of 7 bits, one scale for each channel at opset 13.

    A pair of products of 255 and 64 fits into 16 bits.  No node is lost.
    """
    stored = [onnx.numpy_helper.to_array(tensor) for tensor in made.content.graph.initializer]
    assert max(abs(one.astype(int)).max() for one in stored if one.dtype == np.int8) == 64
    assert {(one.low, one.high) for pair in made.read.pairs for one in pair} == {(0, 255)}
    assert {step.size for step in made.read.steps.values()} == {36, 810}
    assert made.content.opset_import[0].version == 13
    assert sorted(operators(made.read.model)) == sorted(operators(onnx.load(str(model))))


def test_the_last_images_calibrate_and_the_file_says_so(made: Made) -> None:
    """Images that ``--image-limit`` takes are not read; origin and the ids' digest are kept."""
    assert made.fed == [20, 30, 10]  # the last to run what was made
    assert made.notes[1] == "calibrated on the last 2 of 3 images, ids 20 to 30"
    said = {p.key: p.value for p in made.content.metadata_props}
    digest = hashlib.sha256(b"20 30").hexdigest()
    assert said.items() >= ORIGIN.items()
    assert said["calibrated"] == f"2 images, sha256 of their ids {digest}"
    assert said["quantised"].endswith(", QDQ, uint8 x int8 per channel, 7 bits, MinMax")


def test_excluded_nodes_stay_in_float(made: Made, model: Path) -> None:
    """Their weights are the source's, bit for bit; all others lie within half a step."""
    source, read = onnx.load(str(model)), made.read
    convs = {node.name: node.input[1] for node in nodes_of(source, "Conv")}
    now = {node.name: node.input[1] for node in nodes_of(read.model, "Conv")}
    assert {name for name in now if now[name] not in read.steps} == set(EXCLUDED)
    before, after = (
        {t.name: onnx.numpy_helper.to_array(t) for t in one.graph.initializer}
        for one in (source, read.model)
    )
    for name, weight in convs.items():
        step = read.steps.get(now[name], np.zeros(1))
        assert (abs(after[now[name]] - before[weight]) <= 1.001 * step).all(), name
    # No AveragePool is quantised, which reads the image.
    assert made.notes[0].endswith(": 8 nodes of 20, 2 left in float as asked")


def test_one_scale_for_a_tensor_needs_no_newer_opset(
    model: Path, dataset: Dataset, tmp_path: Path
) -> None:
    """Opset 11, which an export is written in, stays."""
    quantize_onnx(model, tmp_path / "d0.onnx", D0, dataset, 1)
    content = onnx.load(str(tmp_path / "d0.onnx"))
    assert content.opset_import[0].version == 11
    assert {step.size for step in in_float32(content).steps.values()} == {1}


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
        quantize_onnx(model, source, D0, dataset, 1)
    with pytest.raises(error, match=message):
        quantize_onnx(source, out, D0, dataset, **{"images": 1, **how})  # type: ignore[arg-type]  # of the table
    assert not out.exists()


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
    assert "per tensor, 7 bits, MinMax: 9 nodes of 20, 1 left in float as asked" in done.out
    assert f"next step effd0 evaluate --model {out} --reference {model}" in done.out
    assert "--image-limit 1" in done.out
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "0 of --model and --checkpoint are given; give one of them"),
        (["--model", "d0.onnx", "--exclude", "x.json"], "--exclude is x.json, but .* is wanted: "),
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
    """A D0, its batch free, keeps its heads as far as 8 bits can, once it is simplified."""
    scenes = load_coco(embedded.coco_root())
    out, simplified = tmp_path / "d0.onnx", tmp_path / "simplified.onnx"
    with pytest.raises(ExportError, match=r"cannot be quantised: .*; try 'effd0 simplify' first"):
        quantize_onnx(onnx_model, out, D0, scenes, 1)
    assert not out.exists()
    write_simplified(onnx_model, simplified)
    quantize_onnx(simplified, out, D0, scenes, 4)
    images, heads = embedded.sample_inputs(1, D0), []
    for path in (simplified, out):
        with open_runner("ort", path, D0, RunnerOptions()) as runner:
            heads.append(runner.infer({runner.inputs[0].name: images}))
    # Measured 2026-11-30, per channel: 0.36 in a box head; logits 0.16.
    assert 0 < max(diff.relative_l2 for diff in compare_tensors(*heads)) < 0.6
    assert out.stat().st_size < 0.4 * onnx_model.stat().st_size
