"""docs/options.md, made of the options themselves: ``python -m tests.meta.options_page``."""

import inspect
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from effd0.cli.command import REQUIRED, Option
from effd0.cli.main import COMMANDS, EXAMPLES
from effd0.cli.settings import OPTION_GROUPS, OPTIONS

PAGE = Path(__file__).parents[2] / "docs" / "options.md"
HEAD = """\
# Every option

Made by `python -m tests.meta.options_page` of what `effd0 COMMAND --help` and `pytest --help` say;
`tests/meta/test_options.py` compares it with them. Exit codes of `effd0`: 0 all is well, 1 a gate
failed, 2 bad input, 70 a fault of effd0. A file, or a folder that is not empty, is never replaced
without `--overwrite`; devices, pipes and `-` are written. `effd0 init` writes a file that gives the
options of pytest and `effd0 check` ([release gate](release-gate.md)).
"""
#: Options of pytest itself and of pytest-benchmark that pages and environments use.
PYTESTS_OWN = {"--benchmark-json", "--help", "--junit-xml"}


def options_of(command: str) -> list[Option]:
    """What the *command* of effd0 takes."""
    options: list[Option] = COMMANDS[command].options  # type: ignore[attr-defined]
    return options


def _table(options: Iterable[Option], joint: str) -> Iterator[str]:
    """Rows of options, each with its value behind *joint*."""
    rows = []
    for one in options:
        name = one.flag
        if one.positional:
            name = one.value
        elif one.default is True:
            name = f"{one.flag}/--no-{one.flag[2:]}"
        elif one.value:
            name = f"{one.flag}{joint}{one.value}"
        # By identity: 1 is equal to True.
        words = ((REQUIRED, "must be given"), (True, "on"), (False, ""), (None, ""), ((), ""))
        default = next((word for value, word in words if one.default is value), str(one.default))
        cells = (f"`{name}`", one.shown or default, one.help)
        rows.append(" | ".join(cell.replace("|", r"\|") for cell in cells))
    if not rows:
        yield "It takes no option."
        return
    yield from ("| option | default | what it does |", "|---|---|---|")
    yield from (f"| {row} |" for row in rows)


def rendered() -> str:
    """The whole page."""
    lines = [HEAD]
    for name, function in COMMANDS.items():
        text = " ".join((inspect.getdoc(function) or "").split())
        lines += [f"## effd0 {name}\n", f"{text}\n", f"    {EXAMPLES[name]}\n"]
        lines += [*_table(options_of(name), " "), ""]
    for title, options in OPTION_GROUPS.items():
        lines += [f"## pytest, {title.partition(': ')[2]}\n", *_table(options, "="), ""]
    return "\n".join(lines).rstrip() + "\n"


def unknown_options(command: str) -> set[str]:
    """What *command*, a line of effd0 or pytest, gives as an option and what is none."""
    program, *words = shlex.split(command, comments=True)
    if program == "effd0":
        options, known = options_of(words[0]), set()
    else:
        options, known = OPTIONS, PYTESTS_OWN
    known = known | {one.flag for one in options} | {f"--no-{one.flag[2:]}" for one in options}
    return {found[0] for word in words if (found := re.match("--[a-z0-9-]+", word))} - known


if __name__ == "__main__":
    PAGE.write_text(rendered())
