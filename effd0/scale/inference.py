"""One inference over files by a pool of workers; as `infer.job.run_infer_job` in one process."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace

from ..errors import RunnerError
from ..evaluation.infer import InferJob, Performance, check_fits, summary_of, together
from ..io import sha256
from ..progress import OpenPoolProgress
from ..runners.base import only_input
from ..tensors.inputs import InputFiles, open_inputs
from ..tensors.writer import ResultWriter, check_free, results_whole
from .drive import Begun, Shown, begin, drive
from .infer_work import InferWork, check_there, cut_inputs, inferred
from .ledger import WorkerId
from .pool import Pool, check_pool
from .quiet import quiet
from .start import Displays, prepared_model, started
from .subject import Subject
from .summary import PoolSummary
from .worker import UnitReport

#: What an error says of the inputs that were run.
NOT_KEPT = "no result is kept, since a folder of results is whole or not there"


@dataclass(frozen=True)
class PoolInference:
    """What an inference took, all workers together, and what each of them did."""

    performance: Performance
    summary: PoolSummary


def infer_on_pool(job: InferJob, pool: Pool, show: Displays) -> PoolInference:
    """Run *job* on *pool*; raise what its stages raise.  The results are those of one process."""
    runner = job.choice.checked_runner()
    check_pool(pool, runner, job.choice.options)
    inputs = _inputs(job)
    if job.results is not None:
        check_free(job.results, overwrite=job.overwrite)
    with quiet(verbose=pool.verbose), contextlib.ExitStack() as stack:
        size = job.settings.batch_size
        path = stack.enter_context(prepared_model(job.choice, size, show))
        ray = stack.enter_context(started(pool, job.choice, show))
        writer = None
        if job.results is not None:
            whole = results_whole(job.results, job.outfmt, overwrite=job.overwrite)
            writer = stack.enter_context(whole)
        subject = Subject(runner, job.choice.spec, job.choice.options, path.name, sha256(path))
        run = begin(ray, subject, path, size)
        done = infer_begun(run, inputs, writer, job, show.pool)
        if writer is not None:
            summary = summary_of(
                job, run.description, path, inputs, run.opened.batch_size, done.performance
            )
            summary["effd0"]["pool"] = done.summary.to_json()
            writer.close(summary, inputs.manifest)
    return done


def _inputs(job: InferJob) -> InputFiles:
    """The inputs of *job*; raise `RunnerError` where there is nothing to deal out."""
    if job.inputs is None:
        raise RunnerError(
            "workers share the files of --input, but none is given; give --input, or leave "
            "--workers and --devices out to run zeros in this process"
        )
    if job.settings.loop != 1:
        raise RunnerError(
            f"--loop is {job.settings.loop}, but workers run each batch once; leave --loop out, "
            "or leave --workers and --devices out to time this process"
        )
    return open_inputs(job.inputs, job.choice.spec)


def infer_begun(
    run: Begun,
    inputs: InputFiles,
    writer: ResultWriter | None,
    job: InferJob,
    open_progress: OpenPoolProgress,
) -> PoolInference:
    """
    Infer *inputs* on the workers of *run*, which write results as *writer* does; it notes them.

    Raises `FeedError` as `infer_files` does, and one error at the end for all that was not done.
    """
    check_fits(inputs, only_input(run.opened.inputs))
    batch_size = run.opened.batch_size
    units = cut_inputs(inputs, batch_size, run.cluster.pool.workers)
    theirs = None if writer is None else replace(writer, place=writer.place.absolute())
    by_first = {unit.first: unit for unit in units}
    parts: dict[int, tuple[WorkerId, Performance]] = {}
    outputs = 0

    def take(report: UnitReport) -> None:
        nonlocal outputs
        found = inferred(report.found)
        outputs = found.outputs
        parts[report.first] = (report.worker, found.performance)
        if writer is not None:
            check_there(by_first[report.first], outputs, writer, report.worker)

    shown = Shown("inferring", open_progress)
    work = InferWork(batch_size, job.settings, theirs)
    summary, _ = drive(run, units, work, take, shown, NOT_KEPT)
    if writer is not None:
        for file in inputs.files:
            writer.name(file.stem, outputs, file)
    ordered = [parts[unit.first] for unit in units]
    return PoolInference(together(ordered, summary.seconds, run.cluster.pool.workers), summary)
