"""docs/options.md, made of the options themselves: ``python -m tests.meta.options_page``."""

from __future__ import annotations

import enum
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from typer.models import ArgumentInfo

from effd0 import pytest_options
from effd0.cli import app

PAGE = Path(__file__).parents[2] / "docs" / "options.md"
HEAD = """\
# Every option

Made by `python -m tests.meta.options_page` of what `effd0 COMMAND --help` and `pytest --help` say;
`tests/meta/test_options_page.py` holds it against them. Exit codes of `effd0`: 0 all is well, 1 a
gate failed, 2 bad input.
"""
Row = tuple[str, str, str]
#: Options of pytest itself and of pytest-benchmark that pages and environments use.
PYTESTS_OWN = {"--benchmark-json", "--help", "--junit-xml"}


class _Recorder:
    """Stands where pytest's parser would, and keeps what is added to it."""

    def __init__(self) -> None:
        self.groups: list[tuple[str, list[Row]]] = []

    def getgroup(self, _name: str, description: str) -> _Recorder:
        self.groups.append((description, []))
        return self

    def addoption(self, name: str, **attributes: Any) -> None:
        default = attributes.get("default")
        shown = "" if default in (None, []) or "action" in attributes else str(default)
        meta = attributes.get("metavar") or "|".join(attributes.get("choices", ()))
        flag = attributes.get("action") == "store_true"
        meta = meta or ("" if flag else name.removeprefix("--").upper())
        self.groups[-1][1].append((f"{name}={meta}" if meta else name, shown, attributes["help"]))


def pytest_groups() -> list[tuple[str, list[Row]]]:
    """The groups of pytest's options with their rows."""
    recorder = _Recorder()
    pytest_options.pytest_addoption(recorder)  # type: ignore[arg-type]  # duck-typed on purpose
    return recorder.groups


def command_tables() -> dict[str, tuple[str, list[Row]]]:
    """Each command of effd0: what it is for, and its rows."""
    return {
        command.callback.__name__: (
            inspect.getdoc(command.callback) or "",
            [
                _row(one)
                for one in inspect.signature(command.callback, eval_str=True).parameters.values()
            ],
        )
        for command in app.registered_commands
        if command.callback
    }


def _row(parameter: inspect.Parameter) -> Row:
    """An argument or an option of a command, as typer reads it off the function."""
    kind, info = get_args(parameter.annotation)
    if isinstance(info, ArgumentInfo):
        name = info.metavar or (_kind(kind) if _is_choice(kind) else parameter.name.upper())
        return name, _default(parameter, info), info.help or ""
    name = f"--{parameter.name.replace('_', '-')}"
    # Within Annotated, typer takes a name for a default first.
    declared = [one for one in (info.default, *(info.param_decls or ())) if isinstance(one, str)]
    declared = declared or [f"{name}/--no-{name[2:]}" if kind is bool else name]
    meta = info.metavar or ("" if kind is bool else _kind(kind))
    return f"{declared[0]} {meta}".strip(), _default(parameter, info), info.help or ""


def _is_choice(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, enum.Enum)


def _kind(kind: Any) -> str:
    """What a value of an option is, where the option does not say."""
    if _is_choice(kind):
        return "|".join(str(member.value) for member in kind)
    named = next((one for one in get_args(kind) if one is not type(None)), kind)
    return str(named.__name__).upper()


def _default(parameter: inspect.Parameter, info: Any) -> str:
    if parameter.default is parameter.empty:
        return "must be given"
    if isinstance(info.show_default, str):
        return info.show_default
    value = getattr(parameter.default, "value", parameter.default)
    if value is None or value is False:
        return ""
    return "on" if value is True else str(value)


def _table(rows: list[Row]) -> Iterator[str]:
    if not rows:
        yield "It takes no option."
        return
    yield "| option | default | what it does |"
    yield "|---|---|---|"
    for option, default, text in rows:
        yield f"| `{_cell(option)}` | {_cell(default)} | {_cell(text)} |"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", r"\|").split())


def rendered() -> str:
    """The whole page."""
    lines = [HEAD]
    for name, (text, rows) in command_tables().items():
        lines += [f"## effd0 {name}\n", f"{' '.join(text.split())}\n", *_table(rows), ""]
    for title, rows in pytest_groups():
        lines += [f"## pytest, {title.partition(': ')[2]}\n", *_table(rows), ""]
    return "\n".join(lines).rstrip() + "\n"


def unknown_options(command: str) -> set[str]:
    """What *command*, a line of effd0 or pytest, gives as an option and what is none."""
    program, *words = shlex.split(command, comments=True)
    rows, known = [row for _, group in pytest_groups() for row in group], set(PYTESTS_OWN)
    if program == "effd0":
        rows, known = command_tables()[words[0]][1], set()
    known |= {one for option, _, _ in rows for one in re.findall(r"--[a-z0-9-]+", option)}
    return {word.partition("=")[0] for word in words if word.startswith("--")} - known


if __name__ == "__main__":
    PAGE.write_text(rendered())
