"""
One evaluation from beginning to end: dataset, model, run line, score, verdict.

What is not given is the embedded default.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NotRequired, TypedDict, Unpack

from ..against import Against, hold_against
from ..complete import check_complete
from ..data import fixture as embedded
from ..data.coco import Dataset, Sample, check_images, load_coco
from ..data.preprocess import input_scale
from ..data.remote import url_of
from ..detection.heads import split_heads
from ..detection.postprocess import Detections, postprocess
from ..errors import DatasetError, Effd0Error, EvaluationError, ResultError, RunnerError
from ..evaluate import (
    EVALUATORS,
    CocoMetrics,
    check_evaluator,
    evaluate,
    metrics_of_hits,
    to_coco_results,
)
from ..hits import category_hits
from ..insight import insight
from ..io import sha256
from ..matches import UnitMatches, merged_hits
from ..progress import OpenProgress, silent
from ..reach import reachable_ap
from ..report import Evaluation, Verdict, judge
from ..runners.base import Runner, TimedRunner, choose_batch_size
from ..runners.registry import RunnerOptions
from ..spec import D0, ModelSpec
from ..tensors.manifest import Manifest
from ..tensors.results import Results, check_model, find_manifest, open_results
from ..timing import Latency, peak_rss_mb
from ..tolerances import MAX_DROP, TO_RECORD
from ..twins import check_twins, twin_key
from .model import ModelChoice
from .pipeline import StageTimes, run_dataset
from .run_dir import (
    RunDirectory,
    Say,
    UnderTest,
    image_sha256,
    images_sha256,
    resume_without_out,
    run_directory,
    run_identity,
    under_test,
)


@dataclass(frozen=True)
class EvaluationJob:
    """
    Everything that an evaluation depends on; *min_map* is in percent.

    *out* is the run directory, which *resume* goes on with; see `run_directory`.  *reference* is
    what the model may lose *max_drop* points of mAP against.  With *insight* the evaluation holds
    what pictures of it need.
    """

    choice: ModelChoice
    root: Path | None = None
    split: str = "val2017"
    batch_size: int | None = None
    image_limit: int | None = None
    min_map: float | None = None
    evaluator: str = EVALUATORS[0]
    host_threads: int = 2
    out: Path | None = None
    resume: bool = False
    reference: Path | None = None
    max_drop: float = MAX_DROP.limit
    insight: bool = False

    def floor(self) -> float | None:
        """
        The gate in percent: as given; else, for the embedded default alone, its own record.

        That is what effdet's own pipeline reaches, less `TO_RECORD`.
        """
        own = self.choice.model is None and self.choice.checkpoint is None and self.root is None
        if self.min_map is not None or not own or self.image_limit is not None:
            return self.min_map
        return 100 * embedded.reference_ap() - TO_RECORD.limit

    def load(self) -> Dataset:
        """The dataset, checked but for the inside of the image files."""
        root = embedded.coco_root() if self.root is None else self.root
        if url_of(root) is not None:
            raise DatasetError(
                f"--root is {url_of(root)}, which workers can read; say how many with --workers, "
                "or copy it to this host"
            )
        return load_coco(root, self.split, self.image_limit)


def _silent(line: str) -> None:
    """Tell nobody."""


def load_checked(job: EvaluationJob, open_progress: OpenProgress) -> Dataset:
    """The dataset of *job*, every image decoded once to see that it can be."""
    dataset = job.load()
    with open_progress("checking images", len(dataset.samples)) as advance:
        for _ in check_images(dataset.samples, job.host_threads):
            advance(1)
    return dataset


def run_evaluation(
    job: EvaluationJob, open_progress: OpenProgress, say: Say = _silent
) -> Evaluation:
    """Run *job*; raise what its stages raise.  *say* is told what a run directory holds."""
    # What can be known to be wrong is said before hours of work, not after.
    job.choice.checked_runner()
    check_evaluator(job.evaluator)
    reference = reference_choice(job.reference, job.choice)
    with opened_run_directory(job, say) as place:
        dataset = load_checked(job, open_progress)
        run = _run(job, dataset, place, open_progress)
        compared = run_against(
            reference, dataset, run.found, job.max_drop, job.host_threads, open_progress
        )
        with open_progress("scoring", 1) as advance:
            evaluation = score(
                dataset,
                run.found,
                job.choice.spec,
                evaluator=job.evaluator,
                min_map=job.floor(),
                images_per_second=run.images_per_second,
                stages=run.stages,
                runner=run.runner,
                model_sha256=run.model_sha256,
                settings=job_settings(job, run.batch_size),
                against=None if compared is None else compared.against,
            )
            if job.insight:
                reference_found = None if compared is None else compared.found
                drawn = insight(dataset, run.found, reference_found, job.choice.spec)
                evaluation = replace(evaluation, insight=drawn)
            advance(1)
        if place is not None:
            place.finish([to_coco_results(run.found, job.choice.spec)], evaluation.to_json())
    return evaluation


@contextlib.contextmanager
def opened_run_directory(job: EvaluationJob, say: Say) -> Iterator[RunDirectory | None]:
    """The run directory of *job* for the time of the block, if it has one."""
    if job.out is not None:
        with run_directory(job.out, resume=job.resume, say=say) as place:
            yield place
    elif job.resume:
        raise resume_without_out()
    else:
        yield None


def _run(
    job: EvaluationJob, dataset: Dataset, place: RunDirectory | None, open_progress: OpenProgress
) -> Detected:
    """Open the model of *job* and detect in what *place* does not hold yet."""
    with contextlib.ExitStack() as stack:
        with open_progress("opening the model", 1) as advance:
            runner, path = stack.enter_context(job.choice.opened(job.batch_size))
            advance(1)
        return detect_dataset(
            dataset,
            runner,
            under_test(job.choice, path),
            batch_size=choose_batch_size(runner, job.batch_size),
            place=place,
            host_threads=job.host_threads,
            open_progress=open_progress,
        )


def job_settings(job: EvaluationJob, batch_size: int) -> dict[str, Any]:
    """What a reader needs to repeat the run and to compare it with another."""
    choice = job.choice
    return {
        "image_limit": job.image_limit,
        "reference": None if job.reference is None else str(job.reference),
        "model": None if choice.model is None else str(choice.model),
        "checkpoint": None if choice.checkpoint is None else str(choice.checkpoint),
        "batch_size": batch_size,
        "runner": choice.checked_runner(),
        "runner_options": asdict(choice.options),
        "spec": asdict(choice.spec),
    }


@dataclass(frozen=True)
class Detected:
    """What a model found, by image id; *images* of it in *seconds*, the rest was there already."""

    found: dict[int, Detections]
    images: int
    seconds: float
    stages: dict[str, Latency]
    runner: str
    model_sha256: str
    batch_size: int

    @property
    def images_per_second(self) -> float:
        """Of the images that were run: of those that were there already, this run knows no time."""
        return self.images / self.seconds


def detect_dataset(
    dataset: Dataset,
    runner: Runner,
    under_test: UnderTest,
    *,
    batch_size: int,
    place: RunDirectory | None,
    host_threads: int = 2,
    open_progress: OpenProgress = silent,
) -> Detected:
    """
    Detect in all images of *dataset* that *place* does not hold yet; *runner* is open.

    Each image's detections are written there as they come.  Raises what the stages raise, and
    `ResultError` where *place* was begun with something else.
    """
    found: dict[int, Detections] = {}
    if place is not None:
        identity = run_identity(under_test, dataset, runner.description, batch_size=batch_size)
        identity["images_sha256"] = images_sha256(map(image_sha256, dataset.samples))
        found = place.start(identity, dataset.image_ids, batch_size)
    samples = dataset.samples[len(found) :]
    times, start = StageTimes(), time.perf_counter()
    stream = run_dataset(
        samples,
        runner,
        under_test.spec,
        batch_size=batch_size,
        host_threads=host_threads,
        times=times,
    )
    with (
        contextlib.closing(stream),
        open_progress("detecting", len(samples)) as advance,
    ):
        for sample, detections in stream:
            if place is not None:
                place.append(sample.image_id, detections)
            found[sample.image_id] = detections
            advance(1)
    seconds = time.perf_counter() - start
    stages = times.latencies() if samples else {}
    if isinstance(runner, TimedRunner):
        stages |= runner.device_times.latencies()
    return Detected(
        found=found,
        images=len(samples),
        seconds=seconds,
        stages=stages,
        runner=runner.description,
        model_sha256=under_test.model_sha256,
        batch_size=batch_size,
    )


class Run(TypedDict):
    """How detections came about, and what they are held against; *min_map* is in percent."""

    min_map: float | None
    images_per_second: float
    stages: Mapping[str, Latency]
    runner: str
    model_sha256: str
    settings: Mapping[str, Any]
    against: NotRequired[Against | None]


def score(
    dataset: Dataset,
    found: Mapping[int, Detections],
    spec: ModelSpec,
    *,
    evaluator: str,
    **run: Unpack[Run],
) -> Evaluation:
    """
    Score what was *found*, by image id; judge it as `judge` does.

    The settings are added to those of the dataset.  Raises `EvaluationError` as `evaluate` and
    `check_twins` do.
    """
    metrics = evaluate(dataset, found, spec, evaluator=evaluator)
    check_twins(dataset.samples, {id_: twin_key(one) for id_, one in found.items()}, spec)
    reachable = None
    if _may_be_lost(dataset, run):
        reachable = reachable_ap(dataset, category_hits(dataset, to_coco_results(found, spec)))
    return _judged(dataset, metrics, reachable, evaluator, run)


def score_matches(
    dataset: Dataset, units: Sequence[UnitMatches], spec: ModelSpec, **run: Unpack[Run]
) -> Evaluation:
    """
    Score what was matched in *units*, in any order: the same as `score` of all of it at once.

    Raises as `score` does, for images that came twice too.
    """
    _check_units(dataset, units)
    parts = [unit.matches for unit in units]
    detections = sum(unit.detections for unit in units)
    metrics = metrics_of_hits(dataset, merged_hits(dataset, parts), detections)
    keys = {
        id_: key for unit in units for id_, key in zip(unit.image_ids, unit.twin_keys, strict=True)
    }
    check_twins(dataset.samples, keys, spec)
    reachable = None
    if _may_be_lost(dataset, run):
        reachable = reachable_ap(dataset, merged_hits(dataset, parts))
    return _judged(dataset, metrics, reachable, EVALUATORS[0], run)


def _check_units(dataset: Dataset, units: Sequence[UnitMatches]) -> None:
    """Raise `EvaluationError` unless each image came once, in its place."""
    check_complete(dataset, itertools.chain.from_iterable(unit.image_ids for unit in units))
    ids = dataset.image_ids
    for unit in units:
        wanted = tuple(ids[unit.first : unit.first + len(unit.image_ids)])
        if unit.image_ids != wanted:
            raise EvaluationError(
                f"a unit came with images {unit.image_ids[:5]} from place {unit.first} on, where "
                f"the dataset has {wanted[:5]}; cut the dataset that is scored into the units"
            )


def _may_be_lost(dataset: Dataset, run: Run) -> bool:
    """Whether images were left out that may be unable to lift AP to its floor."""
    return dataset.limited and run["min_map"] is not None


def _judged(
    dataset: Dataset, metrics: CocoMetrics, reachable: float | None, evaluator: str, run: Run
) -> Evaluation:
    min_map, against = run["min_map"], run.get("against")
    return Evaluation(
        metrics=metrics,
        verdict=judge(metrics, dataset.total, min_map, against, reachable),
        total_images=dataset.total,
        images_per_second=run["images_per_second"],
        stages=run["stages"],
        peak_rss_mb=peak_rss_mb(),
        runner=run["runner"],
        model_sha256=run["model_sha256"],
        settings={
            **_data_settings(dataset),
            "min_map": min_map,
            "evaluator": evaluator,
            **run["settings"],
        },
        against=against,
        floor=judge(metrics, dataset.total, min_map, reachable=reachable),
    )


def _data_settings(dataset: Dataset) -> dict[str, Any]:
    return {
        "annotation_file": str(dataset.annotation_file),
        "annotations_sha256": sha256(dataset.annotation_file),
        "extra_files": len(dataset.extra_files),
    }


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


#: Stands for the hash of a model that the results do not name.
UNKNOWN_MODEL = "unknown"


@dataclass(frozen=True)
class ResultJob:
    """
    Everything that the score of the folder *results* depends on; *min_map* is in percent.

    *bins* is the folder of the inputs, where there is no manifest beside the results; *model* is
    the one that the results have to be of, if that is to be checked.  With *insight* the evaluation
    holds what pictures of it need.
    """

    results: Path
    root: Path | None = None
    split: str = "val2017"
    bins: Path | None = None
    model: Path | None = None
    spec: ModelSpec = D0
    image_limit: int | None = None
    min_map: float | None = None
    evaluator: str = EVALUATORS[0]
    host_threads: int = 2
    insight: bool = False


@dataclass
class _Times:
    reading: list[float] = field(default_factory=list)
    postprocess: list[float] = field(default_factory=list)


def run_result_job(job: ResultJob, open_progress: OpenProgress) -> Evaluation:
    """
    Score *job*; raise what its stages raise.

    Results without a single detection fail, whatever the floor: nothing was recognised.
    """
    check_evaluator(job.evaluator)
    if job.model is not None:
        check_model(job.results, job.model, proved=True)
    root = embedded.coco_root() if job.root is None else job.root
    dataset = load_coco(root, job.split, job.image_limit)
    manifest = find_manifest(job.results, job.bins)
    fed = load_coco(root, job.split).samples if dataset.limited else dataset.samples
    stems = {s.image_id: stem_of(s, manifest, job.spec) for s in dataset.samples}
    results = open_results(
        job.results, job.spec, list(stems.values()), bins=job.bins, fed=[s.path.stem for s in fed]
    )
    times, start = _Times(), time.perf_counter()
    found = _detections(job, dataset, results, stems, times, open_progress)
    seconds = time.perf_counter() - start
    evaluation = score(
        dataset,
        found,
        job.spec,
        evaluator=job.evaluator,
        min_map=job.min_map,
        images_per_second=len(found) / seconds,
        stages={
            "read results": Latency.from_seconds(times.reading),
            "postprocess": Latency.from_seconds(times.postprocess),
        },
        runner=results.description,
        model_sha256=_model_sha256(results),
        settings=_settings(job, results),
    )
    if job.insight:
        evaluation = replace(evaluation, insight=insight(dataset, found, None, job.spec))
    return _not_empty(evaluation)


def stem_of(sample: Sample, manifest: Manifest | None, spec: ModelSpec) -> str:
    """
    The stem of the results of *sample*: by its image id in *manifest*, or else of its file.

    Raises `ResultError` where the manifest is of another image of this id, or of another picture.
    """
    if manifest is None:
        return sample.path.stem
    image = manifest.by_id.get(sample.image_id)
    if image is None:
        raise ResultError(
            f"{manifest.path} has no image {sample.image_id} ({sample.path.name}); "
            "preprocess all images of --root, or limit both by the same --image-limit"
        )
    same = image.stem == sample.path.stem and image.image_size == sample.size
    if not same or not math.isclose(image.image_scale, image_scale(sample.size, spec)):
        raise ResultError(
            f"{manifest.path} says that image {sample.image_id} is {image.stem}, "
            f"{image.image_size} pixels at scale {image.image_scale}, but it is "
            f"{sample.path.stem}, {sample.size} at {image_scale(sample.size, spec)}; "
            "give the --root that the inputs were made of"
        )
    if image.picture_sha256 not in (None, sha256(sample.path)):
        raise ResultError(
            f"{sample.path} has changed since the inputs of {manifest.path} were made of it; "
            "preprocess and run the inference again, or give the --root that they were made of"
        )
    return image.stem


def image_scale(size: tuple[int, int], spec: ModelSpec) -> float:
    """Factor from input pixels back to those of an image of *size* (width, height)."""
    return 1.0 / input_scale(size, spec)


def _detections(
    job: ResultJob,
    dataset: Dataset,
    results: Results,
    stems: dict[int, str],
    times: _Times,
    open_progress: OpenProgress,
) -> dict[int, Detections]:
    found: dict[int, Detections] = {}
    detect = partial(_detect, results=results, stems=stems, times=times)
    with (
        open_progress("postprocessing", len(dataset.samples)) as advance,
        ThreadPoolExecutor(job.host_threads, "effd0") as pool,
    ):
        try:
            every = pool.map(detect, dataset.samples)
            for sample, detections in zip(dataset.samples, every, strict=True):
                found[sample.image_id] = detections
                advance(1)
        finally:
            pool.shutdown(cancel_futures=True)
    return found


def _detect(
    sample: Sample, *, results: Results, stems: dict[int, str], times: _Times
) -> Detections:
    start = time.perf_counter()
    (heads,) = split_heads(results.heads(stems[sample.image_id]), results.spec)
    read = time.perf_counter()
    try:
        scale = image_scale(sample.size, results.spec)
        detections = postprocess(heads, scale, sample.size, results.spec)
    except Effd0Error as error:
        error.add_note(f"in the results of {stems[sample.image_id]}")
        raise
    times.reading.append(read - start)
    times.postprocess.append(time.perf_counter() - read)
    return detections


def _not_empty(evaluation: Evaluation) -> Evaluation:
    if evaluation.metrics.detections:
        return evaluation
    reason = (
        f"not one detection in {evaluation.metrics.images} images; the model gave nothing: "
        "look at its heads, its precision and the inputs that it was fed"
    )
    return replace(evaluation, verdict=Verdict("fail", reason))


def _model_sha256(results: Results) -> str:
    known = None if results.summary is None else results.summary.model_sha256
    return UNKNOWN_MODEL if known is None else known


def _settings(job: ResultJob, results: Results) -> dict[str, Any]:
    """What a reader needs to repeat the run and to compare it with another."""
    return {
        "results": str(job.results),
        "bins": None if job.bins is None else str(job.bins),
        "manifest_sha256": None if results.manifest is None else results.manifest.sha256,
        "image_limit": job.image_limit,
        "batch_size": None,
        "runner": "recorded",
        "spec": asdict(job.spec),
    }
