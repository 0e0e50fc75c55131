"""`effd0.export.verify`: a file is named only after it has computed what its source does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from effd0.errors import ExportError, GraphError
from effd0.export import verify as build
from effd0.export.to_onnx import ExportSettings
from effd0.export.verify import Built
from effd0.graph.rewrites import DEFAULT_EDITS, EDITS, ORT_EDITS
from effd0.runners.onnxruntime import OrtRunner
from effd0.spec import ModelSpec
from effd0.tolerances import SAME_FLOAT32

from .onnx_models import need_own_export, perturbed, pinned, unfolded

#: A bias moved by this is seen: five times what rounding may do.
SEEN = 5 * SAME_FLOAT32.limit


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
    return build.simplify_onnx(onnx_model, folder / "simplified.onnx", spec)


@pytest.fixture(scope="module")
def simplified_one(simplified: Built, folder: Path) -> Path:
    """The simplified export with its batch fixed to one."""
    return pinned(simplified.path, folder / "simplified_one.onnx", 1)


@pytest.fixture(scope="module")
def padded_one(simplified_one: Path, folder: Path) -> tuple[Path, int]:
    """The same with each max-pool's padding in a Pad of -inf before it, and how many there are."""
    path = folder / "padded_one.onnx"
    return path, unfolded(simplified_one, path)


def metadata(path: Path) -> dict[str, str]:
    """What a file says of its origin."""
    return {p.key: p.value for p in onnx.load(str(path)).metadata_props}


def operators(path: Path) -> list[str]:
    """The operators of a file's nodes."""
    return [node.op_type for node in onnx.load(str(path)).graph.node]


@pytest.mark.slow
def test_simplifying_keeps_the_heads_and_the_free_batch(
    simplified: Built, onnx_model: Path, spec: ModelSpec
) -> None:
    """Far fewer nodes compute what the export does, still for any number of images."""
    assert len(operators(simplified.path)) < len(operators(onnx_model)) / 2
    assert {diff.name for diff in simplified.diffs} == set(spec.output_names)
    # Measured 2026-11-23: at most 1.5e-5.
    assert simplified.diffs[0].max_abs <= SAME_FLOAT32.limit, str(simplified.diffs[0])
    with OrtRunner(simplified.path, provider="CPUExecutionProvider") as runner:
        assert runner.inputs[0].shape == (None, *spec.input_shape)


@pytest.mark.slow
def test_simplifying_keeps_the_origin(simplified: Built, onnx_model: Path) -> None:
    """The metadata stays, and says that it was simplified and by what."""
    kept = metadata(simplified.path)
    assert kept.pop("simplified").startswith("onnxsim ")
    assert kept == metadata(onnx_model)


@pytest.mark.slow
def test_the_default_edits_straighten_a_simplified_export(
    simplified_one: Path, spec: ModelSpec, tmp_path: Path
) -> None:
    """No padding is left to edit; all weighted sums are, and the file keeps heads and origin."""
    built = build.modify_onnx(simplified_one, tmp_path / "d0.onnx", spec, DEFAULT_EDITS)
    assert [str(change) for change in built.changes] == [
        "fold-pad: nothing to do",
        "finite-pad: nothing to do",
        "fold-weights: 57 matches",
        "fuse-sums: 24 matches",
    ]
    assert [change.worst.max_abs for change in built.changes[:2]] == [0.0, 0.0]
    # Measured 2026-11-23: 9.6e-6.
    assert built.diffs[0].max_abs <= SAME_FLOAT32.limit
    assert not {"Div", "Unsqueeze", "ReduceSum"} & set(operators(built.path))
    assert metadata(built.path) == metadata(simplified_one)


@pytest.mark.slow
def test_the_edits_for_onnx_runtime_keep_the_heads(
    one: Path, spec: ModelSpec, tmp_path: Path
) -> None:
    """Every squeeze, gate and weight of a D0 is found; logits move by 1e-4 of the largest."""
    wanted = {"step-means": 16, "scale-convs": 57, "spread-gates": 16}
    fixed = build.simplify_onnx(one, tmp_path / "fixed.onnx", spec).path
    built = build.modify_onnx(fixed, tmp_path / "d0.onnx", spec, ORT_EDITS)
    found = {change.edit.name: change.matches for change in built.changes}
    assert {name: found[name] for name in wanted} == wanted
    # Measured 2026-11-25 on embedded images and on photographs: 1.0e-5 of the largest logit.
    assert max(diff.relative_l2 for diff in built.diffs) <= 1e-4
    assert built.diffs[0].max_abs <= SAME_FLOAT32.limit
    quick = build.simplify_onnx(one, tmp_path / "at-once.onnx", spec, ORT_EDITS)
    assert operators(quick.path) == operators(built.path)


#: Edit -> its matches in a D0: three cells of eight sums with 19 terms in all; 16 squeezes.
PATTERNS = {"fold-weights": 57, "fuse-sums": 24, "mean-pool": 16}


@pytest.mark.slow
def test_exact_edits_find_their_patterns_in_a_raw_export(
    one: Path, spec: ModelSpec, tmp_path: Path
) -> None:
    """Without simplification they find every place, and each keeps the heads."""
    built = build.modify_onnx(one, tmp_path / "d0.onnx", spec, list(PATTERNS))
    assert {change.edit.name: change.matches for change in built.changes} == PATTERNS
    # Measured 2026-11-23: fold-weights 9.6e-6, fuse-sums 0, mean-pool 4.4e-4.
    assert all(c.worst.max_abs <= SAME_FLOAT32.limit for c in built.changes)


@pytest.mark.slow
def test_float16_is_written_with_what_it_costs(
    simplified_one: Path, spec: ModelSpec, tmp_path: Path
) -> None:
    """The file is half as large, is fed and gives float32, and shows how far its heads are off."""
    built = build.modify_onnx(simplified_one, tmp_path / "d0.onnx", spec, ["fuse-sums", "fp16"])
    assert built.path.stat().st_size < 0.51 * simplified_one.stat().st_size
    with OrtRunner(built.path, provider="CPUExecutionProvider") as runner:
        assert {info.dtype for info in (*runner.inputs, *runner.outputs)} == {np.dtype("f4")}
        assert [info.name for info in runner.outputs] == list(spec.output_names)
    exact, rounded = built.changes
    assert exact.worst.max_abs <= SAME_FLOAT32.limit
    assert rounded.worst.max_abs > SAME_FLOAT32.limit
    # Weights of 11 bits through a deep network.  Measured 2026-11-23: 2.1e-2, by logits that reach
    # -36; relative L2 at most 1e-3, in P7's boxes.
    assert built.diffs[0].max_abs <= 0.1
    assert max(diff.relative_l2 for diff in built.diffs) <= 5e-3


@pytest.mark.slow
@pytest.mark.parametrize("edit", ["fold-pad", "finite-pad"])
def test_an_exact_edit_of_a_whole_network_keeps_its_heads(
    edit: str, padded_one: tuple[Path, int], spec: ModelSpec, tmp_path: Path
) -> None:
    """All paddings of max-pools are changed, and not a bit of a head."""
    path, count = padded_one
    built = build.modify_onnx(path, tmp_path / "d0.onnx", spec, [edit])
    assert count > 0
    assert built.changes[0].matches == count
    assert built.diffs[0].max_abs == 0.0
    assert operators(built.path).count("Pad") == (0 if edit == "fold-pad" else count)


@pytest.mark.slow
def test_the_recipes_edit_is_shown_to_change_the_heads(
    padded_one: tuple[Path, int], spec: ModelSpec, tmp_path: Path
) -> None:
    """Padding by zero is written as asked for, with the difference that it makes."""
    path, count = padded_one
    built = build.modify_onnx(path, tmp_path / "d0.onnx", spec, ["zero-pad"])
    assert built.changes[0].matches == count
    assert built.diffs[0].max_abs > SAME_FLOAT32.limit
    assert built.path.exists()


def test_a_raw_export_is_to_be_simplified_before_it_is_edited(
    one: Path, spec: ModelSpec, tmp_path: Path
) -> None:
    """The exporter computes its padding while the model runs, which no edit can read."""
    with pytest.raises(GraphError, match=r"is computed while .* run 'effd0 simplify' first"):
        build.modify_onnx(one, tmp_path / "d0.onnx", spec, DEFAULT_EDITS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_export_with_wrong_numbers_is_not_written(
    one: Path,
    checkpoint: Path,
    spec: ModelSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One bias that is off is found and named by its head, and no file appears."""

    def wrong(_: Path, path: Path, *__: Any) -> None:
        perturbed(one, path, "box_p5", SEEN)

    monkeypatch.setattr(build, "write_onnx", wrong)
    with pytest.raises(ExportError, match=r"d0\.onnx was not written, .*: box_p\d differs by"):
        build.export_onnx(checkpoint, tmp_path / "d0.onnx", spec, ExportSettings())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_simplification_with_wrong_numbers_is_not_written(
    one: Path, spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is held against the model it was made from, and an older file of that name stays."""
    out = tmp_path / "d0.onnx"
    out.write_bytes(b"older")

    def wrong(model: Path, path: Path) -> None:
        perturbed(model, path, "class_p3", SEEN)

    monkeypatch.setattr(build, "write_simplified", wrong)
    with pytest.raises(ExportError, match=r"was not written, .*one\.onnx does: class_p\d differs"):
        build.simplify_onnx(one, out, spec)
    assert list(tmp_path.iterdir()) == [out]
    assert out.read_bytes() == b"older"


@pytest.mark.slow
def test_an_edit_that_claims_too_much_is_not_written(
    padded_one: tuple[Path, int],
    spec: ModelSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An edit called exact that changes heads is an error, also behind one that may change them."""
    monkeypatch.setitem(EDITS, "zero-pad", replace(EDITS["zero-pad"], exact=True))
    with pytest.raises(GraphError, match=r"was not written, .* what .*onnx before zero-pad does"):
        build.modify_onnx(padded_one[0], tmp_path / "d0.onnx", spec, ["fp16", "zero-pad"])
    assert list(tmp_path.iterdir()) == []
