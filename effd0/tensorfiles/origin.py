"""Whether results are of the model and of the inputs that they are taken for, by their summary."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from ..errors import ResultError
from ..files import sha256
from ..spec import ModelSpec
from .manifest import Manifest
from .names import Summary, read_summary


def check_origin(
    folder: Path, summary: Summary | None, manifest: Manifest | None, spec: ModelSpec
) -> None:
    """
    Raise `ResultError` where *summary* is of other inputs than *manifest* or another model's spec.

    What it does not say cannot contradict.
    """
    if summary is None:
        return
    known = summary.manifest_sha256
    if manifest is not None and known is not None and known != manifest.sha256:
        raise ResultError(
            f"{folder} was made of the inputs of another manifest (sha256 {known[:12]}, by "
            f"{summary.path.name}) than {manifest.path} ({manifest.sha256[:12]}); "
            "run the inference again on these inputs, or give those that it was run on"
        )
    asked = json.loads(json.dumps(asdict(spec)))
    recorded = asked if summary.spec is None else summary.spec
    differ = [f"{k} {recorded.get(k)}, not {v}" for k, v in asked.items() if recorded.get(k) != v]
    if differ:
        raise ResultError(
            f"{folder} is of a model with {'; '.join(differ)}, by {summary.path.name}; "
            "give the --arch that it was run with"
        )


def check_model(folder: Path, model: Path, *, proved: bool = False) -> None:
    """
    Raise `ResultError` where the results in *folder* are those of another model than *model*.

    A summary that names no model, or one in another format (an .om, say, compiled from *model*),
    contradicts only where the origin has to be *proved*.
    """
    if not model.is_file():
        raise ResultError(f"--model is {model}, which is no file; give the model of the results")
    summary = read_summary(folder)
    known = None if summary is None else summary.model_sha256
    recorded = None if summary is None else summary.model
    same_kind = recorded is None or Path(recorded).suffix == model.suffix
    if known is None or not same_kind:
        if proved:
            what = "no model" if known is None else recorded
            raise ResultError(
                f"--model is {model}, but the summary of {folder} names {what}; leave --model out, "
                "or run the inference again with 'effd0 infer'"
            )
        return
    wanted = sha256(model)
    if known != wanted:
        name = "a model" if recorded is None else recorded
        raise ResultError(
            f"{folder} holds the results of {name} (sha256 {known[:12]}), but --model is {model} "
            f"(sha256 {wanted[:12]}); run the inference again with it, or give the results of it"
        )
