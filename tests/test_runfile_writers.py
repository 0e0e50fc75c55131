"""Tests for `effd0.runfile`: what evaluations, benchmarks and sessions are as runs."""

from __future__ import annotations

import copy
import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from effd0 import report
from effd0.against import Against
from effd0.bench.accuracy import Accuracy
from effd0.bench.job import BenchmarkJob
from effd0.bench.rows import NETWORK, Rival, Row
from effd0.data import fixture as embedded
from effd0.data.coco import load_coco
from effd0.evaluate import METRICS, CocoMetrics
from effd0.evaluation.evaluate import UNKNOWN_MODEL, EvaluationJob, ResultJob
from effd0.evaluation.model import ModelChoice
from effd0.fingerprint import Fingerprint
from effd0.io import sha256
from effd0.match import DetectionParity
from effd0.paired import PairedDrop
from effd0.report import Evaluation, Verdict, judge
from effd0.runfile import check_run, compare_runs, merge_runs
from effd0.runfile.commands import benchmark_run, evaluation_run, result_run
from effd0.runfile.parts import environment_part
from effd0.runfile.suite import SuiteRecord
from effd0.stages import Check
from effd0.timing import Latency

from .run_samples import insight
from .runs import parity

TIMES = Latency((1.0, 2.0, 3.0, 10.0))


@pytest.fixture(autouse=True)
def _quick_versions(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Versions are quick to read, and the command is known."""
    monkeypatch.setattr(report, "installed_version", lambda _name: "1.0")
    with mock.patch.object(sys, "argv", ["/usr/bin/effd0", "evaluate", "--root", "my scenes"]):
        yield


def metrics_of(ap: float | None = 0.336) -> CocoMetrics:
    """Metrics with one AP, small ones undefined."""
    values = dict.fromkeys(METRICS, 0.25) | {"AP": ap, "APs": None}
    undefined = {"APs": "none are small"} | ({} if ap is not None else {"AP": "undefined"})
    return CocoMetrics(values, {"person": 0.5, "kite": None}, undefined, 48, 321)


def held(low: float, high: float) -> Against:
    """A comparison whose drop has a given interval, 0.2 allowed."""
    drop = PairedDrop((low + high) / 2, low, high, 48, 0.34, 0.335)
    pairs = DetectionParity(48, 9, 1, 2, None, None, ())
    return Against(drop, pairs, 0.2, "PyTorch", "cd" * 32, metrics_of(0.34))


def evaluated(
    ap: float | None = 0.336, min_map: float | None = 33.4, against: Against | None = None
) -> Evaluation:
    """An evaluation of all 48 images, judged as `score` judges."""
    metrics = metrics_of(ap)
    return Evaluation(
        metrics=metrics,
        verdict=judge(metrics, 48, min_map, against),
        total_images=48,
        images_per_second=2.5,
        stages={"inference": TIMES},
        peak_rss_mb=123.5,
        runner="ONNX Runtime 1.32.0",
        model_sha256="ab" * 32,
        settings={
            "batch_size": 4, "runner": "ort", "min_map": min_map, "annotations_sha256": "d" * 64,
        },
        against=against,
        floor=judge(metrics, 48, min_map),
    )  # fmt: skip


JOB = EvaluationJob(ModelChoice())


def test_an_evaluation_is_a_run_with_all_its_figures() -> None:
    """The schema takes it; every figure is where a reader looks for it."""
    evaluation = evaluated(against=held(0.0, 0.1))
    found = evaluation_run(JOB, evaluation)
    check_run(found)
    (one,) = found["accuracy"]
    assert one["metrics"] == evaluation.metrics.values
    assert one["per_class"] == {"person": 0.5, "kite": None}
    assert one["undefined"] == {"APs": "none are small"}
    assert (one["runner"], one["backend"], one["batch"]) == ("ort", "ONNX Runtime 1.32.0", 4)
    assert (one["images"], one["images_total"], one["min_map"]) == (48, 48, 33.4)
    assert one["stages"]["inference"] == {
        "mean_ms": 4, "p50_ms": 2.5, "p90_ms": TIMES.p90_ms, "p99_ms": TIMES.p99_ms, "count": 4,
    }  # fmt: skip
    assert one["against"] == {
        "runner": "PyTorch", "metrics": metrics_of(0.34).values, "per_class": one["per_class"],
        "drop": 0.05, "low": 0.0, "high": 0.1, "max_drop": 0.2,
    }  # fmt: skip
    assert one["settings"]["model_sha256"] == "ab" * 32
    assert one["insight"] is None


def test_a_run_says_what_was_run_on_what(tmp_path: Path) -> None:
    """The command can be pasted; the hashes are those of the files, of images that were given."""
    found = evaluation_run(JOB, evaluated())
    assert [shlex.split(command) for command in found["commands"]] == [
        ["effd0", "evaluate", "--root", "my scenes"]
    ]
    weights = embedded.checkpoint()
    assert found["artefact"] == {
        "name": weights.name,
        "model_sha256": None,
        "checkpoint_sha256": sha256(weights),
        "dataset": {"name": "embedded", "images": 48, "sha256": "d" * 64},
    }
    model = tmp_path / "mine.onnx"
    model.write_bytes(b"a model")
    job = replace(JOB, choice=ModelChoice(model=model), root=tmp_path / "scenes", split="val")
    artefact = evaluation_run(job, evaluated())["artefact"]
    assert (artefact["name"], artefact["model_sha256"]) == ("mine.onnx", sha256(model))
    assert artefact["checkpoint_sha256"] is None
    assert artefact["dataset"]["name"] == "scenes val"


FLOOR, DROP = "effd0 evaluate: mAP reaches --min-map", "effd0 evaluate: mAP does not drop"


@pytest.mark.parametrize(
    ("evaluation", "status", "checks"),
    [
        pytest.param(evaluated(), "pass", [("passed", 33.6, 33.4, "%")], id="pass"),
        pytest.param(evaluated(0.3), "fail", [("failed", 30.0, 33.4, "%")], id="fail"),
        pytest.param(evaluated(min_map=None), "not gated", [], id="not-gated"),
        pytest.param(evaluated(None), "fail", [("failed", None, 33.4, "%")], id="undefined"),
        pytest.param(
            evaluated(min_map=None, against=held(0.3, 0.5)), "fail",
            [("failed", 0.4, 0.2, "points")], id="drops",
        ),
        pytest.param(
            evaluated(against=held(0.1, 0.3)), "undecided",
            [("passed", 33.6, 33.4, "%"), ("skipped", 0.2, 0.2, "points")], id="undecided",
        ),
    ],
)  # fmt: skip
def test_gates_are_checks(
    evaluation: Evaluation, status: str, checks: list[tuple[Any, ...]]
) -> None:
    """Each with its figure and what is allowed; together they say what the terminal says."""
    found = evaluation_run(JOB, evaluation)
    check_run(found)
    assert found["verdict"]["status"] == status == evaluation.verdict.status
    assert found["exit_status"] == (0 if evaluation.verdict.ok else 1)
    told = [(c["status"], c["figure"], c["tolerance"], c["unit"]) for c in found["checks"]]
    assert told == [(one[0], one[1] and pytest.approx(one[1]), *one[2:]) for one in checks]
    assert all(bool(c["evidence"]) == (c["status"] != "passed") for c in found["checks"])
    if status != "fail":
        assert found["verdict"]["evidence"] == evaluation.verdict.reason


RESULTS = ResultJob(Path("out/result"))


@pytest.mark.parametrize("given", [True, False], ids=["model-given", "model-unknown"])
def test_results_are_a_run_of_what_they_say_they_are(given: bool) -> None:
    """The model is the summary's; the batch, which nobody knows, does not keep it from pairing."""
    model = Path("mine.om") if given else None
    settings = {**evaluated().settings, "batch_size": None, "runner": "recorded"}
    digest = "ab" * 32 if given else UNKNOWN_MODEL
    evaluation = replace(evaluated(), settings=settings, model_sha256=digest)
    found = result_run(replace(RESULTS, model=model), evaluation)
    check_run(found)
    artefact = found["artefact"]
    assert artefact["name"] == ("mine.om" if given else "result")
    assert artefact["model_sha256"] == (digest if given else None)
    assert (artefact["checkpoint_sha256"], artefact["dataset"]["name"]) == (None, "embedded")
    (check,) = found["checks"]
    assert check["name"] == "effd0 postprocess: mAP reaches --min-map"
    other = copy.deepcopy(found)
    other["accuracy"][0]["batch"] = 1
    assert {pair.of for pair in compare_runs(found, other).metrics} == {"recorded, batch 1"}
    assert {pair.of for pair in compare_runs(other, found).metrics} == {"recorded"}


@pytest.mark.parametrize("min_map", [None, 33.4], ids=["not-gated", "gated"])
def test_results_without_a_detection_fail(min_map: float | None) -> None:
    """Nothing was recognised: that is a check of its own, whatever the floor."""
    bare = evaluated(0.0, min_map)
    evaluation = replace(
        bare, metrics=replace(bare.metrics, detections=0), verdict=Verdict("fail", "not one")
    )
    found = result_run(RESULTS, evaluation)
    check_run(found)
    first = found["checks"][0]
    assert (first["status"], first["figure"], first["evidence"]) == ("failed", 0, "not one")
    assert (found["verdict"]["status"], found["verdict"]["evidence"]) == ("fail", "not one")
    assert found["exit_status"] == 1


MACHINE = Fingerprint("a chip", "a processor", 2, "", "", "ONNX Runtime 1.32.0")
ROW = Row(
    "bench[ort]", NETWORK, 8, TIMES, MACHINE, 8, "fp32", "drawn scenes", "ab" * 32, "ort",
    notes=("warm",),
)  # fmt: skip
BENCHMARK = BenchmarkJob(ModelChoice())


def test_a_benchmark_is_a_run_of_times() -> None:
    """Samples and percentiles as measured, with chip and machine; nothing is gated."""
    found = benchmark_run(BENCHMARK, [ROW], Accuracy("ab" * 32, 0.336, 5000, 5000))
    check_run(found)
    (one,) = found["latency"]
    assert one["samples_ms"] == [1, 2, 3, 10]
    assert (one["p50_ms"], one["images_per_second"]) == (2.5, 3200)
    assert (one["runner"], one["precision"], one["batch"]) == ("ort", "fp32", 8)
    assert (one["chip"], one["dataset"], one["map"]) == ("a chip", "embedded", 0.336)
    assert one["setup"]["timed"] == NETWORK
    assert one["setup"]["fingerprint"]["cores"] == 2
    assert (found["verdict"]["status"], found["exit_status"]) == ("not gated", 0)
    assert found["artefact"]["dataset"] is None


def test_times_have_no_map_of_another_model() -> None:
    """The report of an evaluation counts for its own file alone."""
    found = benchmark_run(BENCHMARK, [ROW], Accuracy("00" * 32, 0.336, 5000, 5000))
    assert found["latency"][0]["map"] is None


@pytest.mark.parametrize("slower", [True, False], ids=["slower", "same"])
def test_a_slowdown_that_is_gated_is_a_check(slower: bool) -> None:
    """In turn with another model, by what the job allows."""
    ours = Latency(tuple(10 + 0.1 * (n % 3) for n in range(20)))
    rival = Rival("old", Latency(tuple(x / (2 if slower else 1) for x in ours.samples_ms)))
    row = replace(ROW, samples=ours, rival=rival)
    job = replace(BENCHMARK, against=Path("old.onnx"), max_slowdown=0.05)
    found = benchmark_run(job, [row])
    check_run(found)
    (one,) = found["checks"]
    assert (one["status"], found["exit_status"]) == (("failed", 1) if slower else ("passed", 0))
    assert one["figure"] == pytest.approx(100 if slower else 0)
    assert (one["tolerance"], one["unit"]) == (5, "% slower")
    assert found["verdict"]["status"] == ("fail" if slower else "pass")
    assert one["evidence"].endswith("times as long as old.onnx" if slower else "")


def test_the_environment_does_not_change_from_run_to_run() -> None:
    """Merged runs of one machine name it once: no load, date or command is in it."""
    part = environment_part()
    assert part["packages"]["numpy"] == "1.0"
    assert part["machine"]["cores"] >= 1
    assert not {"load", "date", "command", "packages"} & part["machine"].keys()
    merged = merge_runs([evaluation_run(JOB, evaluated()), evaluation_run(JOB, evaluated(0.3))])
    assert len(merged["environment"]) == 1


def not_drawn() -> dict[str, Any]:
    """Return what is to be seen of an evaluation without pictures."""
    return insight(0, drop=0.0, jitter=0.0, seed=0)


def session() -> SuiteRecord:
    """What a session found that ran two checks, two runners and the embedded scenes."""
    record = SuiteRecord([Check("gate", "t", True), Check("decode", "s", None, "needs coco")])
    record.parity.append(parity())
    record.note_dataset(load_coco(embedded.coco_root()), None, "")
    torch = evaluated()
    beside = replace(torch, runner="PyTorch", settings={**torch.settings, "runner": "torch"})
    record.keep(beside, not_drawn)
    record.keep(evaluated(), not_drawn)
    record.keep(evaluated(against=held(0.0, 0.1)), not_drawn)
    return record


GIVEN: dict[str, Path | None] = dict.fromkeys(("--model", "--checkpoint", "--results", "--bins"))


def test_a_session_is_a_run() -> None:
    """Checks with what was skipped, parity, the accuracy of each runner once, and the verdict."""
    found = session().to_run(GIVEN, "pytest -q", 0, [ROW])
    check_run(found)
    assert [check["status"] for check in found["checks"]] == ["passed", "skipped"]
    assert found["parity"] == [parity()]
    # What is held against a reference comes first.
    assert [one["runner"] for one in found["accuracy"]] == ["ort", "torch"]
    assert found["accuracy"][0]["against"]["drop"] == 0.05
    assert (found["commands"], found["verdict"]["status"]) == (["pytest -q"], "pass")
    assert len(found["latency"]) == 1
    scenes = load_coco(embedded.coco_root())
    assert found["artefact"]["dataset"] == {
        "name": "embedded", "images": len(scenes.samples), "sha256": sha256(scenes.annotation_file),
    }  # fmt: skip
    json.dumps(found, allow_nan=False)


def test_only_what_is_written_is_drawn() -> None:
    """Pictures are made once a run is, of what it holds; a comparison's replace those before."""
    record, alone, compared = SuiteRecord(), mock.Mock(), mock.Mock(side_effect=not_drawn)
    record.keep(evaluated(), alone)
    record.keep(evaluated(against=held(0.0, 0.1)), compared)
    compared.assert_not_called()
    found = record.to_run(GIVEN, "pytest", 0)
    check_run(found)
    assert [one["insight"] for one in found["accuracy"]] == [not_drawn()]
    compared.assert_called_once_with()
    alone.assert_not_called()


@pytest.mark.parametrize(
    ("options", "name"),
    [
        pytest.param(["--model", "--checkpoint"], "model.onnx", id="model"),
        pytest.param(["--checkpoint"], "checkpoint.onnx", id="checkpoint"),
        pytest.param(["--checkpoint", "--results"], "results.onnx", id="results"),
        pytest.param([], embedded.checkpoint().name, id="embedded"),
    ],
)
def test_a_session_is_called_by_what_is_under_test(
    options: list[str], name: str, tmp_path: Path
) -> None:
    """The model before what it is held against; hashes are of what was given."""
    given = dict(GIVEN)
    for option in options:
        given[option] = path = tmp_path / f"{option[2:]}.onnx"
        path.write_bytes(option.encode())
    artefact = session().to_run(given, "pytest", 0)["artefact"]
    assert artefact["name"] == name
    model, weights = given["--model"], given["--checkpoint"] or embedded.checkpoint()
    assert artefact["model_sha256"] == (None if model is None else sha256(model))
    assert artefact["checkpoint_sha256"] == sha256(weights)


@pytest.mark.parametrize("status", [2, 3, 4], ids=["interrupted", "internal-error", "usage"])
def test_a_session_that_was_cut_off_passes_nothing(status: int) -> None:
    """What held so far is told; a failure stays one."""
    record = session()
    found = record.to_run(GIVEN, "pytest", status)
    check_run(found)
    assert (found["verdict"]["status"], found["verdict"]["held"]) == ("undecided", ["gate"])
    assert "not all checks were run" in found["verdict"]["evidence"]
    record.checks.append(Check("runner", "t", False, "0.3 off"))
    failed = record.to_run(GIVEN, "pytest", status)["verdict"]
    assert (failed["status"], failed["evidence"]) == ("fail", "0.3 off")


@pytest.mark.parametrize("status", [0, 1, 5], ids=["passed", "failed", "nothing-collected"])
def test_a_session_that_ended_by_itself_is_judged_by_its_checks(status: int) -> None:
    """A failure among effd0's own tests is none of the artefact's."""
    assert session().to_run(GIVEN, "pytest", status)["verdict"]["status"] == "pass"


def test_a_session_of_benchmarks_is_not_gated() -> None:
    """Times without a baseline pass nothing, and say so."""
    found = SuiteRecord().to_run(GIVEN, "pytest benchmarks", 0, [ROW])
    assert (found["verdict"]["status"], found["artefact"]["dataset"]) == ("not gated", None)
    assert found["verdict"]["evidence"] == "times are not gated"


def test_the_summary_tells_heads_accuracy_and_verdict() -> None:
    """Skipped checks alone ask for no verdict, but an artefact that was given does."""
    record = SuiteRecord(parity=[parity(), parity("acl", None)], lines=["AP 61.5"])
    sections = record.sections(asked=True)
    assert sections["parity"] == [
        f"{runner}, 1 images: class P3 differs most from torch, {far}; computes like fp32"
        for runner, far in (("ort", "by 1e-05 (relative L2 1e-06)"), ("acl", "infinitely"))
    ]
    assert sections["accuracy"] == ["AP 61.5"]
    assert sections["verdict"][0].startswith("NONE")
    record.checks.append(Check("gate", "t", None, "needs coco"))
    assert record.sections(asked=False)["verdict"] == []
    record.checks.append(Check("gate", "t", True))
    assert record.sections(asked=False)["verdict"][0].startswith("PASS")


def test_an_evaluation_that_nobody_split_has_one_check_less() -> None:
    """Where the floor's own verdict is not known, no check claims it."""
    bare = replace(evaluated(), floor=None, verdict=Verdict("pass", "mAP is 33.6 %"))
    assert evaluation_run(JOB, bare)["checks"] == []
