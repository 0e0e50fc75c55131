"""Transfers and computing overlap: proved on the emulator's clock, where milliseconds are exact."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from effd0.runners.base import DeviceTimes, TensorInfo, infer_each

from .fakes.ascend.times import Times
from .fakes.ascend.tiny import tiny_om
from .fakes.emulated import EmulatedRunner
from .test_runner_acl import feed

BATCHES = 100
BATCH = 4

STAGES = [
    pytest.param(10.0, 4.0, 6.0, id="upload-longest"),
    pytest.param(4.0, 10.0, 6.0, id="compute-longest"),
    pytest.param(4.0, 6.0, 10.0, id="download-longest"),
    pytest.param(10.0, 10.0, 10.0, id="all-alike"),
    pytest.param(1.0, 10.0, 0.1, id="transfers-short"),
]


def run(
    model: Path, upload: float, compute: float, download: float, *, overlap: bool, stopped: int = 0
) -> float:
    """Virtual ms of `BATCHES` batches whose steps take so long, after *stopped* other streams."""
    with EmulatedRunner(model, overlap=overlap) as probe:
        sizes = [sum(_bytes(info) for info in infos) for infos in (probe.inputs, probe.outputs)]
    times = Times(
        h2d_gbps=sizes[0] / (upload * 1e6),
        d2h_gbps=sizes[1] / (download * 1e6),
        compute_ms=compute,
    )
    with EmulatedRunner(model, overlap=overlap, times=times) as runner:
        for _ in range(stopped):
            stream = infer_each(runner, [feed(BATCH)] * BATCHES)
            next(stream)
            stream.close()
        runner.device_times = DeviceTimes()
        start = runner.emulator.clock.now
        assert sum(1 for _ in infer_each(runner, [feed(BATCH)] * BATCHES)) == BATCHES
        taken = runner.emulator.clock.now - start
        if overlap:
            measured = vars(runner.device_times)
            means = [sum(measured[f"{step}_ms"]) / BATCHES for step in ("h2d", "compute", "d2h")]
            # The device's own events: exact on this clock but for the rounding of their sums.
            assert means == pytest.approx([upload, compute, download], rel=1e-3)
    return taken


def _bytes(info: TensorInfo) -> int:
    return math.prod(side or 1 for side in info.shape) * info.dtype.itemsize


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of batch 4."""
    return tiny_om(tmp_path / "tiny.om", batch=BATCH)


@pytest.mark.parametrize(("upload", "compute", "download"), STAGES)
def test_in_the_long_run_only_the_longest_step_costs_time(
    upload: float, compute: float, download: float, model: Path
) -> None:
    """A hundred batches take at most 1.1 times as long as their longest step alone."""
    taken = run(model, upload, compute, download, overlap=True)
    assert taken <= 1.1 * BATCHES * max(upload, compute, download)


def test_a_stream_that_was_stopped_slows_no_other(model: Path) -> None:
    """What it held is free again: the next one overlaps as the first would have."""
    taken = run(model, 10.0, 10.0, 10.0, overlap=True, stopped=3)
    assert taken <= 1.1 * BATCHES * 10.0


def test_step_by_step_takes_the_sum(model: Path) -> None:
    """The clock does count: without overlap, the three steps add up."""
    taken = run(model, 4.0, 10.0, 6.0, overlap=False)
    assert taken == pytest.approx(BATCHES * 20.0, rel=0.01)
