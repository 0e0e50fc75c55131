"""
One evaluation: images through an engine, detections through COCO's metrics, metrics to checks.

    JPEG -> Sample -> ModelInput -> Heads -> Detections -> CocoMetrics -> [Check] -> verdict

The command line, the test suite and workers come through here; only the engine differs.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np

from ..data import fixture
from ..data.coco import Dataset, annotation_path, label_notes, load_annotations, load_coco
from ..data.remote import RemoteFiles, url_of
from ..detection.postprocess import Detections
from ..errors import DatasetError, EvaluationError, OutputError, ResultError, listed
from ..export.verify import CONVERTING_MB
from ..graph.onnx_info import stored_precision
from ..io import sha256
from ..metrics import bootstrap, coco, detection_diff, summary
from ..metrics.operating_point import operating_point
from ..progress import OpenProgress, silent
from ..results import check as gate
from ..results import run as record
from ..spec import D0, ModelSpec
from ..timing import Latency, peak_rss_mb
from ..tolerances import TO_RECORD, max_drop_of
from ..types import OUTPUT, OVERWRITE, SCALE, TESTED, Indices, option
from .engines import Engine, ModelEngine, RecordedEngine
from .run_dir import RunDirectory, Say, run_directory


@dataclass(frozen=True)
class ImageOptions:
    """Which images, and how they are read; without *root* the bundled scenes."""

    panel: ClassVar = TESTED
    root: Path | None = option("Folder in COCO's layout.", "DIR", shown="embedded scenes")
    split: str = option("Image folder, and instances_SPLIT.json.", "SPLIT", "val2017")
    image_limit: int | None = option(
        "Only the first N images by id; such a run never passes a threshold.", shown="all"
    )
    host_threads: int = option(
        "Host threads that read images and decode heads.", default=2, panel=SCALE
    )


@dataclass(frozen=True)
class DirectoryOptions:
    """The run directory *out*, which *resume* continues, *overwrite* begins anew."""

    out: Path | None = option(
        "Run directory: detections as they come, then detections.json, evaluation.json.",
        "RUN_DIR",
        takes="new folder",
    )
    resume: bool = option(
        "Continue the run in --out, to the same result.", default=False, panel=OUTPUT
    )
    overwrite: bool = OVERWRITE


@dataclass(frozen=True)
class EvaluationJob(DirectoryOptions, ImageOptions):
    """
    What any engine evaluates; *min_map* is in percent, *max_drop* in points of mAP.

    A *max_drop* of None is that of the model's precision; *max_class_drop* is of each class.
    """

    min_map: float | None = None
    max_drop: float | None = None
    max_class_drop: float | None = None

    @property
    def folder(self) -> Path:
        """The folder of the images and annotations, in COCO's layout."""
        return fixture.coco_root() if self.root is None else self.root

    def threshold(self, engine: Engine) -> float | None:
        """
        The least mAP in percent: as given; else, for the bundled default alone, its own record.

        That is what effdet's own pipeline reaches, less `TO_RECORD`.
        """
        chosen = engine.choice if isinstance(engine, ModelEngine) else None
        own = chosen is not None and chosen.model is None and chosen.checkpoint is None
        if self.min_map is None and own and self.root is None and self.image_limit is None:
            return 100 * fixture.reference_ap() - TO_RECORD.limit
        return self.min_map


@dataclass(frozen=True)
class Evaluation:
    """
    One evaluation, complete enough to be repeated.

    *accuracy* is what a run file says of it, whose ``images_per_second`` are of the images that
    were run now, not of those that the run directory held, and whose ``against`` compares with the
    evaluation *reference*, where there is one.
    """

    job: EvaluationJob
    spec: ModelSpec
    matches: coco.MatchTable
    metrics: summary.CocoMetrics
    checks: tuple[gate.Check, ...]
    accuracy: record.Accuracy
    reference: Evaluation | None = None

    @property
    def dataset(self) -> Dataset:
        """The images and their annotations."""
        return self.matches.dataset

    @property
    def found(self) -> Mapping[int, Detections]:
        """The detections by image id, in the order of the dataset."""
        return self.matches.detections

    @property
    def verdict(self) -> gate.Verdict:
        """What the checks say together; one accuracy alone decides no release."""
        return gate.verdict_of(self.checks)

    @property
    def reason(self) -> str:
        """What the checks say, the gravest first."""
        return gate.reason_of(self.checks)


def evaluate(
    job: EvaluationJob,
    engine: Engine,
    reference: Engine | None = None,
    *,
    dataset: Dataset | None = None,
    open_progress: OpenProgress = silent,
    say: Say = lambda _line: None,
) -> Evaluation:
    """
    Evaluate what *engine* runs on the images of *job*, and compare it with *reference*.

    *dataset*, where given, is what *job* names, loaded before.  *say* prints a line of what a run
    directory holds.  Raises what the stages raise, what can be known early before any image is
    run, and `EvaluationError` for detections that are not of all images, each its own.
    """
    for one in filter(None, (engine, reference)):
        one.check()
    if job.resume and job.out is None:
        raise OutputError("--resume is given, but no --out; name the run directory to resume")
    with contextlib.ExitStack() as stack:
        place = None
        if job.out is not None:
            place = stack.enter_context(
                run_directory(job.out, resume=job.resume, overwrite=job.overwrite, say=say)
            )
        images = stack.enter_context(loaded(job, engine)) if dataset is None else dataset
        evaluation = _measured(job, engine, images, place, "detecting", open_progress)
        if reference is not None:
            plain = replace(job, min_map=None)
            wanted = _measured(plain, reference, images, None, "reference", open_progress)
            with open_progress("comparing", 1) as advance:
                evaluation = compared(evaluation, wanted, job.max_drop, job.max_class_drop)
                advance(1)
        if place is not None:
            results = coco.to_coco_results(evaluation.found, evaluation.spec)
            place.finish(results, record.flat(run_of(evaluation, engine)))
    return evaluation


@contextlib.contextmanager
def loaded(job: EvaluationJob, engine: Engine) -> Iterator[Dataset]:
    """The data set of *job*, checked but for the insides of its image files."""
    url = url_of(job.folder)
    if url is None:
        yield load_coco(job.folder, job.split, job.image_limit)
    elif engine.on_workers:
        with tempfile.TemporaryDirectory(prefix="effd0-") as cache:
            yield load_coco(job.folder, job.split, job.image_limit, RemoteFiles(Path(cache)))
    else:
        raise DatasetError(
            f"--root is {url}, which workers can read; say how many with --workers, "
            "or copy it to this host"
        )


def _measured(
    job: EvaluationJob,
    engine: Engine,
    dataset: Dataset,
    place: RunDirectory | None,
    what: str,
    open_progress: OpenProgress,
) -> Evaluation:
    """The evaluation without a reference; detections go to *place* as they come."""
    found: dict[int, Detections] = {}
    with engine.open(dataset, job.host_threads, open_progress) as source:
        if place is not None:
            identity = source.identity(dataset, images=not engine.on_workers)
            found = place.start(identity, dataset.image_ids, source.settings["batch_size"])
        samples = [sample for sample in dataset.samples if sample.image_id not in found]
        start = time.perf_counter()
        with (
            contextlib.closing(source.detect(samples)) as stream,
            open_progress(what, len(samples)) as advance,
        ):
            for sample, detections in stream:
                if place is not None:
                    place.append(sample.image_id, detections)
                found[sample.image_id] = detections
                advance(1)
        seconds = time.perf_counter() - start
    with open_progress("scoring", 1) as advance:
        found = {image_id: found[image_id] for image_id in dataset.image_ids if image_id in found}
        matches = coco.match_table(dataset, found, source.spec)
        detection_diff.check_repeats(dataset, found, source.spec)
        job = replace(job, min_map=job.threshold(engine))
        of = source.spec, source.description, source.settings
        evaluation = _scored(job, matches, *of, len(samples) / seconds, source.stages())
        advance(1)
    return evaluation


def _scored(
    job: EvaluationJob,
    matches: coco.MatchTable,
    spec: ModelSpec,
    backend: str,
    settings: Mapping[str, Any],
    speed: float | None,
    stages: Mapping[str, Latency],
) -> Evaluation:
    """The evaluation of *matches*, of what *backend* found at *speed* images a second."""
    dataset, metrics, least = matches.dataset, summary.summarize(matches), job.min_map
    limited = dataset.limited and least is not None
    reachable = bootstrap.reachable_ap(matches) if limited else None
    checks = [one for one in [gate.detected(metrics)] if one.status == "failed"]
    checks.append(gate.threshold(metrics, dataset.total, least, reachable))
    url = url_of(annotation_path(job.folder, job.split))
    converted = settings["runner"] in ("ort", "openvino") and settings["model"] is None
    accuracy = record.Accuracy(
        runner=settings["runner"],
        backend=backend,
        batch=settings["batch_size"],
        images=metrics.images,
        images_total=dataset.total,
        detections=metrics.detections,
        metrics=metrics.values,
        undefined=metrics.undefined,
        per_class=metrics.per_class,
        min_map=least,
        against=None,
        images_per_second=speed,
        peak_rss_mb=peak_rss_mb(),
        converting_rss_mb=max(CONVERTING_MB, default=None) if converted else None,
        stages_ms={name: record.Times.of(latency) for name, latency in stages.items()},
        model_sha256=settings["model_sha256"],
        settings={
            "annotation_file": str(dataset.annotation_file) if url is None else url,
            "annotations_sha256": sha256(dataset.annotation_file),
            "notes": [*dataset.notes, *label_notes(spec, dataset)],
            "min_map": least,
            "image_limit": job.image_limit,
            **settings,
        },
        operating_point=record.Sides(operating_point(matches), None),
    )
    return Evaluation(job, spec, matches, metrics, tuple(checks), accuracy)


def score(
    results: Path, annotations: Path, min_map: float | None = None, *, say: Say = lambda _line: None
) -> Evaluation:
    """
    Score the COCO results file *results*, of any tool, on all images of the file *annotations*.

    *say* prints what counts for nothing.  Raises `ResultError` and `EvaluationError` for ids that
    are not those of the annotations.
    """
    dataset, given = load_annotations(annotations), coco.read_results(results)
    if given.text_ids:
        raise ResultError(
            f"{given.text_ids} image ids in {results} are text, but COCO's are whole numbers: "
            "pycocotools would find no image of these; write them as numbers"
        )
    if foreign := sorted(given.images.keys() - {*dataset.image_ids}):
        raise EvaluationError(
            f"{len(foreign)} of {len(given.images)} image ids in {results} are of no image of "
            f"{annotations}: {listed(foreign)}; give the annotations of the same images"
        )
    matches, kinds = coco.match_results(dataset, given), given.rows["category"]
    _refuse_places(matches, given, kinds, annotations)
    if unknown := sorted(set(kinds.tolist()) - dataset.categories.keys()):
        count = np.isin(kinds, unknown).sum()
        say(f"{count} detections are of categories unknown to {annotations}: {listed(unknown)}")
    if missing := [id_ for id_ in dataset.image_ids if id_ not in given.images]:
        text = f"{len(missing)} of {dataset.total} images have no detection"
        say(f"{text}, so all of their objects are missed: {listed(missing)}")
    folder = annotations.absolute().parent
    root = folder.parent if folder.name == "annotations" else folder
    job = EvaluationJob(root, annotations.stem.removeprefix("instances_"), min_map=min_map)
    digest, of = sha256(results), record.UNKNOWN_MODEL
    settings: dict[str, Any] = {"results": str(results), "results_sha256": digest}
    settings |= {"model_sha256": of, "batch_size": None, "runner": "recorded"}
    return _scored(job, matches, D0, f"{results.name} ({digest[:12]})", settings, None, {})


def _refuse_places(
    matches: coco.MatchTable, given: coco.CocoResults, ids: Indices, annotations: Path
) -> None:
    """Raise `EvaluationError` where category *ids* are places in the list, as networks count."""
    kinds = np.array(sorted(matches.dataset.categories))
    for first in (0, 1):
        last = first + kinds.size - 1
        if ids.min() < first or ids.max() > last or kinds[-1] == last:
            continue  # these cannot be places, or places are the ids
        ap = summary.summarize(matches).ap or 0
        images = {id_: rows.copy() for id_, rows in given.images.items()}
        for rows in images.values():
            rows["category"] = kinds[rows["category"] - first]
        read = summary.summarize(coco.match_results(matches.dataset, given._replace(images=images)))
        # By chance, other classes score a little where a detector finds next to nothing.
        if (read.ap or 0) > 1.5 * ap:
            raise EvaluationError(
                f"category ids in {given.path} are places in the list of categories, counted from "
                f"{first}: read so, mAP is {100 * (read.ap or 0):.2f} %, but {100 * ap:.2f} % as "
                f"the ids of {annotations}, which are wanted; write id {kinds[0]} for {first}, and "
                "so on"
            )


def compared(
    candidate: Evaluation,
    reference: Evaluation,
    max_drop: float | None = None,
    max_class_drop: float | None = None,
) -> Evaluation:
    """
    The evaluation *candidate* with the check that it loses at most *max_drop* points.

    None is what the precision of its ONNX file may lose.  With *max_class_drop* each class has a
    limit.
    """
    mine, theirs = candidate.accuracy, reference.accuracy
    if max_drop is None:
        model = mine.settings.get("model")
        max_drop = max_drop_of(stored_precision(model and Path(model)))
    against = bootstrap.ReferenceComparison(
        drop=bootstrap.paired_drop(reference.matches, candidate.matches),
        parity=detection_diff.detection_parity(reference.found, candidate.found),
        max_drop=max_drop,
        runner=theirs.backend,
        model_sha256=theirs.model_sha256,
        metrics=reference.metrics,
    )
    limited = candidate.dataset.limited
    checks = (*candidate.checks, gate.drop(against.drop, max_drop, against.parity, limited=limited))
    if max_class_drop is not None:
        checks += (gate.class_drops(against.drop, max_class_drop),)
    file = theirs.settings.get("model") or theirs.settings.get("checkpoint")
    settings, points = {**mine.settings, "reference": file}, mine.operating_point
    if points is not None and theirs.operating_point is not None:
        points = record.Sides(points.candidate, theirs.operating_point.candidate)
    changed = {"against": against, "settings": settings, "operating_point": points}
    accuracy = msgspec.structs.replace(mine, **changed)
    return replace(candidate, checks=checks, accuracy=accuracy, reference=reference)


def run_of(
    evaluation: Evaluation, engine: Engine, insight: record.Insight | None = None
) -> record.Run:
    """
    The run of one *evaluation* by *engine*; *insight* is what pictures of it need.

    Recorded results name their model themselves.
    """
    job, accuracy = evaluation.job, evaluation.accuracy
    dataset = record.DatasetUsed(
        record.dataset_name(job.root, job.split),
        accuracy.images,
        accuracy.settings["annotations_sha256"],
        release_set=evaluation.dataset.is_val2017,
    )
    given: dict[str, Path | str | None] = {"--coco": job.root}
    if isinstance(engine, ModelEngine):
        choice = engine.choice
        given |= {"--model": choice.model, "--checkpoint": choice.checkpoint}
        given |= choice.spec.options
        artefact = record.artefact_of(choice.model, choice.weights(), dataset, spec=choice.spec)
    else:
        assert isinstance(engine, RecordedEngine)
        given |= {"--model": engine.model, "--results": engine.results, "--bins": engine.bins}
        network: record.Network | None = record.Network.of(engine.spec)
        if engine.results.is_file():  # what `score` has scored
            given, network = {"--score": engine.results}, None
        else:
            given |= engine.spec.options
        name = (engine.results if engine.model is None else engine.model).name
        known = None if accuracy.model_sha256 == record.UNKNOWN_MODEL else accuracy.model_sha256
        artefact = record.Artefact(name, known, None, dataset, network=network)
    return record.new_run(
        artefact,
        exit_status=0 if evaluation.verdict.ok else 1,
        checks=evaluation.checks,
        given=given,
        accuracy=[msgspec.structs.replace(accuracy, insight=insight)],
    )
