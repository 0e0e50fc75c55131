"""What an option cannot mean is one error that names it, on the command line as in pytest."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from effd0.cli import pytest_suite
from effd0.cli.command import kinds_of
from effd0.data import fixture
from effd0.errors import Effd0Error
from effd0.evaluation.model import ModelChoice
from effd0.spec import SPECS
from tests.helpers import assert_one_error, run_pytest, session_config, write_coco

WANTED = "is wanted; give it as"
DRAWN = "is given without --checkpoint, but the embedded checkpoint knows drawn scenes only"

#: The command's words, what pytest is given, and what both say; each is left out of what lacks it.
REFUSED = {
    "model-is-weights": (
        "evaluate --model d0.pth", "--model=d0.pth",
        f"--model is d0.pth, but an .onnx or .om file {WANTED} --checkpoint",
    ),
    "weights-are-a-model": (
        "evaluate --checkpoint d0.onnx", "--checkpoint=d0.onnx",
        rf"--checkpoint is d0.onnx, but .* \(.pth, .safetensors\) {WANTED} --model",
    ),
    "model-is-a-folder": (
        "infer --model bins", "--model=bins", "--model is bins, a folder, but an .onnx or .om file",
    ),
    "weights-are-missing": (
        "evaluate --checkpoint no.pth", "--checkpoint=no.pth",
        "--checkpoint is no.pth, which does not exist; 'effd0 fetch checkpoint' gets them",
    ),
    "neither-kind": (
        "evaluate --model d0.txt", "--model=d0.txt", "make one with 'effd0 export'",
    ),
    "results-are-inputs": (
        "postprocess --omfile bins", "--results=bins",
        f"is bins, but a folder of results {WANTED} --bins",
    ),
    "inputs-are-results": (
        "postprocess --omfile out --bins out", "--bins=out",
        f"--bins is out, but a folder of inputs {WANTED} --(omfile|results)",
    ),
    "inputs-are-a-file": (
        "infer --input d0.onnx", "--bins=d0.onnx", "is d0.onnx, but a folder of inputs is wanted",
    ),
    "images-without-annotations": (
        None, "--checkpoint=d0.pth --coco=bins",
        "--coco is bins, but a folder with annotations/ and images is wanted; give it as --bins",
    ),
    "folder-of-anything": (
        None, "--checkpoint=d0.pth --coco=coco/val2017",
        "is coco/val2017, but a folder with annotations/ and images is wanted; 'effd0 fetch coco'",
    ),
    "split-without-annotations": (
        None, "--checkpoint=d0.pth --coco=coco --split=train2017",
        "--split is train2017, but coco/annotations/instances_train2017.json does not exist",
    ),
    "source-without-its-model": (
        None, "--onnx=d0.onnx", "--onnx is given, but no compiled --model",
    ),
    "detections-are-a-folder": (None, "--detections=out", "--detections is out, a folder, but "),
    "reference-is-no-model": (
        "evaluate --reference d0.om", None, "--reference is d0.om, but an .onnx file or weights",
    ),
    "bisect-weights": (
        "bisect --model d0.pth --reference d0.onnx", None, f"{WANTED} --reference",
    ),
    "image-is-a-model": (
        "detect d0.onnx --out a.png", None, f"IMAGE is d0.onnx, but an image file {WANTED} --model",
    ),
    "report-is-a-folder": (
        "evaluate --report-json bins", "--report-json=bins",
        "--report-json: bins is a folder, but a file is to be written",
    ),
    "file-is-there": (
        "export --out d0.onnx", "--report-json=d0.txt",
        "is d0.(onnx|txt), which is there; give another place, or --overwrite to replace it",
    ),
    "resuming-is-of-the-folder": (
        "evaluate --out out --resume --json d0.txt", "--out=out --resume --report-json=d0.txt",
        "json is d0.txt, which is there",
    ),
    "link-to-a-file": ("evaluate --json link", "--report-json=link", "is link, which is there"),
    "folder-is-not-empty": (
        "preprocess --bin-save out", "--out=bins",
        "is (out|bins), which is there; .*another place, or --overwrite to replace it",
    ),
    "run-directory-is-a-file": (
        "evaluate --out d0.pth", "--out=d0.pth", "--out is d0.pth, which is a file, but a folder",
    ),
    "fraction-for-percent": (
        "evaluate --min-map 0.334", "--min-map=0.334",
        "--min-map is 0.334, but it is in percent; 33.4 was probably meant",
    ),
    "no-number": (
        None, "--max-drop=nan", "--max-drop is nan, but a number is wanted",
    ),
    "no-limit": (
        "benchmark --max-slowdown inf", "--max-slowdown=inf", "--max-slowdown is inf, but a number",
    ),
    "demo-weights-on-photographs": ("evaluate --root coco", "--coco=coco", DRAWN),
    "demo-weights-on-an-image": ("detect a.jpg --out b.jpg", None, f"IMAGE {DRAWN}"),
    "no-board": (None, "--require=npu", r"^npu is required \(--require npu\), but pyACL cannot be"),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file or folder of each kind."""
    here = tmp_path_factory.mktemp("given")
    root = write_coco(here / "coco")
    shutil.copy(next((root / "val2017").iterdir()), here / "a.jpg")
    for name in ("d0.om", "d0.onnx", "d0.pth", "d0.txt"):
        (here / name).write_bytes(b"any")
    (here / "link").symlink_to("d0.txt")
    for name, sizes in (("bins", [64] * 10), ("out", range(64, 74))):
        (here / name).mkdir()
        for number, size in enumerate(sizes):
            np.zeros(size, np.uint8).tofile(here / name / f"image_{number}.bin")
    return here


@pytest.mark.parametrize(("words", "given", "message"), REFUSED.values(), ids=REFUSED)
def test_what_an_option_cannot_mean_names_it(
    words: str | None,
    given: str | None,
    message: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever gives a wrong path, kind or number reads which option it was, before any work."""
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())
    if words is not None:
        assert_one_error(message, *words.split())
    if given is not None:
        with pytest.raises((Effd0Error, pytest.UsageError), match=message):
            pytest_suite.refuse_contradictions(session_config(given))
    assert sorted(folder.iterdir()) == before


def test_pytest_ends_with_the_usage_error(folder: Path) -> None:
    """Exit code 4 and one line come in place of thousands, before a test is collected."""
    done = run_pytest(f"--model={folder / 'd0.pth'}")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    (line,) = filter(None, (done.stdout + done.stderr).splitlines())
    assert line.startswith(f"ERROR: --model is {folder / 'd0.pth'}, but an .onnx or .om file")


def test_the_embedded_scenes_need_no_weights(tmp_path: Path) -> None:
    """The embedded checkpoint may run on the scenes that it was made for."""
    ModelChoice().check_photographs("--root", fixture.coco_root())
    ModelChoice(model=tmp_path).check_photographs("--root", tmp_path)


@pytest.mark.parametrize("arch", ["tf_efficientdet_lite0", "tf_efficientdet_d7x"])
@pytest.mark.parametrize("classes", [1, 4, 16, 90])
def test_heads_of_any_spec_are_known_as_results(classes: int, arch: str, tmp_path: Path) -> None:
    """Even where heads have one size, a folder of them is none of inputs; tables may be either."""
    spec = replace(SPECS[arch], num_classes=classes)
    for number, shape in enumerate(spec.head_shapes.values()):
        with (tmp_path / f"a_{number}.bin").open("wb") as file:
            file.truncate(4 * math.prod(shape))
    assert kinds_of(tmp_path) == {"results"}
    tables = tmp_path / "tables"
    tables.mkdir()
    for number, width in enumerate((classes, 4)):
        (tables / f"a_{number}.bin").write_bytes(bytes(width))
    assert kinds_of(tables) == {"inputs", "results"}
