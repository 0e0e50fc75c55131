"""Tests for `effd0.bench.published`: figures of others, none without its source."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from effd0.bench.published import (
    SCOPES,
    UNITS,
    Published,
    published_accuracies,
    published_figures,
)
from effd0.bench.rows import END_TO_END, NETWORK

FIGURES = published_figures()


@pytest.mark.parametrize("figure", FIGURES, ids=lambda f: f"{f.chip}-{f.scope}-{f.batch}")
def test_every_figure_has_source_unit_and_conditions(figure: Published) -> None:
    """A number without these is a rumour."""
    assert re.match(r"https://[\w.]+/\S+", figure.source)
    assert figure.unit in UNITS
    assert figure.scope in SCOPES
    assert figure.conditions
    assert figure.precision
    assert 1 < figure.images_per_second < 2000


def of(chip: str, timed: str) -> dict[int, float]:
    """Return batch -> images a second of *chip*."""
    return {f.batch: f.images_per_second for f in FIGURES if (f.chip, f.timed) == (chip, timed)}


def test_the_recipes_tables_are_there() -> None:
    """Both chips at every batch that the recipe tells, as it tells them."""
    assert of("Ascend 310P3", NETWORK) == {1: 124, 4: 260, 8: 256, 16: 250, 32: 241, 64: 238}
    assert list(of("Ascend 310B1", NETWORK)) == [1, 4, 8, 16, 32, 64]


def test_a_latency_becomes_a_rate() -> None:
    """24 ms for one image are 41.7 images a second."""
    assert of("T4", END_TO_END) == {1: pytest.approx(1000 / 24)}


def test_every_chip_of_interest_is_there() -> None:
    """The chips that the recipe's table is read beside."""
    chips = " ".join(figure.chip for figure in FIGURES)
    assert all(chip in chips for chip in ("310P3", "310B1", "T4", "V100", "A100"))


def test_every_published_map_has_its_source_and_conditions() -> None:
    """The mAPs that docs/pipeline.md tells apart, each with who says so and of what."""
    accuracies = published_accuracies()
    assert [one.map for one in accuracies] == [34.3, 34.2, 33.4, 31.95]
    for one in accuracies:
        assert re.match(r"https://[\w.]+/\S+", one.source)
        assert one.conditions
    page = (Path(__file__).parents[1] / "docs" / "pipeline.md").read_text()
    assert [one.by for one in accuracies if f"{one.map:g}" not in page or one.by not in page] == []
