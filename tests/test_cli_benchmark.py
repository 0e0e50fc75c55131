"""Tests for `effd0.cli`: benchmark, and the job behind it."""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from effd0.bench import subject
from effd0.bench.baseline import read_run
from effd0.bench.job import BenchmarkJob, run_benchmark
from effd0.bench.rows import NETWORK, OFFLINE, SINGLE_STREAM
from effd0.errors import BenchmarkError
from effd0.evaluation import model as choice_module
from effd0.evaluation.model import ModelChoice
from effd0.io import sha256
from effd0.progress import progress
from effd0.spec import SPECS
from effd0.types import Tensors

from .cli_run import assert_one_error, effd0
from .fakes.recording import DeclaringRunner, DeviceRunner
from .helpers import SMALL, coco_content, write_coco
from .runs import content_of

RUN = ("benchmark", "--model", "d0.onnx", "--root", "coco", "--loop", 10)
Runners = dict[str, DeclaringRunner]


@pytest.fixture(autouse=True)
def runners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runners:
    """A working folder with coco and two models; file name -> the fake that stands for it."""
    fakes: Runners = {"d0.onnx": DeclaringRunner(), "old.onnx": DeclaringRunner()}
    monkeypatch.setitem(SPECS, SMALL.arch, SMALL)
    monkeypatch.setattr(choice_module, "open_runner", lambda _, path, *__: fakes[path.name])
    monkeypatch.setattr(subject, "load_graph", lambda *_: None)
    monkeypatch.setattr(subject, "precision_of", lambda *_: "fp32")
    monkeypatch.chdir(tmp_path)
    content = coco_content()
    content["categories"] = [{"id": c, "name": f"c{c}"} for c in range(1, 6)]
    write_coco(Path("coco"), content, (0, 50, 100))
    for name in fakes:
        Path(name).write_bytes(name.encode())
    return fakes


def slow(seconds: float) -> Callable[[], object]:
    """Return what makes a fake take so long."""
    return lambda: time.sleep(seconds)


def report_of(model: str, ap: float = 0.336) -> None:
    """Write an accuracy report of *model*."""
    content = {
        "model_sha256": sha256(Path(model)),
        "metrics": {"AP": ap},
        "images": 5000,
        "images_total": 5000,
    }
    Path("report.json").write_text(json.dumps(content))


def test_batches_are_swept_in_their_order(runners: Runners) -> None:
    """`--batch-size 1 4 2` is three rows, each fed by batches of that size only."""
    outcome = effd0(*RUN, "--batch-size", 1, 4, 2, "--warmup", 1, "--json", "run.json")
    assert outcome.code == 0, outcome.err
    machine, rows = read_run(Path("run.json"))
    assert [(row.batch, row.images, row.timed) for row in rows] == [
        (1, 1, NETWORK), (4, 4, NETWORK), (2, 2, NETWORK),
    ]  # fmt: skip
    # One check of the heads and one warm-up beside the ten calls.
    assert runners["d0.onnx"].fed == [1] * 12 + [4] * 12 + [2] * 12
    assert [len(row.samples.samples_ms) for row in rows] == [10, 10, 10]
    assert rows[0].model_sha256 == sha256(Path("d0.onnx"))
    assert rows[0].dataset == "coco val2017"
    assert machine["cores"] >= 1


def test_the_run_is_written_for_merging_and_comparing() -> None:
    """`--report-json` has a row for each batch, with the samples that were timed."""
    words = (*RUN, "--batch-size", 1, 4, "--json", "rows.json", "--report-json", "run.json")
    outcome = effd0(*words)
    assert outcome.code == 0, outcome.err
    content, (_, rows) = content_of(Path("run.json")), read_run(Path("rows.json"))
    assert [one["samples_ms"] for one in content["latency"]] == [
        list(row.samples.samples_ms) for row in rows
    ]
    told = [(one["runner"], one["batch"], one["dataset"]) for one in content["latency"]]
    assert told == [("ort", 1, "coco val2017"), ("ort", 4, "coco val2017")]
    assert content["artefact"]["model_sha256"] == sha256(Path("d0.onnx"))
    assert content["commands"] == [shlex.join(["effd0", *map(str, words)])]


def test_the_table_is_printed_with_published_figures() -> None:
    """Without pytest a reader finds the same: the recipe's columns, and the 310P3 at batch 4."""
    out = effd0(*RUN, "--batch-size", 4).out
    assert re.search(r"chip +batch +dataset +mAP % +images/s +p50 ms", out)
    assert re.search(r"Ascend 310P3 +4 +val2017 +33.4 +260.00", out)


def test_padding_is_no_image(runners: Runners) -> None:
    """A model compiled for four that is given one image has done one."""
    runners["d0.onnx"] = DeclaringRunner(fixed=4)
    effd0(*RUN, "--batch-size", 1, "--json", "run.json")
    ((row,),) = [read_run(Path("run.json"))[1]]
    assert (row.batch, row.images) == (1, 1)


def test_the_models_own_batch_is_the_default(runners: Runners) -> None:
    """Nobody has to tell what the file tells."""
    runners["d0.onnx"] = DeclaringRunner(fixed=4)
    effd0(*RUN, "--json", "run.json")
    assert [row.batch for row in read_run(Path("run.json"))[1]] == [4]


def test_single_stream_is_one_image_at_a_time(runners: Runners) -> None:
    """Each query is an image, and the 90th percentile is what counts."""
    outcome = effd0(*RUN, "--scenario", "single-stream", "--json", "run.json")
    ((row,),) = [read_run(Path("run.json"))[1]]
    assert (row.timed, row.images, len(row.samples.samples_ms)) == (SINGLE_STREAM, 1, 10)
    assert set(runners["d0.onnx"].fed) == {1}
    assert f"{row.samples.p90_ms:.2f} ms is the 90th percentile of 10 queries" in outcome.out


def test_offline_is_all_at_once() -> None:
    """Ten batches of two are one call of twenty images."""
    effd0(*RUN, "--scenario", "offline", "--batch-size", 2, "--json", "run.json")
    ((row,),) = [read_run(Path("run.json"))[1]]
    assert (row.timed, row.images, len(row.samples.samples_ms)) == (OFFLINE, 20, 1)


def test_the_devices_times_are_apart(runners: Runners) -> None:
    """Uploads are told beside the wall's times, those of the warm-up left out."""
    runners["d0.onnx"] = DeviceRunner()
    outcome = effd0(*RUN, "--json", "run.json")
    ((row,),) = [read_run(Path("run.json"))[1]]
    assert row.apart["upload"].samples_ms == (1.0,) * 10
    assert re.search(r"input to heads +1 +upload +1\.00", outcome.out)


def test_a_rival_is_timed_in_turn(runners: Runners) -> None:
    """Both get the same batches, as often; a slow rival is called slower."""
    runners["old.onnx"].on_infer = slow(0.01)
    outcome = effd0(*RUN, "--against", "old.onnx", "--max-slowdown", 5, "--json", "run.json")
    assert outcome.code == 0, outcome.err
    assert runners["d0.onnx"].fed == runners["old.onnx"].fed
    ((row,),) = [read_run(Path("run.json"))[1]]
    assert row.against_rival is not None
    assert row.against_rival.high < 0.9
    assert "old.onnx" in outcome.out
    assert "heads differ most in" in outcome.out


def test_what_is_surely_slower_fails_the_gate(runners: Runners) -> None:
    """The exit code is 1 where a loss is more than was allowed; without a gate it is 0."""
    runners["d0.onnx"].on_infer = slow(0.01)
    assert effd0(*RUN, "--against", "old.onnx", "--max-slowdown", 5).code == 1
    assert effd0(*RUN, "--against", "old.onnx").code == 0


def test_the_map_comes_from_the_same_models_report() -> None:
    """33.60 stands beside the throughput of the file that was evaluated."""
    report_of("d0.onnx")
    out = effd0(*RUN, "--accuracy-report", "report.json").out
    assert re.search(r"1 +coco val2017 +33\.60 ", out)


def test_another_models_report_is_refused_before_anything_is_timed(runners: Runners) -> None:
    """A fast build does not borrow the mAP of a right one."""
    report_of("old.onnx")
    message = r"the accuracy report is of model \w{12}, but \w{12} is timed; evaluate"
    assert_one_error(message, *RUN, "--accuracy-report", "report.json")
    assert runners["d0.onnx"].fed == []


def test_a_file_that_is_no_report_is_refused() -> None:
    """Nor does a file without figures count as one."""
    Path("report.json").write_text("{}")
    assert_one_error(
        r"report.json is not an accuracy report \(KeyError: 'model_sha256'\)",
        *RUN, "--accuracy-report", "report.json",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scenario", "server"], r"--scenario is 'server', but single-stream, offline exist"),
        (
            ["--scenario", "single-stream", "--batch-size", 4],
            r"--batch-size is 4, but single-stream is one image at a time",
        ),
        (["--scenario", "offline", "--against", "old.onnx"], r"--against is old.onnx, but it is"),
        (["--max-slowdown", 5], r"--max-slowdown is 5, but no --against is given"),
        (["--against", "none.onnx"], r"none.onnx does not exist"),
    ],
    ids=["scenario", "single-stream-of-four", "scenario-against", "slowdown-alone", "no-rival"],
)
def test_what_cannot_be_meant_is_refused(arguments: list[object], message: str) -> None:
    """One message, and nothing is timed."""
    assert_one_error(message, *RUN, *arguments)


def test_more_than_the_model_takes_is_refused(runners: Runners) -> None:
    """A compiled model of two cannot be timed at four."""
    runners["d0.onnx"] = DeclaringRunner(fixed=2)
    assert_one_error(r"--batch-size is 4, but the model takes 2", *RUN, "--batch-size", 4)


def test_heads_that_are_no_numbers_are_not_timed(runners: Runners) -> None:
    """A broken build is fast; it gets no figure."""
    broken = runners["d0.onnx"]
    infer = broken.infer

    def nan(feed: Tensors) -> Tensors:
        heads = infer(feed)
        heads["class_p3"][0, 0, 0, 0] = float("nan")
        return heads

    broken.infer = nan  # type: ignore[method-assign]  # a build that overflows
    assert_one_error(r"class_p3 holds 1 values that are not finite", *RUN)


def test_a_job_is_checked_before_the_model_is_opened() -> None:
    """What contradicts itself is known without a backend."""
    job = BenchmarkJob(ModelChoice(Path("d0.onnx"), spec=SMALL), scenario="burst")
    with pytest.raises(BenchmarkError, match=r"leave it out to sweep batch sizes"):
        run_benchmark(job, progress)
