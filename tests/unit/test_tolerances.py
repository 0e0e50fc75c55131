"""Tests for `effd0.tolerances`: each is reasoned, measured, dated and written down."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from effd0 import tolerances
from effd0.export.to_onnx import write_simplified
from effd0.graph.onnx_info import load_graph
from effd0.graph.rewrite import save_graph
from effd0.graph.rewrites import DEFAULT_EDITS, apply_edits
from effd0.runners.base import Runner
from effd0.runners.registry import RunnerOptions, open_runner
from effd0.spec import ModelSpec
from effd0.tensor_diff import compare_tensors
from effd0.tolerances import HEADS, MAX_ABS, TABLE, Tolerance
from effd0.types import Tensor, Tensors

ROOT = Path(__file__).parents[2]
NAMES = [row.name for row in TABLE]


def defined(content: Mapping[Any, Any]) -> Iterator[Tolerance]:
    """Yield all tolerances in *content* and in the mappings in it."""
    for value in content.values():
        if isinstance(value, Tolerance):
            yield value
        elif isinstance(value, dict):
            yield from defined(value)


def test_the_table_holds_every_tolerance_once() -> None:
    """A tolerance that the table does not show would be one that nobody looks at."""
    public = {name: value for name, value in vars(tolerances).items() if name[0] != "_"}
    assert {row.name for row in defined(public)} == set(NAMES)
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("row", TABLE, ids=NAMES)
def test_a_tolerance_says_why_and_when(row: Tolerance) -> None:
    """It has a reason in words, and a date on which its spread was measured."""
    assert len(row.reason.split()) >= 3
    assert row.reason.endswith(".")
    assert date(2026, 11, 23) <= row.measured <= date.today()  # a day is enough


@pytest.mark.parametrize("row", TABLE, ids=NAMES)
def test_a_tolerance_has_room_for_what_was_measured(row: Tolerance) -> None:
    """What is right passes; only what is exact has no room at all."""
    assert 0 <= row.spread < row.limit or row.spread == row.limit == 0


def test_the_page_is_the_table() -> None:
    """What readers see is what verdicts use; the page itself says how to write it again."""
    assert (ROOT / "docs" / "tolerances.md").read_text() == tolerances.page()


@pytest.fixture(scope="module")
def half_model(onnx_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model under test with weights of float16, as ``effd0 modify --edit fp16`` makes it."""
    folder = tmp_path_factory.mktemp("half")
    write_simplified(onnx_model, folder / "simplified.onnx")
    model = load_graph(folder / "simplified.onnx")
    apply_edits(model, (*DEFAULT_EDITS, "fp16"))
    save_graph(model, folder / "half.onnx")
    return folder / "half.onnx"


def opened(name: str, precision: str, request: pytest.FixtureRequest) -> Runner:
    """Return the runner *name* of the weights under test in *precision*, to be entered."""
    spec: ModelSpec = request.getfixturevalue("spec")
    if name == "emulated":
        from tests.emulator.tools import EmulatedRunner, compile_emulated

        folder: Path = request.getfixturevalue("tmp_path")
        write_simplified(request.getfixturevalue("onnx_model"), folder / "simplified.onnx")
        path = folder / "half.om"
        compile_emulated(
            folder / "simplified.onnx", path, gears=(1, 2), precision_mode="force_fp16"
        )
        return EmulatedRunner(path)
    if name == "torch":
        checkpoint = request.getfixturevalue("checkpoint")
        return open_runner(name, checkpoint, spec, RunnerOptions(precision=precision))
    model = request.getfixturevalue("half_model" if precision == "fp16" else "onnx_model")
    return open_runner(name, model, spec, RunnerOptions())


@pytest.mark.slow
@pytest.mark.stage("runner")
@pytest.mark.parametrize(("name", "precision"), HEADS, ids="-".join)
def test_a_runner_keeps_to_its_tolerance(
    name: str, precision: str, images: Tensor, torch_heads: Tensors, request: pytest.FixtureRequest
) -> None:
    """Heads of two images, one by one, differ by what is allowed at most; and what is not float32
    does differ.
    """
    row = HEADS[name, precision]
    errors = []
    with opened(name, precision, request) as runner:
        for n in range(2):
            heads = runner.infer({runner.inputs[0].name: images[n : n + 1]})
            wanted = {key: head[n : n + 1] for key, head in torch_heads.items()}
            diffs = compare_tensors(wanted, heads)
            errors += [d.max_abs if row.unit == MAX_ABS else d.relative_l2 for d in diffs]
    assert max(errors) <= row.limit
    # A runner that computed in float32 after all would not have been measured.
    if precision != "fp32":
        assert max(errors) >= row.spread / 10
