"""House rules that no linter knows."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = sorted((ROOT / "effd0").rglob("*.py"))
TESTS = sorted([*(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])
MAX_LINES = 220
MAX_FUNCTION = 45


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", PACKAGE, ids=_name)
def test_files_hold_one_idea(path: Path) -> None:
    """A file that grows beyond what fits in a head is split."""
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", PACKAGE, ids=_name)
def test_functions_are_short(path: Path) -> None:
    """A function that does not fit on a screen is split; a command's options do not count."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            first = node.body[0]
            assert node.end_lineno is not None
            length = node.end_lineno - first.lineno + 1
            assert length <= MAX_FUNCTION, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", TESTS, ids=_name)
def test_every_test_states_its_law(path: Path) -> None:
    """A test without a sentence cannot be judged when it fails."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and node.name.startswith(("test_", "bench_")):
            assert ast.get_docstring(node), f"{path.name}: {node.name} states no law"


def test_import_is_light() -> None:
    """Importing the package and its command line loads no backend."""
    heavy = {
        "torch", "onnx", "onnxruntime", "openvino", "effdet", "onnxsim", "pycocotools",
        "fsspec", "hypothesis", "jinja2", "matplotlib", "pyarrow", "ray",
    }  # fmt: skip
    code = f"import effd0, effd0.cli, sys; print(sorted({heavy} & sys.modules.keys()))"
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert shown.strip() == "[]"
