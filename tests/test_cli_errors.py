"""Tests for `effd0.cli`: whatever is wrong with the input is one clear line and exit code 2."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

from effd0.checkpoint import build_model, read_weights
from effd0.spec import ModelSpec

from .cli_run import effd0
from .fakes.server import FakeHost, serving
from .helpers import coco_content, write_coco
from .onnx_models import need_own_export, perturbed, with_swapped_outputs


def assert_one_error(message: str, *arguments: object) -> None:
    """The command ends with code 2 and one line that tells the error; no traceback is shown."""
    outcome = effd0(*arguments)
    assert outcome.code == 2, outcome.out
    assert len(outcome.errors) == 1, outcome.err
    assert "Traceback" not in outcome.err
    assert re.search(message, outcome.err), outcome.err


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        pytest.param(
            r"^DatasetError: nowhere/annotations/instances_val2017\.json does not exist; give --ro",
            ["evaluate", "--root", "nowhere"],
            id="root",
        ),
        pytest.param(
            r"^DatasetError: .*instances_train2017\.json does not exist; .* --split its name",
            ["evaluate", "--split", "train2017"],
            id="split",
        ),
        pytest.param(
            r"RunnerError: no\.onnx does not exist; make it with 'effd0 export'",
            ["evaluate", "--model", "no.onnx", "--image-limit", 1],
            id="model",
        ),
        pytest.param(
            r"CheckpointError: no\.pth does not exist; get one with 'effd0 fetch checkpoint'",
            ["evaluate", "--checkpoint", "no.pth", "--image-limit", 1],
            id="checkpoint",
        ),
        pytest.param(
            r"^ImageError: .*no\.jpg",
            ["detect", "no.jpg", "--out", "out.jpg"],
            id="image",
        ),
        pytest.param(
            r"^GraphError: no\.onnx does not exist",
            ["simplify", "--model", "no.onnx", "--out", "out.onnx"],
            id="model-to-simplify",
        ),
        pytest.param(
            r"^GraphError: no\.onnx does not exist",
            ["modify", "--model", "no.onnx", "--out", "out.onnx"],
            id="model-to-modify",
        ),
        pytest.param(
            r"^CheckpointError: no\.pth does not exist",
            ["export", "--checkpoint", "no.pth", "--out", "out.onnx"],
            id="checkpoint-to-export",
        ),
        pytest.param(
            r"^SpecError: --arch is 'd1', but effd0 knows tf_efficientdet_d0",
            ["evaluate", "--arch", "d1"],
            id="architecture",
        ),
        pytest.param(
            r"^RunnerError: both --model and --checkpoint are given",
            ["evaluate", "--model", "no.onnx", "--checkpoint", "no.pth"],
            id="model-and-checkpoint",
        ),
        pytest.param(
            r"^RunnerError: --runner torch takes a checkpoint, but --model no\.onnx is given",
            ["evaluate", "--runner", "torch", "--model", "no.onnx"],
            id="torch-with-model",
        ),
        pytest.param(
            r"^RunnerError: --precision is fp16, but --runner ort does not know it",
            ["evaluate", "--precision", "fp16"],
            id="precision-in-ort",
        ),
        pytest.param(
            r"^ExportError: --opset is 10, but the torchscript exporter writes 11 to 18",
            ["export", "--opset", 10, "--out", "out.onnx"],
            id="opset",
        ),
    ],
)
def test_what_is_not_there_is_named(
    message: str, arguments: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path or name that leads nowhere is shown as it was given, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    assert_one_error(message, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_picture_stops_the_run(tmp_path: Path) -> None:
    """The file is named before anything is detected."""
    content = coco_content(2, size=(64, 64))
    content["images"][1]["file_name"] = "cut.jpg"
    root = write_coco(tmp_path, content)
    cut = root / "val2017" / "cut.jpg"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    message = r"ImageError: 1 of the images in .*:\n.*cut\.jpg.*truncated"
    assert_one_error(message, "evaluate", "--root", root)


def test_a_fresh_checkpoint_is_refused(spec: ModelSpec, tmp_path: Path) -> None:
    """A network that was never trained is not scored."""
    torch.save(build_model(spec).state_dict(), tmp_path / "fresh.pth")
    given = ("--runner", "torch", "--checkpoint", tmp_path / "fresh.pth", "--arch", spec.arch)
    message = r"CheckpointError: .*fresh\.pth is untrained"
    assert_one_error(message, "evaluate", *given, "--image-limit", 1)


def test_a_checkpoint_with_nan_is_refused(
    checkpoint: Path, spec: ModelSpec, tmp_path: Path
) -> None:
    """One NaN among four million weights is found before a file is exported."""
    weights = read_weights(checkpoint)
    name, first = next(iter(weights.items()))
    first[(0,) * first.ndim] = float("nan")
    torch.save(weights, tmp_path / "nan.pth")
    given = ("--checkpoint", tmp_path / "nan.pth", "--arch", spec.arch)
    message = rf"^CheckpointError: .*nan\.pth holds NaN or infinity in {re.escape(name)}"
    assert_one_error(message, "export", *given, "--out", tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


@pytest.fixture(scope="module")
def exported(onnx_model: Path, pytestconfig: pytest.Config) -> Path:
    """The export of the checkpoint under test."""
    need_own_export(pytestconfig)
    return onnx_model


def test_swapped_outputs_are_refused(exported: Path, tmp_path: Path) -> None:
    """A file whose class head is called a box head is not scored as if it were right."""
    swapped = with_swapped_outputs(exported, tmp_path / "swapped.onnx", "class_p3", "box_p3")
    message = r"HeadError: class_p3 is \(1, 36, 64, 64\), .* outputs may be swapped"
    assert_one_error(message, "evaluate", "--model", swapped, "--image-limit", 1)


def test_heads_that_are_not_finite_are_refused(exported: Path, tmp_path: Path) -> None:
    """A NaN that comes out of a model is no low score."""
    broken = perturbed(exported, tmp_path / "nan.onnx", "class_p4", float("nan"))
    message = r"HeadError: class_p\d.*"
    assert_one_error(message, "evaluate", "--model", broken, "--image-limit", 1)


@pytest.mark.parametrize(
    ("module", "extra", "arguments"),
    [
        ("onnxruntime", "onnx", ["evaluate", "--model", "d0.onnx", "--image-limit", 1]),
        ("torch", "torch", ["evaluate", "--runner", "torch", "--image-limit", 1]),
        ("effdet", "torch", ["evaluate", "--runner", "torch", "--image-limit", 1]),
        ("onnx", "onnx", ["simplify", "--model", "d0.onnx", "--out", "out.onnx"]),
        ("torch", "torch", ["export", "--out", "out.onnx"]),
    ],
    ids=["onnxruntime", "torch", "effdet", "onnx", "torch-to-export"],
)
def test_a_missing_extra_comes_with_its_command(
    module: str,
    extra: str,
    arguments: list[object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a light install the message is the pip command that adds what is missing."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d0.onnx").write_bytes(b"a model")
    monkeypatch.setitem(sys.modules, module, None)
    message = rf"MissingExtra: {module} is not installed, .*pip install 'effd0\[{extra}\]'"
    assert_one_error(message, *arguments)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("file/record.json", r"file/record\.json cannot be written: "),
        ("folder", "folder is a folder, but a file is to be written"),
    ],
    ids=["below-a-file", "a-folder"],
)
def test_a_record_that_cannot_be_written_is_named(
    name: str, message: str, exported: Path, tmp_path: Path
) -> None:
    """A result that is lost is an error, also after a run that went well."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    given = ("--model", exported, "--image-limit", 1, "--json", tmp_path / name)
    assert_one_error(rf"OutputError: .*{message}", "evaluate", *given)


def test_a_download_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mirror without the file is bad input, and nothing is left."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(FakeHost({})) as host:
        given = ("checkpoint", "--mirror", host.url, "--out", tmp_path / "d0.pth")
        assert_one_error(r"FetchError: http://127.* cannot be had: 404", "fetch", *given)
    assert list(tmp_path.iterdir()) == []


def test_markup_in_a_message_is_shown_as_it_is() -> None:
    """A path such as a[1].onnx is no markup of the terminal's."""
    arguments = ("evaluate", "--model", "[red]a[1].onnx", "--image-limit", 1)
    assert_one_error(r"RunnerError: \[red\]a\[1\]\.onnx does not exist", *arguments)
