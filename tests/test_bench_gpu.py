"""Tests for `benchmarks/bench_gpu.py` and `effd0.bench.gpu`: all but the GPU, on the CPU."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import bench_gpu
from benchmarks.bench_gpu import Case, assert_alike, beside_effdet, bytes_per_second, opened_case
from benchmarks.measuring import Budget, Measure, Versus
from effd0.bench.gpu import FROM_HOST, FUSED, ON_DEVICE, TARGETS, limit_line, target_lines
from effd0.bench.rows import Rival, Row
from effd0.data.coco import Dataset
from effd0.detection.postprocess import Detections
from effd0.results.environment import Fingerprint
from effd0.runners.registry import RunnerOptions
from effd0.spec import ModelSpec
from effd0.timing import Latency

from .bench_samples import row
from .fakes.benchmark import FakeBenchmark

CUDA = Fingerprint("H200", "processor", 16, "", "", "PyTorch 2.15, cuda, fp16, ...")


@pytest.fixture(scope="module")
def case(checkpoint: Path, embedded_dataset: Dataset, spec: ModelSpec) -> Iterator[Case]:
    """What a GPU would be given, on the CPU in float32: one image."""
    yield from opened_case(
        checkpoint, embedded_dataset, spec, 1, RunnerOptions(postprocess="device")
    )


@pytest.mark.slow
def test_throughput_becomes_a_row_with_its_distance(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All images of all rounds count, and the note is made of what the memory was measured at."""
    monkeypatch.setattr(bench_gpu, "_ROUNDS", 2)
    few = functools.partial(bytes_per_second, size=2**20)
    monkeypatch.setattr(bench_gpu, "bytes_per_second", few)
    benchmark = FakeBenchmark()
    bench_gpu.throughput(Measure(benchmark, "scenes", Budget(0, 1)), case)
    left = benchmark.row
    assert (left.timed, left.batch, left.images) == (ON_DEVICE, 1, 2)
    assert left.images_per_second == 200  # ten milliseconds a call
    assert [note.partition(" is ")[0] for note in left.notes] == ["batch of 1, fp32: 200 images/s"]
    assert target_lines([left])[0].count("not measured") == 1, "the CPU is no GPU"


@pytest.mark.slow
def test_effdets_bench_finds_the_same(case: Case, checkpoint: Path) -> None:
    """In turn, from the same pixels; what is compared would not pass on other detections."""
    found = beside_effdet(Versus(FakeBenchmark(disabled=True), "", Budget(0, 1)), case, checkpoint)
    assert found[0].scores[0] > bench_gpu._SURE


@pytest.mark.slow
def test_what_effdet_does_not_find_fails(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Detections that only we have, surely, are a wrong result."""
    monkeypatch.setattr(bench_gpu, "effdets", lambda *_: lambda: np.zeros((1, 100, 6), np.float32))
    versus = Versus(FakeBenchmark(disabled=True), "", Budget(0, 1))
    with pytest.raises(AssertionError):
        beside_effdet(versus, case, Path("d0.pth"))


def test_a_copy_is_read_and_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of a megabyte in half a second moves four megabytes a second."""

    class Halves:
        """A timer by which everything takes half a second."""

        def __init__(self, statement: str, *, globals: dict[str, object]) -> None:  # noqa: A002 - torch's name
            exec(statement, globals)  # noqa: S102 - the statement is the benchmark's own
            assert bool((globals["target"] == 1).all())  # type: ignore[attr-defined]  # a tensor

        def timeit(self, _: int) -> SimpleNamespace:
            """Return what torch's timer does."""
            return SimpleNamespace(mean=0.5)

    monkeypatch.setattr(bench_gpu, "Timer", Halves)
    assert bytes_per_second("cpu", size=2**20) == 4 * 2**20


def detections(score: float) -> Detections:
    """Return one detection of this score."""
    return Detections(
        np.array([[1, 1, 9, 9]], np.float32), np.array([score], np.float32), np.array([3], np.int64)
    )


@pytest.mark.parametrize(
    ("score", "x1"), [(0.9, 1), (0.7, 1), (0.9, 40)], ids=["same", "score", "box"]
)
def test_other_detections_are_not_alike(score: float, x1: float) -> None:
    """A score or a box of its own fails the benchmark, so that its times are none."""
    rows = np.array([[[x1, 1, x1 + 8, 9, 0.9, 3]]], np.float32)
    if (score, x1) == (0.9, 1):
        assert_alike([detections(score)], rows)
    else:
        with pytest.raises(AssertionError):
            assert_alike([detections(score)], rows)


def on_gpu(milliseconds: float, batch: int, timed: str, images: int | None = None) -> Row:
    """Return a row of fp16 on CUDA."""
    images = batch if images is None else images
    made = row([milliseconds] * 9, timed=timed, images=images, batch=batch, fingerprint=CUDA)
    return replace(made, precision="fp16")


@pytest.mark.parametrize(
    ("milliseconds", "verdict"),
    [(6.4, "1e+04 images/s, met"), (8, "8000 images/s, missed; at least 5200 met"), (64, "missed")],
    ids=["met", "least", "missed"],
)
def test_the_throughput_target_is_for_batch_64(milliseconds: float, verdict: str) -> None:
    """Images a second of the fastest row count."""
    rows = [on_gpu(99, 64, ON_DEVICE), on_gpu(milliseconds, 64, ON_DEVICE)]
    assert target_lines(rows)[0].endswith(verdict)


@pytest.mark.parametrize(("milliseconds", "verdict"), [(1.6, "met"), (1.7, "missed")])
def test_the_latency_target_is_for_one_image(milliseconds: float, verdict: str) -> None:
    """The median of the fastest row counts, from the host to the host."""
    rows = [on_gpu(9, 1, FROM_HOST), on_gpu(milliseconds, 1, FROM_HOST)]
    assert target_lines(rows)[1].endswith(f"{milliseconds:g} ms, {verdict}")


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"precision": "bf16"}, id="precision"),
        pytest.param({"batch": 32}, id="batch"),
        pytest.param({"timed": FROM_HOST}, id="timed"),
        pytest.param({"fingerprint": row().fingerprint}, id="chip"),
        pytest.param({"rival": Rival("effdet", Latency((1.0,)))}, id="in-turn"),
    ],
)
def test_what_is_not_measured_is_said(other: dict[str, object]) -> None:
    """Rows of something else say nothing of a target, and how to measure it stands there."""
    rows = [replace(on_gpu(1, 64, ON_DEVICE), **other)]  # type: ignore[arg-type]  # any field
    lines = target_lines(rows)
    assert len(lines) == len(TARGETS)
    assert all("not measured; run 'pytest benchmarks/bench_gpu.py' on a GPU" in li for li in lines)


def test_the_limit_is_what_memory_allows() -> None:
    """As many images as their fused activations go through memory in a second are 100 %."""
    line = limit_line(on_gpu(1000, 64, ON_DEVICE, images=23_000), 23_000 * FUSED)
    assert "23000 images/s is 100.0 % of the 23000 that memory allows at 4.23 TB/s" in line
