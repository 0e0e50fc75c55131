"""Backends that answer in microseconds, worker processes without Ray, and whole runs on both."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from effd0.data.coco import Dataset, load_coco
from effd0.data.preprocess import ModelInput
from effd0.detection.postprocess import Detections
from effd0.distributed.dispatch import Dispatcher
from effd0.distributed.engine import detect_unit
from effd0.distributed.pool import Pool
from effd0.distributed.ray_cluster import Cluster, Died
from effd0.distributed.worker import OpenModel, Worker
from effd0.errors import RunnerError
from effd0.evaluation.engines import LocalEngine
from effd0.evaluation.model import ModelChoice
from effd0.evaluation.pipeline import run_dataset
from effd0.runners.base import DeviceTimes, Runner, TensorInfo
from effd0.spec import ModelSpec
from effd0.types import Tensors

from . import SMALL, write_coco

FLOAT = np.dtype(np.float32)


class FakeRunner(Runner):
    """
    A runner that tells images apart: one sure logit, whose class is the image's red level.

    It answers for `SMALL`; *fixed* is its batch size, if it has one.
    """

    inputs: Sequence[TensorInfo] = ()
    outputs: Sequence[TensorInfo] = ()

    def __init__(self, *, dtype: np.dtype[Any] = FLOAT, fixed: int | None = None) -> None:
        super().__init__(Path("fake"), "fake")
        self.inputs = [TensorInfo("in", (fixed, 3, 128, 128), dtype)]
        self.fed: list[int] = []
        self.on_infer: Callable[[], object] = lambda: None

    def infer(self, feed: Tensors) -> Tensors:
        """Return heads in which only the class of each image's red level is above the rest."""
        self.on_infer()
        batch = feed["in"]
        self.fed.append(len(batch))
        shapes = SMALL.head_shapes.items()
        heads = {name: np.full((len(batch), *shape), -9, FLOAT) for name, shape in shapes}
        for name in SMALL.box_names:
            heads[name][:] = 0
        for row, image in enumerate(batch):
            heads["class_p7"][row, _red_class(image), 0, 0] = 5
        return heads

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """It holds nothing."""


def _red_class(image: np.ndarray) -> int:
    """Return the class, 0 to 4, that stands for the red of the first pixel, 0 to 200 by 50."""
    return round((float(image[0, 0, 0]) * SMALL.std[0] + SMALL.mean[0]) * 255 / 50)


#: The order in which it declares its outputs: not the recipe's.
ORDER = SMALL.box_names + SMALL.class_names


class DeclaringRunner(FakeRunner):
    """A `FakeRunner` that declares its outputs."""

    def __init__(self, *, dtype: np.dtype[Any] = FLOAT, fixed: int | None = None) -> None:
        super().__init__(dtype=dtype, fixed=fixed)
        shapes = SMALL.head_shapes
        self.outputs = [TensorInfo(name, (fixed, *shapes[name]), FLOAT) for name in ORDER]


class DeviceRunner(DeclaringRunner):
    """A runner that works on two batches at a time and times them itself: 2 s of computing."""

    def __init__(self, *, fixed: int | None = None) -> None:
        super().__init__(fixed=fixed)
        self.device_times = self.times = DeviceTimes()

    def infer(self, feed: Tensors) -> Tensors:
        """Return the heads of *feed*, and note 1 ms, 2 s and 3 ms."""
        self.times.h2d_ms.append(1.0)
        self.times.compute_ms.append(2000.0)
        self.times.d2h_ms.append(3.0)
        return super().infer(feed)

    def infer_stream(self, feeds: Iterable[Tensors]) -> Generator[Tensors]:
        """Yield the heads of each feed when the next one has been taken."""
        ahead: list[Tensors] = []
        for feed in feeds:
            ahead.append(self.infer(feed))
            if len(ahead) > 1:
                yield ahead.pop(0)
        yield from ahead


BATCH = 2


class NeighbourRunner(DeclaringRunner):
    """A backend that gives an image other heads beside other images, as some real ones do."""

    def infer(self, feed: Tensors) -> Tensors:
        """Return the fake's heads, moved by what the whole batch is like."""
        heads = super().infer(feed)
        moved = np.float32(feed["in"].mean() + len(feed["in"]) / 3)
        return {name: head + moved for name, head in heads.items()}


def small_engine(model: Path | None, spec: ModelSpec = SMALL) -> LocalEngine:
    """Return what runs *model* in batches of two."""
    return LocalEngine(ModelChoice(model, spec=spec), BATCH)


def outcome(folder: Path) -> dict[str, object]:
    """Return all that a run left in *folder*, but for times and memory."""
    measured = ("images_per_second", "stages_ms", "peak_rss_mb", "converting_rss_mb")
    evaluation = json.loads((folder / "evaluation.json").read_text())
    return {
        **{path.name: path.read_bytes() for path in folder.iterdir()},
        "evaluation.json": {k: v for k, v in evaluation.items() if k not in measured},
    }


class ToldRunner(FakeRunner):
    """
    A `FakeRunner` that looks into the folder *plan* before each batch.

    A file ``die-*``, ``error-*`` or ``hang-*`` there is taken away, once in all processes, and the
    process ends, a `RunnerError` is raised, or no answer comes.  ``broken-N`` stays: each batch on
    device N fails, and so does opening it.  ``deadly-C`` stays too: a batch with an image of red
    level C ends the process.
    """

    def __init__(self, plan: Path, latency_s: float, number: int | None) -> None:
        super().__init__()
        self.description = "told" if number is None else f"told, device {number}"
        self._plan, self._latency_s, self._number = plan, latency_s, number

    def infer(self, feed: Tensors) -> Tensors:
        """Return the fake's heads, after all that the folder asks for."""
        start = time.perf_counter()
        if self._claimed("die-*"):
            os._exit(1)
        if self._claimed("error-*"):
            raise RunnerError("the device forgot what it was doing")
        if self._claimed("hang-*"):
            time.sleep(3600)
        self.check()
        heads = super().infer(feed)
        for path in self._plan.glob("deadly-*"):
            level = int(path.name.partition("-")[2])
            if any(head[level, 0, 0] > 0 for head in heads["class_p7"]):
                os._exit(1)
        # A device keeps its own time: what the host did meanwhile comes off.
        time.sleep(max(0.0, self._latency_s - (time.perf_counter() - start)))
        return heads

    def check(self) -> None:
        """Raise `RunnerError` where the device is broken."""
        if (self._plan / f"broken-{self._number}").exists():
            raise RunnerError(f"device {self._number} does not answer")

    def _claimed(self, pattern: str) -> bool:
        """Whether this process is the one that took a file of *pattern* away."""
        for path in sorted(self._plan.glob(pattern)):
            try:
                path.unlink()
            except FileNotFoundError:
                continue
            return True
        return False


class ToldDetector(ToldRunner):
    """A `ToldRunner` that goes on to detections: one box, whose class is the image's red level."""

    def detect_stream(self, batches: Iterable[Sequence[ModelInput]]) -> Generator[list[Detections]]:
        """Yield the detections of each batch of pixels, each in the time of the device."""
        for batch in batches:
            start = time.perf_counter()
            found = [_red_box(image) for image in batch]
            time.sleep(max(0.0, self._latency_s - (time.perf_counter() - start)))
            yield found


def _red_box(image: ModelInput) -> Detections:
    level = round(float(image.tensor[0, 0, 0]) / 50)
    box = np.array([[0, 0, *image.image_size]], np.float32)
    return Detections(box, np.array([0.5], np.float32), np.array([level + 1], np.int64))


@contextmanager
def told_model(
    plan: Path, latency_s: float, kind: type[ToldRunner], path: Path, number: int | None
) -> Iterator[Runner]:
    """
    A runner of *kind* on the device *number*, of *latency_s* a batch; the model is not read.

    ``together-N`` in *plan* has N processes wait for each other.
    """
    assert path.is_file()
    runner = kind(plan, latency_s, number)
    runner.check()
    for together in plan.glob("together-*"):
        (plan / f"here-{os.getpid()}").touch()
        while len(list(plan.glob("here-*"))) < int(together.name.partition("-")[2]):
            time.sleep(0.01)
    yield runner


_ORDER = itertools.count()


class Killed(BaseException):
    """Ends a worker of `HereCluster` as the system would end a process: nothing is reported."""


@dataclass(frozen=True)
class HereCluster(Cluster):
    """
    Calls run one after the other, when they are waited for; all that they take is pickled.

    *begun* are the first items of each unit, as often as it was begun; *silent* says of which
    worker processes, by their number, nothing is heard.
    """

    kind: str | None = None
    begun: list[Any] = field(default_factory=list)
    silent: set[int] = field(default_factory=set)
    processes: list[Worker | None] = field(default_factory=list)

    def on_cpu(self) -> HereCluster:
        """All its workers are on CPUs."""
        return self

    def capacity(self) -> int:
        """There is a place for each worker."""
        return self.pool.workers

    def share(self, data: bytes) -> Any:
        """Nothing has to be sent."""
        return data

    def start(self, open_model: OpenModel) -> Any:
        """A new worker; a device has the number of its worker, whatever process that is."""
        pid = len(self.processes)
        device = None if self.kind is None else pid % self.pool.workers
        where = "here" if device is None else f"here device {device}"
        self.processes.append(Worker(open_model, lambda: (f"{where} pid {pid}", device)))
        return pid

    def call(self, worker: Any, method: str, *args: Any) -> Any:
        """A call to be run later."""
        return next(_ORDER), worker, method, pickle.dumps(args)

    def wait(self, calls: Sequence[Any], timeout_s: float) -> Any | None:
        """The oldest of *calls* that is answered."""
        del timeout_s
        return min((call for call in calls if call[1] not in self.silent), default=None)

    def result(self, call: Any) -> Any:
        """Run *call*; a process that is `Killed` in one has ended for all."""
        _, number, method, args = call
        worker, values = self.processes[number], pickle.loads(args)  # noqa: S301  # our own
        if method == "run":
            self.begun.append(values[1][0])
        try:
            if worker is None:
                raise Killed
            return pickle.loads(pickle.dumps(getattr(worker, method)(*values)))  # noqa: S301
        except Killed:
            self.processes[number] = None
            raise Died("its process was killed or crashed") from None

    def stop(self, worker: Any) -> None:
        """End it."""
        self.processes[worker] = None

    @contextmanager
    def started(self, pool: Pool, kind: str | None) -> Iterator[HereCluster]:
        """Stand for `effd0.distributed.ray_cluster.started`."""
        yield HereCluster(pool, kind, begun=self.begun, silent=self.silent)


#: Red of the pictures, one of five levels each; see `FakeRunner`.
LEVELS = (0, 50, 100, 150, 200)


def coloured_coco(root: Path, images: int, levels: Sequence[int] = LEVELS) -> Dataset:
    """Write a COCO folder of small pictures, each of one red, with an object each; return it."""
    content = {
        "images": [
            {"id": 10 + n, "file_name": f"{n:06d}.png", "width": 32 + n % 3, "height": 24}
            for n in range(images)
        ],
        "annotations": [
            {
                "id": n + 1, "image_id": 10 + n, "category_id": 1 + n % 5, "area": 600,
                "bbox": [0, 0, 30, 20], "iscrowd": 0,
            }
            for n in range(images)
        ],
        "categories": [{"id": n + 1, "name": f"class {n}"} for n in range(5)],
    }  # fmt: skip
    colours = [levels[n % len(levels)] for n in range(images)]
    return load_coco(write_coco(root, content, colours))


def alone(dataset: Dataset) -> dict[int, Detections]:
    """Return what one process finds with the same backend."""
    stream = run_dataset(dataset.samples, FakeRunner(), SMALL, batch_size=BATCH)
    return {sample.image_id: found for sample, found in stream}


def on_pool(
    dataset: Dataset,
    cluster: Cluster,
    plan: Path,
    *,
    latency_s: float = 0.0,
    advance: Callable[[str, int], object] = lambda _worker, _count: None,
    batch_size: int = BATCH,
    detects: bool = False,
    found: dict[int, Detections] | None = None,
) -> tuple[dict[int, Detections], dict[str, Any]]:
    """
    Detect in *dataset* with a fake backend on the workers of *cluster*; see `ToldRunner`.

    What is *found* is there even where the run ends with an error.
    """
    found = {} if found is None else found
    opens = partial(told_model, plan, latency_s, ToldDetector if detects else ToldRunner)
    data = cluster.share(b"no model")
    with Dispatcher(cluster, opens, "told.onnx", data, batch_size) as workers:
        done = workers.run(
            dataset.samples,
            partial(detect_unit, SMALL, 2),
            name=lambda sample: str(sample.image_id),
            remedy="look at each",
            kept="",
        )
        for unit, reply in done:
            for sample, one in zip(unit.items, reply.result, strict=True):
                assert sample.image_id not in found, "an image came twice"
                found[sample.image_id] = one
            advance(reply.worker, len(unit.items))
        return found, workers.summary()


def same(found: Mapping[int, Detections], wanted: Mapping[int, Detections]) -> bool:
    """Return whether both hold the same detections of the same images, to the last bit."""
    return found.keys() == wanted.keys() and all(
        getattr(found[id_], name).tobytes() == getattr(wanted[id_], name).tobytes()
        for id_ in wanted
        for name in ("boxes", "scores", "classes")
    )
