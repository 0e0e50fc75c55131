"""Scoring of very many images in the process that the workers' detections come to."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from benchmarks.measuring import Budget, Measure
from effd0.results.environment import installed_version

#: Larger than COCO's train2017, which has 118,287 images.
MANY, FEW = 200_000, 2_000
MAX_MB = 2000


@pytest.mark.parametrize(
    "images",
    [FEW, pytest.param(MANY, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])],
    ids="images={}".format,
)
def bench_scale_scoring(benchmark: Any, images: int) -> None:
    """100 detections and 7 objects an image; the peak of memory stays below a limit."""
    measure = Measure(benchmark, "drawn detections", Budget(0, 1))
    scored = measure(
        lambda: _scored(images),
        "drawing, matching and scoring, in a process of its own",
        images=images,
        on=f"numpy {installed_version('numpy')}",
    )
    peak = scored["peak_rss_mb"]
    note = (
        f"scale: {images} images matched in {scored['match_seconds']:.0f} s; "
        f"{scored['table_mb']:.0f} MB of matches scored in {scored['score_seconds']:.0f} s; "
        f"peak {peak:.0f} MB, target < {MAX_MB} MB"
    )
    benchmark.extra_info["notes"] = [note]
    assert scored["detections"] == 100 * images
    assert 0.2 < scored["metrics"]["AP"] < 0.9
    assert 1 < peak < MAX_MB


def _scored(images: int) -> Any:
    """What `benchmarks.scale` says of so many *images*."""
    command = [sys.executable, "-m", "benchmarks.scale", str(images)]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
