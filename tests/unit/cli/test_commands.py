"""Tests for the command line as a whole: help, exit codes, and bad input as one message."""

import json
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch

from effd0 import __version__
from effd0.cli.main import COMMANDS, EXIT_CODES, main
from effd0.data import fixture
from effd0.runners.checkpoint import build_model, read_weights
from effd0.spec import ModelSpec
from tests.helpers import ROOT, assert_one_error, coco_content, effd0, write_coco
from tests.helpers.onnx_models import need_own_export, perturbed, with_swapped_outputs


def test_help_names_every_command() -> None:
    """The first page of what is installed lists all commands and says what the exit codes mean."""
    (script,) = entry_points(group="console_scripts", name="effd0")
    assert script.load() is main
    page = effd0("--help")
    assert page.code == 0
    assert [name for name in COMMANDS if name not in page.out] == []
    assert EXIT_CODES in page.out
    assert effd0("--version").out == f"effd0 {__version__}\n"


@pytest.mark.parametrize(
    ("typed", "completions"),
    [
        ("evaluate --runner o", "ort openvino"),
        ("export --arch tf_efficientdet_d7", "tf_efficientdet_d7 tf_efficientdet_d7x"),
        ("modify --edit f", "fold-pad finite-pad fold-weights fuse-sums fp16"),
    ],
    ids=["runner", "arch", "edit"],
)
def test_a_shell_completes_values(
    typed: str, completions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever presses Tab behind an option is shown the values that it takes."""
    monkeypatch.setenv("_EFFD0_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"effd0 {typed}")
    monkeypatch.setenv("COMP_CWORD", "3")
    assert effd0().out.split() == completions.split()


@pytest.mark.parametrize(
    ("code", "status", "shown"),
    [
        ("runpy.run_module('effd0', run_name='__main__')", 2, "No such command 'validate'"),
        (
            "sys.argv[1] = 'doctor'; sys.stdout = open('/dev/full', 'w'); main.main()",
            2,
            r"^OSError: \[Errno 28\] No space left on device; the system refused this: make room",
        ),
        (
            "setup.packages = lambda: 1 / 0; sys.argv[1] = 'doctor'; main.main()",
            70,
            rf"^ZeroDivisionError: division by zero; this is a fault of effd0 {__version__}: .*txt",
        ),
        pytest.param(
            "from effd0.cli.pytest_suite import StageLines; StageLines._print = lambda *_: 1 / 0; "
            "sys.argv[1:] = ['check', '--runner', 'ort']; main.main()",
            70,
            rf"^ZeroDivisionError: division by zero; this is a fault of effd0 {__version__}: .*txt",
            marks=pytest.mark.slow,
        ),
        (
            "sys.stdout = None; sys.argv[1] = 'doctor'; main.main()",  # as Python begins behind >&-
            2,
            r"^OutputError: the standard output is closed; open it, or lead it to /dev/null$",
        ),
    ],
    ids=[
        "python -m effd0",
        "full-output",
        "fault-of-the-program",
        "fault-in-the-suite",
        "closed-output",
    ],
)
def test_a_process_ends_with_its_exit_code(code: str, status: int, shown: str) -> None:
    """``python -m effd0`` is the command line; what is no fault of the user's is said in a line."""
    code = (
        f"import runpy, sys; from effd0.cli import main, setup; sys.argv[1:] = ['validate']; {code}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert re.search(shown, done.stderr), done.stderr
    if status == 70:
        log = Path(done.stderr.split()[-1])
        assert "ZeroDivisionError" in log.read_text()
        log.unlink()


@pytest.mark.parametrize("place", ["-", "/dev/stdout"])
@pytest.mark.parametrize("program", ["effd0", pytest.param("pytest", marks=pytest.mark.slow)])
def test_a_file_to_standard_output_is_alone_there(program: str, place: str, tmp_path: Path) -> None:
    """Another program can read it from a pipe; lines for people go to stderr."""
    root = write_coco(tmp_path / "coco")
    found = [{"image_id": 10, "category_id": 2, "bbox": [2, 3, 10, 8], "score": 0.5}]
    (tmp_path / "found.json").write_text(json.dumps(found))
    annotations = root / "annotations" / "instances_val2017.json"
    command = ["effd0", "score", tmp_path / "found.json", "--annotations", annotations]
    if program == "pytest":
        command = ["pytest", "-q", "-p", "no:cacheprovider", "tests/suite/test_dataset.py"]
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command), f"--report-json={place}"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert json.loads(done.stdout)["format"] == "effd0 run", done.stderr
    assert done.returncode == 0
    assert ("DEMO" if program == "pytest" else "NOT GATED") in done.stderr
    assert not (ROOT / "-").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("evaluate --batch 3", "No such option"),
        ("evaluate --batch-size 0", "Invalid value for '--batch-size'"),
        ("evaluate --min-map 101", "Invalid value for '--min-map'"),
        ("detect a.jpg --out b.jpg --min-score 30", "Invalid value for '--min-score'"),
        ("evaluate --postprocess gpu", "'gpu' is not one of 'auto', 'host', 'device'"),
        ("evaluate --runner tflite", "'tflite' is not one of 'ort', 'openvino', 'torch', 'acl'"),
        ("modify --model a --out b --edit prune", "'prune' is not one of 'fold-pad', "),
        ("detect a.jpg", "Missing option '--out'"),
        ("detect --out b.jpg", "Missing argument 'IMAGE'"),
        ("validate", "No such command"),
    ],
)
def test_what_cannot_be_parsed_is_bad_input(words: str, message: str) -> None:
    """Exit code 2, like all bad input, with the option named on stderr."""
    outcome = effd0(*words.split(), columns=200)
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "preprocess --bin-save bins --root nowhere",
            r"^DatasetError: nowhere.*2017\.json does not exist; give --",
        ),
        (
            "preprocess --bin-save caf\udce9",
            r"^OutputError: .*caf\udce9, which is no UTF-8; rename",
        ),
        ("evaluate --split train", r"^DatasetError: .*instances_train\.json .* --split its name"),
        (
            "evaluate --model [red]a[1].onnx",
            r"^OptionError: --model is \[red\]a\[1\]\.onnx, which d",
        ),
        ("evaluate --precision fp16", r"--precision is fp16, but --runner ort does not know it"),
        ("infer --provider-option id", r"^RunnerError: --provider-option is id, but .* KEY=VALUE"),
        ("evaluate --max-drop 1", r"^EvaluationError: --max-drop is 1.*, but no --reference"),
        ("evaluate --resume", r"^OutputError: --resume is given, but no --out"),
        ("evaluate --devices 0,1", r"^RunnerError: --devices names 2, but .* computes on the CPU"),
        ("infer --output-dirname run1", r"^OutputError: --output-dirname is run1, but no --output"),
        ("detect no.jpg --out out.jpg", r"^OptionError: IMAGE is no\.jpg, which does not exist; g"),
        (
            "simplify --model no.onnx --out out.onnx",
            r"^OptionError: --model is no\.onnx, which does",
        ),
        ("export --checkpoint no.pth --out out.onnx", r"^OptionError: .*'effd0 fetch checkpoint'"),
        ("export --opset 10 --out out.onnx", r"^ExportError: --opset is 10, but the torchscript"),
    ],
)
def test_what_cannot_be_meant_is_one_message(
    words: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path, name or contradiction is shown as it was given, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    assert_one_error(message, *words.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("module", "extra", "words"),
    [
        ("onnxruntime", "onnx", "evaluate --model d0.onnx --image-limit 1"),
        ("openvino", "openvino", "infer --runner openvino --model d0.onnx"),
        ("effdet", "torch", "evaluate --runner torch --image-limit 1"),
        ("onnx", "onnx", "simplify --model d0.onnx --out out.onnx"),
    ],
)
def test_a_missing_extra_comes_with_its_command(
    module: str, extra: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a light install the message is the pip command that adds what is missing."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d0.onnx").write_bytes(b"a model")
    monkeypatch.setitem(sys.modules, module, None)
    message = rf"MissingExtra: {module} is not installed, .*pip install 'effd0\[{extra}\]'"
    assert_one_error(message, *words.split())


def test_all_that_is_missing_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever lacks several extras installs them by one command, not one after the other."""
    monkeypatch.chdir(tmp_path)
    for module in ("torch", "effdet", "onnxruntime", "ray"):
        monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "d0.onnx").write_bytes(b"a model")
    every = r"^MissingExtra: onnxruntime, torch, effdet, ray are not .*\[onnx,ray,torch\]'"
    assert_one_error(every, "evaluate", "--workers", 2)
    assert_one_error(every, "infer", "--input", ".", "--workers", 2)
    two = r"onnxruntime, torch, effdet are not installed, .* pip install 'effd0\[onnx,torch\]'"
    assert_one_error(two, "evaluate", "--model", "d0.onnx", "--reference", fixture.checkpoint())
    assert_one_error("torch, effdet, onnxruntime are not", "export", "--out", "out.onnx")


def test_a_truncated_image_stops_the_run(tmp_path: Path) -> None:
    """The file is named before anything is detected."""
    content = coco_content(2, size=(64, 64))
    content["images"][1]["file_name"] = "cut.jpg"
    root = write_coco(tmp_path, content)
    cut = root / "val2017" / "cut.jpg"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    message = r"ImageError: 1 of the images in .*:\n.*cut\.jpg.*truncated"
    assert_one_error(message, "preprocess", "--bin-save", tmp_path / "bins", "--root", root)


@pytest.mark.parametrize(
    ("trained", "message"),
    [(False, "is untrained"), (True, "holds NaN or infinity in ")],
    ids=["fresh", "nan"],
)
def test_weights_that_cannot_be_right_are_refused(
    trained: bool, message: str, spec: ModelSpec, checkpoint: Path, tmp_path: Path
) -> None:
    """A network that was never trained, or overflowed, is not scored."""
    weights = dict(read_weights(checkpoint) if trained else build_model(spec).state_dict())
    if trained:
        first = next(iter(weights.values()))
        first[(0,) * first.ndim] = float("nan")
    torch.save(weights, tmp_path / "broken.pth")
    given = ("--runner", "torch", "--checkpoint", tmp_path / "broken.pth", "--arch", spec.arch)
    message = rf"CheckpointError: .*broken\.pth {message}"
    assert_one_error(message, "evaluate", *given, "--image-limit", 1)


def test_outputs_that_cannot_be_heads_are_refused(
    onnx_model: Path, pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    """Swapped outputs and outputs that are not finite are no low score."""
    need_own_export(pytestconfig)
    swapped = with_swapped_outputs(onnx_model, tmp_path / "swapped.onnx", "class_p3", "box_p3")
    message = r"HeadError: output class_p3 is \(1, 36, 64, 64\), .* names and shapes do not fit"
    assert_one_error(message, "evaluate", "--model", swapped, "--image-limit", 1)
    broken = perturbed(onnx_model, tmp_path / "nan.onnx", "class_p4", float("nan"))
    assert_one_error(r"HeadError: class_p\d", "evaluate", "--model", broken, "--image-limit", 1)


@pytest.mark.parametrize("option", ["--json", "--report-json"])
def test_a_file_that_cannot_be_written_is_named_first(option: str, tmp_path: Path) -> None:
    """A result that would be lost is an error before any work."""
    (tmp_path / "file").touch()
    message = r"OutputError: .*file/record\.json cannot be written: "
    assert_one_error(message, "evaluate", option, tmp_path / "file" / "record.json")
    assert re.search("is a folder, but a file", effd0("evaluate", option, tmp_path).err)
