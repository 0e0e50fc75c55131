"""Tests for `effd0.cli`: merge and compare, on run files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from effd0.results.run import Run, merge_runs, read_run, write_run
from tests.helpers import assert_one_error, effd0
from tests.helpers.runs import accuracy, artefact, check, latency, run, verdict


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


def test_merge_writes_what_merging_gives() -> None:
    """In the order of the arguments; the verdict is told."""
    runs = [save("a.json", latency=[]), save("b.json", accuracy=[], commands=["effd0 benchmark"])]
    outcome = effd0("merge", "a.json", "b.json", "--out", "new/run.json")
    assert outcome.code == 0, outcome.err
    assert read_run(Path("new/run.json")) == merge_runs(runs)
    assert "wrote new/run.json: 2 runs; checks 3, parity 1, accuracy 1" in outcome.out
    assert "PASS" in outcome.out


def test_merge_tells_a_failure_but_is_no_gate() -> None:
    """It did what it was asked to: exit code 0, and the stage that broke."""
    save("b.json", checks=[check("runner", "failed", evidence="runner is off by 3")])
    outcome = effd0("merge", "base.json", "b.json", "--out", "run.json")
    assert outcome.code == 0
    assert "FAIL in runner runner is off by 3" in words(outcome.out)


def test_merge_of_two_models_is_refused() -> None:
    """The message names the files and both values, and nothing is written."""
    save("b.json", artefact=artefact(model_sha256="e" * 64))
    message = r"RunFileError: b\.json is of the model e{12}, but base\.json of a{12}; only runs"
    assert_one_error(message, "merge", "base.json", "b.json", "--out", "run.json")
    assert not Path("run.json").exists()


@pytest.mark.parametrize("command", ["merge", "compare"])
def test_what_is_no_run_is_bad_input(command: str) -> None:
    """Code 2, and what to do."""
    Path("found.json").write_text('[{"image_id": 1, "category_id": 1}]')
    more = ("--out", "run.json") if command == "merge" else ()
    message = r"found\.json holds a JSON list, but a run file was wanted; write one with"
    assert_one_error(message, command, "base.json", "found.json", *more)


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


def test_worse_is_told_with_all_reasons() -> None:
    """Exit code 1, the first reason behind the word, the others below."""
    save("new.json", accuracy=[accuracy(0.3)], latency=[latency(20.0)])
    outcome = effd0("compare", "base.json", "new.json")
    assert outcome.code == 1
    shown = words(outcome.out)
    assert "WORSE mAP of ort, batch 1 drops by 3.60 points, 0.20 are allowed" in shown
    assert "also: ort, fp32, batch 1, input to heads, embedded takes 2 (" in shown


def test_undecided_is_no_success() -> None:
    """What was not measured may have been lost: exit code 1, and the word says so."""
    save("new.json", accuracy=[])
    outcome = effd0("compare", "base.json", "new.json")
    assert outcome.code == 1
    assert "UNDECIDED the baseline has an mAP, but the candidate has none" in words(outcome.out)
    assert "baseline alone: mAP of ort, batch 1" in outcome.out


@pytest.mark.parametrize(
    ("part", "option", "code"),
    [
        pytest.param({"accuracy": [accuracy(0.33)]}, ("--max-drop", 0.5), 1, id="drop"),
        pytest.param({"accuracy": [accuracy(0.33)]}, ("--max-drop", 0.7), 0, id="drop-allowed"),
        pytest.param({"latency": [latency(11.0)]}, ("--max-slowdown", 8), 1, id="slowdown"),
        pytest.param({"latency": [latency(11.0)]}, ("--max-slowdown", 12), 0, id="slow-allowed"),
    ],
)
def test_what_is_allowed_is_an_option(
    part: dict[str, Any], option: tuple[str, float], code: int
) -> None:
    """Points of mAP, and per cent of time."""
    save("new.json", **part)
    assert effd0("compare", "base.json", "new.json", *option).code == code


def test_runs_on_other_images_are_bad_input() -> None:
    """Code 2: that is no verdict on the candidate."""
    dataset = {"name": "mine", "images": 3, "sha256": None}
    save("new.json", artefact=artefact(dataset=dataset))
    message = "RunFileError: the candidate was measured on 3 images of mine"
    assert_one_error(message, "compare", "base.json", "new.json")


def test_names_are_shown_as_they_are() -> None:
    """A class or an evidence that looks like markup is text."""
    odd = accuracy(per_class={"[red]person[/]": 0.2, "person": 0.336})
    save("old.json", accuracy=[accuracy(per_class={"[red]person[/]": 0.1})])
    save("new.json", accuracy=[odd], verdict=verdict(evidence="[bold]fine[/bold]"))
    out = effd0("compare", "old.json", "new.json").out
    assert "[red]person[/]" in out
    assert "[bold]fine[/bold]" in out
