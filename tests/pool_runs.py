"""Evaluations on pools of workers with a fake backend: what their tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from effd0.data.coco import Dataset, load_coco
from effd0.detection.postprocess import Detections
from effd0.evaluation.pipeline import run_dataset
from effd0.evaluation.run_dir import Say, UnderTest, run_directory
from effd0.io import sha256
from effd0.runners.registry import RunnerOptions
from effd0.scale.cluster import Cluster
from effd0.scale.run import PoolRun, detect_on_pool

from .fakes.pool import ToldSubject
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
    ray: Cluster,
    plan: Path,
    *,
    out: Path | None = None,
    latency_s: float = 0.0,
    device: str | None = None,
    advance: Callable[[str, int], None] = lambda _worker, _count: None,
    collect: bool = True,
    batch_size: int = BATCH,
    detects: bool = False,
    say: Say = lambda _line: None,
) -> PoolRun:
    """Detect in *dataset* with a fake backend on the workers of *ray*; see `ToldRunner`."""
    plan.mkdir(exist_ok=True)
    model = plan / "model.onnx"
    model.write_bytes(b"no model")
    what = UnderTest(sha256(model), None, "acl" if device else "ort", SMALL, RunnerOptions())

    @contextmanager
    def display(_what: str, _total: int) -> Iterator[Callable[[str, int], None]]:
        yield advance

    def run(place: Any) -> PoolRun:
        return detect_on_pool(
            dataset,
            what,
            model,
            ray,
            batch_size=batch_size,
            host_threads=2,
            place=place,
            collect=collect,
            open_progress=display,
            subject=ToldSubject(
                what.runner,
                SMALL,
                what.options,
                model.name,
                what.model_sha256,
                plan,
                latency_s,
                detects,
            ),
        )

    if out is None:
        return run(None)
    with run_directory(out, resume=out.exists(), say=say) as place:
        return run(place)


def same(found: Mapping[int, Detections], wanted: Mapping[int, Detections]) -> bool:
    """Return whether both hold the same detections of the same images, to the last bit."""
    return found.keys() == wanted.keys() and all(
        getattr(found[id_], name).tobytes() == getattr(wanted[id_], name).tobytes()
        for id_ in wanted
        for name in ("boxes", "scores", "classes")
    )
