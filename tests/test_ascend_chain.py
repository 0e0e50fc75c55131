"""
The recipe from end to end: export, simplify, modify, compile, preprocess, infer, postprocess.

ATC and the NPU are emulated, the images are those of --coco, or the embedded scenes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from effd0.data import fixture as embedded
from effd0.results.suite import SuiteRecord
from effd0.tolerances import ROUNDED, ROUNDED_BY_AIPP, TO_RECORD
from tests.helpers import effd0

from .emulator.acl import installed
from .emulator.tools import FLOAT32, emulated_path

pytestmark = [pytest.mark.slow, pytest.mark.accuracy]

Chain = Callable[..., float]


def run(*words: object) -> None:
    """Run a command; it must succeed."""
    outcome = effd0(*words)
    assert outcome.code == 0, outcome.err


@pytest.fixture(scope="module")
def root(pytestconfig: pytest.Config) -> Path:
    """The images: --coco, or the embedded scenes."""
    given: Path | None = pytestconfig.getoption("--coco")
    return embedded.coco_root() if given is None else given


@pytest.fixture(scope="module")
def reference(root: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> float:
    """The mAP of the same checkpoint and images through `evaluate`, in percent."""
    out = tmp_path_factory.mktemp("reference") / "evaluation.json"
    run("evaluate", "--root", root, "--checkpoint", checkpoint, "--json", out)
    return 100 * float(json.loads(out.read_text())["metrics"]["AP"])


@pytest.fixture(scope="module")
def modified(
    checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int | None], Path]:
    """Return a function that exports, simplifies and modifies for a batch size, or a free one."""
    folder = tmp_path_factory.mktemp("models")

    def make(batch: int | None) -> Path:
        raw, sim, out = (folder / f"{batch}_{step}.onnx" for step in ("raw", "sim", "m"))
        if not out.exists():
            size = ["--dynamic-batch"] if batch is None else ["--batch-size", batch]
            run("export", "--checkpoint", checkpoint, "--out", raw, *size)
            run("simplify", "--model", raw, "--out", sim)
            run("modify", "--model", sim, "--out", out)
        return out

    return make


@pytest.fixture
def chain(
    root: Path,
    modified: Callable[[int | None], Path],
    tmp_path: Path,
    session_record: SuiteRecord,
) -> Iterator[Chain]:
    """Return a function that runs the whole chain and gives its mAP in percent."""

    def make(
        batch: int | None, *compiling: object, dtype: str = "float32", size: int | None = None
    ) -> float:
        model, om, bins = modified(batch), tmp_path / "d0.om", tmp_path / "bins"
        with ExitStack() as stack:
            stack.enter_context(emulated_path())
            soc = ("--soc-version", "Ascend310P3")
            run("compile", "--model", model, "--output", om, *soc, *compiling)
            run("preprocess", "--root", root, "--bin-save", bins, "--dtype", dtype)
            emulator = stack.enter_context(installed())
            asked = () if size is None else ("--batch-size", size)
            run("infer", "--model", om, "--input", bins, "--output", tmp_path, *asked)
            emulator.assert_clean()
        scores = tmp_path / "scores.json"
        run("postprocess", "--root", root, "--omfile", tmp_path / "result", "--json", scores)
        points = 100 * float(json.loads(scores.read_text())["metrics"]["AP"])
        options = " ".join(str(word) for word in compiling)
        session_record.lines.append(
            f"AP {points:.3f}  emulated .om, batch {size or batch}, {options}"
        )
        return points

    yield make
    # A gigabyte of tensors, of no use to anyone afterwards.
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("batch", [1, 4, 7], ids="batch={}".format)
def test_float32_loses_nothing(batch: int, chain: Chain, reference: float) -> None:
    """At each batch size, also where it does not divide the images, the mAP is the checkpoint's."""
    points = chain(batch, "--precision-mode", FLOAT32)
    assert points == pytest.approx(reference, abs=TO_RECORD.limit)


def test_gears_lose_nothing(chain: Chain, reference: float) -> None:
    """One model of several batch sizes, its last batch smaller than any of them, does the same."""
    gears = ("--dynamic-batch-size", "1,4,7")
    points = chain(None, *gears, "--precision-mode", FLOAT32, size=7)
    assert points == pytest.approx(reference, abs=TO_RECORD.limit)


def test_the_recipes_precision_costs_little(chain: Chain, reference: float) -> None:
    """Mixed precision, which the emulator takes for float16 throughout, costs what is stated."""
    assert chain(4) == pytest.approx(reference, abs=ROUNDED.limit)


def test_normalising_on_the_chip_costs_little(chain: Chain, reference: float) -> None:
    """Pixels in, normalised by AIPP in float16: what is lost is stated."""
    points = chain(4, "--precision-mode", FLOAT32, "--aipp", dtype="uint8")
    assert points == pytest.approx(reference, abs=ROUNDED_BY_AIPP.limit)
