"""The parts of a run as plain values: artefact, environment, accuracy, latency."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..bench.accuracy import Accuracy
from ..bench.job import dataset_name
from ..bench.rows import Row
from ..evaluation.evaluate import Evaluation
from ..fingerprint import machine_record, program
from ..insight import insight
from ..io import sha256
from ..metrics.summary import CocoMetrics
from ..stages import Check
from ..timing import Latency
from .checks import check_part
from .schema import FORMAT, SCHEMA, Run
from .verdict import verdict_part

#: What the drawn scenes are called in a run.
_EMBEDDED = "embedded"
#: What changes from one run to the next on the same machine.
_MOMENTARY = ("packages", "date", "command", "load")


def new_run(
    artefact: Mapping[str, Any],
    *,
    exit_status: int,
    command: str | None = None,
    checks: Sequence[Check] = (),
    reason: str | None = None,
    parity: Sequence[Mapping[str, Any]] = (),
    accuracy: Sequence[Mapping[str, Any]] = (),
    latency: Sequence[Mapping[str, Any]] = (),
) -> Run:
    """A run on *artefact* by this process; *reason* is the verdict's where no check failed."""
    return {
        "format": FORMAT,
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "commands": [shlex.join([program(), *sys.argv[1:]]) if command is None else command],
        "artefact": dict(artefact),
        "environment": [environment_part()],
        "verdict": verdict_part(checks, reason),
        "checks": [check_part(check) for check in checks],
        "parity": list(parity),
        "accuracy": list(accuracy),
        "latency": list(latency),
        "exit_status": exit_status,
    }


def artefact_part(
    model: Path | None, checkpoint: Path | None, dataset: Mapping[str, Any] | None, name: str = ""
) -> dict[str, Any]:
    """What was under test; it is shown under *name*, or else that of its file."""
    file = checkpoint if model is None else model
    return {
        "name": name or ("" if file is None else file.name),
        "model_sha256": None if model is None else sha256(model),
        "checkpoint_sha256": None if checkpoint is None else sha256(checkpoint),
        "dataset": None if dataset is None else dict(dataset),
    }


def dataset_part(root: Path | None, split: str, images: int, digest: str) -> dict[str, Any]:
    """The images that accuracy was measured on; *digest* is that of their annotations."""
    name = _EMBEDDED if root is None else dataset_name(root, split)
    return {"name": name, "images": images, "sha256": digest}


def environment_part() -> dict[str, Any]:
    """This machine, but for what changes from run to run, and the packages."""
    record = machine_record()
    machine = {key: value for key, value in record.items() if key not in _MOMENTARY}
    return {"machine": machine, "packages": record["packages"]}


def accuracy_part(evaluation: Evaluation) -> dict[str, Any]:
    """An evaluation as it stands in a run file."""
    metrics, settings = evaluation.metrics, dict(evaluation.settings)
    return {
        "runner": settings["runner"],
        "backend": evaluation.runner,
        "batch": settings["batch_size"],
        "images": metrics.images,
        "images_total": evaluation.dataset.total,
        "metrics": metrics.values,
        "undefined": metrics.undefined,
        "per_class": metrics.per_class,
        "min_map": settings["min_map"],
        "against": _against(evaluation),
        "images_per_second": evaluation.images_per_second,
        "peak_rss_mb": evaluation.peak_rss_mb,
        "stages": {name: _times(latency) for name, latency in evaluation.stages.items()},
        "settings": {**settings, "model_sha256": evaluation.model_sha256},
        "insight": insight(
            evaluation.dataset,
            evaluation.found,
            None if evaluation.reference is None else evaluation.reference.found,
            evaluation.spec,
        ),
    }


def _against(evaluation: Evaluation) -> dict[str, Any] | None:
    against = evaluation.against
    if against is None:
        return None
    metrics: CocoMetrics = against.metrics
    return {
        "runner": against.runner,
        "metrics": metrics.values,
        "per_class": metrics.per_class,
        "drop": against.drop.points,
        "low": against.drop.low,
        "high": against.drop.high,
        "max_drop": against.max_drop,
    }


def _times(latency: Latency) -> dict[str, float]:
    return {"mean_ms": latency.mean_ms, **_percentiles(latency), "count": len(latency.samples_ms)}


def latency_part(row: Row, accuracy: Accuracy | None = None) -> dict[str, Any]:
    """A row of a benchmark as it stands in a run file, with the mAP of the same file."""
    same = accuracy is not None and accuracy.model_sha256 == row.model_sha256
    return {
        "name": row.name,
        "runner": row.runner,
        "precision": row.precision,
        "batch": row.batch,
        "dataset": _EMBEDDED if row.dataset == dataset_name(None, "") else row.dataset,
        "chip": row.fingerprint.chip,
        "images_per_second": row.images_per_second,
        **_percentiles(row.samples),
        "samples_ms": list(row.samples.samples_ms),
        "map": accuracy.ap if same and accuracy is not None else None,
        "setup": {
            "timed": row.timed,
            "images": row.images,
            "model_sha256": row.model_sha256,
            "fingerprint": asdict(row.fingerprint),
            "notes": list(row.notes),
        },
    }


def _percentiles(latency: Latency) -> dict[str, float]:
    return {"p50_ms": latency.p50_ms, "p90_ms": latency.p90_ms, "p99_ms": latency.p99_ms}
