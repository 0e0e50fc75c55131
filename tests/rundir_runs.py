"""Whole evaluations into a run directory, on a fake backend: what their tests share."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from effd0.evaluation.engines import LocalEngine
from effd0.evaluation.model import ModelChoice
from effd0.types import Tensors

from .fakes.runner import FakeRunner
from .helpers import SMALL

BATCH = 2


class NeighbourRunner(FakeRunner):
    """A backend that gives an image other heads beside other images, as some real ones do."""

    def infer(self, feed: Tensors) -> Tensors:
        """Return the fake's heads, moved by what the whole batch is like."""
        heads = super().infer(feed)
        moved = np.float32(feed["in"].mean() + len(feed["in"]) / 3)
        return {name: head + moved for name, head in heads.items()}


def small_engine(model: Path) -> LocalEngine:
    """Return what runs *model* in batches of two."""
    return LocalEngine(ModelChoice(model, spec=SMALL), BATCH)


def outcome(folder: Path) -> dict[str, object]:
    """Return all that a run left in *folder*, but for times and memory."""
    measured = ("images_per_second", "stages_ms", "peak_rss_mb")
    evaluation = json.loads((folder / "evaluation.json").read_text())
    return {
        **{path.name: path.read_bytes() for path in folder.iterdir()},
        "evaluation.json": {k: v for k, v in evaluation.items() if k not in measured},
    }
