"""Tests for `effd0.cli.judge`: bisect on models; merge and compare on run files."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from effd0.data import fixture as embedded
from effd0.data.coco import load_coco
from effd0.results.run import Run, merge_runs, read_run, write_run
from tests.helpers import assert_one_error, effd0
from tests.helpers.onnx_models import nodes_of, parsed, scaled
from tests.helpers.runs import accuracy, check, latency, run, verdict

GRAPH = """
strided (float[1,3,512,512] x, float[4,3,8,8] w) => (float[1,4,64,64] y) {
  a = Conv<strides=[8,8]>(x, w)
  y = Sigmoid(a)
}
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder with a green run."""
    monkeypatch.chdir(tmp_path)
    save("base.json")


def save(name: str, **parts: Any) -> Run:
    """Write a run with these *parts* to the file *name*; return it."""
    content = run(**parts)
    write_run(Path(name), content)
    return content


def words(text: str) -> str:
    """The *text* without what tables are drawn with."""
    return " ".join(text.split())


@pytest.fixture
def models() -> None:
    """Files good.onnx and bad.onnx, two nodes that take a D0's input; one's weights are scaled."""
    model = parsed(GRAPH)
    weight = np.random.default_rng(0).standard_normal((4, 3, 8, 8), np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight / 10, "w"))
    del model.graph.input[1:]
    for node, name in zip(model.graph.node, ("first", "last"), strict=True):
        node.name = name
    onnx.save(model, "good.onnx")
    scaled(model, nodes_of(model, "Conv")[0])
    onnx.save(model, "bad.onnx")


@pytest.mark.usefixtures("models")
def test_bisect_shows_and_writes_a_difference() -> None:
    """The node, its error and its weight are on the terminal and in the JSON; the code is 1."""
    given = ("--model", "bad.onnx", "--reference", "good.onnx", "--json", "finding.json")
    outcome = effd0("bisect", *given)
    assert outcome.code == 1
    assert "2 of 2 nodes have a partner" in outcome.out
    assert re.search("first: Conv first: .*scaled by 1.02.*; what it reads is off by", outcome.out)
    content = json.loads(Path("finding.json").read_text())
    assert content["status"] == "differs"
    assert content["suspects"][0]["node"] == "first"
    assert content["suspects"][0]["input_shapes"] == [[1, 3, 512, 512]]
    # All weights are 2 % too large, and a convolution without bias is linear in them.
    assert content["suspects"][0]["error"] == pytest.approx(0.02, rel=1e-3)


@pytest.mark.usefixtures("models")
def test_bisect_of_a_model_and_itself_is_success() -> None:
    """On a picture of one's own, no difference ends with code 0."""
    picture = load_coco(embedded.coco_root(), image_limit=1).samples[0].path
    given = ("--model", "bad.onnx", "--reference", "bad.onnx", "--image", picture)
    outcome = effd0("bisect", *given)
    assert outcome.code == 0
    assert "SAME  all that both compute agrees up to float noise" in outcome.out


def test_merge_writes_what_merging_gives() -> None:
    """In the order of the arguments; a broken stage is told, but merging is no gate: code 0."""
    failed = [check("runner", "failed", evidence="runner is off by 3")]
    runs = [save("a.json", latency=[]), save("b.json", commands=["effd0 b"], checks=failed)]
    outcome = effd0("merge", "a.json", "b.json", "--out", "new/run.json")
    assert outcome.code == 0, outcome.err
    assert read_run(Path("new/run.json")) == merge_runs(runs)
    assert "wrote new/run.json: 2 runs; checks " in outcome.out
    assert "FAIL in runner runner is off by 3" in words(outcome.out)


@pytest.mark.parametrize("command", ["merge", "compare"])
def test_what_is_no_run_is_bad_input(command: str) -> None:
    """Code 2, what to do, and nothing is written."""
    Path("found.json").write_text('[{"image_id": 1, "category_id": 1}]')
    more = ("--out", "run.json") if command == "merge" else ()
    message = r"found\.json is no JSON object .*, but a run file was wanted; write one with"
    assert_one_error(message, command, "base.json", "found.json", *more)
    assert not Path("run.json").exists()


def test_no_worse_is_success() -> None:
    """Every figure stands beside its partner; exit code 0."""
    save("new.json", accuracy=[accuracy(0.346, per_class={"person": 0.5})], latency=[latency(9.9)])
    outcome = effd0("compare", "base.json", "new.json")
    assert outcome.code == 0, outcome.out
    shown = words(outcome.out)
    assert "ort, batch 1 AP 33.60 34.60 +1.00" in shown
    assert "ort, batch 1 APs undefined undefined" in shown
    assert "ort, batch 1 person 33.60 50.00 +16.40" in shown
    assert "ort, batch 1 max abs 1e-05 1e-05 +0" in shown
    assert "ort, fp32, batch 1, input to heads, embedded 100.00 101.01 0.99 (" in shown
    assert "NO WORSE no figure of both runs is worse" in shown


@pytest.mark.parametrize(
    ("parts", "shown"),
    [
        (
            {"accuracy": [accuracy(0.3)], "latency": [latency(20.0)]},
            r"WORSE mAP of ort, .* drops by 3\.60 points, 0\.20 are .* also: ort, .* takes 2 \(",
        ),
        ({"accuracy": []}, "UNDECIDED the baseline has an mAP, but the candidate has none"),
    ],
    ids=["worse", "undecided"],
)
def test_worse_or_undecided_is_no_success(parts: dict[str, Any], shown: str) -> None:
    """Exit code 1, the first reason behind the word, the others below."""
    save("new.json", **parts)
    outcome = effd0("compare", "base.json", "new.json")
    assert outcome.code == 1
    assert re.search(shown, words(outcome.out))


@pytest.mark.parametrize(
    ("part", "option", "code"),
    [
        ({"accuracy": [accuracy(0.33)]}, ("--max-drop", 0.5), 1),
        ({"accuracy": [accuracy(0.33)]}, ("--max-drop", 0.7), 0),
        ({"latency": [latency(11.0)]}, ("--max-slowdown", 8), 1),
        ({"latency": [latency(11.0)]}, ("--max-slowdown", 12), 0),
    ],
    ids=["drop", "drop-allowed", "slowdown", "slow-allowed"],
)
def test_what_is_allowed_is_an_option(
    part: dict[str, Any], option: tuple[str, float], code: int
) -> None:
    """Points of mAP, and percent of time."""
    save("new.json", **part)
    assert effd0("compare", "base.json", "new.json", *option).code == code


def test_names_are_shown_as_they_are() -> None:
    """A class or an evidence that looks like markup is text."""
    odd = accuracy(per_class={"[red]person[/]": 0.2, "person": 0.336})
    save("old.json", accuracy=[accuracy(per_class={"[red]person[/]": 0.1})])
    save("new.json", accuracy=[odd], verdict=verdict(evidence="[bold]fine[/bold]"))
    out = effd0("compare", "old.json", "new.json").out
    assert "[red]person[/]" in out
    assert "[bold]fine[/bold]" in out


def test_a_report_needs_a_place() -> None:
    """Without a page and without Markdown there is nothing to write."""
    assert_one_error("neither --html nor --markdown is given; name a file", "report", "base.json")


def test_a_report_is_written_in_both_forms() -> None:
    """Page and Markdown are of the same run, beside the same baseline."""
    given = ("--html", "a.html", "--markdown", "a.md", "--baseline", "base.json")
    outcome = effd0("report", "base.json", *given)
    assert outcome.code == 0, outcome.err
    assert "wrote a.html and a.md: PASS" in outcome.out
    assert "### Candidate against baseline: NO WORSE" in Path("a.md").read_text()
    assert "<h1" in Path("a.html").read_text()
