"""The command line run in this process: exit code, what was printed, and where."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from dataclasses import dataclass
from unittest import mock

from effd0.cli import main as cli

_ERROR = re.compile(r"^[A-Z]\w+(Error|Extra): ")


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The lines of stderr that tell an error."""
        return [line for line in self.err.splitlines() if _ERROR.match(line)]


def effd0(*arguments: object) -> Outcome:
    """Run ``effd0`` with *arguments* as the installed command does."""
    words = ["effd0", *(str(argument) for argument in arguments)]
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
        mock.patch.object(sys, "argv", words),
    ):
        try:
            cli.main()
            code = 0
        except SystemExit as stopped:
            code = int(stopped.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


def assert_one_error(message: str, *arguments: object) -> None:
    """The command ends with code 2 and one line that tells the error; no traceback is shown."""
    outcome = effd0(*arguments)
    assert outcome.code == 2, outcome.out
    assert len(outcome.errors) == 1, outcome.err
    assert "Traceback" not in outcome.err
    assert re.search(message, outcome.err), outcome.err
