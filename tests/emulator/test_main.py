"""`python -m tests.emulator`: commands on the emulated board."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT


@pytest.mark.parametrize("command", ["doctor", "infer"])
def test_an_emulated_board_is_named_so(command: str, om: Path) -> None:
    """No report takes what it is, or what it measures, for a board's."""
    given = ["--model", str(om), "--loop", "1"] if command == "infer" else []
    line = [sys.executable, "-m", "tests.emulator", command, *given]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "Ascend310P3-emulated" in done.stdout
