"""Peak memory of a streaming evaluation, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.measuring import Budget, Measure
from effd0.report import installed_version

FEW, MANY = 8, 48
#: Of the peak over many images to that over few: the allocators' own play.
FLAT = 1.05
MAX_MB = 1200


def bench_memory(benchmark: Any, model_file: Path, tmp_path: Path) -> None:
    """Memory does not grow with the number of images; the verdict on it is printed."""
    measure = Measure(benchmark, "drawn scenes", Budget(0, 1))
    few = _peak_mb(model_file, tmp_path, FEW)
    many = measure(
        lambda: _peak_mb(model_file, tmp_path, MANY),
        "process start to verdict",
        images=MANY,
        on=f"ONNX Runtime {installed_version('onnxruntime')}",
    )
    met = "met" if many <= MAX_MB and many / few <= FLAT else "missed"
    note = (
        f"memory: peak {many:.0f} MB over {MANY} images, {few:.0f} MB over {FEW}, ratio "
        f"{many / few:.3f}; target <= {FLAT} and < {MAX_MB} MB: {met}"
    )
    benchmark.extra_info["notes"] = [note]
    # A miss is printed, not failed; that nothing was measured would be.
    assert min(few, many) > 1


def _peak_mb(model: Path, folder: Path, images: int) -> float:
    """Peak resident memory of `effd0 evaluate` over so many embedded images."""
    report = folder / "evaluation.json"
    code = "import effd0.cli; effd0.cli.main()"
    words = ["evaluate", "--model", str(model), "--json", str(report), "--image-limit", str(images)]
    subprocess.run([sys.executable, "-c", code, *words], capture_output=True, check=True)
    return float(json.loads(report.read_text())["peak_rss_mb"])
