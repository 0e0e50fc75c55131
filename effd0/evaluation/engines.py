"""
Engines: where the detections of an evaluation come from.

An engine is opened for a data set and gives detections image by image. What is behind the
detections (run directory, metrics, checks) is the same for all engines; see `evaluate`.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..data.coco import Dataset, Sample, check_images, load_coco
from ..data.preprocess import input_scale
from ..detection.heads import split_heads
from ..detection.postprocess import Detections, postprocess
from ..errors import Effd0Error, ResultError, RunnerError
from ..io import sha256
from ..progress import OpenProgress
from ..runners.base import Runner, choose_batch_size
from ..runners.registry import RunnerOptions
from ..spec import D0, ModelSpec
from ..tensors.inputs import Manifest
from ..tensors.results import Results, check_model, find_manifest, open_results
from ..timing import Latency
from .model import ModelChoice
from .pipeline import StageTimes, run_dataset

#: Stands for the hash of a model that the results do not name.
UNKNOWN_MODEL = "unknown"
WEIGHTS = (".pth", ".safetensors")


class Source(Protocol):
    """An open engine."""

    @property
    def description(self) -> str:
        """What really computes: backend, device, precision."""

    @property
    def model_sha256(self) -> str:
        """The fingerprint of the model file."""

    @property
    def batch_size(self) -> int | None:
        """Images a batch; None where batches are unknown."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """How a reader repeats the run, fit for JSON."""

    def detect(self, samples: Sequence[Sample]) -> Generator[tuple[Sample, Detections]]:
        """Yield each of *samples* once with its detections, in any order, batch by batch."""

    def stages(self) -> dict[str, Latency]:
        """Stage name -> its latency, once `detect` ended."""


class Engine(Protocol):
    """What makes detections of the images of a data set."""

    @property
    def spec(self) -> ModelSpec:
        """The architecture."""

    @property
    def reads_urls(self) -> bool:
        """Whether images are read from where fsspec reaches, and not from this host alone."""

    @property
    def bundled(self) -> bool:
        """Whether the bundled checkpoint runs, whose mAP on the bundled scenes is recorded."""

    def check(self) -> None:
        """Raise what can be known to be wrong before any work."""

    def open(
        self, dataset: Dataset, root: Path, host_threads: int, open_progress: OpenProgress
    ) -> AbstractContextManager[Source]:
        """The open engine for *dataset* of the folder *root*; raises what its stages raise."""


@dataclass
class LocalSource:
    """An open runner of this process; *checkpoint* are the weights if not in the model file."""

    runner: Runner
    spec: ModelSpec
    model_sha256: str
    batch_size: int
    settings: Mapping[str, Any]
    host_threads: int
    times: StageTimes = field(default_factory=StageTimes)

    @property
    def description(self) -> str:
        """Backend, device and precision."""
        return self.runner.description

    def detect(self, samples: Sequence[Sample]) -> Generator[tuple[Sample, Detections]]:
        """See `Source.detect`; in the order of *samples*."""
        return run_dataset(
            samples,
            self.runner,
            self.spec,
            batch_size=self.batch_size,
            host_threads=self.host_threads,
            times=self.times,
        )

    def stages(self) -> dict[str, Latency]:
        """Latency per image of each stage, per batch of inference and transfers."""
        latencies = self.times.latencies() if self.times.inference else {}
        if self.runner.device_times is not None:
            latencies |= self.runner.device_times.latencies()
        return latencies


@dataclass(frozen=True)
class ModelEngine:
    """What engines that run *choice* have in common."""

    choice: ModelChoice

    @property
    def spec(self) -> ModelSpec:
        """The architecture."""
        return self.choice.spec

    @property
    def bundled(self) -> bool:
        """Whether the bundled checkpoint runs."""
        return self.choice.model is None and self.choice.checkpoint is None


@dataclass(frozen=True)
class LocalEngine(ModelEngine):
    """
    Runs *choice* in this process.

    *runner*, where given, is an unopened runner of the file that *choice* names, in place of the
    one that its runner's name stands for.
    """

    batch_size: int | None = None
    runner: Runner | None = None
    reads_urls: bool = False

    def check(self) -> None:
        """Raise as `ModelChoice.checked_runner` does."""
        if self.runner is None:
            self.choice.checked_runner()

    @contextlib.contextmanager
    def open(
        self, dataset: Dataset, root: Path, host_threads: int, open_progress: OpenProgress
    ) -> Iterator[LocalSource]:
        """Decode every image of *dataset* once to see that it can be, then open the runner."""
        del root
        with open_progress("checking images", len(dataset.samples)) as advance:
            for _ in check_images(dataset.samples, host_threads):
                advance(1)
        with contextlib.ExitStack() as stack:
            with open_progress("opening the model", 1) as advance:
                if self.runner is None:
                    opened = self.choice.opened(self.batch_size)
                    runner, path = stack.enter_context(opened)
                else:
                    runner = stack.enter_context(self.runner)
                    file = self.choice.model or self.choice.checkpoint
                    assert file is not None, "a runner of its own comes with the file that it runs"
                    path = file
                advance(1)
            batch_size, digest = choose_batch_size(runner, self.batch_size), sha256(path)
            settings = choice_settings(self.choice, digest, batch_size)
            yield LocalSource(runner, self.spec, digest, batch_size, settings, host_threads)


def choice_settings(choice: ModelChoice, model_sha256: str, batch_size: int) -> dict[str, Any]:
    """What a reader needs to repeat a run of *choice* and to compare it with another."""
    weights = choice.weights()
    return {
        "model": None if choice.model is None else str(choice.model),
        "checkpoint": None if choice.checkpoint is None else str(choice.checkpoint),
        "model_sha256": model_sha256,
        "checkpoint_sha256": None if weights is None else sha256(weights),
        "batch_size": batch_size,
        "runner": choice.runner_name(),
        "runner_options": asdict(choice.options),
        "spec": asdict(choice.spec),
    }


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
class RecordedEngine:
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
    reads_urls: bool = False
    bundled: bool = False

    def check(self) -> None:
        """Raise `ResultError` where the summary of the results proves another model."""
        if self.model is not None:
            check_model(self.results, self.model, proved=True)

    @contextlib.contextmanager
    def open(
        self, dataset: Dataset, root: Path, host_threads: int, open_progress: OpenProgress
    ) -> Iterator[RecordedSource]:
        """Find the results of every image; raise `ResultError` where one has none."""
        del open_progress
        manifest = find_manifest(self.results, self.bins)
        fed = load_coco(root, self.split).samples if dataset.limited else dataset.samples
        stems = {s.image_id: stem_of(s, manifest, self.spec) for s in dataset.samples}
        results = open_results(
            self.results,
            self.spec,
            list(stems.values()),
            bins=self.bins,
            fed=[sample.path.stem for sample in fed],
        )
        yield RecordedSource(self, results, stems, host_threads)


class RecordedSource:
    """An open folder of results."""

    def __init__(
        self, engine: RecordedEngine, results: Results, stems: dict[int, str], host_threads: int
    ) -> None:
        known = results.summary.model_sha256
        self.description = results.description
        self.model_sha256 = UNKNOWN_MODEL if known is None else known
        self.batch_size = None
        self.settings = {
            "results": str(engine.results),
            "bins": None if engine.bins is None else str(engine.bins),
            "manifest_sha256": None if results.manifest is None else results.manifest.sha256,
            "batch_size": None,
            "runner": "recorded",
            "spec": asdict(engine.spec),
        }
        self._results, self._stems, self._host_threads = results, stems, host_threads
        self._reading: list[float] = []
        self._postprocess: list[float] = []

    def detect(self, samples: Sequence[Sample]) -> Generator[tuple[Sample, Detections]]:
        """See `Source.detect`; in the order of *samples*."""
        with ThreadPoolExecutor(self._host_threads, "effd0") as pool:
            try:
                yield from zip(samples, pool.map(self._decoded, samples), strict=True)
            finally:
                pool.shutdown(cancel_futures=True)

    def _decoded(self, sample: Sample) -> Detections:
        stem, spec = self._stems[sample.image_id], self._results.spec
        start = time.perf_counter()
        (heads,) = split_heads(self._results.heads(stem), spec)
        read = time.perf_counter()
        try:
            found = postprocess(heads, 1.0 / input_scale(sample.size, spec), sample.size, spec)
        except Effd0Error as error:
            error.add_note(f"in the results of {stem}")
            raise
        self._reading.append(read - start)
        self._postprocess.append(time.perf_counter() - read)
        return found

    def stages(self) -> dict[str, Latency]:
        """Latency per image of reading and of postprocessing."""
        return {
            "read results": Latency.from_seconds(self._reading),
            "postprocess": Latency.from_seconds(self._postprocess),
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
