"""What a session of the test suite found, for its summary and its run file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..bench.accuracy import Accuracy
from ..bench.rows import Row
from ..data import fixture as embedded
from ..data.coco import Dataset
from ..evaluation.evaluate import Evaluation
from ..io import sha256
from ..stages import Check, stage_verdict
from .parts import accuracy_part, artefact_part, dataset_part, latency_part, new_run
from .schema import Run

#: Options that name an artefact, the one that a run is called by first.
NAMING = ("--model", "--detections", "--results", "--bins", "--checkpoint")
#: Exit statuses of pytest after which nobody knows what the checks that did not run would say.
CUT_OFF = {
    2: "the run was interrupted, or files could not be collected: not all checks were run",
    3: "pytest failed by itself: not all checks were run",
    4: "pytest was called wrongly: not all checks were run",
}


@dataclass
class SuiteRecord:
    """
    Checks, heads beside torch's, evaluations and *lines* of accuracy, in the order they came.

    *dataset* is what the images under test are, once they were loaded.
    """

    checks: list[Check] = field(default_factory=list)
    parity: list[dict[str, Any]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    dataset: dict[str, Any] | None = None
    _evaluations: dict[tuple[str, object], Evaluation] = field(default_factory=dict)

    def keep(self, evaluation: Evaluation) -> None:
        """Keep *evaluation*; one of the same runner and batch, as before a comparison, goes."""
        self._evaluations[evaluation.runner, evaluation.settings["batch_size"]] = evaluation

    def note_dataset(self, dataset: Dataset, root: Path | None, split: str) -> None:
        """Keep what the images under test are."""
        digest = sha256(dataset.annotation_file)
        self.dataset = dataset_part(root, split, len(dataset.samples), digest)

    def sections(self, *, asked: bool) -> dict[str, list[str]]:
        """Title -> lines of the summary; the verdict where checks were run, or *asked* for."""
        shown = asked or any(check.passed is not None for check in self.checks)
        return {
            "parity": [_parity_line(one) for one in self.parity],
            "accuracy": self.lines,
            "verdict": stage_verdict(self.checks).lines() if shown else [],
        }

    def to_run(
        self,
        given: Mapping[str, Path | None],
        command: str,
        exit_status: int,
        rows: Sequence[Row] = (),
        accuracy: Accuracy | None = None,
    ) -> Run:
        """The session as a run; *given* are the paths by option, *rows* those of benchmarks."""
        named = next((path for option in NAMING if (path := given.get(option)) is not None), None)
        checkpoint = given.get("--checkpoint") or embedded.checkpoint()
        # What was held against a reference is what the run is about.
        every = sorted(self._evaluations.values(), key=lambda one: one.against is None)
        run = new_run(
            artefact_part(
                given.get("--model"), checkpoint, self.dataset, "" if named is None else named.name
            ),
            command=command,
            exit_status=exit_status,
            checks=self.checks,
            reason="times are not gated" if rows and not self.checks else None,
            parity=self.parity,
            accuracy=[accuracy_part(one) for one in every],
            latency=[latency_part(row, accuracy) for row in rows],
        )
        if exit_status in CUT_OFF and run["verdict"]["status"] != "fail":
            run["verdict"] |= {"status": "undecided", "evidence": CUT_OFF[exit_status]}
        return run


def _parity_line(one: Mapping[str, Any]) -> str:
    """The worst head of a runner, and how exactly the runner seems to compute."""
    worst, far = one["heads"][0], "infinitely"
    if worst["max_abs"] is not None:
        far = f"by {worst['max_abs']:.2g} (relative L2 {worst['relative_l2']:.2g})"
    return (
        f"{one['runner']}, {one['batch']} images: {worst['head']} {worst['level']} differs most "
        f"from {one['reference']}, {far}; computes like {one['precision'] or 'none that is known'}"
    )
