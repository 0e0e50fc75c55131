"""Every failure that is declared can happen, and a test makes it happen."""

from __future__ import annotations

import ast
import inspect
import pickle
from pathlib import Path

import pytest

from effd0 import errors

ROOT = Path(__file__).parents[2]
NAMES = [
    name
    for name, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.Effd0Error) and kind is not errors.Effd0Error
]


def trees(folder: str) -> list[ast.AST]:
    """Return every node of the Python files in *folder*."""
    files = (ROOT / folder).rglob("*.py")
    return [node for path in files for node in ast.walk(ast.parse(path.read_text()))]


@pytest.fixture(scope="module")
def raised() -> set[str]:
    """Names of the exceptions that the package raises."""
    return {
        node.exc.func.id
        for node in trees("effd0")
        if isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and isinstance(node.exc.func, ast.Name)
    }


@pytest.fixture(scope="module")
def matched() -> set[str]:
    """Names of the exceptions that a test provokes and whose text it looks at."""
    return {
        node.args[0].id
        for node in trees("tests")
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "raises"
        and isinstance(node.args[0], ast.Name)
        and any(keyword.arg == "match" for keyword in node.keywords)
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_error_is_raised(name: str, raised: set[str]) -> None:
    """A class of errors that nothing raises is a promise that nobody keeps."""
    assert name in raised


@pytest.mark.parametrize("name", NAMES)
def test_every_error_is_made_to_happen(name: str, matched: set[str]) -> None:
    """Message code runs at least once before a user sees it, and its text is looked at."""
    assert name in matched


def test_the_tree_in_the_docstring_is_the_real_one() -> None:
    """The picture at the top of the module names each class under its parent."""
    drawn = inspect.getdoc(errors)
    assert drawn is not None
    assert [name for name in NAMES if f"- {name} " not in drawn] == []
    assert issubclass(errors.ImageError, errors.DatasetError)


@pytest.mark.parametrize("name", NAMES)
def test_every_error_crosses_processes(name: str) -> None:
    """An export runs in a process of its own, and its error comes out as it was raised."""
    error = getattr(errors, name)("d0.pth is untrained")
    received = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own bytes
    assert (type(received), str(received)) == (type(error), "d0.pth is untrained")


def test_require_gives_the_module() -> None:
    """What is installed is imported and handed over."""
    assert errors.require("json", extra="none").loads("1") == 1


def test_require_names_what_is_really_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package that is there but lacks one of its own names that one."""
    (tmp_path / "half.py").write_text("import no_such_package_anywhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(errors.MissingExtra, match=r"^no_such_package_anywhere is not installed"):
        errors.require("half", extra="onnx")
