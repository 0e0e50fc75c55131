"""Tests for `benchmarks/`: what becomes a row, what fails a run, and what does not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import conftest
from benchmarks.measuring import Budget, Measure, Versus
from benchmarks.synthetic import DETECTIONS, scored_set
from effd0.bench.baseline import read_run
from effd0.bench.session import rows_of
from effd0.bench.targets import Target
from effd0.metrics.summary import coco_metrics
from effd0.spec import D0

from .fakes.benchmark import FakeBenchmark
from .runs import content_of

ROOT = Path(__file__).parents[1]


def noting(order: list[str], word: str) -> Callable[[], str]:
    """Return a call that notes *word* in *order* and gives it."""

    def call() -> str:
        order.append(word)
        return word

    return call


@pytest.mark.parametrize(
    ("seconds", "rounds"), [(0.1, 30), (10.0, 5), (1e-6, 100)], ids=["some", "least", "most"]
)
def test_a_budget_says_how_many_calls(seconds: float, rounds: int) -> None:
    """As many as fit, never fewer than the least, never more than the most."""
    assert Budget(3.05, 5).rounds(seconds) == rounds


def test_a_measured_call_becomes_a_row() -> None:
    """The first call warms up; the timed ones are the samples, and the result comes back."""
    benchmark, calls = FakeBenchmark(), list[str]()
    measure = Measure(benchmark, "scenes", Budget(0, 4))
    assert measure(noting(calls, "result"), "stage", images=8, on="library 1") == "result"
    row = benchmark.row
    assert len(calls) == 5
    assert row.samples.samples_ms == (10.0,) * 4
    assert (row.timed, row.images, row.images_per_second) == ("stage", 8, 800)
    assert row.fingerprint.backend == "library 1"


def test_steps_leave_out_the_warm_up() -> None:
    """What a call notes of its parts is told for the timed calls alone."""
    benchmark, steps = FakeBenchmark(), {"open": [9.0]}
    measure = Measure(benchmark, "scenes", Budget(0, 2))

    def load() -> None:
        steps["open"].append(0.5)

    measure(load, "load", images=1, on="x", steps=steps)
    assert benchmark.row.apart["open"].samples_ms == (500.0, 500.0)


def test_a_rival_is_called_before_each_of_our_calls() -> None:
    """A B A B: each of our timed calls has a timed one of the rival beside it."""
    benchmark, order = FakeBenchmark(), list[str]()
    versus = Versus(benchmark, "scenes", Budget(0, 3))
    results = versus.in_turn(
        noting(order, "ours"),
        noting(order, "rival"),
        "stage",
        name="peer",
        images=1,
        on="library 1",
        target=Target(2.0),
    )
    assert results == ("ours", "rival")
    assert order[-6:] == ["rival", "ours"] * 3
    rival = benchmark.row.rival
    assert rival is not None
    assert (rival.name, len(rival.samples.samples_ms), rival.target) == ("peer", 3, Target(2.0))


def test_disabled_benchmarks_run_once() -> None:
    """CI sees that they work without paying for figures, and no row is left."""
    benchmark, calls = FakeBenchmark(disabled=True), list[str]()
    measure = Measure(benchmark, "scenes", Budget(9, 9))
    measure(noting(calls, "once"), "stage", images=1, on="x")
    assert (len(calls), benchmark.extra_info) == (1, {})


def test_the_drawn_detections_are_a_detectors() -> None:
    """A hundred an image by falling score, some right and some not; the seed decides them."""
    dataset, found = scored_set(20)
    assert {len(one) for one in found.values()} == {DETECTIONS}
    assert all((np.diff(one.scores) <= 0).all() for one in found.values())
    ap = coco_metrics(dataset, found, D0).ap
    assert ap is not None
    assert 0.2 < ap < 0.9
    again = scored_set(20)[1]
    assert all(np.array_equal(found[n].boxes, again[n].boxes) for n in found)


def config(**options: Any) -> Any:
    """Return a pytest configuration of these options, others not given."""
    given = {f"--{name.replace('_', '-')}": value for name, value in options.items()}
    return SimpleNamespace(getoption=given.get)


def test_quick_does_with_fewer_rows() -> None:
    """--quick keeps the batches at both ends; --batch-size is what was asked for."""
    assert conftest.batches(config()) == (1, 2, 4, 8, 16, 32, 64)
    assert set(conftest.batches(config(quick=True))) < {1, 2, 4, 8}
    assert conftest.batches(config(quick=True, batch_size=[5, 6])) == (5, 6)
    ids = [backend.id for backend in conftest.backends(config(quick=True))]
    assert "runner=ort" in ids
    assert "runner=torch" not in ids


def test_large_batches_are_slow_beside_onnx_runtime() -> None:
    """The default run has the recipe's whole table in ONNX Runtime, and small batches of others."""
    slow = {
        param.id: any(mark.name == "slow" for mark in param.marks)
        for param in conftest.swept(config())
    }
    assert not slow["runner=ort-batch=64"]
    assert not slow["runner=torch-bf16-batch=8"]
    assert slow["runner=torch-bf16-batch=16"]
    assert not slow["runner=torch-cuda-fp16-batch=64"]
    assert slow["runner=openvino-batch=64"]


@pytest.mark.parametrize("failed", [True, False], ids=["failed", "passed"])
def test_times_of_a_wrong_result_are_no_row(failed: bool) -> None:
    """Where the assertion after the calls fails, neither table nor comparison sees the times."""
    done = FakeBenchmark()
    Measure(done, "scenes", Budget(0, 3))(lambda: None, "stage", images=1, on="x")
    item: Any = SimpleNamespace(funcargs={"benchmark": done})
    report: Any = SimpleNamespace(failed=failed)
    session: Any = SimpleNamespace(_benchmarksession=SimpleNamespace(benchmarks=[done]))
    hook = conftest.pytest_runtest_makereport(item)
    next(hook)
    with pytest.raises(StopIteration):
        hook.send(report)
    rows = rows_of(session)
    assert len(rows) == (0 if failed else 1)


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``pytest`` with *arguments* in the clone."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved run of the cheapest benchmark."""
    path = tmp_path_factory.mktemp("run") / "run.json"
    done = bench(
        "benchmarks/bench_preprocess.py",
        f"--benchmark-json={path}",
        f"--report-json={path.with_name('report.json')}",
    )
    assert done.returncode == 0, done.stdout
    assert "throughput" in done.stdout
    return path


def altered(run: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Write *run* with *change* made to what each of its rows says; return the file."""
    content = json.loads(run.read_text())
    for entry in content["benchmarks"]:
        change(entry["extra_info"])
    path = folder / "altered.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.slow
def test_a_saved_run_holds_machine_and_samples(run: Path) -> None:
    """The file is pytest-benchmark's own, and tells all that a comparison needs."""
    machine, (row,) = read_run(run)
    entry = json.loads(run.read_text())["benchmarks"][0]
    assert row.samples.samples_ms == pytest.approx([1000 * s for s in entry["stats"]["data"]])
    assert entry["extra_info"]["p90_ms"] == pytest.approx(row.samples.p90_ms)
    assert machine["cores"] == row.fingerprint.cores
    assert entry["extra_info"]["fingerprint"]["key"] == row.fingerprint.key


@pytest.mark.slow
def test_the_run_file_holds_the_same_samples(run: Path) -> None:
    """`--report-json` of benchmarks fills the latency; nothing is gated."""
    content = content_of(run.with_name("report.json"))
    (one,), (row,) = content["latency"], read_run(run)[1]
    assert one["samples_ms"] == list(row.samples.samples_ms)
    assert (one["name"], one["fingerprint"]["chip"]) == (row.name, row.fingerprint.chip)
    assert content["verdict"]["status"] == "not gated"


@pytest.mark.slow
def test_what_is_surely_slower_fails_the_run(run: Path, tmp_path: Path) -> None:
    """Against a baseline of a third of the time pytest ends with 1, and names the row."""

    def thrice_as_fast(info: dict[str, Any]) -> None:
        info["samples_ms"] = [sample / 3 for sample in info["samples_ms"]]

    baseline = altered(run, tmp_path, thrice_as_fast)
    report = tmp_path / "report.json"
    done = bench(
        "benchmarks/bench_preprocess.py", f"--baseline={baseline}", f"--report-json={report}"
    )
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "bench_preprocess  " in done.stdout
    assert "slower" in done.stdout
    content = content_of(report)
    (check,), found = content["checks"], content["verdict"]
    assert (check["status"], found["status"], content["exit_status"]) == ("failed", "fail", 1)
    assert check["figure"] > check["tolerance"] == 5


@pytest.mark.slow
@pytest.mark.parametrize("why", ["missing", "another-machine"])
def test_no_baseline_is_neither_pass_nor_error(run: Path, tmp_path: Path, why: str) -> None:
    """The run ends well, and says that nothing was compared and why."""

    def elsewhere(info: dict[str, Any]) -> None:
        info["fingerprint"]["cores"], info["samples_ms"] = 999, [0.001] * 20

    baseline = tmp_path / "none.json" if why == "missing" else altered(run, tmp_path, elsewhere)
    done = bench("benchmarks/bench_preprocess.py", f"--baseline={baseline}")
    assert done.returncode == 0, done.stdout
    assert "no baseline" in done.stdout
    assert ("is missing" if why == "missing" else "cores was 999") in done.stdout


@pytest.mark.slow
def test_another_models_report_stops_the_inference(onnx_model: Path, tmp_path: Path) -> None:
    """The table never shows a throughput beside the mAP of something else."""
    report = tmp_path / "report.json"
    figures = {"model_sha256": "0" * 64, "metrics": {"AP": 0.5}, "images": 1, "images_total": 1}
    report.write_text(json.dumps(figures))
    done = bench(
        "benchmarks/bench_inference.py", "--quick", "--runner=ort", "--batch-size=1",
        f"--model={onnx_model}", f"--accuracy-report={report}",
    )  # fmt: skip
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "the accuracy report is of model 000000000000" in done.stdout
