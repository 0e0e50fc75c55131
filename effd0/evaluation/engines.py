"""
Engines: where the detections of an evaluation come from.

An engine is opened for a data set and gives detections image by image. What is behind the
detections (run directory, metrics, checks) is the same for all engines; see `evaluate`.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ..data.coco import Dataset, Sample, check_images, load_coco
from ..data.preprocess import input_scale
from ..detection.heads import split_heads
from ..detection.postprocess import Detections, postprocess
from ..errors import Effd0Error, ResultError, RunnerError
from ..io import sha256
from ..progress import OpenProgress
from ..results.environment import environment
from ..runners.base import Runner, choose_batch_size
from ..runners.registry import RunnerOptions
from ..spec import D0, ModelSpec
from ..tensors.inputs import InputFiles, Manifest, find_manifest
from ..tensors.results import Results, check_model, open_results
from ..tensors.writer import ResultWriter
from ..timing import Latency
from .model import ModelChoice
from .pipeline import StageTimes, noted, run_dataset
from .run_dir import IMAGES, backend

#: Stands for the hash of a model that the results do not name.
UNKNOWN_MODEL = "unknown"
#: Settings that say where files lie: they decide nothing.
PATHS = ("model", "checkpoint", "pool")
WEIGHTS = (".pth", ".safetensors")


@dataclass
class DetectionSource(ABC):
    """
    An open engine for images of *spec*.

    *description* says what really computes: backend, device, precision; *settings*, fit for JSON,
    are how a reader repeats the run: ``runner``, ``model_sha256``, ``batch_size``, which is None
    where batches are unknown, and more.
    """

    spec: ModelSpec
    description: str
    settings: dict[str, Any]
    host_threads: int

    @property
    def model_sha256(self) -> str:
        """The fingerprint of the model file."""
        return str(self.settings["model_sha256"])

    @abstractmethod
    def detect(self, samples: Sequence[Sample]) -> Generator[tuple[Sample, Detections]]:
        """Yield each of *samples* once with its detections, in any order, batch by batch."""

    @abstractmethod
    def stages(self) -> dict[str, Latency]:
        """Stage -> its latency per image, or per batch of inference, once `detect` has ended."""

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
            "model_sha256": self.model_sha256,
            "annotations_sha256": sha256(dataset.annotation_file),
            "images": len(dataset.samples),
            IMAGES: every.hexdigest() if images else None,
            "backend": backend(self.description),
            "settings": {key: value for key, value in self.settings.items() if key not in PATHS},
            # A new kernel of the system does not change a result; a new Pillow may.
            "environment": {k: v for k, v in environment().items() if k != "system"},
        }


class ModelSource(DetectionSource):
    """An open engine that runs a model."""

    @abstractmethod
    def infer(
        self,
        run: Callable[..., Any],
        inputs: InputFiles | None,
        writer: ResultWriter | None,
        job: Any,
        advance: Callable[[int], None],
    ) -> tuple[Any, int]:
        """
        *run*, which is `evaluation.infer.infer_files`, on open runners with the other arguments.

        Returns the `Performance` of all together, and how many outputs a file has.
        """


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
        self, dataset: Dataset, host_threads: int, open_progress: OpenProgress
    ) -> AbstractContextManager[DetectionSource]:
        """The open engine for *dataset*; raises what its stages raise."""


@dataclass(frozen=True)
class ModelEngine(Engine):
    """What engines that run *choice* have in common."""

    choice: ModelChoice

    @abstractmethod
    def open(
        self, dataset: Dataset | None, host_threads: int, open_progress: OpenProgress
    ) -> AbstractContextManager[ModelSource]:
        """The open engine for *dataset*, or for files where it is None."""

    def settings(self, file: Path, batch_size: int) -> dict[str, Any]:
        """What a reader needs to repeat a run of *file* and to compare it with another."""
        choice, weights = self.choice, self.choice.weights()
        return {
            "model": None if choice.model is None else str(choice.model),
            "checkpoint": None if choice.checkpoint is None else str(choice.checkpoint),
            "model_sha256": sha256(file),
            "checkpoint_sha256": None if weights is None else sha256(weights),
            "batch_size": batch_size,
            "runner": choice.runner_name(),
            "runner_options": asdict(choice.options),
            "spec": asdict(choice.spec),
        }


@dataclass
class LocalSource(ModelSource):
    """An open *runner* of this process."""

    runner: Runner
    times: StageTimes = field(default_factory=StageTimes)

    def detect(self, samples: Sequence[Sample]) -> Generator[tuple[Sample, Detections]]:
        """See `DetectionSource.detect`; in the order of *samples*."""
        return run_dataset(
            samples,
            self.runner,
            self.spec,
            batch_size=self.settings["batch_size"],
            host_threads=self.host_threads,
            times=self.times,
        )

    def stages(self) -> dict[str, Latency]:
        """See `DetectionSource.stages`; transfers too, per batch, where the runner times them."""
        latencies = self.times.latencies()
        if self.runner.device_times is not None:
            latencies |= self.runner.device_times.latencies()
        return latencies

    def infer(self, run: Callable[..., Any], *given: Any) -> tuple[Any, int]:
        """See `ModelSource.infer`."""
        return run(self.runner, *given), len(self.runner.outputs)


@dataclass(frozen=True)
class LocalEngine(ModelEngine):
    """
    Runs *choice* in this process.

    *runner*, where given, is an unopened runner of the file that *choice* names, in place of the
    one that its runner's name stands for.
    """

    batch_size: int | None = None
    runner: Runner | None = None

    def check(self) -> None:
        """Raise as `ModelChoice.checked_runner` does."""
        if self.runner is None:
            self.choice.checked_runner()

    @contextlib.contextmanager
    def open(
        self, dataset: Dataset | None, host_threads: int, open_progress: OpenProgress
    ) -> Iterator[LocalSource]:
        """Decode every image of *dataset* once to see that it can be, then open the runner."""
        if dataset is not None:
            with open_progress("checking images", len(dataset.samples)) as advance:
                for _ in check_images(dataset.samples, host_threads):
                    advance(1)
        with contextlib.ExitStack() as stack:
            with open_progress("opening the model", 1) as advance:
                if self.runner is None:
                    opened = self.choice.opened(self.batch_size)
                    runner, file = stack.enter_context(opened)
                else:
                    runner = stack.enter_context(self.runner)
                    given = self.choice.model or self.choice.checkpoint
                    assert given is not None, "a runner of its own comes with the file that it runs"
                    file = given
                advance(1)
            settings = self.settings(file, choose_batch_size(runner, self.batch_size))
            spec, description = self.choice.spec, runner.description
            yield LocalSource(spec, description, settings, host_threads, runner)


def reference_choice(file: Path, candidate: ModelChoice) -> ModelChoice:
    """
    The choice that runs *file* in float32 on the CPU: .onnx in ONNX Runtime, weights in torch.

    It has the architecture of *candidate*.  Raises `RunnerError` for a file of another kind.
    """
    spec, options = candidate.spec, RunnerOptions(threads=candidate.options.threads)
    suffix = file.suffix.lower()
    if suffix == ".onnx":
        return ModelChoice(model=file, runner="ort", spec=spec, options=options)
    if suffix in WEIGHTS:
        return ModelChoice(checkpoint=file, runner="torch", spec=spec, options=options)
    raise RunnerError(
        f"--reference is {file}, but an .onnx file or weights ({', '.join(WEIGHTS)}) were "
        "wanted; give what the model under test was made of"
    )


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

    @contextlib.contextmanager
    def open(
        self, dataset: Dataset, host_threads: int, open_progress: OpenProgress
    ) -> Iterator[RecordedSource]:
        """Find the results of every image; raise `ResultError` where one has none."""
        del open_progress
        manifest, fed = find_manifest(self.results, self.bins), dataset.samples
        if dataset.limited:
            fed = load_coco(dataset.annotation_file.parents[1], self.split).samples
        stems = {s.image_id: stem_of(s, manifest, self.spec) for s in dataset.samples}
        results = open_results(
            self.results,
            self.spec,
            list(stems.values()),
            bins=self.bins,
            fed=[sample.path.stem for sample in fed],
        )
        known = results.summary.model_sha256
        settings = {
            "results": str(self.results),
            "bins": None if self.bins is None else str(self.bins),
            "manifest_sha256": None if results.manifest is None else results.manifest.sha256,
            "model_sha256": UNKNOWN_MODEL if known is None else known,
            "batch_size": None,
            "runner": "recorded",
            "spec": asdict(self.spec),
        }
        description = results.description
        yield RecordedSource(self.spec, description, settings, host_threads, results, stems)


@dataclass
class RecordedSource(DetectionSource):
    """An open folder of *results*; *stems* name those of each image id."""

    results: Results
    stems: Mapping[int, str]
    reading: list[float] = field(default_factory=list)
    decoding: list[float] = field(default_factory=list)

    def detect(self, samples: Sequence[Sample]) -> Generator[tuple[Sample, Detections]]:
        """See `DetectionSource.detect`; in the order of *samples*."""
        with ThreadPoolExecutor(self.host_threads, "effd0") as pool:
            try:
                yield from zip(samples, pool.map(self._decoded, samples), strict=True)
            finally:
                pool.shutdown(cancel_futures=True)

    def _decoded(self, sample: Sample) -> Detections:
        stem, scale = self.stems[sample.image_id], 1.0 / input_scale(sample.size, self.spec)
        with noted(self.reading):
            (heads,) = split_heads(self.results.heads(stem), self.spec)
        try:
            with noted(self.decoding):
                return postprocess(heads, scale, sample.size, self.spec)
        except Effd0Error as error:
            error.add_note(f"in the results of {stem}")
            raise

    def stages(self) -> dict[str, Latency]:
        """Latency per image of reading and of postprocessing."""
        return {
            "read results": Latency.from_seconds(self.reading),
            "postprocess": Latency.from_seconds(self.decoding),
        }


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
