"""Tests for `effd0.runfile.merge`: runs of one artefact become one, others are refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from effd0.errors import RunFileError
from effd0.runfile import check_run, merge_runs

from .runs import ANNOTATIONS, CHECKPOINT, MODEL, accuracy, artefact, check, latency, parity, run
from .runs import verdict as verdict_of

OTHER = "e" * 64


def alone(kind: str, **parts: Any) -> dict[str, Any]:
    """A run that has one *kind* of result only."""
    empty: dict[str, Any] = {key: [] for key in ("checks", "parity", "accuracy", "latency")}
    return run(**{**empty, kind: run()[kind], **parts})


def test_three_runs_become_one() -> None:
    """Each kind of result is there as it was, and so are all commands."""
    runs = [
        alone(kind, commands=[f"pytest {kind}"])
        for kind in ("checks", "parity", "accuracy", "latency")
    ]
    merged = merge_runs(runs)
    check_run(merged)
    assert {key: merged[key] for key in ("checks", "parity", "accuracy", "latency")} == {
        key: run()[key] for key in ("checks", "parity", "accuracy", "latency")
    }
    assert merged["commands"] == [
        "pytest checks", "pytest parity", "pytest accuracy", "pytest latency",
    ]  # fmt: skip


def test_merging_changes_no_run() -> None:
    """The runs that were read are what they were."""
    runs = [alone("parity"), alone("latency", artefact=artefact(dataset=None))]
    before = copy.deepcopy(runs)
    merge_runs(runs)
    merge_runs(runs[::-1])
    assert runs == before


def test_one_run_merged_is_itself() -> None:
    """Merging adds nothing of its own."""
    assert merge_runs([run()]) == run()


def test_what_is_the_same_is_there_once() -> None:
    """A run that is given twice counts once; a second machine stands beside the first."""
    board = {"machine": {"cpu": "a board"}, "packages": {"numpy": None}}
    merged = merge_runs([run(), run(), run(environment=[board])])
    assert merged["environment"] == [*run()["environment"], board]
    assert [len(merged[key]) for key in ("commands", "checks", "latency")] == [1, 3, 1]


def test_the_last_date_and_the_worst_exit_stand() -> None:
    """A part that failed is not hidden by those that did not."""
    old = run(created="2026-11-24T07:00:00+00:00", exit_status=1)
    merged = merge_runs([old, run()])
    assert (merged["created"], merged["exit_status"]) == ("2026-11-25T07:00:00+00:00", 1)
    assert merge_runs([run(), old])["exit_status"] == 1


def test_a_failure_of_one_is_a_failure_of_the_whole() -> None:
    """The gravest verdict stands with the stage that broke."""
    broken = run(verdict=verdict_of("fail", "runner"), checks=[check("runner", "failed")])
    merged = merge_runs([run(), broken])
    assert (merged["verdict"]["status"], merged["verdict"]["stage"]) == ("fail", "runner")


def test_what_one_run_knows_of_the_artefact_the_whole_knows() -> None:
    """Times need no data set, and a model may hold its own weights."""
    bare = artefact(checkpoint_sha256=None, dataset=None)
    for runs in ([run(artefact=bare), run()], [run(), run(artefact=bare)]):
        merged = merge_runs(runs)["artefact"]
        assert merged == artefact()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        pytest.param(
            artefact(model_sha256=OTHER),
            r"b\.json is of the model eeeeeeeeeeee, but a\.json of aaaaaaaaaaaa; only", id="model",
        ),
        pytest.param(
            artefact(model_sha256=None),
            r"b\.json is of the model \(none given\), but a\.json of aaaaaaaaaaaa", id="no-model",
        ),
        pytest.param(
            artefact(checkpoint_sha256=OTHER),
            r"b\.json is of the checkpoint eeeeeeeeeeee, but a\.json of cccccccccccc",
            id="checkpoint",
        ),
        pytest.param(
            artefact(dataset={"name": "val2017", "images": 100, "sha256": ANNOTATIONS}),
            r"dataset val2017 \(100 images, annotations dddddddddddd\), but a\.json of val2017 "
            r"\(5000 images, annotations dddddddddddd\)",
            id="fewer-images",
        ),
        pytest.param(
            artefact(dataset={"name": "val2017", "images": 5000, "sha256": None}),
            r"annotations unknown\), but a\.json of val2017", id="unknown-images",
        ),
    ],
)  # fmt: skip
def test_another_artefact_is_refused_with_both_values(other: Any, message: str) -> None:
    """Nobody's accuracy is shown beside another model's times."""
    with pytest.raises(RunFileError, match=message):
        merge_runs([run(), run(artefact=other)], ["a.json", "b.json"])


def test_who_said_it_is_told() -> None:
    """Where the second run named the checkpoint, the third is held against that one."""
    runs = [
        run(artefact=artefact(checkpoint_sha256=None)),
        run(artefact=artefact()),
        run(artefact=artefact(checkpoint_sha256=OTHER)),
    ]
    with pytest.raises(RunFileError, match=r"c is of the checkpoint e+, but b of c+; only"):
        merge_runs(runs, ["a", "b", "c"])


def test_runs_of_nothing_known_are_refused() -> None:
    """Where no hash says that two runs are of one artefact, they may not be."""
    unknown = artefact(model_sha256=None, checkpoint_sha256=None)
    with pytest.raises(RunFileError, match="run 2 and run 1 name no model and no checkpoint"):
        merge_runs([run(artefact=unknown)] * 2)
    with pytest.raises(RunFileError, match="name no model and no checkpoint"):
        merge_runs([run(artefact={**unknown, "checkpoint_sha256": CHECKPOINT}),
                    run(artefact=unknown)])  # fmt: skip


def test_a_checkpoint_alone_is_an_artefact() -> None:
    """Where no model was given, the weights are what was under test."""
    weights = artefact(model_sha256=None)
    merged = merge_runs([run(artefact=weights), run(artefact={**weights, "dataset": None})])
    assert merged["artefact"] == weights
    assert MODEL not in str(merged["artefact"])


def test_nothing_to_merge_is_told() -> None:
    """An empty list is no run."""
    with pytest.raises(RunFileError, match="no run is given to merge"):
        merge_runs([])


def test_entries_that_differ_are_all_kept() -> None:
    """Two batches, two runners: four entries."""
    merged = merge_runs([
        run(accuracy=[accuracy()], parity=[parity()], latency=[latency(batch=1)]),
        run(accuracy=[accuracy(0.33, "acl")], parity=[parity("acl")], latency=[latency(batch=8)]),
    ])  # fmt: skip
    assert [one["runner"] for one in merged["accuracy"]] == ["ort", "acl"]
    assert [one["runner"] for one in merged["parity"]] == ["ort", "acl"]
    assert [one["batch"] for one in merged["latency"]] == [1, 8]
