"""Tests for `effd0.bench.targets`: a bound is met or missed by the whole interval."""

from __future__ import annotations

import pytest

from effd0.bench.ratio import Ratio
from effd0.bench.targets import Target


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (25, 27, "met"),
        (16, 20, "missed; at least 15 met"),
        (24, 26, "within the noise; at least 15 met"),
        (14, 16, "missed; at least 15 within the noise"),
        (10, 12, "missed; at least 15 missed"),
    ],
    ids=["met", "least-met", "goal-unsure", "least-unsure", "missed"],
)
def test_a_speedup_is_the_rival_over_ours(low: float, high: float, verdict: str) -> None:
    """25 times faster is a time of a twenty-fifth."""
    ours_over_rival = Ratio(2 / (low + high), 1 / high, 1 / low, 10)
    assert Target(25, 15).verdict(ours_over_rival) == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(1.0, 1.1, "met"), (1.05, 1.15, "within the noise"), (1.11, 1.2, "missed")],
    ids=["met", "unsure", "missed"],
)
def test_a_cost_is_ours_over_the_rival(low: float, high: float, verdict: str) -> None:
    """At most a tenth above a floor; the bound itself is met."""
    assert Target(1.1, kind="cost").verdict(Ratio((low + high) / 2, low, high, 10)) == verdict


def test_without_a_goal_nothing_is_judged() -> None:
    """A ratio to look at has no verdict."""
    assert Target().verdict(Ratio(2, 1, 3, 10)) == str(Target()) == ""


def test_targets_are_shown_with_their_direction() -> None:
    """A reader sees whether high or low is wanted."""
    assert str(Target(25, 15)) == ">= 25, at least 15"
    assert str(Target(1.1, kind="cost")) == "<= 1.1"
