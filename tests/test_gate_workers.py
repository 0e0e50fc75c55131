"""Tests for the gate of ``pytest -m accuracy --workers``: what workers find is what is scored."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from effd0 import report
from effd0.data.coco import Dataset
from effd0.errors import ResultError
from effd0.pytest_options import pool_asked
from effd0.report import Evaluation
from effd0.runners.registry import RunnerOptions
from effd0.scale import subject
from effd0.scale.cluster import Cluster
from effd0.scale.pool import Pool

from . import session_workers
from .fakes.here import HereCluster, Killed
from .gate import Gate
from .helpers import SMALL, names_in
from .measured import Measured
from .pool_runs import coloured_coco, same
from .rundir_runs import NeighbourRunner
from .session_workers import accelerator_of, check_workers, workers_of

IMAGES = 21
PLACE = "coco-ort-batch2"


@pytest.fixture(autouse=True)
def _quick_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the versions of all packages takes longer than all the rest of a small run."""
    monkeypatch.setattr(report, "installed_version", lambda _name: "1.0")
    monkeypatch.setattr(subject, "installed_version", lambda _name: "1.0")


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Pictures that the fake backend tells apart."""
    return coloured_coco(tmp_path / "coco", IMAGES)


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> NeighbourRunner:
    """The runner that each worker opens, and the gate itself."""
    fake = NeighbourRunner()
    monkeypatch.setattr(subject, "open_runner", lambda *_: fake)
    return fake


@pytest.fixture
def ray() -> HereCluster:
    """Three workers in this process."""
    return HereCluster(3)


@pytest.fixture
def kept() -> list[Evaluation]:
    """The evaluations that came to the record of the session."""
    return []


@pytest.fixture
def gate(runner: NeighbourRunner, ray: HereCluster, kept: list[Evaluation], tmp_path: Path) -> Gate:
    """A gate on workers that keeps its runs."""
    model = tmp_path / "d0.onnx"
    model.write_bytes(b"a model")
    return Gate(
        spec=SMALL,
        checkpoint=model,
        file_of=lambda _name: model,
        open_under_test=lambda _name: runner,
        own_model=False,
        out=tmp_path / "runs",
        resume=False,
        options_of=lambda _name: RunnerOptions(),
        say=lambda _line: None,
        keep=lambda evaluation, _draw: kept.append(evaluation),
        workers_for=lambda _name: ray,
    )


def measure(gate: Gate, dataset: Dataset, name: str = "ort") -> Measured:
    """Measure a runner in batches of two, as a session of its own would."""
    return replace(gate).measure_on("coco", dataset)(name, 2)


def test_workers_find_and_score_what_one_process_does(
    gate: Gate, dataset: Dataset, ray: HereCluster
) -> None:
    """To the last bit, in the order of the images, with the same twelve numbers."""
    alone = measure(replace(gate, out=None, workers_for=lambda _name: None), dataset)
    assert ray.begun == []
    pool = measure(gate, dataset)
    assert len(ray.begun) > 3
    assert same(pool.run.found, alone.run.found)
    assert list(pool.run.found) == list(alone.run.found)
    assert pool.evaluation.metrics == alone.evaluation.metrics
    assert pool.run.runner == "fake, 3 workers"


def test_who_did_what_is_part_of_the_record(gate: Gate, dataset: Dataset, kept: Any) -> None:
    """The evaluation for --report-json holds what each worker did."""
    measure(gate, dataset)
    (evaluation,) = kept
    assert evaluation.settings["pool"]["images"] == IMAGES
    assert evaluation.settings["batch_size"] == 2


def test_a_run_directory_holds_shards(gate: Gate, dataset: Dataset, tmp_path: Path) -> None:
    """It has the name that one process gives it, and the detections in COCO's format."""
    one = replace(gate, out=tmp_path / "alone", workers_for=lambda _name: None)
    measure(one, dataset)
    measure(gate, dataset)
    assert names_in(tmp_path / "runs") == names_in(tmp_path / "alone") == [PLACE]
    assert names_in(tmp_path / "runs" / PLACE / "shards")
    files = [tmp_path / run / PLACE / "detections.json" for run in ("alone", "runs")]
    alone, pool = (json.loads(path.read_text()) for path in files)
    assert alone == pool
    assert len(alone) == IMAGES


def test_a_run_that_is_there_is_not_run_again(
    gate: Gate, dataset: Dataset, ray: HereCluster, tmp_path: Path
) -> None:
    """--resume goes on with the shards: those that are whole are read, the others are made."""
    first = measure(gate, dataset)
    shards = sorted((tmp_path / "runs" / PLACE / "shards").glob("*.parquet"))
    shards[2].unlink()
    ray.begun.clear()
    again = measure(replace(gate, resume=True), dataset)
    assert len(ray.begun) == 1
    assert same(again.run.found, first.run.found)
    assert again.evaluation.metrics == first.evaluation.metrics
    assert measure(replace(gate, resume=True), dataset).run.images == 0


def test_the_run_of_one_process_is_not_continued_by_workers(gate: Gate, dataset: Dataset) -> None:
    """What is kept in another way is another run, and nothing of it is overwritten."""
    measure(replace(gate, workers_for=lambda _name: None), dataset)
    with pytest.raises(ResultError, match="was begun without workers; leave --workers"):
        measure(replace(gate, resume=True), dataset)


def test_a_worker_that_dies_changes_nothing(
    gate: Gate, dataset: Dataset, runner: NeighbourRunner, ray: HereCluster
) -> None:
    """Its images are asked for again, once."""
    alone = measure(replace(gate, out=None, workers_for=lambda _name: None), dataset)
    died: list[int] = []

    def die_once() -> None:
        if not died:
            died.append(1)
            raise Killed

    runner.on_infer = die_once
    assert same(measure(gate, dataset).run.found, alone.run.found)
    assert len(ray.begun) == len(set(ray.begun)) + 1


def options(runner: str) -> RunnerOptions:
    """Return what a session without options of its own means to *runner*."""
    return RunnerOptions(device="cuda" if runner == "cuda" else None)


def test_ray_is_started_once_and_for_who_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What workers do not run stays in this process; what computes on CPUs takes no device."""
    started: list[str | None] = []
    cpu = HereCluster(2)

    class Session(HereCluster):
        def on_cpu(self) -> HereCluster:
            return cpu

    ray = Session(2)

    def noted(pool: Pool, kind: str | None) -> Any:
        started.append(kind)
        return ray.started(pool, kind)

    monkeypatch.setattr(session_workers, "cluster", noted)
    with workers_of(Pool(2, (0, 1)), ["acl", "torch"], options) as workers:
        assert workers("emulated") is workers("recorded") is None
        assert started == []
        assert workers("acl") is workers("acl") is cast(Cluster, ray)
        assert workers("torch") is cast(Cluster, cpu)
    assert started == ["NPU"]


def test_without_workers_all_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """No runner has workers, and nothing is started."""
    monkeypatch.setattr(session_workers, "cluster", None)
    with workers_of(None, ["ort"], options) as workers:
        assert workers("ort") is None


def test_two_kinds_of_devices_are_refused() -> None:
    """All workers of a session have one kind of device."""

    def of(name: str) -> RunnerOptions:
        return RunnerOptions(provider="CUDAExecutionProvider" if name == "ort" else "")

    with pytest.raises(pytest.UsageError, match=r"runners need GPU and NPU, but .* --runner"):
        accelerator_of(["ort", "acl"], of)


def config(**given: Any) -> pytest.Config:
    """Return a configuration in which these options were given."""
    values = {"--" + name.replace("_", "-"): value for name, value in given.items()}
    return cast(pytest.Config, SimpleNamespace(getoption=values.get))


@pytest.mark.parametrize(
    ("check", "message"),
    [
        pytest.param(
            lambda: check_workers(Pool(2), None, config(device_id=3)),
            "--device-id is 3, but each worker has a device of its own; .*--devices",
            id="one-device",
        ),
        pytest.param(
            lambda: check_workers(Pool(2), None, config(runner=["ort", "emulated"])),
            "--runner is emulated, but workers run ort, openvino, torch, acl; leave --workers",
            id="emulated",
        ),
        pytest.param(
            lambda: check_workers(Pool(1, (0,)), None, config(devices="0")),
            "--devices is 0, but all runners compute on the CPU; use --workers",
            id="no-device",
        ),
        pytest.param(
            lambda: pool_asked(config(workers=0)),
            "--workers is 0, but at least one is wanted",
            id="nobody",
        ),
        pytest.param(
            lambda: pool_asked(config(ray_address="head:1")),
            "--ray-address is head:1, but .*; give --workers",
            id="how-many",
        ),
    ],
)
def test_contradictions_are_usage_errors(check: Callable[[], object], message: str) -> None:
    """The message names what was given, and what to give."""
    with pytest.raises(pytest.UsageError, match=message):
        check()


def test_the_header_says_where_workers_are() -> None:
    """Each way to ask for them is shown."""
    assert str(Pool(2)) == "2 on this host"
    assert str(Pool(2, (4, 7))) == "2, on devices 4, 7 of this host"
    assert str(Pool(8, (), "head:6379")) == "8 in the cluster at head:6379"
