"""Tests for `effd0.results`: checks become a verdict, and an accuracy becomes checks."""

import re
import shlex
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from effd0.cli.pytest_plugin import PATHS
from effd0.metrics.bootstrap import ClassDrop, PairedDrop
from effd0.metrics.detection_diff import DetectionParity
from effd0.metrics.summary import METRICS, CocoMetrics
from effd0.results.check import (
    EVIDENCE_LENGTH,
    NETWORK,
    STAGES,
    Broken,
    Check,
    Stage,
    class_drops,
    detected,
    drop,
    first_line,
    next_step,
    reason_of,
    threshold,
    verdict_of,
)

PASSED, SKIPPED = Check("runner", "a", "passed"), Check("gate", "s", "skipped", "needs coco")
FAILED = Check("decode", "b", "failed", "0.3 off", "BGR")
LATER = Check("gate", "c", "failed", "mAP is 3")
OPEN = Check("gate", "d", "undecided", "5 of 48 images")
GOOD = Check("gate", "e", "passed", "mAP is 34 %, at least 33 % was wanted")
MEASURED = Check("gate", "m", "skipped", "mAP is 34 %", figure=34.0)


@pytest.mark.parametrize(
    ("checks", "status", "stage", "evidence"),
    [
        pytest.param([PASSED, SKIPPED], "incomplete", None, "", id="incomplete"),
        pytest.param([PASSED, LATER, FAILED, OPEN], "fail", "decode", "0.3 off", id="fail"),
        pytest.param(
            [GOOD, OPEN], "undecided", None, "5 of 48 images; mAP is 34 %", id="undecided"
        ),
        pytest.param([SKIPPED], "not gated", None, "times have no threshold", id="skipped"),
        pytest.param([MEASURED], "not gated", None, "mAP is 34 %", id="measured-only"),
        pytest.param([], "not gated", None, "times have no threshold", id="nothing"),
    ],
)
def test_checks_become_a_verdict(
    checks: list[Check], status: str, stage: str | None, evidence: str
) -> None:
    """A failure decides, then what is open; what was skipped passes nothing."""
    found = verdict_of(checks, "times have no threshold")
    ok = status in ("incomplete", "not gated")
    assert (found.status, found.stage, found.ok) == (status, stage, ok)
    assert found.evidence.startswith(evidence)
    assert (found.diagnosis, found.later) == (("BGR", 1) if stage else ("", 0))
    # A stage that an undecided check is of did not pass.
    before = (PASSED, *(() if OPEN in checks else (GOOD,)))
    assert found.passed == tuple(one.stage for one in before if one in checks)


EVERY = [Check(stage, "t", "passed") for stage in STAGES]


@pytest.mark.parametrize(
    ("checks", "demo", "lacks", "status"),
    [
        pytest.param(EVERY, False, (), "pass", id="all-of-a-release"),
        pytest.param(EVERY, False, ("a release set",), "incomplete", id="other-images"),
        pytest.param(EVERY[:-1], False, (), "incomplete", id="no-gate"),
        pytest.param(EVERY, True, (), "demo", id="bundled"),
        pytest.param([*EVERY, OPEN], True, (), "undecided", id="bundled-undecided"),
        pytest.param([*EVERY, FAILED], True, (), "fail", id="bundled-failed"),
        pytest.param([SKIPPED], True, (), "not gated", id="bundled-untested"),
    ],
)
def test_only_a_whole_release_may_ship(
    checks: list[Check], demo: bool, lacks: tuple[str, ...], status: str
) -> None:
    """A build may ship where each stage passed, on a release set, and not of the bundled model."""
    found = verdict_of(checks, demo=demo, lacks=lacks)
    assert (found.status, found.headline == "MAY SHIP") == (status, status == "pass")
    assert found.lacks == (lacks if status == "incomplete" else ())


def test_the_verdict_in_words() -> None:
    """The first broken stage with its evidence and diagnosis; untested stages are named."""
    later = Check("runner", "test_heads", "failed", "0.4 off", "computed in bf16")
    first = Check("export", "test_weights", "failed", "0.3 off", "weight w: scaled by 1.02")
    dataset = Check("dataset", "d", "passed")
    assert verdict_of([later, first, dataset]).lines() == [
        "FAIL  MUST NOT SHIP: the first broken stage is export",
        "check      test_weights",
        "evidence   0.3 off",
        "diagnosis  weight w: scaled by 1.02",
        "before it  dataset passed; 1 more failed, which may follow from it",
        "not tested preprocess, checkpoint, graph, decode, nms, evaluate, gate",
    ]
    assert verdict_of([LATER]).lines()[3] == "before it  nothing passed; no other check failed"
    assert verdict_of([PASSED, dataset], lacks=["a release set"]).lines() == [
        "INCOMPLETE  What was tested passed, but not all was that a release needs.",
        "passed     dataset, runner",
        "not tested preprocess, checkpoint, export, graph, decode, nms, evaluate, gate",
        "lacks      a release set",
    ]
    assert verdict_of(EVERY).lines() == ["PASS  MAY SHIP: every stage passed, on the release set"]
    assert verdict_of([PASSED, OPEN]).lines()[0] == "UNDECIDED  5 of 48 images"
    assert verdict_of([SKIPPED]).lines() == [
        "NONE  nothing was tested, so nothing is known: no check of a stage was run"
    ]


@pytest.mark.parametrize(
    ("wrong", "options", "command"),
    [
        pytest.param(
            "graph", {"model": "my model.onnx", "checkpoint": "a.pth"},
            "effd0 bisect --model 'my model.onnx' --reference a.pth", id="graph",
        ),
        pytest.param(
            "export", {"model": "m.onnx"}, "effd0 bisect --model m.onnx --reference d0.pth",
            id="no-checkpoint",
        ),
        pytest.param(
            "preprocess", {"bins": "in", "coco": "c"},
            "effd0 preprocess --root c --bin-save inputs", id="inputs",
        ),
        pytest.param(
            "runner", {"model": "m.om"}, "effd0 check model.onnx --checkpoint d0.pth", id="board"
        ),
        pytest.param(
            "runner", {"model": "m.om", "onnx": "m.onnx"},
            "effd0 check m.onnx --checkpoint d0.pth", id="board-and-source",
        ),
        pytest.param(
            "gate", {"model": "m.onnx"},
            # A gate that fails makes evaluate exit with 1; the page is wanted then.
            "effd0 evaluate --model m.onnx --reference d0.pth --report-json gate.json; "
            "effd0 report gate.json --html gate.html", id="gate",
        ),
        pytest.param(
            "gate", {"detections": "d.json", "checkpoint": "a.pth"},
            "effd0 evaluate --checkpoint a.pth", id="detections",
        ),
        pytest.param(
            "undecided", {"model": "m.onnx"},
            "effd0 fetch coco --root coco_data && "
            "effd0 check m.onnx --checkpoint d0.pth --coco coco_data",
            id="too-few-images",
        ),
        pytest.param(
            "preprocess", {"results": "r", "coco": "c"},
            "effd0 preprocess --root c --bin-save inputs", id="inputs-of-results",
        ),
        pytest.param(
            "incomplete", {"score": "s.json"},
            "effd0 check --detections s.json --checkpoint d0.pth --coco coco_data", id="score",
        ),
        pytest.param(
            "undecided", {"results": "r", "coco": "c"},
            "effd0 fetch coco --root coco_data && "
            "effd0 preprocess --root coco_data --bin-save inputs", id="too-few-results",
        ),
        pytest.param(
            "incomplete", {"model": "m.onnx", "coco": "c", "min-map": "60"},
            "effd0 check m.onnx --checkpoint d0.pth --coco c --min-map 60 --release-set",
            id="own-threshold",
        ),
        pytest.param(
            "undecided", {"model": "m.onnx", "coco": "c", "min-map": "60", "threads": "2"},
            "effd0 fetch coco --root coco_data && "
            "effd0 check m.onnx --checkpoint d0.pth --threads 2 --coco coco_data",
            id="threshold-of-other-images",
        ),
        pytest.param(
            "runner", {"model": "m.onnx", "runner": "openvino"},
            "effd0 check m.onnx --runner ort --graph-optimization disable", id="other-runner",
        ),
        pytest.param(
            "export", {"model": "m.onnx", "checkpoint": "w.pth", "arch": "efficientdet_d1",
                       "image-size": "512x384"},
            "effd0 bisect --model m.onnx --reference w.pth --arch efficientdet_d1 "
            "--image-size 512x384", id="another-network",
        ),
        pytest.param(
            "preprocess", {"bins": "b", "arch": "efficientdet_d1", "num-classes": "5"},
            "effd0 preprocess --arch efficientdet_d1 --bin-save inputs", id="inputs-of-any-class",
        ),
        pytest.param(
            "dataset", {"checkpoint": "w.pth", "coco": "c", "num-classes": "5"},
            "effd0 evaluate --checkpoint w.pth --root c --num-classes 5 --runner torch --per-class",
            id="own-data",
        ),
        pytest.param(
            "incomplete", {"model": "m.onnx", "checkpoint": "w.pth", "num-classes": "5"},
            "effd0 check m.onnx --checkpoint w.pth --num-classes 5 --coco own_data --release-set",
            id="own-classes-without-images",
        ),
        pytest.param(
            "incomplete", {"model": "m.om", "coco": "c"},
            "effd0 check m.om --checkpoint d0.pth --coco c --onnx model.onnx --release-set",
            id="incomplete-board",
        ),
    ],
)  # fmt: skip
def test_the_next_step_is_made_of_what_was_given(
    wrong: str, options: dict[str, str], command: str
) -> None:
    """It is a command to be pasted, with the files of the session in it, spaces and all."""
    assert next_step(wrong, {f"--{name}": Path(path) for name, path in options.items()}) == command


@pytest.mark.parametrize("wrong", [*STAGES, "undecided", "limited", "incomplete", "demo"])
def test_every_next_step_is_a_command_that_exists(wrong: str) -> None:
    """Whatever was given, a stage has a next step, of known commands and options alone."""
    options = (*PATHS, "--score", "--num-classes")
    choices: list[dict[str, Path | None]] = [{}, {"--model": Path("m.om")}]
    choices += [{option: Path("x")} for option in options]
    choices += [{option: Path("x") for option in NETWORK}]
    page = (Path(__file__).parents[3] / "docs" / "options.md").read_text()
    for choice in choices:
        for command in re.split(" && |; ", next_step(wrong, choice)):
            program, *words = shlex.split(command)
            assert program == "effd0"
            title = f"effd0 {words[0]}"
            section = page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
            known = re.findall(r"--[a-z-]+", section)
            used = [word.partition("=")[0] for word in words if word.startswith("--")]
            assert known
            assert [option for option in used if option not in known] == []


def test_the_verdict_has_a_next_step_where_something_is_to_be_done() -> None:
    """It is the last line of a failure and of what is undecided; what passed needs none."""
    model: dict[str, Path | None] = {"--model": Path("m.onnx")}
    failed = verdict_of([FAILED], given=model)
    assert failed.lines()[-1] == "next step  effd0 check"
    few = verdict_of([PASSED, OPEN], given=model)
    assert few.lines()[-1].startswith("next step  effd0 fetch coco")
    limited = drop(PairedDrop(0.0, 0.0, 0.1, 500, 0.3, 0.3), 0.2, limited=True)
    assert verdict_of([limited], given=model).next_step == "effd0 check m.onnx"
    assert verdict_of(EVERY, given=model).next_step == verdict_of([FAILED]).next_step == ""


def test_a_drop_of_an_int8_build_is_explained_next(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What rounding costs is asked of a file that rounds; of others the evaluation says more."""
    monkeypatch.chdir(tmp_path)
    for op, command in (("QuantizeLinear", "explain-drop"), ("Relu", "evaluate")):
        node = helper.make_node(op, ["x", "s"] if op == "QuantizeLinear" else ["x"], ["y"])
        onnx.save(helper.make_model(helper.make_graph([node], "g", [], [])), "m.onnx")
        step = next_step("gate", {"--model": Path("m.onnx"), "--checkpoint": Path("d0.pth")})
        assert step.startswith(f"effd0 {command} ")


def test_what_a_stage_that_passed_notes_is_no_reason() -> None:
    """The reason of what is undecided is what is open, with the gate's figures."""
    noted = Check("dataset", "n", "passed", "boxes are of whole pixels")
    assert reason_of([noted, OPEN, GOOD]) == f"{OPEN.evidence}; {GOOD.evidence}"


GIVEN: list[dict[str, Path | str | None]] = [{}, {"--coco": Path("c")}]


@pytest.mark.parametrize(
    "more", ["", "--overwrite", "--resume"], ids=["as-it-was", "anew", "resumed-before"]
)
def test_a_run_that_was_stopped_is_resumed_as_it_was_typed(
    more: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next step is the same command, so that it finds what the run kept, once with --resume."""
    words = ["check", "my model.onnx", "--out", "gate", *([more] if more else [])]
    monkeypatch.setattr("sys.argv", ["/venv/bin/effd0", *words])
    cut = verdict_of([PASSED], cut_off="stopped", given={})
    assert cut.next_step == "effd0 check 'my model.onnx' --out gate --resume"
    # Below pytest's cache, detections of --coco are kept, and nothing else.
    monkeypatch.setattr("sys.argv", ["/venv/bin/effd0", "check"])
    kept = [verdict_of([PASSED], cut_off="stopped", given=given).next_step for given in GIVEN]
    assert kept == ["effd0 check", "effd0 check --resume"]


@given(st.lists(st.tuples(st.sampled_from(STAGES), st.booleans()), min_size=1, max_size=30))
def test_no_stage_before_the_broken_one_has_a_failure(found: list[tuple[Stage, bool]]) -> None:
    """What is said to have passed passed, and a failure anywhere is a failure of the whole."""
    verdict = verdict_of([Check(stage, "t", "passed" if ok else "failed") for stage, ok in found])
    failed = {stage for stage, passed in found if not passed}
    assert (verdict.stage is None) == (not failed)
    assert failed.isdisjoint(verdict.passed)
    if verdict.stage is not None:
        assert min(STAGES.index(stage) for stage in failed) == STAGES.index(verdict.stage)


def test_a_broken_check_says_its_evidence_first() -> None:
    """A traceback shows evidence, diagnosis and details, each on lines of its own."""
    broken = Broken("0.3 off", "BGR: it falls", "preprocess", ["class_p3 0.3", "box_p3 0.1"])
    assert str(broken) == "0.3 off\ndiagnosis: BGR: it falls\nclass_p3 0.3\nbox_p3 0.1"
    assert str(Broken("0.3 off")) == "0.3 off"
    assert isinstance(broken, AssertionError)
    assert first_line("AssertionError: off by 0.3\nassert 0.3 < 0.1") == "off by 0.3"
    assert first_line("x" * 1000) == "x" * (EVIDENCE_LENGTH - 3) + "..."


def metrics_of(ap: float | None, images: int = 10, detections: int = 321) -> CocoMetrics:
    """Metrics with one AP, or with AP undefined."""
    undefined = {} if ap is not None else {"AP": "undefined: no ground truth"}
    values = dict.fromkeys(METRICS, 0.25) | {"AP": ap}
    return CocoMetrics(values, {"person": 0.5, "car": None}, undefined, images, detections)


@pytest.mark.parametrize(
    ("ap", "min_map", "reachable", "images", "status", "evidence"),
    [
        pytest.param(0.336, 33.4, 0.0, 10, "passed", "mAP is 33.60 %, at least", id="above"),
        pytest.param(0.334, 33.4, None, 10, "passed", "mAP is 33.40 %, at least", id="met-exactly"),
        pytest.param(0.33399, 33.4, None, 10, "failed", "is 33.40 %, but at", id="met-by-rounding"),
        pytest.param(0.0, None, None, 10, "skipped", "no threshold was set (--min-map", id="none"),
        pytest.param(None, None, None, 10, "failed", "undefined: no ground truth", id="undefined"),
        pytest.param(1.0, 33.4, None, 9, "undecided", "run without --image-limit", id="limited"),
        pytest.param(0.0, 33.4, 0.33, 9, "failed", "it would be 33.00 %", id="out-of-reach"),
        pytest.param(
            0.0, 33.4, 0.334 - 1e-12, 9, "undecided", "run without", id="out-of-reach-by-rounding"
        ),
        pytest.param(
            0.0, 33.4, float("nan"), 9, "undecided", "run without", id="nothing-to-find-in-the-rest"
        ),
    ],
)  # fmt: skip
def test_map_is_compared_with_its_threshold(
    ap: float | None,
    min_map: float | None,
    reachable: float | None,
    images: int,
    status: str,
    evidence: str,
) -> None:
    """The full figure decides, not the rounded one; a limited run fails early and never passes."""
    check = threshold(metrics_of(ap, images), 10, min_map, reachable)
    assert (check.status, check.tolerance, check.unit) == (status, min_map, "%")
    assert check.figure == (None if ap is None else 100 * ap)
    assert evidence in check.evidence
    assert ("on the first 9 of 10 images by id" in check.evidence) == (images == 9)


@pytest.mark.parametrize(
    ("low", "high", "images", "limited", "status", "evidence"),
    [
        pytest.param(0.0, 0.1, 5000, False, "passed", "0.05 points", id="below"),
        pytest.param(0.3, 0.5, 5000, False, "failed", "at most 0.20 points were", id="above"),
        pytest.param(
            0.1, 0.3, 5000, False, "undecided",
            "(95 % interval 0.10 to 0.30, 5000 images), but the 0.20 points allowed lie within",
            id="across",
        ),
        pytest.param(0.0, 0.1, 500, True, "undecided", "run without --image-limit", id="limited"),
        pytest.param(0.3, 0.5, 500, True, "failed", "mAP drops by 0.40", id="limited-and-above"),
        pytest.param(
            0.0, 0.0, 10, False, "undecided", "fewer than 30 images decide nothing", id="few"
        ),
    ],
)  # fmt: skip
def test_the_whole_interval_of_a_drop_decides(
    low: float, high: float, images: int, limited: bool, status: str, evidence: str
) -> None:
    """A part of the images can show too much is lost, not that all is well; its end is shown."""
    found = PairedDrop((low + high) / 2, low, high, images, 0.34, 0.335)
    check = drop(found, 0.2, limited=limited)
    assert (check.status, check.figure, check.tolerance) == (status, high, 0.2)
    assert evidence in check.evidence
    assert "points against the reference" in check.evidence


def parity_of(missing: int, score: float) -> DetectionParity:
    """Return 1000 detections of the reference, so many without a partner, scores so far apart."""
    spread = (score / 10, score, 0.3)
    matched = 1000 - missing
    return DetectionParity(80, matched, missing, missing, spread, (1.0, 0.99, 0.5), ())


@pytest.mark.parametrize(
    ("low", "points", "parity", "status"),
    [
        pytest.param(0.0, 0.14, parity_of(5, 0.0015), "passed", id="rounding-alone"),
        pytest.param(0.0, 0.21, parity_of(5, 0.0015), "undecided", id="drop-itself-above"),
        pytest.param(0.0, 0.14, parity_of(11, 0.0015), "undecided", id="detections-lost"),
        pytest.param(0.0, 0.14, parity_of(5, 0.006), "undecided", id="scores-apart"),
        pytest.param(0.21, 0.14, parity_of(0, 0.0), "failed", id="interval-above"),
    ],
)
def test_detections_decide_where_the_interval_does_not(
    low: float, points: float, parity: DetectionParity, status: str
) -> None:
    """They pass a build that loses no more than allowed and has them but for rounding."""
    found = PairedDrop(points, low, 0.25, 80, 0.34, 0.335)
    assert drop(found, 0.2, parity, limited=False).status == status
    limited = drop(found, 0.2, parity, limited=True)
    assert limited.status == ("failed" if status == "failed" else "undecided")


@pytest.mark.parametrize(
    ("limit", "status", "evidence"),
    [
        (10.0, "failed", "1 classes surely lose more than 10.00 points: frisbee 43.0 (20.0 to"),
        (25.0, "passed", "no class surely loses more than 25.00 points; those that lose most are "),
    ],
    ids=["above", "within-the-interval"],
)
def test_a_class_fails_that_surely_loses_more(limit: float, status: str, evidence: str) -> None:
    """The lower end of a class's interval decides, not its mean."""
    classes = ClassDrop("frisbee", 43.0, 20.0, 60.0), ClassDrop("cup", 11.0, -2.0, 30.0)
    check = class_drops(PairedDrop(0.1, 0.0, 0.2, 80, 0.3, 0.3, classes), limit)
    assert (check.status, check.figure, check.stage) == (status, 20.0, "gate")
    assert check.evidence.startswith(evidence)


def test_a_model_that_detects_nothing_fails() -> None:
    """Nothing was recognised, whatever the threshold."""
    assert detected(metrics_of(0.0)).status == "passed"
    check = detected(metrics_of(0.0, detections=0))
    assert (check.status, check.figure) == ("failed", 0)
    assert check.evidence.startswith("not one detection in 10 images")
