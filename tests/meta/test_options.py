"""Options are declared once: Typer, pytest and docs/options.md say the same of each."""

import re
from pathlib import Path

import pytest

from effd0.cli.command import KINDS, NEW
from effd0.cli.main import COMMANDS, EXAMPLES, EXIT_CODES
from effd0.cli.settings import OPTIONS
from effd0.types import PANELS
from tests.helpers import effd0

from .options_page import PAGE, options_of, rendered

#: An option in a help text, at the beginning of its line.
OPTION = re.compile(r"^[ │*]*(--[a-z][a-z0-9-]*)", re.MULTILINE)


def test_the_page_is_what_the_options_say() -> None:
    """An option that is added, renamed or described in other words is seen."""
    assert PAGE.read_text() == rendered(), "run: python -m tests.meta.options_page"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_what_is_declared(command: str) -> None:
    """Whoever reads --help finds each option with its description, an example, the exit codes."""
    shown = effd0(command, "--help", columns=250).out
    options = options_of(command)
    titles = {one.panel for one in options if one.panel and not one.positional}
    assert {title for title in PANELS if f"─ {title} ─" in shown} == titles
    assert EXAMPLES[command] in shown
    assert EXIT_CODES in shown
    flags = {one.flag for one in options if not one.positional}
    assert set(OPTION.findall(shown)) - {"--help"} == flags
    words = " ".join(shown.replace("│", " ").split())
    first = (one.help[:40] for one in options)
    assert [text for text in first if " ".join(text.split()) not in words] == []


def test_every_value_is_checked() -> None:
    """A number or path that cannot be meant is refused where it is typed, not after the work."""
    every = [one for command in COMMANDS for one in options_of(command)] + OPTIONS
    assert {one.flag for one in every if one.kind in (int, float) and one.min is None} == set()
    words = {None, "percent", "folder", *NEW, *KINDS}
    assert {one.flag for one in every if one.takes not in words} == set()
    # Those are checked where they are read, before anything runs.
    paths = {one.flag for one in every if one.kind is Path and one.takes is None}
    assert paths == {
        "--root", "--runs", "--baseline", "--candidate", "--run", "--modify-mixlist",
        "--insert-op-conf", "--output", "--out",
    }  # fmt: skip


def test_what_writes_can_overwrite() -> None:
    """Every command that makes a file or folder has the one option that replaces it."""
    writing = {name for name in COMMANDS if any(one.takes in NEW for one in options_of(name))}
    overwriting = {
        name for name in COMMANDS if any(one.flag == "--overwrite" for one in options_of(name))
    }
    # Folders of results and .om files are looked at where their names are known.
    assert overwriting == {*writing, "infer", "compile"}
    assert "--overwrite" in {one.flag for one in OPTIONS}


def test_pytest_knows_what_is_declared(pytestconfig: pytest.Config) -> None:
    """Each option of the suite is one of this very run, described, with its default's type."""
    for one in OPTIONS:
        value = pytestconfig.getoption(one.flag, default=NotImplemented)
        assert value is not NotImplemented, one.flag
        assert one.help, f"{one.flag} does not say what it does"
        assert isinstance(value, list if one.many else one.kind) or value is None
