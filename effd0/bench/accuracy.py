"""The mAP that stands beside a throughput: from the report of an evaluation of the same file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ..errors import BenchmarkError

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Accuracy:
    """What an evaluation found: AP as a fraction, None where undefined, on *images* of *total*."""

    model_sha256: str
    ap: float | None
    images: int
    total: int

    def shown(self) -> str:
        """The mAP in percent, with the images where they are not all."""
        if self.ap is None:
            return "undefined"
        part = "" if self.images == self.total else f" (first {self.images})"
        return f"{100 * self.ap:.2f}{part}"


def read_accuracy(path: Path) -> Accuracy:
    """Read what ``effd0 evaluate --json`` wrote; raise `BenchmarkError` for another file."""
    try:
        report = json.loads(path.read_bytes())
        return Accuracy(
            model_sha256=str(report["model_sha256"]),
            ap=report["metrics"]["AP"],
            images=report["images"],
            total=report["images_total"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BenchmarkError(
            f"{path} is not an accuracy report ({type(error).__name__}: {error}), but one was "
            "wanted; write it with 'effd0 evaluate --json FILE'"
        ) from error


def check_same_model(accuracy: Accuracy, *fingerprints: str) -> None:
    """Raise `BenchmarkError` where the report is of none of the files with *fingerprints*."""
    if accuracy.model_sha256 not in fingerprints:
        timed = ", ".join(one[:12] for one in fingerprints)
        raise BenchmarkError(
            f"the accuracy report is of model {accuracy.model_sha256[:12]}, but {timed} is timed; "
            "evaluate the same file: 'effd0 evaluate --model FILE --json FILE'"
        )


def map_cell(accuracy: Accuracy | None, model_sha256: str) -> str:
    """The mAP of the file with *model_sha256*, or that nobody measured it."""
    if accuracy is None or accuracy.model_sha256 != model_sha256:
        return NOT_MEASURED
    return accuracy.shown()
