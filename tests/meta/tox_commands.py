"""The environments of tox.ini, and what they run."""

import configparser
import re
from pathlib import Path

#: tox.ini, nothing in it substituted.
TOX = configparser.ConfigParser(interpolation=None)
TOX.read(Path(__file__).parents[2] / "tox.ini")
ENVIRONMENTS = {
    section.partition(":")[2] for section in TOX.sections() if section.startswith("testenv:")
}
_GIVEN = re.compile(r"\{posargs(:[^}]*)?\}")


def commands_of(environment: str, arguments: str = "") -> list[str]:
    """The lines of effd0 and pytest that an environment runs with *arguments* behind --."""
    lines = TOX[f"testenv:{environment}"].get("commands", TOX["testenv"]["commands"]).splitlines()
    ours = [line.rpartition("{[bin]path}/")[2] for line in lines]
    return [_GIVEN.sub(arguments, line) for line in ours if line.startswith(("effd0", "pytest"))]
