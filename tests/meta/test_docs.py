"""The commands of README and docs are real: each is run, as written, where its files are."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from effd0.cli.main import COMMANDS as OURS
from effd0.cli.main import main
from effd0.data import fixture as embedded
from tests.helpers import effd0

from ..emulator.acl import installed
from ..emulator.tools import emulated_path
from .options_page import unknown_options

ROOT = Path(__file__).parents[2]
LINES = [
    line.strip()
    for name in ("README.md", "CONTRIBUTING.md")
    for line in (ROOT / name).read_text().splitlines()
    if line.startswith("    ")
]
COMMANDS = [line for line in LINES if line.startswith("effd0 ")]
GUIDE = [
    line.strip()
    for line in (ROOT / "docs" / "ascend.md").read_text().splitlines()
    if line.startswith("    effd0 ")
]
#: Needs a network; tests/unit/data/test_download.py runs it against a local server.
ELSEWHERE = ("effd0 fetch",)
PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
SHOWN = [
    pytest.param(line.strip(), id=f"{name}:{number}")
    for name in PAGES
    for number, line in enumerate((ROOT / name).read_text().splitlines(), 1)
    if line.startswith(("    effd0 ", "    pytest "))
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with coco_data and d0.pth, as `effd0 fetch` would leave it."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "coco_data").symlink_to(embedded.coco_root())
    (folder / "d0.pth").symlink_to(embedded.checkpoint())
    return folder


def test_readme_leads_in_forty_lines() -> None:
    """A newcomer is not asked to read more."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 50  # forty, and air


def test_readme_shows_every_command() -> None:
    """A command that the README does not mention would never be found."""
    text = (ROOT / "README.md").read_text()
    assert [name for name in OURS if f"effd0 {name}" not in text] == []


def test_readme_leads_to_every_page() -> None:
    """A page that nothing leads to is not read; one that is not there leads nowhere."""
    text = (ROOT / "README.md").read_text()
    named = set(re.findall(r"`(?:docs/)?([a-z-]+\.md)`", text))
    assert named == {Path(name).name for name in PAGES if name.startswith("docs/")}


@pytest.mark.parametrize("line", SHOWN)
def test_a_page_shows_options_that_are_there(line: str) -> None:
    """Whoever copies a command from any page is not told that there is no such option."""
    assert unknown_options(line) == set()


@pytest.mark.slow
@pytest.mark.parametrize("line", COMMANDS)
def test_readme_command_runs(line: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command succeeds as it stands; those before it have made its files."""
    if line.startswith(ELSEWHERE):
        pytest.skip(
            "needs a network; tests/unit/data/test_download.py runs it against a local server"
        )
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 0, line


@pytest.mark.slow
def test_the_guides_commands_lead_from_weights_to_a_score(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an emulated board each succeeds where it stands; those before it made its files."""
    monkeypatch.chdir(folder)
    assert len(GUIDE) > 8, "the guide was written in another way than this test reads"
    with emulated_path(), installed() as emulator:
        for command in GUIDE:
            outcome = effd0(*shlex.split(command)[1:])
            assert outcome.code == 0, f"{command}\n{outcome.err}"
        emulator.assert_clean()
