"""Results on disk -> score: what is left of an evaluation when inference was done elsewhere."""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from . import embedded
from .dataset import Dataset, Sample, load_coco
from .errors import Effd0Error, ResultError
from .evaluate import EVALUATORS, check_evaluator
from .files import sha256
from .heads import split_heads
from .insight import insight
from .measure import Latency
from .postprocess import Detections, postprocess
from .preprocess import input_scale
from .progress import OpenProgress
from .report import Evaluation, Verdict
from .score import score
from .spec import D0, ModelSpec
from .tensorfiles.manifest import Manifest
from .tensorfiles.origin import check_model
from .tensorfiles.results import Results, find_manifest, open_results

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
