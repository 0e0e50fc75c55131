"""
Engines: where the detections of an evaluation come from.

An engine is opened for a data set and gives detections image by image. What is behind the
detections (run directory, metrics, checks) is the same for all engines; see `evaluate`.
"""

import contextlib
import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from ..data.coco import Dataset, Sample, check_images, labelled, load_coco
from ..data.preprocess import input_scale, resizes_as_pillow
from ..detection.heads import split_heads
from ..detection.postprocess import Detections, postprocess
from ..errors import Effd0Error, ResultError, listed
from ..io import model_sha256, sha256
from ..progress import OpenProgress
from ..results.environment import environment
from ..results.run import UNKNOWN_MODEL
from ..runners.base import (
    Runner,
    Shapes,
    check_classes,
    check_size,
    choose_batch_size,
    foreign_forms,
    shapes_of,
)
from ..runners.registry import RunnerOptions
from ..spec import D0, ModelSpec
from ..tensors.inputs import Manifest, find_manifest, open_inputs
from ..tensors.results import Results, check_model, open_results
from ..timing import Latency
from .model import ModelChoice
from .pipeline import StageTimes, noted, run_dataset
from .run_dir import IMAGES, backend

#: Settings that say where files lie: they decide nothing.
PATHS = ("model", "checkpoint", "pool")


@dataclass(frozen=True)
class OpenEngine:
    """
    An open engine for images of *spec*.

    *description* says what really computes: backend, device, precision; *settings*, fit for JSON,
    are how a reader repeats the run: ``runner``, ``model_sha256``, ``batch_size``, which is None
    where batches are unknown, and more.  *detect* yields each sample that it is given once with
    its detections, in any order, batch by batch; *stages* then says the latency of each stage per
    image, or per batch of inference.

    *infer* is there where a model runs: it has `infer_files`, its first argument, run on open
    runners with the others; it returns the `Performance` of all, and the shape of each output by
    name.
    """

    spec: ModelSpec
    description: str
    settings: dict[str, Any]
    detect: Callable[[Sequence[Sample]], Generator[tuple[Sample, Detections]]]
    stages: Callable[[], dict[str, Latency]]
    infer: Callable[..., tuple[Any, Shapes]] | None = None

    def identity(self, dataset: Dataset, *, images: bool) -> dict[str, Any]:
        """
        All that decides what is found in *dataset*, fit for JSON.

        What only judges detections, and what only moves files or threads of the host, is not in
        it.  The contents of *images* are left out where another host reads them.
        """
        every = hashlib.sha256()
        for sample in dataset.samples if images else ():
            every.update(bytes.fromhex(sha256(sample.path)))
        return {
            "model_sha256": self.settings["model_sha256"],
            "annotations_sha256": sha256(dataset.annotation_file),
            "images": len(dataset.samples),
            IMAGES: every.hexdigest() if images else None,
            "backend": backend(self.description),
            "settings": {key: value for key, value in self.settings.items() if key not in PATHS},
            # A new kernel of the system does not change a result; a new Pillow may.
            "environment": {k: v for k, v in environment().items() if k != "system"},
        }


class Engine(ABC):
    """
    What makes detections of the images of a data set.

    *on_workers* says that other processes do, which read images from where fsspec reaches too.
    """

    on_workers: ClassVar[bool] = False

    @abstractmethod
    def check(self) -> None:
        """Raise what can be known to be wrong before any work."""

    @abstractmethod
    def open(
        self, dataset: Dataset | None, host_threads: int, open_progress: OpenProgress
    ) -> AbstractContextManager[OpenEngine]:
        """The open engine for *dataset*, or for files where it is None; raises as its stages do."""


@dataclass(frozen=True)
class ModelEngine(Engine):
    """What engines that run *choice* have in common."""

    choice: ModelChoice

    def settings(self, file: Path, batch_size: int, spec: ModelSpec) -> dict[str, Any]:
        """What a reader needs to repeat a run of *file* and to compare it with another."""
        choice, weights = self.choice, self.choice.weights()
        return {
            "model": None if choice.model is None else str(choice.model),
            "checkpoint": None if choice.checkpoint is None else str(choice.checkpoint),
            "model_sha256": model_sha256(file),
            "checkpoint_sha256": None if weights is None else sha256(weights),
            "batch_size": batch_size,
            "runner": choice.runner_name(),
            "runner_options": asdict(choice.options),
            "spec": asdict(spec),
        }


@dataclass(frozen=True)
class LocalEngine(ModelEngine):
    """
    Runs *choice* in this process.

    *runner*, where given, is an unopened runner of the file that *choice* names, in place of the
    one that its runner's name stands for.  *bins*, where given, is a folder of network inputs that
    it runs in place of effd0's own, by the images' stems.
    """

    batch_size: int | None = None
    runner: Runner | None = None
    bins: Path | None = None

    def check(self) -> None:
        """Raise as `ModelChoice.checked_runner` does."""
        if self.runner is None:
            self.choice.checked_runner()

    @contextlib.contextmanager
    def open(
        self, dataset: Dataset | None, host_threads: int, open_progress: OpenProgress
    ) -> Iterator[OpenEngine]:
        """Decode every image of *dataset* once to see that it can be, then open the runner."""
        spec = self.choice.spec
        if dataset is not None:
            spec = labelled(spec, dataset)
            with open_progress("checking images", len(dataset.samples)) as advance:
                for _ in check_images(dataset.samples, host_threads):
                    advance(1)
        with contextlib.ExitStack() as stack:
            with open_progress("opening the model", 1) as advance:
                resizes_as_pillow()  # compiles the kernels, before anything is timed
                given = self.choice.model or self.choice.checkpoint
                if self.runner is None:
                    runner, given = stack.enter_context(self.choice.opened(self.batch_size))
                else:
                    runner = stack.enter_context(self.runner)
                assert given is not None, "a runner of its own comes with the file that it runs"
                advance(1)
            times = StageTimes()
            if dataset is not None:
                check_size(runner, spec)
            check_classes(runner, spec)
            batch_size = choose_batch_size(runner, self.batch_size)
            said = [runner.description, *foreign_forms(runner, spec)]
            settings, files = self.settings(given, batch_size, spec), {}
            if self.bins is not None:
                inputs = open_inputs(self.bins, spec)
                files = {one.stem: partial(inputs.read, one) for one in inputs.files}
                written = [(one.name, one.stat().st_mtime_ns) for one in inputs.files]
                settings["inputs"] = hashlib.sha256(repr(written).encode()).hexdigest()
                said.append(f"inputs in {self.bins.name}")
                stems = [sample.path.stem for sample in (dataset.samples if dataset else ())]
                if missing := [stem for stem in stems if stem not in files]:
                    raise ResultError(
                        f"{self.bins} has no input of {len(missing)} images: {listed(missing)}; "
                        "preprocess all images"
                    )

            def stages() -> dict[str, Latency]:
                device = runner.device_times  # transfers too, per batch, where they are timed
                return times.latencies() | ({} if device is None else device.latencies())

            detect = partial(
                run_dataset,
                runner=runner,
                spec=spec,
                batch_size=batch_size,
                host_threads=host_threads,
                times=times,
                inputs=files,
            )

            def infer(run: Callable[..., Any], *given: Any) -> tuple[Any, Shapes]:
                return run(runner, *given), shapes_of(runner.outputs)

            yield OpenEngine(spec, ", ".join(said), settings, detect, stages, infer)


def reference_choice(file: Path, candidate: ModelChoice) -> ModelChoice:
    """
    The choice that runs *file* in float32 on the CPU: .onnx in ONNX Runtime, weights in torch.

    It has the architecture and classes of *candidate*.
    """
    spec, options = candidate.spec, RunnerOptions(threads=candidate.options.threads)
    if file.suffix.lower() == ".onnx":
        return ModelChoice(file, None, "ort", spec, options)
    return ModelChoice(None, file, "torch", spec, options)


@dataclass(frozen=True)
class RecordedEngine(Engine):
    """
    Decodes the head outputs in the folder *results*, which inference elsewhere has written.

    *bins* is the folder of the inputs, where there is no manifest beside the results; *model* is
    the one that the results have to be of, if that is to be checked.
    """

    results: Path
    split: str = "val2017"
    bins: Path | None = None
    model: Path | None = None
    spec: ModelSpec = D0

    def check(self) -> None:
        """Raise `ResultError` where the summary of the results proves another model."""
        if self.model is not None:
            check_model(self.results, self.model, proved=True)

    def read(self, dataset: Dataset) -> tuple[Results, dict[int, str]]:
        """The results, and the stem of each image id; raise `ResultError` where one has none."""
        manifest, fed = find_manifest(self.results, self.bins), dataset.samples
        if dataset.limited:
            fed = load_coco(dataset.annotation_file.parents[1], self.split).samples
        stems = {s.image_id: stem_of(s, manifest, self.spec) for s in dataset.samples}
        names = [sample.path.stem for sample in fed]
        every = list(stems.values())
        return open_results(self.results, self.spec, every, bins=self.bins, fed=names), stems

    @contextlib.contextmanager
    def open(
        self, dataset: Dataset | None, host_threads: int, open_progress: OpenProgress
    ) -> Iterator[OpenEngine]:
        """Open the results of every image, as `read` does; raises as that does."""
        del open_progress
        assert dataset is not None, "results are of images"
        spec = labelled(self.spec, dataset)
        results, stems = self.read(dataset)
        known = results.summary.model_sha256
        settings = {
            "results": str(self.results),
            "bins": None if self.bins is None else str(self.bins),
            "manifest_sha256": None if results.manifest is None else results.manifest.sha256,
            "model_sha256": UNKNOWN_MODEL if known is None else known,
            "batch_size": None,
            "runner": "recorded",
            "spec": asdict(spec),
        }
        times: dict[str, list[float]] = {"read results": [], "postprocess": []}

        def decoded(sample: Sample) -> Detections:
            stem, scale = stems[sample.image_id], 1.0 / input_scale(sample.size, spec)
            with noted(times["read results"]):
                (heads,) = split_heads(results.heads(stem), spec)
            try:
                with noted(times["postprocess"]):
                    return postprocess(heads, scale, sample.size, spec)
            except Effd0Error as error:
                error.add_note(f"in the results of {stem}")
                raise

        def detect(samples: Sequence[Sample]) -> Generator[tuple[Sample, Detections]]:
            with ThreadPoolExecutor(host_threads, "effd0") as pool:
                try:
                    yield from zip(samples, pool.map(decoded, samples), strict=True)
                finally:
                    pool.shutdown(cancel_futures=True)

        def stages() -> dict[str, Latency]:
            return {stage: Latency.from_seconds(each) for stage, each in times.items()}

        yield OpenEngine(spec, results.description, settings, detect, stages)


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
    scale = 1.0 / input_scale(sample.size, spec)
    if not same or not math.isclose(image.image_scale, scale):
        raise ResultError(
            f"{manifest.path} says that image {sample.image_id} is {image.stem}, "
            f"{image.image_size} pixels at scale {image.image_scale}, but it is "
            f"{sample.path.stem}, {sample.size} at {scale}; "
            "give the --root that the inputs were made of"
        )
    if image.picture_sha256 not in (None, sha256(sample.path)):
        raise ResultError(
            f"{sample.path} has changed since the inputs of {manifest.path} were made of it; "
            "preprocess and run the inference again, or give the --root that they were made of"
        )
    return image.stem
