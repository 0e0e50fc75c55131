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
from effd0.graph.rewrite import save_graph
from effd0.graph.rewrites import DEFAULT_EDITS, apply_edits
from effd0.runners.base import Runner
from effd0.runners.registry import RunnerOptions, open_runner
from effd0.spec import ModelSpec
from effd0.tensor_diff import compare_tensors
from effd0.tolerances import HEADS, MAX_ABS, TABLE, Tolerance
from effd0.types import Tensor, Tensors

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


if __name__ == "__main__":
    PAGE.write_text(rendered())
