"""Tests for `effd0.runners.registry`: names that are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from effd0.errors import RunnerError
from effd0.runners.registry import RUNNERS, RunnerOptions, open_runner
from effd0.spec import ModelSpec


def test_an_unknown_runner_is_refused(spec: ModelSpec) -> None:
    """The message lists the runners that exist."""
    with pytest.raises(
        RunnerError, match=f"--runner is 'tpu', but effd0 knows {', '.join(RUNNERS)}"
    ):
        open_runner("tpu", Path("d0.om"), spec, RunnerOptions())
