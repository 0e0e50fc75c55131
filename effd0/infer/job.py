"""One inference over files from beginning to end: inputs, model, results and their summary."""

from __future__ import annotations

import contextlib
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..choice import ModelChoice
from ..feed import choose_batch_size
from ..files import sha256
from ..progress import OpenProgress
from ..tensorfiles.inputs import InputFiles, open_inputs
from ..tensorfiles.writer import check_free, results_whole
from .run import InferSettings, infer_files, infer_nothing
from .throughput import Performance


@dataclass(frozen=True)
class InferJob:
    """
    Everything that an inference depends on.

    Without *inputs* zeros are run; without *results*, the folder to write, nothing is kept.
    *args* are the words of the command, for the summary.
    """

    choice: ModelChoice
    inputs: Path | None = None
    results: Path | None = None
    settings: InferSettings = field(default_factory=InferSettings)
    outfmt: str = "BIN"
    overwrite: bool = False
    args: tuple[str, ...] = ()


def run_infer_job(job: InferJob, open_progress: OpenProgress) -> Performance:
    """Run *job*; raise what its stages raise."""
    # What can be known to be wrong is said before anything is opened.
    job.choice.checked_runner()
    if job.results is not None:
        check_free(job.results, overwrite=job.overwrite)
    inputs = None if job.inputs is None else open_inputs(job.inputs, job.choice.spec)
    with contextlib.ExitStack() as stack:
        with open_progress("opening the model", 1) as advance:
            runner, path = stack.enter_context(job.choice.opened(job.settings.batch_size))
            advance(1)
        writer = None
        if job.results is not None:
            whole = results_whole(job.results, job.outfmt, overwrite=job.overwrite)
            writer = stack.enter_context(whole)
        if inputs is None:
            performance = infer_nothing(runner, writer, job.settings)
        else:
            with open_progress("inferring", len(inputs.files)) as advance:
                performance = infer_files(runner, inputs, writer, job.settings, advance)
        if writer is not None:
            size = choose_batch_size(runner, job.settings.batch_size)
            summary = summary_of(job, runner.description, path, inputs, size, performance)
            writer.close(summary, None if inputs is None else inputs.manifest)
    return performance


def summary_of(
    job: InferJob,
    runner: str,
    model: Path,
    inputs: InputFiles | None,
    batch_size: int,
    performance: Performance,
) -> dict[str, Any]:
    """
    What ais_bench's summary says but for its files, and more under a key of our own.

    *runner* describes what computed, in batches of *batch_size*; *model* is the file that it ran.
    """
    manifest = None if inputs is None else inputs.manifest
    return {
        "args": list(job.args),
        **performance.ais_bench_summary(),
        "pid": os.getpid(),
        "effd0": {
            "runner": runner,
            "model": None if job.choice.model is None else str(job.choice.model),
            "checkpoint": None if job.choice.checkpoint is None else str(job.choice.checkpoint),
            "model_sha256": sha256(model),
            "manifest_sha256": None if manifest is None else manifest.sha256,
            "images": performance.images,
            "images_per_second": performance.images_per_second,
            "images_per_second_with_files": performance.images_per_second_with_files,
            "infer_s": performance.infer_s,
            "total_s": performance.total_s,
            "batch_size": batch_size,
            "settings": asdict(job.settings),
            "spec": asdict(job.choice.spec),
        },
    }
