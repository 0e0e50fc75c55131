"""The commands of docs/ascend.md are real: each is run, as written, on an emulated board."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from effd0.data import fixture as embedded
from tests.helpers import effd0

from ..emulator.acl import installed
from ..emulator.tools import emulated_path

GUIDE = Path(__file__).parents[2] / "docs" / "ascend.md"
COMMANDS = [
    line.strip() for line in GUIDE.read_text().splitlines() if line.startswith("    effd0 ")
]


@pytest.mark.slow
def test_the_guides_commands_lead_from_weights_to_a_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each succeeds where it stands; those before it have made its files."""
    (tmp_path / "coco_data").symlink_to(embedded.coco_root())
    (tmp_path / "d0.pth").symlink_to(embedded.checkpoint())
    monkeypatch.chdir(tmp_path)
    assert len(COMMANDS) > 8, "the guide was written in another way than this test reads"
    with emulated_path(), installed() as emulator:
        for command in COMMANDS:
            outcome = effd0(*shlex.split(command)[1:])
            assert outcome.code == 0, f"{command}\n{outcome.err}"
        emulator.assert_clean()
