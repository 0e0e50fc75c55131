"""
Score very many drawn images; run in a process of its own.

``python -m benchmarks.scale IMAGES`` prints one JSON object: the seconds of each step, the metrics
and the peak of memory.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from benchmarks.synthetic import scored_set
from effd0.metrics.coco import match_table
from effd0.metrics.summary import summarize
from effd0.spec import D0
from effd0.timing import peak_rss_mb


def score_at_scale(images: int) -> dict[str, Any]:
    """Draw, match and score so many *images*."""
    dataset, found = scored_set(images)
    before, start = peak_rss_mb(), time.perf_counter()
    matches = match_table(dataset, found, D0)
    matched = time.perf_counter()
    metrics = summarize(matches)
    return {
        "images": metrics.images,
        "detections": metrics.detections,
        "match_seconds": matched - start,
        "score_seconds": time.perf_counter() - matched,
        "table_mb": sum(part.nbytes for part in matches.parts) / 1e6,
        "peak_rss_mb_before_matching": before,
        "peak_rss_mb": peak_rss_mb(),
        "metrics": metrics.values,
        "per_class": metrics.per_class,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(score_at_scale(int(sys.argv[1]))) + "\n")
