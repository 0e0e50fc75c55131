"""The commands of README and docs are real: each is run, as written, where its files are."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from effd0.cli.main import COMMANDS as OURS
from effd0.data import fixture as embedded
from tests.helpers import ROOT, effd0

from ..emulator.acl import installed
from ..emulator.tools import emulated_path
from .options_page import unknown_options

PAGES = {
    str(path.relative_to(ROOT)): path.read_text().splitlines()
    for pages in ("README.md", "CONTRIBUTING.md", "docs/*.md")
    for path in sorted(ROOT.glob(pages))
}
#: Each command that a page shows, by its place.
SHOWN = {
    f"{name}:{number}": line.strip()
    for name, lines in PAGES.items()
    for number, line in enumerate(lines, 1)
    if line.startswith(("    effd0 ", "    pytest "))
}
COMMANDS, GUIDE = (
    [line for place, line in SHOWN.items() if place.startswith(page) and line.startswith("effd0 ")]
    for page in (("README.md", "CONTRIBUTING.md"), "docs/ascend.md")
)


def fetched(folder: Path) -> Path:
    """The working *folder* with coco_data and d0.pth, as `effd0 fetch` would leave it."""
    (folder / "coco_data").symlink_to(embedded.coco_root())
    (folder / "d0.pth").symlink_to(embedded.checkpoint())
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One working folder for all commands of the README, which go on from each other."""
    return fetched(tmp_path_factory.mktemp("readme"))


def test_readme_leads_to_everything() -> None:
    """In few lines it shows every command and names every page, and no other."""
    lines = PAGES["README.md"]
    assert len(lines) <= 50
    text = "\n".join(lines)
    assert [name for name in OURS if f"effd0 {name}" not in text] == []
    named = set(re.findall(r"`(?:docs/)?([a-z-]+\.md)`", text))
    assert named == {Path(name).name for name in PAGES if name.startswith("docs/")}


@pytest.mark.parametrize("line", SHOWN.values(), ids=SHOWN)
def test_a_page_shows_options_that_are_there(line: str) -> None:
    """Whoever copies a command from any page is not told that there is no such option."""
    assert unknown_options(line) == set()


@pytest.mark.slow
@pytest.mark.parametrize("line", COMMANDS)
def test_readme_command_runs(line: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command succeeds as it stands; those before it have made its files."""
    if line.startswith("effd0 fetch"):
        pytest.skip(
            "needs a network; tests/unit/data/test_download.py runs it against a local server"
        )
    monkeypatch.chdir(folder)
    assert effd0(*shlex.split(line)[1:]).code == 0, line


@pytest.mark.slow
def test_the_guides_commands_lead_from_weights_to_a_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an emulated board each succeeds where it stands; those before it made its files."""
    monkeypatch.chdir(fetched(tmp_path))
    assert len(GUIDE) > 8, "the guide was written in another way than this test reads"
    with emulated_path(), installed() as emulator:
        for command in GUIDE:
            outcome = effd0(*shlex.split(command)[1:])
            assert outcome.code == 0, f"{command}\n{outcome.err}"
        emulator.assert_clean()
