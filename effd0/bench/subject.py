"""What is timed: an open model, and what its rows say of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from ..evaluation.model import ModelChoice
from ..graph.onnx_info import load_graph, precision_of
from ..io import sha256
from ..results.environment import Fingerprint, chip_kind, fingerprint
from ..runners.base import Runner


@dataclass(frozen=True)
class Subject:
    """An open model and what its rows say of it."""

    runner: Runner
    fingerprint: Fingerprint
    model_sha256: str
    precision: str
    label: str


@contextlib.contextmanager
def opened(choice: ModelChoice) -> Iterator[Subject]:
    """Open what *choice* says."""
    with choice.opened() as (runner, path):
        name = choice.checked_runner()
        threads = choice.options.threads
        backend = runner.description + ("" if threads is None else f", {threads} threads")
        # Of a compiled model the file does not say, and torch computes in what it is asked for.
        told = {"torch": choice.options.precision, "acl": "as compiled"}
        yield Subject(
            runner,
            fingerprint(backend, chip_kind(name, choice.options)),
            sha256(path),
            told[name] if name in told else precision_of(load_graph(path)),
            name,
        )
