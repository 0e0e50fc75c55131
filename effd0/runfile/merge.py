"""Several runs on one artefact as one: accuracy here, parity there, times on the board."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..errors import RunFileError
from .schema import Run
from .verdict import merged_verdict

#: What is appended, run by run, in their order.
_LISTS = ("commands", "environment", "checks", "parity", "accuracy", "latency")
_KINDS = {"model_sha256": "model", "checkpoint_sha256": "checkpoint", "dataset": "dataset"}


def merge_runs(runs: Sequence[Run], names: Sequence[str] = ()) -> Run:
    """
    One run that holds what all *runs* hold, called *names* in messages.

    Of verdicts the gravest stands.  Raises `RunFileError` unless all are of one artefact.
    """
    if not runs:
        raise RunFileError("no run is given to merge, but at least one was wanted; name its file")
    called = [*names, *(f"run {n + 1}" for n in range(len(names), len(runs)))]
    artefact = dict(runs[0]["artefact"])
    said_by = dict.fromkeys(_KINDS, called[0])
    for run, name in zip(runs[1:], called[1:], strict=True):
        other = run["artefact"]
        _check_known(artefact, other, called[0], name)
        for key, kind in _KINDS.items():
            # Weights may be inside the model, and times need no data set: then nothing is said.
            optional = key != "model_sha256"
            if optional and other[key] is None:
                continue
            if optional and artefact[key] is None:
                artefact[key], said_by[key] = other[key], name
            elif artefact[key] != other[key]:
                raise RunFileError(
                    f"{name} is of the {kind} {_shown(other[key])}, but {said_by[key]} of "
                    f"{_shown(artefact[key])}; only runs of one artefact can be merged: run both "
                    "on the same files, or compare them with 'effd0 compare'"
                )
    parts = {key: _once(entry for run in runs for entry in run[key]) for key in _LISTS}
    return {
        **runs[0],
        **parts,
        "created": max(run["created"] for run in runs),
        "artefact": artefact,
        "verdict": merged_verdict(runs),
        "exit_status": max((run["exit_status"] for run in runs), key=abs),
    }


def _check_known(artefact: Any, other: Any, first: str, name: str) -> None:
    """Raise `RunFileError` where nothing shows that both are of one artefact."""
    if any(artefact[key] and other[key] for key in ("model_sha256", "checkpoint_sha256")):
        return
    if artefact["model_sha256"] or other["model_sha256"]:
        return  # told as a difference of models
    raise RunFileError(
        f"{name} and {first} name no model and no checkpoint that both were run on, but only runs "
        "of one artefact can be merged; write both with --report-json on the same files"
    )


def _once(entries: Iterable[Any]) -> list[Any]:
    """The *entries* in their order, each once."""
    kept: list[Any] = []
    for entry in entries:
        if entry not in kept:
            kept.append(entry)
    return kept


def _shown(value: Any) -> str:
    if value is None:
        return "(none given)"
    if isinstance(value, str):
        return value[:12]
    digest = "unknown" if value["sha256"] is None else value["sha256"][:12]
    return f"{value['name']} ({value['images']} images, annotations {digest})"
