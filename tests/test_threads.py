"""Tests for `effd0.threads`: how a run behaves beside others."""

from __future__ import annotations

import os

import pytest

from effd0.threads import let_threads_sleep


def test_what_the_user_set_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy is chosen only where none is."""
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    let_threads_sleep()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    let_threads_sleep()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
