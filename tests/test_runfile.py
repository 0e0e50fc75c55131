"""Tests for `effd0.runfile`: what is written is valid, and what is read is a run or an error."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from effd0.errors import OutputError, RunFileError
from effd0.metrics.summary import METRICS
from effd0.runfile import SCHEMA, Run, read_run, write_run
from effd0.runfile.schema import PATH
from effd0.stages import STAGES

from .runs import accuracy, check, run, verdict

SPEC = json.loads(PATH.read_text())


def changed(path: str, value: Any) -> Run:
    """A run in which the key at *path*, as in ``accuracy.0.runner``, is *value*."""
    content = copy.deepcopy(run())
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    inner: Any = content
    for part in parents:
        inner = inner[part]
    inner[last] = value
    return content


def test_the_schema_is_one() -> None:
    """The schema itself is valid JSON Schema, for readers in other languages."""
    Draft202012Validator.check_schema(SPEC)


def test_the_schema_names_what_the_code_does() -> None:
    """A stage or a number of COCO's that the code has is in the schema, and none beside it."""
    assert SPEC["$defs"]["stage"]["enum"] == list(STAGES)
    assert list(SPEC["$defs"]["metrics"]["properties"]) == list(METRICS)
    assert SPEC["properties"]["schema"]["const"] == SCHEMA


def test_the_page_explains_every_key() -> None:
    """A key that is in the schema and not in docs/run-json.md would be guessed at."""
    page = (Path(__file__).parents[1] / "docs" / "run-json.md").read_text()
    told = ("artefact", "dataset", "environment", "verdict", "check", "parity", "head", "accuracy")
    parts = [SPEC, *(SPEC["$defs"][name] for name in (*told, "against", "latency"))]
    keys = {key for part in parts for key in part["properties"]}
    assert [key for key in sorted(keys) if f"`{key}`" not in page] == []


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """A run comes back as it went, names in any script too."""
    content = run(artefact={**run()["artefact"], "name": "模型 <b>.onnx"})
    write_run(tmp_path / "new" / "run.json", content)
    assert read_run(tmp_path / "new" / "run.json") == content
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["run.json"]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        pytest.param(
            "accuracy.0.metrics.AP", math.nan,
            r"accuracy\[0\]\.metrics\.AP is nan, but a finite number, or null", id="nan",
        ),
        pytest.param(
            "parity.0.heads.1.max_abs", math.inf,
            r"parity\[0\]\.heads\[1\]\.max_abs is inf, but a finite number", id="infinite",
        ),
        pytest.param(
            "acuracy", [], r"the whole is .*, but acuracy is not known there; .*accuracy", id="typo"
        ),
        pytest.param(
            "verdict.status", "passed",
            r'verdict\.status is "passed", but one of pass, fail, undecided, not gated was wanted',
            id="status",
        ),
        pytest.param(
            "checks.0", {"stage": "gate"},
            r'checks\[0\] is {"stage": "gate"}, but it lacks name, status', id="lacking",
        ),
        pytest.param(
            "accuracy.0.runner", 3, r"accuracy\[0\]\.runner is 3, but string was wanted", id="type"
        ),
        pytest.param(
            "accuracy.0.batch", 0, r"accuracy\[0\]\.batch is 0, but at least 1 was", id="zero"
        ),
        pytest.param(
            "accuracy.0.metrics.AP", 33.6,
            r"accuracy\[0\]\.metrics\.AP is 33\.6, but at most 1 was wanted", id="percent",
        ),
        pytest.param(
            "artefact.model_sha256", "abc",
            r'artefact\.model_sha256 is "abc", but text like .* was wanted', id="hash",
        ),
        pytest.param(
            "latency.0.samples_ms.0", 0.0,
            r"latency\[0\]\.samples_ms\[0\] is 0\.0, but more than 0 was wanted", id="sample",
        ),
        pytest.param(
            "schema", 3, r"schema is 3, but 2 was wanted", id="schema"
        ),
    ],
)  # fmt: skip
def test_what_is_invalid_is_not_written(
    path: str, value: Any, message: str, tmp_path: Path
) -> None:
    """The message leads to the key; nothing is left behind."""
    with pytest.raises(RunFileError, match=message):
        write_run(tmp_path / "run.json", changed(path, value))
    assert list(tmp_path.iterdir()) == []


def test_what_is_invalid_is_not_read(tmp_path: Path) -> None:
    """A run that was edited by hand is told with its file, the key, and the next step."""
    path = tmp_path / "run.json"
    path.write_text(json.dumps(changed("accuracy.0.batch", "one")))
    message = (
        r"run\.json is invalid: accuracy\[0\]\.batch is \"one\", "
        r"but integer or null was wanted; write"
    )
    with pytest.raises(RunFileError, match=message):
        read_run(path)


def test_a_place_that_takes_no_file_is_told(tmp_path: Path) -> None:
    """As for all results."""
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="choose another place"):
        write_run(tmp_path / "file" / "run.json", run())


WHOLE = json.dumps(run())
FOREIGN = [
    pytest.param("", "is empty, but a run file was wanted; write one with", id="empty"),
    pytest.param("mAP 33.6", r"is not JSON \(Expecting value.*\), but a run", id="text"),
    pytest.param('{"format": effd0}', r"is not JSON \(Expecting value.*\)", id="no-json"),
    pytest.param(b"\x80\x81", r"is not JSON \(.*decode.*\)", id="binary"),
    pytest.param(WHOLE[:500], "ends in the middle, as if writing it was cut off", id="cut-off"),
    pytest.param(WHOLE[: WHOLE.index("}") + 1], "ends in the middle, as if", id="cut-at-bracket"),
    pytest.param(
        json.dumps([{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5}]),
        "is a COCO results file, but a run file was wanted", id="coco-results",
    ),
    pytest.param('{"images": [], "annotations": []}', "is an annotation file of COCO", id="coco"),
    pytest.param("[]", "holds a list, but a run file", id="list"),
    pytest.param("33.6", r"holds float '33\.6', but a run file", id="number"),
    pytest.param('{"b": 1, "a": 2}', "is JSON of another kind, with a, b, but", id="object"),
    pytest.param("{}", "is JSON of another kind, with no key, but", id="no-key"),
    pytest.param(
        '{"schema": 1, "verdict": {}, "checks": []}', "is a run in schema 1, of an effd0 before",
        id="schema-1",
    ),
    pytest.param(
        '{"schema": 1, "verdict": {}, "metrics": {}, "per_class": {}}',
        "is an evaluation, as 'effd0 evaluate --json' writes it, but a run", id="evaluation",
    ),
    pytest.param(
        '{"machine_info": {}, "benchmarks": []}', "is saved benchmarks, as --benchmark-json",
        id="benchmarks",
    ),
    pytest.param(
        '{"format": "effd0 run", "schema": 3}',
        "is a run in schema 3, but this effd0 reads 2; install a newer effd0", id="newer",
    ),
    pytest.param(
        '{"format": "effd0 run"}', "is a run in schema None, but this effd0 reads 2; run it again",
        id="no-version",
    ),
    pytest.param(
        WHOLE.replace('"min_map": 33.4', '"min_map": NaN'),
        r"accuracy\[0\]\.min_map is nan, but a finite number", id="nan",
    ),
    pytest.param(
        WHOLE.replace('"min_map": 33.4', '"min_map": 1e999'),
        r"accuracy\[0\]\.min_map is inf, but a finite number", id="too-large",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("content", "message"), FOREIGN)
def test_another_file_is_told_by_what_it_is(
    content: str | bytes, message: str, tmp_path: Path
) -> None:
    """Whoever confuses files hears what came, what was wanted and the next step."""
    path = tmp_path / "it.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RunFileError, match=rf"it\.json.*{message}"):
        read_run(path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    """A wrong path is no broken file."""
    with pytest.raises(RunFileError, match=r"no\.json cannot be read: No such file or directory"):
        read_run(tmp_path / "no.json")


def test_parts_that_say_little_are_valid(tmp_path: Path) -> None:
    """A run of one kind leaves the others empty; what is unknown is null."""
    artefact = dict.fromkeys(run()["artefact"])
    bare = run(
        artefact={**artefact, "name": "d0.pth"},
        verdict=verdict("not gated"),
        checks=[check(figure=None, tolerance=None, unit="", seconds=None)],
        parity=[],
        accuracy=[accuracy(None)],
        latency=[],
    )
    write_run(tmp_path / "run.json", bare)
    assert read_run(tmp_path / "run.json") == bare
