"""docs/options.md has a row for every option, and none for what is not there."""

from __future__ import annotations

import re

import pytest

from effd0.cli import app

from ..cli_run import effd0
from .options_page import PAGE, command_tables, pytest_groups, rendered

COMMANDS = [command.callback.__name__ for command in app.registered_commands if command.callback]
#: An option in a help text, at the beginning of its line.
OPTION = re.compile(r"^[ │*]*(--[a-z][a-z0-9-]*)", re.MULTILINE)


def test_the_page_is_what_the_options_say() -> None:
    """An option that is added, renamed or told in other words is seen."""
    assert PAGE.read_text() == rendered(), "run: python -m tests.meta.options_page"


def test_every_command_has_its_table() -> None:
    """Commands and tables are the same, in the order of the help."""
    assert list(command_tables()) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_the_table_has_what_help_shows(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads --help finds each of its options on the page."""
    monkeypatch.setenv("COLUMNS", "200")
    told = set(OPTION.findall(effd0(command, "--help").out)) - {"--help"}
    rows = [option for option, _, _ in command_tables()[command][1]]
    assert told == {row.split()[0].split("/")[0] for row in rows if row.startswith("--")}


def test_the_tables_have_what_pytest_knows(pytestconfig: pytest.Config) -> None:
    """Each row of pytest's tables is an option of this very run, and tells its default."""
    rows = [row for _, rows in pytest_groups() for row in rows]
    assert len(rows) > len(COMMANDS)
    for option, default, text in rows:
        value = pytestconfig.getoption(option.partition("=")[0], default=NotImplemented)
        assert value is not NotImplemented, option
        assert text, f"{option} does not say what it does"
        assert default == "" or value is not None
