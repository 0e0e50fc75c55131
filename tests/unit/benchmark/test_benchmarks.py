"""The folder `benchmarks/`: what becomes a row, what fails a run, and what does not."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import bench_gpu, conftest
from benchmarks.effdet_path import assert_same_found
from benchmarks.measuring import Measure
from effd0.benchmark.measure import rows_of
from effd0.data.coco import Dataset
from effd0.detection.postprocess import Detections
from effd0.results.run import TimedRow, read_run
from effd0.runners.registry import RunnerOptions
from effd0.spec import ModelSpec
from tests.helpers import run_pytest


class FakeBenchmark:
    """pytest-benchmark's fixture as far as it is used; every call takes 10 ms."""

    def __init__(self, *, disabled: bool = False) -> None:
        self.disabled, self.fullname = disabled, "bench.py::bench"
        self.has_error = False
        self.extra_info: dict[str, Any] = {}
        self.stats = SimpleNamespace(stats=SimpleNamespace(data=[]))

    def pedantic(
        self,
        call: Callable[[], Any],
        setup: Callable[[], None] = lambda: None,
        rounds: int = 1,
        iterations: int = 1,
    ) -> Any:
        """Call as pytest-benchmark does: the setup before each round."""
        assert iterations == 1
        for _ in range(rounds):
            setup()
            result = call()
            self.stats.stats.data.append(0.01)
        return result

    @property
    def rows(self) -> list[TimedRow]:
        """The row that was left, if one was."""
        session = SimpleNamespace(benchmarks=[self])
        return rows_of(SimpleNamespace(_benchmarksession=session))


def test_a_measured_call_becomes_a_row() -> None:
    """The first call warms up; the timed ones are the samples, steps and notes beside them."""
    benchmark, steps = FakeBenchmark(), {"open": list[float]()}

    def load() -> str:
        steps["open"].append(9.0 if not steps["open"] else 0.5)
        return "result"

    measure = Measure(benchmark, "scenes", quick=True)
    told = measure(load, "stage", images=8, on="x 1", steps=steps, note=lambda one: f"a {one}")
    assert told == "result"
    (row,) = benchmark.rows
    assert set(row.samples_ms) == {10.0}
    assert len(steps["open"]) == len(row.samples_ms) + 1
    assert set(row.steps["open"]) == {500.0}
    assert (row.timed, row.images, row.images_per_second) == ("stage", 8, 800)
    assert (row.fingerprint.backend, row.notes) == ("x 1", ["a result"])


@pytest.mark.parametrize("disabled", [False, True], ids=["timed", "disabled"])
def test_a_rival_is_called_before_each_of_our_calls(*, disabled: bool) -> None:
    """A B A B, with a timed call of the rival beside each of ours; CI runs each once, untimed."""
    benchmark, order = FakeBenchmark(disabled=disabled), list[str]()

    def noting(word: str) -> Callable[[], None]:
        return lambda: order.append(word)

    measure = Measure(benchmark, "scenes")
    measure.in_turn(
        noting("ours"), noting("rival"), "stage", name="peer", images=1, on="x 1"
    )  # fmt: skip
    assert order[-2:] == ["rival", "ours"]
    if disabled:
        assert (len(order), benchmark.rows) == (2, [])
        return
    (row,) = benchmark.rows
    assert order[-6:] == ["rival", "ours"] * 3
    assert row.rival is not None
    assert row.rival.name == "peer"
    assert len(row.rival.samples_ms) == len(row.samples_ms) >= 8


@pytest.mark.parametrize("failed", [True, False], ids=["failed", "passed"])
def test_times_of_a_wrong_result_are_no_row(failed: bool) -> None:
    """Where the assertion after the calls fails, neither table nor comparison sees the times."""
    done = FakeBenchmark()
    Measure(done, "scenes", quick=True)(lambda: None, "stage", images=1, on="x")
    item: Any = SimpleNamespace(funcargs={"benchmark": done})
    report: Any = SimpleNamespace(failed=failed)
    hook = conftest.pytest_runtest_makereport(item)
    next(hook)
    with pytest.raises(StopIteration):
        hook.send(report)
    assert len(done.rows) == (0 if failed else 1)


def config(**options: Any) -> Any:
    """Return a pytest configuration of these options, others not given."""
    given = {f"--{name.replace('_', '-')}": value for name, value in options.items()}
    return SimpleNamespace(getoption=given.get)


def test_the_default_run_has_the_recipes_batches() -> None:
    """--quick keeps the batches at both ends; large ones of others than ONNX Runtime are slow."""
    assert conftest.batches(config()) == (1, 2, 4, 8, 16, 32, 64)
    assert set(conftest.batches(config(quick=True))) < {1, 2, 4, 8}
    assert conftest.batches(config(quick=True, batch_size=[5, 6])) == (5, 6)
    quick = {backend.id for backend in conftest.backends(config(quick=True))}
    assert quick == {"runner=ort", "runner=ort-cuda", "runner=acl-npu"}
    slow = {param.id for param in conftest.swept(config()) if pytest.mark.slow in list(param.marks)}
    assert {"runner=torch-bf16-batch=16", "runner=openvino-batch=64"} <= slow
    fast = {"runner=ort-batch=64", "runner=torch-bf16-batch=8", "runner=torch-cuda-fp16-batch=64"}
    assert not fast & slow


def test_other_detections_are_not_the_same() -> None:
    """A score or a box of its own fails the benchmark, so that its times are none."""
    box, kind = np.array([[1, 1, 9, 9]], np.float32), np.array([3], np.int64)
    for score, x1 in ((0.9, 1), (0.7, 1), (0.9, 40)):
        ours = Detections(box, np.array([score], np.float32), kind)
        rows = np.array([[x1, 1, x1 + 8, 9, 0.9, 3]], np.float32)
        same = (score, x1) == (0.9, 1)
        with contextlib.nullcontext() if same else pytest.raises(AssertionError):
            assert_same_found(ours, rows, min_iou=0.9, unsure=0.3, scores=0.05)


@pytest.mark.slow
def test_the_gpu_benchmarks_run_on_a_cpu(
    checkpoint: Path, embedded_dataset: Dataset, spec: ModelSpec
) -> None:
    """All that they do but CUDA's own: effdet's bench finds the same in the same pixels."""
    options = RunnerOptions(postprocess="device")
    (case,) = bench_gpu.open_case(checkpoint, embedded_dataset, spec, 1, options)
    with case.runner:
        measure = Measure(FakeBenchmark(disabled=True), "scenes")
        bench_gpu.bench_detections_on_device(measure, case)
        bench_gpu.bench_detections_from_host(measure, case)
        bench_gpu.bench_detections_effdet(measure, case, checkpoint)


PREPROCESS = "benchmarks/bench_stages.py::bench_preprocess"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run file of the cheapest benchmark; pytest-benchmark's own file lies beside it."""
    path = tmp_path_factory.mktemp("run") / "run.json"
    own = path.with_name("own.json")
    done = run_pytest(PREPROCESS, f"--benchmark-json={own}", f"--report-json={path}")
    assert done.returncode == 0, done.stdout
    assert "throughput" in done.stdout
    return path


@pytest.mark.slow
def test_what_is_surely_slower_fails_the_run(run: Path, tmp_path: Path) -> None:
    """Against a baseline of a third of the time pytest ends with 1, and names the row."""
    content = json.loads(run.read_text())
    (row,), (own,) = (
        content["latency"],
        json.loads(run.with_name("own.json").read_text())["benchmarks"],
    )
    # --report-json and --benchmark-json have the same times; nothing is gated.
    assert row["samples_ms"] == pytest.approx([1000 * s for s in own["stats"]["data"]])
    assert (own["extra_info"]["p90_ms"], content["verdict"]["status"]) == (
        pytest.approx(row["p90_ms"]), "not gated",
    )  # fmt: skip
    row["samples_ms"] = [sample / 3 for sample in row["samples_ms"]]
    baseline, report = tmp_path / "baseline.json", tmp_path / "report.json"
    baseline.write_text(json.dumps(content))
    done = run_pytest(PREPROCESS, f"--baseline={baseline}", f"--report-json={report}")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "slower: " in done.stdout
    written = read_run(report)
    (check,), found = written.checks, written.verdict
    assert (check.status, found.status, written.exit_status) == ("failed", "fail", 1)
    assert check.figure is not None
    assert check.figure > 5 == check.tolerance


@pytest.mark.slow
@pytest.mark.parametrize("why", ["missing", "another-machine"])
def test_no_baseline_is_neither_pass_nor_error(run: Path, tmp_path: Path, why: str) -> None:
    """The run ends well, and says that nothing was compared and why."""
    baseline = tmp_path / "none.json"
    if why == "another-machine":
        content = json.loads(run.read_text())
        (row,) = content["latency"]
        row["fingerprint"]["cores"], row["samples_ms"] = 999, [0.001] * 20
        baseline.write_text(json.dumps(content))
    done = run_pytest(PREPROCESS, f"--baseline={baseline}")
    assert done.returncode == 0, done.stdout
    assert ("none.json is missing" if why == "missing" else "cores was 999") in done.stdout


@pytest.mark.slow
def test_another_models_report_stops_the_inference(onnx_model: Path, tmp_path: Path) -> None:
    """The table never shows a throughput beside the mAP of something else."""
    report = tmp_path / "report.json"
    figures = {"model_sha256": "0" * 64, "metrics": {"AP": 0.5}, "images": 1, "images_total": 1}
    report.write_text(json.dumps(figures))
    done = run_pytest(
        "benchmarks/bench_model.py", "--quick", "--runner=ort", "--batch-size=1",
        f"--model={onnx_model}", f"--accuracy-report={report}",
    )  # fmt: skip
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "the accuracy report is of model 000000000000" in done.stdout
