"""Tests for `effd0.evaluation.infer`: ais_bench's figure in its own words, and ours beside it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from effd0.evaluation.infer import Performance

#: 7 images in two batches of 4, 10 ms of computing each, in 40 ms with copies, 70 with files.
RUN = Performance(
    images=7,
    rows=(4, 4),
    compute_ms=(8.0, 12.0),
    h2d_ms=(1.0, 3.0),
    d2h_ms=(),
    infer_s=0.04,
    total_s=0.07,
)


def test_both_figures_are_told_apart() -> None:
    """Ais_bench counts padded rows and computing alone; images/s real images and copies."""
    line, ours, why = RUN.lines()
    assert line == (
        "[INFO] throughput 1000*batchsize.mean(4)/NPU_compute_time.mean(10.0000): 400.0000"
    )
    assert ours == "images/s 175.00, copies included; 100.00 with the files"
    assert "padding" in why


def test_the_mean_batch_is_that_of_what_ran() -> None:
    """A free batch is not filled up, so that the last one counts as it is."""
    run = replace(RUN, rows=(4, 3), images=7)
    assert run.ais_bench_throughput == pytest.approx(350)


def test_the_summary_has_ais_benchs_keys() -> None:
    """Its readers find their figures; what nobody measured is null, not zero."""
    assert RUN.ais_bench_summary() == {
        "NPU_compute_time": {
            "min": 8.0,
            "max": 12.0,
            "mean": 10.0,
            "median": 10.0,
            "percentile(99%)": pytest.approx(11.96),
            "count": 2,
        },
        "H2D_latency": {
            "min": 1.0,
            "max": 3.0,
            "mean": 2.0,
            "median": 2.0,
            "percentile(99%)": pytest.approx(2.98),
            "count": 2,
        },
        "D2H_latency": {
            "min": None,
            "max": None,
            "mean": None,
            "median": None,
            "percentile(99%)": None,
            "count": 0,
        },
        "npu_compute_time_list": [8.0, 12.0],
        "throughput": 400.0,
    }
