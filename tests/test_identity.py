"""Tests for `effd0.evaluation.run_dir`: what is recorded of a run, and how a difference is told."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from effd0.data import fixture as embedded
from effd0.errors import ResultError
from effd0.evaluation.model import ModelChoice
from effd0.evaluation.run_dir import MANIFEST, differences, run_directory, run_identity, under_test
from effd0.io import sha256

from .helpers import SMALL, write_coco
from .rundir_runs import small_job


@pytest.fixture
def identity(tmp_path: Path) -> dict[str, Any]:
    """The identity of a small run of the embedded checkpoint, as JSON keeps it."""
    dataset = small_job(tmp_path, write_coco(tmp_path / "coco"), None).load()
    choice = ModelChoice(spec=SMALL)
    what = under_test(choice, embedded.checkpoint())
    made = run_identity(what, dataset, "fake", batch_size=2)
    kept: dict[str, Any] = json.loads(json.dumps(made))
    return kept


def changed_once(content: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return the dotted name of each value of *content*, and *content* with just it changed."""
    found: list[tuple[str, Any]] = []
    for key, value in content.items():
        inner: list[tuple[str, Any]] = [(key, "another")]
        if isinstance(value, dict):
            inner = [(f"{key}.{name}", v) for name, v in changed_once(value)]
        for name, new in inner:
            other = copy.deepcopy(content)
            other[key] = new
            found.append((name, other))
    return found


def test_nothing_differs_from_itself(identity: dict[str, Any]) -> None:
    """The same run again is the same, having been through a file."""
    assert differences(identity, copy.deepcopy(identity)) == []


def test_the_embedded_default_has_its_fingerprints(
    identity: dict[str, Any], tmp_path: Path
) -> None:
    """Weights and annotations that were not named are those of the run all the same."""
    assert identity["checkpoint_sha256"] == sha256(embedded.checkpoint())
    annotations = tmp_path / "coco" / "annotations" / "instances_val2017.json"
    assert identity["annotations_sha256"] == sha256(annotations)


def test_a_difference_in_any_key_is_refused(identity: dict[str, Any], tmp_path: Path) -> None:
    """There is no key that may differ, and the one that does is the one that is named."""
    changed = changed_once(identity)
    names = [name for name, _ in changed]
    wanted = {"model_sha256", "spec.levels", "settings.runner", "environment.packages.numpy"}
    assert wanted < set(names)
    for name, recorded in changed:
        folder = tmp_path / name
        folder.mkdir()
        (folder / MANIFEST).write_text(json.dumps(recorded))
        with (
            run_directory(folder, resume=True, say=lambda _: None) as place,
            pytest.raises(ResultError) as refused,
        ):
            place.start(identity, [10, 20, 30], 2)
        assert f"another run, whose {name} was another, but is" in str(refused.value)
        assert str(refused.value).count(", but is ") == 1
