"""Published figures: none without its source."""

import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from effd0.benchmark import published
from effd0.benchmark.measure import END_TO_END, NETWORK
from effd0.benchmark.published import TABLE, published_accuracies, published_figures
from effd0.results.run import artefact_of
from effd0.spec import D0, SPECS, ModelSpec
from tests.helpers import EVERY_SEED, assert_read_or_refused

FIGURES = published_figures()


def test_every_figure_has_source_unit_and_conditions() -> None:
    """Each published throughput and mAP can be looked up, and says what was measured."""
    for figure in FIGURES:
        assert figure.timed in (NETWORK, END_TO_END)
        assert figure.precision
        assert 1 < figure.images_per_second < 2000
    every = [(one.source, one.conditions) for one in FIGURES]
    every += [(one.source, one.conditions) for one in published_accuracies()]
    for source, conditions in every:
        assert re.match(r"https://[\w.]+/\S+", source)
        assert conditions


def of(chip: str, timed: str) -> dict[int, float]:
    """Return batch -> images a second of *chip*."""
    found = [f for f in FIGURES if (f.arch, f.chip, f.timed) == (D0.arch, chip, timed)]
    return {f.batch: f.images_per_second for f in found}


def test_the_recipes_tables_are_there() -> None:
    """Both chips stand at every batch of the recipe with its figures; a latency is made a rate."""
    assert of("Ascend 310P3", NETWORK) == {1: 124, 4: 260, 8: 256, 16: 250, 32: 241, 64: 238}
    assert list(of("Ascend 310B1", NETWORK)) == [1, 4, 8, 16, 32, 64]
    assert of("T4", END_TO_END) == {1: pytest.approx(1000 / 24)}


def test_published_maps_are_those_of_the_docs() -> None:
    """`docs/pipeline.md` names each published mAP and who published it."""
    page = (Path(__file__).parents[3] / "docs" / "pipeline.md").read_text()
    accuracies = published_accuracies()
    assert [one.map for one in accuracies] == [34.3, 34.2, 33.4, 31.95, 53]
    words = [word for one in accuracies for word in (one.by, f"{one.map:g}")]
    assert [word for word in words if word not in page] == []


@pytest.mark.parametrize(
    ("spec", "maps", "rates"),
    [
        pytest.param(D0, [34.3, 34.2, 33.4, 31.95], [124, 260, 256, 250, 241, 238], id="d0"),
        pytest.param(SPECS["tf_efficientdet_d7"], [53], [6.18], id="d7"),
        pytest.param(SPECS["tf_efficientdet_d1"], [], [], id="none-is-known"),
        pytest.param(replace(D0, num_classes=5), [], [], id="other-classes"),
        pytest.param(replace(D0, image_size=(512, 384)), [], [], id="other-size"),
        pytest.param(None, [], [], id="unknown"),
    ],
)
def test_only_what_was_published_of_a_network_stands_beside_it(
    spec: ModelSpec | None, maps: list[float], rates: list[float]
) -> None:
    """A figure of another architecture, other classes or another input is none of this one."""
    artefact = artefact_of(None, None, None, spec=spec)
    assert [one.map for one in published_accuracies(artefact)] == maps
    board = [one for one in published_figures(artefact) if one.chip == "Ascend 310P3"]
    assert [one.images_per_second for one in board] == rates


@EVERY_SEED
def test_a_mutated_table_is_read_or_refused(
    seeds: range, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No figure without a source, a unit and a finite value comes out of the table."""
    path = tmp_path / "published.toml"
    monkeypatch.setattr(published, "_content", lambda: published.read_table(path))

    def read() -> object:
        return published_accuracies(), published_figures()

    content = tomllib.loads(TABLE.read_text())
    assert_read_or_refused(path, content, seeds, read, toml=True)
