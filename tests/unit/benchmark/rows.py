"""Rows of a benchmark as a machine gives them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from effd0.benchmark.measure import NETWORK, Row
from effd0.results.environment import Fingerprint
from effd0.timing import Latency

HERE = Fingerprint("chip", "processor", 2, "", "", "backend 1.0")


def row(samples: Sequence[float] = (10.0,) * 10, **fields: Any) -> Row:
    """Return a row of these samples; *fields* are those that differ from a batch of 1."""
    given = {
        "name": "bench.py::bench[batch=1]",
        "timed": NETWORK,
        "images": 1,
        "fingerprint": HERE,
        "batch": 1,
        "precision": "fp32",
        "dataset": "drawn scenes",
        "model_sha256": "abc" * 20,
        **fields,
    }
    return Row(samples=Latency(tuple(samples)), **given)
