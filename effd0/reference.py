"""Run what a candidate is held against, on the same images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .against import Against, hold_against
from .choice import ModelChoice
from .dataset import Dataset
from .errors import RunnerError
from .evaluate import evaluate
from .feed import choose_batch_size
from .files import sha256
from .pipeline import run_dataset
from .postprocess import Detections
from .progress import OpenProgress
from .runners import RunnerOptions

WEIGHTS = (".pth", ".safetensors")


@dataclass(frozen=True)
class Compared:
    """A comparison, and what the reference *found*, by image id."""

    against: Against
    found: Mapping[int, Detections]


def reference_choice(file: Path | None, candidate: ModelChoice) -> ModelChoice | None:
    """
    The choice that runs *file* in float32 on the CPU: .onnx in ONNX Runtime, weights in torch.

    It has the architecture of *candidate*; without a file there is none.  Raises `RunnerError`
    for a file of another kind and what `ModelChoice.checked_runner` raises.
    """
    if file is None:
        return None
    spec, options = candidate.spec, RunnerOptions(threads=candidate.options.threads)
    suffix = file.suffix.lower()
    if suffix == ".onnx":
        choice = ModelChoice(model=file, runner="ort", spec=spec, options=options)
    elif suffix in WEIGHTS:
        choice = ModelChoice(checkpoint=file, runner="torch", spec=spec, options=options)
    else:
        raise RunnerError(
            f"--reference is {file}, but an .onnx file or weights ({', '.join(WEIGHTS)}) were "
            "wanted; give what the model under test was made of"
        )
    choice.checked_runner()
    return choice


def run_against(
    choice: ModelChoice | None,
    dataset: Dataset,
    candidate: Mapping[int, Detections],
    max_drop: float,
    host_threads: int,
    open_progress: OpenProgress,
) -> Compared | None:
    """
    Run the reference *choice*, if there is one, on all images of *dataset*, and compare.

    *candidate* is what the model under test found, by image id; *max_drop* is in points.  Raises
    what the stages raise.
    """
    if choice is None:
        return None
    samples = dataset.samples
    with choice.opened() as (runner, path), open_progress("reference", len(samples)) as advance:
        found = {}
        batch_size = choose_batch_size(runner, None)
        for sample, detections in run_dataset(
            samples, runner, choice.spec, batch_size=batch_size, host_threads=host_threads
        ):
            found[sample.image_id] = detections
            advance(1)
        description, model_sha256 = runner.description, sha256(path)
    with open_progress("comparing", 1) as advance:
        against = hold_against(
            dataset,
            found,
            candidate,
            choice.spec,
            max_drop=max_drop,
            runner=description,
            model_sha256=model_sha256,
            metrics=evaluate(dataset, found, choice.spec),
        )
        advance(1)
    return Compared(against, found)
