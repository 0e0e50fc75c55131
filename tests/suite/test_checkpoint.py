"""Stage checkpoint: the weights are a trained D0's, all of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from effd0.results.check import Broken
from effd0.runners.checkpoint import blank_layers, load_model
from effd0.spec import ModelSpec

from .conftest import NoteFigure

pytestmark = pytest.mark.stage("checkpoint")
Load: TypeAlias = Callable[[], Any]


@pytest.fixture(scope="session", autouse=True)
def torch_is_there() -> None:
    """Only PyTorch reads checkpoints."""
    pytest.importorskip("torch", reason="needs torch: pip install 'effd0[torch]'")


@pytest.fixture(scope="module")
def load(checkpoint: Path, spec: ModelSpec, pytestconfig: pytest.Config) -> Load:
    """Return what loads the checkpoint under test, once: it fails in a test, not before."""
    return functools.cache(
        functools.partial(load_model, checkpoint, spec, pytestconfig.getoption("--weights"))
    )


def test_the_weights_are_a_trained_d0s(load: Load) -> None:
    """Every key is there with its shape, all values are finite, and the class logits vary."""
    load()


def test_no_layer_was_left_as_it_began(load: Load, note_figure: NoteFigure) -> None:
    """Training gives every batch norm its statistics, and every weight its spread."""
    blank = blank_layers(load())
    note_figure(len(blank), 0, "blank layers")
    if blank:
        first = next(iter(blank))
        raise Broken(
            f"{len(blank)} layers have no trace of training, the first is {first}: {blank[first]}",
            "statistics of batch norms lost: all means are 0 and variances 1"
            if all("mean is 0" in what for what in blank.values())
            else None,
        )
