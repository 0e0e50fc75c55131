"""
Score very many drawn images as workers' units are scored; run in a process of its own.

``python -m benchmarks.scale IMAGES`` prints one JSON object: the seconds of each step, the bytes of
what was packed, the metrics and the peak of memory.  What is drawn of a unit goes once it is
packed, as it would stay with a worker; matches and annotations stay.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from typing import Any

from benchmarks.synthetic import Annotations, dataset_of, drawn_images
from effd0.evaluate import metrics_of_hits
from effd0.matches import UnitMatches, match_unit, merged_hits
from effd0.spec import D0
from effd0.timing import peak_rss_mb

#: Images that a worker matches at a time.
UNIT = 64


def score_at_scale(images: int) -> dict[str, Any]:
    """Draw, match, merge and score so many *images*."""
    annotations: dict[int, Annotations] = {}
    units: list[UnitMatches] = []
    matching, drawn = 0.0, drawn_images(images)
    while some := list(itertools.islice(drawn, UNIT)):
        own = {id_: of_image for id_, of_image, _ in some}
        found = {id_: of_image for id_, _, of_image in some}
        unit = dataset_of(own)
        start = time.perf_counter()
        units.append(match_unit(unit, found, D0, len(annotations)))
        matching += time.perf_counter() - start
        annotations |= own
    dataset = dataset_of(annotations)
    del annotations
    before, start = peak_rss_mb(), time.perf_counter()
    merged = merged_hits(dataset, [unit.matches for unit in units])
    metrics = metrics_of_hits(dataset, merged, sum(unit.detections for unit in units))
    return {
        "images": metrics.images,
        "detections": metrics.detections,
        "match_seconds": matching,
        "score_seconds": time.perf_counter() - start,
        "packed_mb": sum(unit.matches.nbytes for unit in units) / 1e6,
        "peak_rss_mb_before_scoring": before,
        "peak_rss_mb": peak_rss_mb(),
        "metrics": metrics.values,
        "per_class": metrics.per_class,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(score_at_scale(int(sys.argv[1]))) + "\n")
