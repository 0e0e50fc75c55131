"""Every failure that is declared can happen, and a test makes it happen."""

import ast
import inspect
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from effd0 import errors

ROOT = Path(__file__).parents[2]
NAMES = [
    name
    for name, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.Effd0Error) and kind is not errors.Effd0Error
]


def calls(folder: str) -> Iterator[ast.Call]:
    """Yield every call in the Python files in *folder*."""
    for path in (ROOT / folder).rglob("*.py"):
        yield from (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call))


@pytest.fixture(scope="module")
def made() -> set[str]:
    """Names of what the package calls by its bare name."""
    return {call.func.id for call in calls("effd0") if isinstance(call.func, ast.Name)}


@pytest.fixture(scope="module")
def matched() -> set[str]:
    """Names of the exceptions that a test provokes, in Python or by a command, with their text."""
    texts = " ".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    return set(re.findall(r"\b(\w+Error): ", texts)) | {
        call.args[0].id
        for call in calls("tests")
        if isinstance(call.func, ast.Attribute)
        and call.func.attr == "raises"
        and isinstance(call.args[0], ast.Name)
        and any(keyword.arg == "match" for keyword in call.keywords)
    }


@pytest.mark.parametrize("name", NAMES)
def test_an_error_is_made_to_happen(name: str, made: set[str], matched: set[str]) -> None:
    """It is raised, a test looks at its text, the module's tree shows it, and it can be pickled."""
    assert name in made
    assert name in matched
    assert f"- {name} " in (inspect.getdoc(errors) or "")
    error = getattr(errors, name)("d0.pth is untrained")
    received = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own bytes
    assert (type(received), str(received)) == (type(error), "d0.pth is untrained")


def test_require_names_what_is_really_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is installed is handed over; a package that lacks one of its own names that one."""
    assert errors.require("json", extra="none").loads("1") == 1
    (tmp_path / "half.py").write_text("import no_such_package_anywhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(errors.MissingExtra, match=r"^no_such_package_anywhere is not installed"):
        errors.require("half", extra="onnx")
