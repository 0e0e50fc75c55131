"""`effd0.export.verify.export_onnx`: every batch size and exporter computes what torch does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from effd0.export import verify as build
from effd0.export.to_onnx import BATCH_SIZES, ExportSettings
from effd0.export.verify import Built
from effd0.runners.onnxruntime import OrtRunner
from effd0.spec import ModelSpec
from effd0.tensor_diff import compare_tensors
from effd0.tolerances import SAME_FLOAT32
from effd0.types import Tensor, Tensors


def assert_fixed(built: Built, batch: int, spec: ModelSpec) -> None:
    """The file declares *batch* at both ends, and its first rows gave torch's heads."""
    with OrtRunner(built.path, provider="CPUExecutionProvider") as runner:
        assert [info.shape for info in runner.inputs] == [(batch, *spec.input_shape)]
        assert {info.name: info.shape for info in runner.outputs} == {
            name: (batch, *shape) for name, shape in spec.head_shapes.items()
        }
    assert {diff.name for diff in built.diffs} == set(spec.output_names)
    # Measured 2026-11-23: at most 4.1e-5 at batch 4, 4.2e-5 at batch 8.
    assert built.diffs[0].max_abs <= SAME_FLOAT32.limit, str(built.diffs[0])


@pytest.mark.slow
def test_a_fixed_batch_is_exported_as_such(
    checkpoint: Path, spec: ModelSpec, tmp_path: Path
) -> None:
    """Four images at once, in shapes that a compiler can read off the file."""
    built = build.export_onnx(checkpoint, tmp_path / "d0.onnx", spec, ExportSettings(batch_size=4))
    assert_fixed(built, 4, spec)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [n for n in BATCH_SIZES if n > 4], ids="batch={}".format)
def test_every_batch_of_the_recipes_table_is_exported(
    batch: int,
    checkpoint: Path,
    images: Tensor,
    torch_heads: Tensors,
    spec: ModelSpec,
    tmp_path: Path,
) -> None:
    """The recipe's larger batches are exported and give torch's heads in every row."""
    built = build.export_onnx(
        checkpoint, tmp_path / "d0.onnx", spec, ExportSettings(batch_size=batch)
    )
    assert_fixed(built, batch, spec)
    feed = np.resize(images, (batch, *spec.input_shape))
    with OrtRunner(built.path, provider="CPUExecutionProvider") as runner:
        heads = runner.infer({spec.input_name: feed})
    rows = np.arange(batch) % len(images)
    worst = compare_tensors({n: head[rows] for n, head in torch_heads.items()}, heads)[0]
    assert worst.max_abs <= SAME_FLOAT32.limit, str(worst)  # see the spread above


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, None], ids=["batch=1", "batch=free"])
def test_the_other_exporter_writes_the_same_network(
    batch: int | None,
    checkpoint: Path,
    images: Tensor,
    torch_heads: Tensors,
    spec: ModelSpec,
    tmp_path: Path,
) -> None:
    """The dynamo exporter at opset 18 agrees with torch, at a batch it was not traced with too."""
    settings = ExportSettings(batch_size=batch, exporter="dynamo")
    built = build.export_onnx(checkpoint, tmp_path / "d0.onnx", spec, settings)
    rows = 1 if batch == 1 else len(images)
    with OrtRunner(built.path, provider="CPUExecutionProvider") as runner:
        assert [(i.name, i.shape) for i in runner.inputs] == [
            (spec.input_name, (batch, *spec.input_shape))
        ]
        heads = runner.infer({spec.input_name: images[:rows]})
    assert list(heads) == list(spec.output_names)
    worst = compare_tensors({n: head[:rows] for n, head in torch_heads.items()}, heads)[0]
    # Measured 2026-11-23: at most 4.1e-5 at batch 1 and 5.
    assert worst.max_abs <= SAME_FLOAT32.limit, str(worst)
    assert list(tmp_path.iterdir()) == [built.path]  # the weights are inside, not beside


@pytest.mark.slow
def test_the_other_exporters_padding_is_folded(
    checkpoint: Path, spec: ModelSpec, tmp_path: Path
) -> None:
    """Where an export comes with constant padding of -inf, folding takes all of it."""
    settings = ExportSettings(exporter="dynamo")
    source = build.export_onnx(checkpoint, tmp_path / "d0.onnx", spec, settings).path
    folded = build.modify_onnx(source, tmp_path / "folded.onnx", spec, ["fold-pad"])
    assert folded.changes[0].matches > 0
    zeroed = build.modify_onnx(source, tmp_path / "zeroed.onnx", spec, ["zero-pad"])
    assert zeroed.changes[0].matches == folded.changes[0].matches
    assert zeroed.diffs[0].max_abs > SAME_FLOAT32.limit >= folded.diffs[0].max_abs


PLAIN_SCRIPT = """
import sys
from pathlib import Path

from effd0.errors import CheckpointError
from effd0.evaluation.model import ModelChoice

{write}
try:
    with ModelChoice(checkpoint=Path("d0.pth")).opened() as (runner, path):
        print(path.name, runner.inputs[0].shape)
except CheckpointError as error:
    print("CheckpointError:", error)
"""


def run_plain(folder: Path, write: str) -> str:
    """What a script without a ``__main__`` guard prints that opens what *write* writes."""
    (folder / "script.py").write_text(PLAIN_SCRIPT.format(write=write))
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_plain_script_gets_the_errors_of_a_conversion(tmp_path: Path) -> None:
    """No ``__main__`` guard is needed, and what is wrong with a checkpoint keeps its kind."""
    told = run_plain(tmp_path, "Path('d0.pth').write_bytes(b'not weights')")
    assert told.startswith("CheckpointError: d0.pth is not a file of plain tensors, ")


@pytest.mark.slow
def test_a_plain_script_opens_a_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    """The conversion runs in processes that do not import the script."""
    told = run_plain(tmp_path, f"Path('d0.pth').symlink_to({str(checkpoint)!r})")
    assert told == "d0.onnx (1, 3, 512, 512)\n"


def test_a_passing_export_is_gone_after_its_block(
    checkpoint: Path, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model made for the time of a job is there during it, and nowhere afterwards."""
    steps = []

    def done(step: str, source: Path, out: Path, *options: object) -> None:
        steps.append((step, *options[1:]))
        out.write_bytes(source.read_bytes())

    monkeypatch.setattr(build, "_in_child", done)
    with build.exported(checkpoint, spec, 3, ["fuse-sums"]) as path:
        assert path.name == f"{checkpoint.stem}.onnx"
        assert path.exists()
    assert not path.parent.exists()
    assert steps == [("export", ExportSettings(batch_size=3)), ("simplify", ["fuse-sums"])]
