"""Real processes that are killed with no time to clean up."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


def start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start *command* in the clone, so that it finds the tests' fakes."""
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=ROOT, stdout=quiet, stderr=quiet)


def ended(command: Sequence[str]) -> None:
    """Run *command* to its end, which is a good one."""
    assert start(command).wait(timeout=120) == 0


def killed_at(command: Sequence[str], records: Path, size: int) -> int:
    """Kill *command* once *records* has *size* bytes; return its exit code."""
    process = start(command)
    while process.poll() is None and not (records.exists() and records.stat().st_size >= size):
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    return process.wait()
