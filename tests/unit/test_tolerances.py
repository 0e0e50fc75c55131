"""
Tests for `effd0.tolerances`: each is reasoned, measured, dated and written down.

``python -m tests.unit.test_tolerances`` makes ``docs/tolerances.md`` of the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from effd0 import tolerances
from effd0.export.to_onnx import write_simplified
from effd0.graph.onnx_info import load_graph
from effd0.graph.rewrites import DEFAULT_EDITS, apply_edits, save_graph
from effd0.runners.registry import RunnerOptions, open_runner
from effd0.spec import ModelSpec
from effd0.tensors.diff import compare_tensors
from effd0.tolerances import HEADS, TABLE, Tolerance
from effd0.types import Tensor, Tensors

from ..emulator.tools import EmulatedRunner, compile_emulated

PAGE = Path(__file__).parents[2] / "docs" / "tolerances.md"
ROWS = [pytest.param(row, id=row.name) for row in TABLE.values()]
HEAD = """# Tolerances

Every number by which a verdict forgives a difference, in the one place where it stands,
`effd0/tolerances.toml`. This page is made of it; after a change there:

    python -m tests.unit.test_tolerances

*Measured* is the largest difference that was seen where nothing is wrong, on trained weights. The
bands by which `effd0/diagnosis/parity.py` names a precision are there, with what was measured.

| tolerance | allowed | in | measured | on | reason |
|---|---|---|---|---|---|
"""


def rendered() -> str:
    """The table as the page."""
    return HEAD + "".join(
        f"| {row.name} | {row.limit:g} | {row.unit} | {row.spread:g} | {row.measured} | "
        f"{row.reason} |\n"
        for row in TABLE.values()
    )


def defined(content: Mapping[Any, Any]) -> Iterator[Tolerance]:
    """Yield all tolerances in *content* and in the mappings in it."""
    for value in content.values():
        if isinstance(value, Tolerance):
            yield value
        elif isinstance(value, dict):
            yield from defined(value)


def test_every_tolerance_of_the_table_is_used() -> None:
    """Each row has a name of its own, and a value of the module stands for it."""
    public = {name: value for name, value in vars(tolerances).items() if name != "TABLE"}
    assert sorted(row.name for row in defined(public)) == sorted({r.name for r in TABLE.values()})


@pytest.mark.parametrize("row", ROWS)
def test_a_tolerance_says_why_when_and_how_far(row: Tolerance) -> None:
    """It has a reason, a date of its measurement, and room for what was measured but if exact."""
    assert len(row.reason.split()) >= 3
    assert row.reason.endswith(".")
    assert date(2026, 11, 23) <= row.measured <= date.today()  # a day is enough
    assert 0 <= row.spread < row.limit or row.spread == row.limit == 0


def test_the_page_is_the_table() -> None:
    """What readers see is what verdicts use."""
    assert PAGE.read_text() == rendered()


@pytest.fixture(scope="module")
def half_models(onnx_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The model with weights of float16, by ``modify --edit fp16`` and by the emulated ATC."""
    folder = tmp_path_factory.mktemp("half")
    simplified, half = folder / "simplified.onnx", folder / "half.onnx"
    write_simplified(onnx_model, simplified)
    model = load_graph(simplified)
    apply_edits(model, (*DEFAULT_EDITS, "fp16"))
    save_graph(model, half)
    options: dict[str, Any] = {"gears": (1, 2), "precision_mode": "force_fp16"}
    return half, compile_emulated(simplified, folder / "half.om", **options)


@pytest.mark.slow
@pytest.mark.stage("runner")
@pytest.mark.parametrize(("name", "precision"), HEADS, ids="-".join)
def test_a_runner_keeps_to_its_tolerance(
    name: str,
    precision: str,
    onnx_model: Path,
    half_models: tuple[Path, Path],
    checkpoint: Path,
    images: Tensor,
    torch_heads: Tensors,
    spec: ModelSpec,
) -> None:
    """Heads of two images differ by what is allowed at most; what is not float32 does differ."""
    row, errors = HEADS[name, precision], []
    path, options = half_models[0] if precision == "fp16" else onnx_model, RunnerOptions()
    if name == "torch":
        path, options = checkpoint, RunnerOptions(precision=precision)
    emulated = name == "emulated"
    with (
        EmulatedRunner(half_models[1]) if emulated else open_runner(name, path, spec, options)
    ) as runner:
        for n in range(2):
            heads = runner.infer({runner.inputs[0].name: images[n : n + 1]})
            wanted = {key: head[n : n + 1] for key, head in torch_heads.items()}
            diffs = compare_tensors(wanted, heads)
            largest = row.unit == "largest difference in a head"
            errors += [d.max_abs if largest else d.relative_l2 for d in diffs]
    assert max(errors) <= row.limit
    # A runner that computed in float32 after all would not have been measured.
    if precision != "fp32":
        assert max(errors) >= row.spread / 10


if __name__ == "__main__":
    PAGE.write_text(rendered())
