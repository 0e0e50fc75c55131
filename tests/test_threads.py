"""Tests for `effd0.timing`: how a run behaves beside others."""

from __future__ import annotations

import os

import pytest

from effd0.timing import let_threads_sleep


def test_threads_spin_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A waiting thread spins for less than an operator takes, not for as long as it likes."""
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    let_threads_sleep()
    assert os.environ["GOMP_SPINCOUNT"] == "10000"
    assert "OMP_WAIT_POLICY" not in os.environ


@pytest.mark.parametrize(
    ("variable", "value"), [("GOMP_SPINCOUNT", "7"), ("OMP_WAIT_POLICY", "ACTIVE")]
)
def test_what_the_user_set_stands(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    """Nothing is chosen where the user chose."""
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.setenv(variable, value)
    let_threads_sleep()
    assert os.environ[variable] == value
    assert ("GOMP_SPINCOUNT" in os.environ) is (variable == "GOMP_SPINCOUNT")
