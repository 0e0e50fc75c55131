"""Peak memory, in processes of their own: a streaming evaluation, and scoring very many images."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.measuring import Measure
from effd0.data import fixture as embedded
from effd0.results.environment import installed_version

FEW, MANY = 24, 192
#: Runs in a process of its own, so that its memory is its own: scores drawn detections.
SCORING = """
import json, sys, time
import effd0.kernels  # compiled or loaded before anything is measured
from benchmarks.synthetic import scored_set
from effd0.metrics.summary import coco_metrics
from effd0.timing import peak_rss_mb
from effd0.spec import D0

dataset, found = scored_set(int(sys.argv[1]))
before, start = peak_rss_mb(), time.perf_counter()
metrics = coco_metrics(dataset, found, D0)
seconds = time.perf_counter() - start
found = {"ap": metrics.ap, "detections": metrics.detections}
print(json.dumps({**found, "seconds": seconds, "before_mb": before, "peak_mb": peak_rss_mb()}))
"""


def bench_memory(measure: Measure, model_file: Path, tmp_path: Path) -> None:
    """Memory of an evaluation does not grow with the number of images; the ratio is printed."""
    root = repeated(embedded.coco_root(), tmp_path, MANY)
    few = peak_mb(model_file, root, FEW)
    many = measure(
        lambda: peak_mb(model_file, root, MANY),
        "process start to verdict",
        images=MANY,
        on=f"ONNX Runtime {installed_version('onnxruntime')}",
        rounds=1,
        # How many heads live at a time is chance: runs of the same images peaked at 341 to 412 MB,
        # of 8 to 480 images (2026-11-25).  One megabyte kept of each would make the ratio 1.4.
        note=lambda many: (
            f"memory: peak {many:.0f} MB over {MANY} images, {few:.0f} MB over {FEW}, "
            f"ratio {many / few:.3f}"
        ),
    )
    assert min(few, many) > 1


@pytest.mark.parametrize(
    "images",
    # The second is larger than COCO's train2017.
    [2_000, pytest.param(200_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])],
    ids="images={}".format,
)
def bench_scoring_memory(measure: Measure, images: int) -> None:
    """100 detections and 7 objects per image, all at once."""
    command = [sys.executable, "-c", SCORING, str(images)]

    def scored() -> Any:
        return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)

    found = measure(
        scored,
        "drawing and scoring, process start to metrics",
        images=images,
        on=f"numba {installed_version('numba')}",
        rounds=1,
        note=lambda one: (
            f"memory: {images} images scored in {one['seconds']:.1f} s; peak "
            f"{one['peak_mb']:.0f} MB, {one['before_mb']:.0f} MB of it before scoring"
        ),
    )
    assert found["detections"] == 100 * images
    assert 0.2 < found["ap"] < 0.9


def repeated(root: Path, folder: Path, images: int) -> Path:
    """A data set of so many *images*: those of *root*, again and again."""
    part = Path("annotations/instances_val2017.json")
    content = json.loads((root / part).read_text())
    again = list(zip(range(1, images + 1), itertools.cycle(content["images"]), strict=False))
    objects = [
        {**one, "image_id": number}
        for number, image in again
        for one in content["annotations"]
        if one["image_id"] == image["id"]
    ]
    content["images"] = [{**image, "id": number} for number, image in again]
    content["annotations"] = [{**one, "id": number} for number, one in enumerate(objects, 1)]
    (folder / part).parent.mkdir()
    (folder / part).write_text(json.dumps(content))
    (folder / "val2017").symlink_to((root / "val2017").resolve())
    return folder


def peak_mb(model: Path, root: Path, images: int) -> float:
    """Peak resident memory of `effd0 evaluate` over so many images of *root*."""
    report = root / "evaluation.json"
    code = "from effd0.cli.main import main; main()"
    words = ["evaluate", "--model", str(model), "--root", str(root), "--json", str(report)]
    words += ["--image-limit", str(images), "--overwrite"]
    subprocess.run([sys.executable, "-c", code, *words], capture_output=True, check=True)
    return float(json.loads(report.read_text())["peak_rss_mb"])
