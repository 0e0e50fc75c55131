"""Runs on pools of workers with a fake backend: what their tests share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from effd0.data.coco import Dataset, load_coco
from effd0.detection.postprocess import Detections
from effd0.distributed.dispatch import Dispatcher, cut
from effd0.distributed.engine import DetectWork, unpacked
from effd0.distributed.ray_cluster import Cluster
from effd0.evaluation.pipeline import run_dataset
from effd0.runners.registry import RunnerOptions

from .fakes.pool import ToldModel
from .fakes.runner import FakeRunner
from .helpers import SMALL, write_coco

BATCH = 2
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
                "id": n + 1,
                "image_id": 10 + n,
                "category_id": 1 + n % 5,
                "bbox": [0, 0, 30, 20],
                "area": 600,
                "iscrowd": 0,
            }
            for n in range(images)
        ],
        "categories": [{"id": n + 1, "name": f"class {n}"} for n in range(5)],
    }
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
    runner = "acl" if cluster.kind else "ort"
    model = ToldModel(runner, SMALL, RunnerOptions(), "told.onnx", plan, latency_s, detects)
    with Dispatcher(cluster, model, b"no model", batch_size) as workers:
        opened = workers.open()
        work = DetectWork(SMALL, opened.batch_size, 2)
        units = cut(dataset.samples, opened.batch_size, cluster.pool.workers)
        for unit, reply in workers.run(units, work, ""):
            for sample, one in zip(unit.items, unpacked(reply.result), strict=True):
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
