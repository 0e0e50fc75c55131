"""Network input to heads: runner x precision x batch, on real images."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.measuring import Measure
from effd0.bench.rows import NETWORK
from effd0.bench.scenarios import Queries
from effd0.bench.subject import Subject
from effd0.runners.base import batch_size_of


@pytest.fixture(autouse=True)
def _takes_batch(subject: Subject, batch: int) -> None:
    """A compiled model takes no more than it was compiled for."""
    fixed = batch_size_of(subject.runner.inputs)
    if fixed is not None and batch > fixed:
        pytest.skip(f"--model takes batches of {fixed}: give one that takes {batch}")


def bench_inference(measure: Measure, subject: Subject, queries: Queries, batch: int) -> None:
    """Copies to and from a device are timed; rows that only fill up a fixed batch do not count."""
    feed = queries.feed(0)
    heads = measure(
        lambda: subject.runner.infer(feed), NETWORK, images=batch, on=subject, batch=batch
    )
    assert all(head.shape[0] == batch and np.isfinite(head).all() for head in heads.values())
