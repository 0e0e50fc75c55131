"""Tests for `effd0.export.verify`: a file is named only after it computed what its source does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from effd0.errors import ExportError, GraphError
from effd0.export import verify
from effd0.export.to_onnx import ExportSettings
from effd0.export.verify import Built
from effd0.graph.onnx_info import check_support, load_graph
from effd0.graph.rewrites import DEFAULT_EDITS, EDITS, ORT_EDITS
from effd0.runners.onnxruntime import OrtRunner
from effd0.spec import ModelSpec
from effd0.tensors.diff import compare_tensors
from effd0.tolerances import SAME_FLOAT32
from effd0.types import Tensor, Tensors
from tests.helpers.onnx_models import need_own_export, operators, perturbed, pinned

CheckHeads = Callable[[Built, int | None], None]
#: A bias moved by this is seen: five times what rounding may do.
SEEN = 5 * SAME_FLOAT32.limit
#: Edit -> its matches in a D0: three cells of eight sums with 19 terms in all; 16 squeezes.
PATTERNS = {"fold-weights": 57, "fuse-sums": 24, "mean-pool": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where this module's models lie."""
    return tmp_path_factory.mktemp("built")


@pytest.fixture(scope="module")
def one(onnx_model: Path, pytestconfig: pytest.Config, folder: Path) -> Path:
    """The export with its batch fixed to one, so that one image proves it."""
    need_own_export(pytestconfig)
    return pinned(onnx_model, folder / "one.onnx", 1)


@pytest.fixture(scope="module")
def simplified(onnx_model: Path, folder: Path, spec: ModelSpec, one: Path) -> Built:
    """The simplified export, batch free."""
    assert one.exists()
    return verify.simplify_onnx(onnx_model, folder / "simplified.onnx", spec)


@pytest.fixture(scope="module")
def simplified_one(simplified: Built, folder: Path) -> Path:
    """The simplified export with its batch fixed to one."""
    return pinned(simplified.path, folder / "simplified_one.onnx", 1)


def metadata(path: Path) -> dict[str, str]:
    """What a file says of its origin."""
    return {p.key: p.value for p in onnx.load(str(path)).metadata_props}


def matched(built: Built) -> dict[str, int]:
    """How many places each edit changed."""
    return {change.edit.name: change.matches for change in built.changes}


# Export.


@pytest.fixture
def check_heads(images: Tensor, torch_heads: Tensors, spec: ModelSpec) -> CheckHeads:
    """Return what checks that a file declares its batch, and gives torch's heads in every row."""

    def check(built: Built, batch: int | None) -> None:
        rows = np.arange(batch or len(images)) % len(images)
        with OrtRunner(built.path, provider="CPUExecutionProvider") as runner:
            assert [info.shape for info in runner.inputs] == [(batch, *spec.input_shape)]
            assert {info.name: info.shape for info in runner.outputs} == {
                name: (batch, *shape) for name, shape in spec.head_shapes.items()
            }
            heads = runner.infer({spec.input_name: images[rows]})
        worst = compare_tensors({n: head[rows] for n, head in torch_heads.items()}, heads)[0]
        # Measured 2026-11-23: at most 4.1e-5 at batch 4, 4.2e-5 at batch 8; dynamo 4.1e-5.
        assert worst.max_abs <= SAME_FLOAT32.limit, str(worst)

    return check


@pytest.mark.slow
@pytest.mark.parametrize("batch", [4, 8, 16, 32, 64], ids="batch={}".format)
def test_every_batch_of_the_recipes_table_is_exported(
    batch: int, checkpoint: Path, spec: ModelSpec, check_heads: CheckHeads, tmp_path: Path
) -> None:
    """Each has the checkpoint's heads."""
    settings = ExportSettings(batch_size=batch)
    built = verify.export_onnx(checkpoint, tmp_path / "d0.onnx", spec, settings)
    check_heads(built, batch)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, None], ids=["batch=1", "batch=free"])
def test_the_other_exporter_writes_the_same_network(
    batch: int | None, checkpoint: Path, spec: ModelSpec, check_heads: CheckHeads, tmp_path: Path
) -> None:
    """Dynamo's file agrees with torch, at a batch it was not traced with too, and can be edited."""
    settings = ExportSettings(batch_size=batch, exporter="dynamo")
    built = verify.export_onnx(checkpoint, tmp_path / "d0.onnx", spec, settings)
    assert list(tmp_path.iterdir()) == [built.path]  # the weights are inside, not beside
    check_heads(built, batch)
    edits = ["fold-pad", *PATTERNS, "fp16"]
    edited = verify.modify_onnx(built.path, tmp_path / "edited.onnx", spec, edits)
    assert matched(edited).items() >= ({"fold-pad": 14} | PATTERNS).items()
    # Measured 2026-11-23: 4.4e-4, by mean-pool; 1.9e-2 and 2.6e-2 by fp16.
    assert max(c.worst.max_abs for c in edited.changes if c.edit.exact) <= SAME_FLOAT32.limit
    assert edited.changes[-1].worst.max_abs <= 0.1
    zeroed = verify.modify_onnx(built.path, tmp_path / "zeroed.onnx", spec, ["zero-pad"])
    assert matched(zeroed) == {"zero-pad": 14}
    assert zeroed.diffs[0].max_abs > SAME_FLOAT32.limit


PLAIN_SCRIPT = """
from pathlib import Path

from effd0.errors import CheckpointError
from effd0.evaluation.model import ModelChoice

{write}
try:
    with ModelChoice(checkpoint=Path("d0.pth"), cache=False).opened() as (runner, path):
        print(path.name, runner.inputs[0].shape)
except CheckpointError as error:
    print("CheckpointError:", error)
"""


@pytest.mark.parametrize(
    ("write", "printed"),
    [
        pytest.param(
            "Path('d0.pth').write_bytes(b'not weights')",
            "CheckpointError: d0.pth is not a file of plain tensors, ",
            id="not-a-checkpoint",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "from effd0.data import fixture\nPath('d0.pth').symlink_to(fixture.checkpoint())",
            "d0.onnx (1, 3, 512, 512)\n",
            id="checkpoint",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_plain_script_converts_a_checkpoint(write: str, printed: str, tmp_path: Path) -> None:
    """A script needs no ``__main__`` guard, and what is wrong with the file keeps its kind."""
    (tmp_path / "script.py").write_text(PLAIN_SCRIPT.format(write=write))
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(printed)


@pytest.mark.parametrize(
    ("interpreter", "said"),
    [
        pytest.param("#!/bin/sh\necho out of memory >&2\nexit 7\n", "out of memory", id="said-why"),
        pytest.param("#!/bin/sh\nkill -9 $$\n", "it said nothing", id="killed"),
    ],
)
def test_a_conversion_that_ends_without_a_word_is_an_error(
    interpreter: str,
    said: str,
    checkpoint: Path,
    spec: ModelSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The status, the last words and the command to try by hand are in the message."""
    (tmp_path / "python").write_text(interpreter)
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    message = rf"had to export .* ended with status -?\d+: {said}; run 'effd0 export' to see more"
    with pytest.raises(ExportError, match=message), verify.exported(checkpoint, spec):
        pytest.fail("there is no file")


# Simplification.


@pytest.mark.slow
def test_simplifying_keeps_heads_batch_and_origin(
    simplified: Built, onnx_model: Path, spec: ModelSpec
) -> None:
    """Far fewer nodes compute what the export does, still for any number of images."""
    raw, small = onnx.load(str(onnx_model)), onnx.load(str(simplified.path))
    assert len(small.graph.node) < len(raw.graph.node) / 2
    assert {diff.name for diff in simplified.diffs} == set(spec.output_names)
    # Measured 2026-11-23: at most 1.5e-5.
    assert simplified.diffs[0].max_abs <= SAME_FLOAT32.limit, str(simplified.diffs[0])
    with OrtRunner(simplified.path, provider="CPUExecutionProvider") as runner:
        assert runner.inputs[0].shape == (None, *spec.input_shape)
    kept = metadata(simplified.path)
    assert kept.pop("simplified").startswith("onnxsim ")
    assert kept == metadata(onnx_model)


# Edits.


@pytest.mark.slow
def test_the_default_edits_straighten_a_simplified_export(
    simplified_one: Path, spec: ModelSpec, tmp_path: Path
) -> None:
    """No padding is left to edit; all weighted sums are, and the file keeps heads and origin."""
    built = verify.modify_onnx(simplified_one, tmp_path / "d0.onnx", spec, DEFAULT_EDITS)
    assert [str(change) for change in built.changes] == [
        "fold-pad: nothing to do",
        "finite-pad: nothing to do",
        "fold-weights: 57 matches",
        "fuse-sums: 24 matches",
    ]
    # Measured 2026-11-23: 9.6e-6.
    assert built.diffs[0].max_abs <= SAME_FLOAT32.limit
    assert not {"Div", "Unsqueeze", "ReduceSum"} & set(operators(onnx.load(str(built.path))))
    assert metadata(built.path) == metadata(simplified_one)
    assert check_support(load_graph(built.path)) == []


@pytest.mark.slow
def test_the_edits_for_onnx_runtime_keep_the_heads(
    one: Path, spec: ModelSpec, tmp_path: Path
) -> None:
    """Every squeeze, gate and weight of a D0 is found; logits move by 1e-4 of the largest."""
    fixed = verify.simplify_onnx(one, tmp_path / "fixed.onnx", spec).path
    built = verify.modify_onnx(fixed, tmp_path / "d0.onnx", spec, ORT_EDITS)
    wanted = {"step-means": 16, "scale-convs": 57, "spread-gates": 16}
    assert matched(built).items() >= wanted.items()
    # Measured 2026-11-25 on embedded images and on photographs: 1.0e-5 of the largest logit.
    assert max(diff.relative_l2 for diff in built.diffs) <= 1e-4
    assert built.diffs[0].max_abs <= SAME_FLOAT32.limit


@pytest.mark.slow
def test_float16_is_written_with_what_it_costs(
    simplified_one: Path, spec: ModelSpec, tmp_path: Path
) -> None:
    """The file is half as large, is fed and gives float32, and shows how far its heads are off."""
    built = verify.modify_onnx(simplified_one, tmp_path / "d0.onnx", spec, ["fuse-sums", "fp16"])
    assert built.path.stat().st_size < 0.51 * simplified_one.stat().st_size
    with OrtRunner(built.path, provider="CPUExecutionProvider") as runner:
        assert {info.dtype for info in (*runner.inputs, *runner.outputs)} == {np.dtype("f4")}
        assert [info.name for info in runner.outputs] == list(spec.output_names)
    exact, rounded = built.changes
    assert exact.worst.max_abs <= SAME_FLOAT32.limit < rounded.worst.max_abs
    # Weights of 11 bits through a deep network.  Measured 2026-11-23: 2.1e-2, by logits that reach
    # -36; relative L2 at most 1e-3, in P7's boxes.
    assert built.diffs[0].max_abs <= 0.1


def test_a_raw_export_is_to_be_simplified_before_it_is_edited(
    one: Path, spec: ModelSpec, tmp_path: Path
) -> None:
    """The exporter computes its padding while the model runs, which no edit can read."""
    with pytest.raises(GraphError, match=r"is computed while .* run 'effd0 simplify' first"):
        verify.modify_onnx(one, tmp_path / "d0.onnx", spec, DEFAULT_EDITS)
    assert list(tmp_path.iterdir()) == []


# Files that are not written.


@pytest.mark.slow
def test_a_file_with_wrong_numbers_is_not_written(
    one: Path, checkpoint: Path, spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bias that is off is named by its head, and an older file of that name stays."""
    out = tmp_path / "d0.onnx"
    out.write_bytes(b"older")

    def wrong(_: Path, path: Path, *__: Any) -> None:
        perturbed(one, path, "box_p5", SEEN)

    monkeypatch.setattr(verify, "write_onnx", wrong)
    monkeypatch.setattr(verify, "write_simplified", wrong)
    with pytest.raises(ExportError, match=r"d0\.onnx was not written, .*: box_p\d differs by"):
        verify.export_onnx(checkpoint, out, spec, ExportSettings())
    with pytest.raises(ExportError, match=r"was not written, .*one\.onnx does: box_p\d differs"):
        verify.simplify_onnx(one, out, spec)
    assert list(tmp_path.iterdir()) == [out]
    between = tmp_path / "between"
    between.mkdir()
    with pytest.raises(ExportError, match=rf"does not compute what {checkpoint} does: box_p\d"):
        verify._convert(checkpoint, between / "d0.onnx", spec, ExportSettings(), ())
    assert out.read_bytes() == b"older"


@pytest.mark.slow
def test_an_edit_that_claims_too_much_is_not_written(
    simplified_one: Path, spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An edit called exact that changes heads is an error, also behind one that may change them."""
    monkeypatch.setitem(EDITS, "fp16", replace(EDITS["fp16"], exact=True))
    with pytest.raises(GraphError, match=r"was not written, .* what .*onnx before fp16 does"):
        verify.modify_onnx(simplified_one, tmp_path / "d0.onnx", spec, ["fold-weights", "fp16"])
    assert list(tmp_path.iterdir()) == []
