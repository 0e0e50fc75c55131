"""Tests for `effd0.results.run`: what is written is valid, what is read is a run or an error."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

from effd0.errors import OutputError, RunFileError
from effd0.report.markdown import write_markdown
from effd0.results import run as record
from effd0.results.compare import compare_runs
from tests.helpers import EVERY_SEED, assert_read_or_refused
from tests.helpers import runs as made

DOCS = Path(__file__).parents[3] / "docs"
LISTS = ("checks", "parity", "accuracy", "latency")
OTHER = "e" * 64


def test_the_page_explains_every_key() -> None:
    """Each key of the JSON Schema that msgspec writes is explained in docs/run-json.md."""
    page = (DOCS / "run-json.md").read_text()
    schemas = record.json_schema()["$defs"]
    parts = (
        "Run", "Artefact", "DatasetUsed", "Environment", "Verdict", "Check", "Parity", "Head",
        "Accuracy", "TimedRow", "OperatingPoint", "ClassFigures", "ScoreCurves",
    )  # fmt: skip
    keys = {key for part in parts for key in schemas[part]["properties"]}
    assert [key for key in sorted(keys) if f"`{key}`" not in page] == []


@pytest.mark.parametrize(
    "plain",
    [
        pytest.param(made.content(artefact=made.artefact(name="模型 <b>.onnx")), id="any-script"),
        pytest.param(made.content(accuracy=[made.pictured(0.6)]), id="compared"),
        pytest.param(
            made.content(
                artefact=made.artefact(model_sha256=None, checkpoint_sha256=None, dataset=None),
                verdict=made.verdict("not gated"),
                checks=[made.check(figure=None, tolerance=None, unit="", seconds=None)],
                parity=[],
                accuracy=[made.accuracy(None)],
                latency=[],
            ),
            id="little-known",
        ),
    ],
)
def test_what_is_written_is_read(plain: dict[str, Any], tmp_path: Path) -> None:
    """A run comes back as it went, whole, and no other file is left beside it."""
    record.write_run(tmp_path / "new" / "run.json", made.as_run(plain))
    assert record.read_run(tmp_path / "new" / "run.json") == made.as_run(plain)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["run.json"]


@pytest.mark.parametrize("name", ["file/run.json", "folder"], ids=["below-a-file", "a-folder"])
def test_a_place_that_takes_no_file_is_named(name: str, tmp_path: Path) -> None:
    """The message names the file that was asked for."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match=rf"{name} cannot be written: .*; choose another place"):
        record.write_run(tmp_path / name, made.run())


def test_what_is_not_finite_is_not_written(tmp_path: Path) -> None:
    """JSON knows no infinity; nothing is left behind."""
    broken = made.run()
    broken.parity[0].heads[1].max_abs = math.inf
    with pytest.raises(RunFileError, match=r"is invalid: Out of range float .* inf; write"):
        record.write_run(tmp_path / "run.json", broken)
    assert list(tmp_path.iterdir()) == []


WHOLE = json.dumps(made.content())
NOT_JSON = r"is no JSON object \(%s.*\), but a run file was wanted"
#: What is in the file, or what of a run is replaced by what -> what the message says of it.
REFUSED = {
    "missing": (None, r"cannot be read: No such file or directory, but a run file was wanted"),
    "empty": ("", NOT_JSON % "Input data was truncated"),
    "html": ("<!DOCTYPE html>", NOT_JSON % "JSON is malformed"),
    "binary": ("\udc80\udc81", NOT_JSON % "JSON is malformed"),
    "cut-off": (WHOLE[:500], NOT_JSON % "Input data was truncated"),
    "list": ('[{"image_id": 1}]', NOT_JSON % "the file: Expected `object`, got `array`"),
    "foreign": ('{"images": [], "b": 1}', "holds a JSON object with b, images, but"),
    "other-schema": (
        ('"schema": 3', '"schema": 2'),
        "is a run in schema 2, but this effd0 reads 3",
    ),
    "nan": (("33.4", "NaN"), "JSON is malformed: invalid character"),
    "infinite": (("33.4", "1e999"), "Number out of range"),
    "typo": (
        ('"parity"', '"partiy"'),
        "is invalid: the file: Object contains unknown field `partiy`",
    ),
    "type": (
        ('"batch": 1', '"batch": "one"'),
        r"parity\[0\]\.batch: Expected `int`, got `str`: \"one\"",
    ),
    "lacking": (('"status": "passed", ', ""), r"checks\[0\]: .*missing required field `status`"),
    "percent": (('"AP": 0.336', '"AP": 33.6'), r"accuracy\[0\]\.metrics\[\.{3}\]: .*<= 1.0"),
    "no-metric": (('"AP50": 0.336, ', ""), r"accuracy\[0\]: metrics lack AP50"),
    "hash": (("a" * 64, "abc"), r"artefact\.model_sha256: .* regex .*: \"abc\""),
    "no-sample": (
        ('"samples_ms": [', '"samples_ms": [0.0, '),
        r"latency\[0\]\.samples_ms\[0\]: .*> 0.0: 0.0",
    ),
    "status": (('"pass"', '"passed"'), r"verdict\.status: Invalid enum .*: \"passed\""),
}


@pytest.mark.parametrize(("written", "message"), REFUSED.values(), ids=REFUSED)
def test_another_file_is_refused(written: Any, message: str, tmp_path: Path) -> None:
    """The message names the file, what came with its key, what was wanted, and the next step."""
    path = tmp_path / "it.json"
    if written is not None:
        text = WHOLE.replace(*written) if isinstance(written, tuple) else written
        path.write_text(text, errors="surrogateescape")
    with pytest.raises(RunFileError, match=rf"(?s)it\.json .*{message}.*(docs/|again)"):
        record.read_run(path)


def test_json_is_the_accuracy_with_verdict_and_environment() -> None:
    """`--json` is flat: the twelve numbers and the verdict are where a script looks for them."""
    found = record.flat(made.run(accuracy=[made.accuracy(against=made.against(0.1, 0.3))]))
    json.dumps(found, allow_nan=False)
    assert found["verdict"] == {"status": "pass", "reason": ""}
    assert (found["metrics"]["AP"], found["runner"]) == (0.336, made.accuracy()["backend"])
    assert found["against"]["drop"]["points"] == pytest.approx(0.2)
    assert found["environment"] == {"cpu": "a processor", "packages": {"numpy": "2.4.6"}}
    assert (found["schema"], "insight" in found) == (record.SCHEMA, False)


def alone(kind: str, **parts: Any) -> record.Run:
    """A run that has one *kind* of result only."""
    empty: dict[str, Any] = {key: [] for key in LISTS}
    return made.run(**{**empty, kind: made.content()[kind], **parts})


def test_four_runs_become_one_and_stay_what_they_were() -> None:
    """Each kind of result is there as it was, with all commands; a run alone is itself."""
    runs = [alone(kind, commands=[f"pytest {kind}"]) for kind in LISTS]
    before = copy.deepcopy(runs)
    merged = record.merge_runs(runs)
    assert all(getattr(merged, kind) == getattr(made.run(), kind) for kind in LISTS)
    assert merged.commands == [f"pytest {kind}" for kind in LISTS]
    assert runs == before
    assert (
        msgspec.structs.replace(record.merge_runs([made.run()]), verdict=made.run().verdict)
        == made.run()
    )


def test_what_is_the_same_is_there_once() -> None:
    """A run that is given twice counts once; another machine, runner or batch stands beside it."""
    board = {"machine": {"cpu": "a board"}, "packages": {"numpy": None}}
    other = made.run(
        environment=[board], accuracy=[made.accuracy(0.33, "acl")], parity=[made.parity("acl")],
        latency=[made.latency(batch=8)],
    )  # fmt: skip
    merged = record.merge_runs([made.run(), made.run(), other])
    assert [one.machine["cpu"] for one in merged.environment] == ["a processor", "a board"]
    assert [one.runner for one in merged.accuracy] == ["ort", "acl"]
    assert [one.runner for one in merged.parity] == ["ort", "acl"]
    assert [one.batch for one in merged.latency] == [1, 8]
    assert (len(merged.commands), len(merged.checks)) == (1, 3)


@pytest.mark.parametrize(
    ("peaks", "shown"),
    [
        pytest.param({}, "peak memory 700 MB", id="model"),
        pytest.param(
            {"converting_rss_mb": 1183.2},
            "peak memory 700 MB (1183 MB while the checkpoint was converted)",
            id="checkpoint",
        ),
        pytest.param({"peak_rss_mb": None}, "", id="unknown"),
    ],
)
def test_memory_of_a_conversion_is_not_that_of_the_run(peaks: Any, shown: str) -> None:
    """Both are told, each by its name; what was not measured is not."""
    (one,) = made.run(accuracy=[made.accuracy(**peaks)]).accuracy
    assert one.peak_memory == shown


def test_the_last_date_and_the_worst_exit_stand() -> None:
    """A part that failed, or was cut off, is not hidden by those that did not."""
    failed = made.run(
        created="2026-11-24T07:00:00+00:00", exit_status=1, checks=[made.check("runner", "failed")]
    )
    cut = made.run(verdict=made.verdict("undecided", evidence="not all checks were run"))
    for runs in ([failed, made.run(), cut], [cut, made.run(), failed]):
        merged = record.merge_runs(runs)
        assert (merged.created, merged.exit_status) == ("2026-11-25T07:00:00+00:00", 1)
        # The stages before the broken one passed in another run.
        found = merged.verdict
        assert (found.status, found.stage, found.passed) == ("fail", "runner", ("dataset",))
    found = record.merge_runs([made.run(), cut]).verdict
    assert (found.status, found.evidence) == ("undecided", "not all checks were run")


@pytest.mark.parametrize(
    ("hashes", "lacks"),
    [
        pytest.param([made.MODEL], 0, id="itself"),
        pytest.param([made.CHECKPOINT, made.MODEL], 0, id="itself-and-reference"),
        pytest.param([record.UNKNOWN_MODEL], 0, id="results-without-a-hash"),
        pytest.param([made.CHECKPOINT], 1, id="reference-alone"),
        pytest.param([OTHER, made.CHECKPOINT], 1, id="its-source"),
    ],
)
def test_a_model_that_was_not_run_does_not_ship(hashes: list[str], lacks: int) -> None:
    """An .om without a board, or what --runner left out, passes by no detections of another."""
    measured = [msgspec.convert(made.accuracy(model_sha256=one), record.Accuracy) for one in hashes]
    told = record.standing(msgspec.convert(made.artefact(), record.Artefact), measured)["lacks"]
    assert sum(one.startswith("detections of mine.onnx itself") for one in told) == lacks


def test_what_one_run_knows_of_the_artefact_the_whole_knows() -> None:
    """Times need no data set, a model may hold its own weights, and weights may be all there is."""
    unsaid = {"checkpoint_sha256": None, "dataset": None, "network": None}
    bare = made.run(artefact=made.artefact(**unsaid))
    for runs in ([bare, made.run()], [made.run(), bare]):
        assert record.merge_runs(runs).artefact == made.run().artefact
    weights = made.run(artefact=made.artefact(model_sha256=None))
    assert record.merge_runs([weights, weights]).artefact == weights.artefact


@pytest.mark.parametrize(
    ("artefacts", "message"),
    [
        pytest.param(
            [{}, {"model_sha256": OTHER}],
            r"b is of the model eeeeeeeeeeee, but a of aaaaaaaaaaaa; only", id="model",
        ),
        pytest.param(
            [{}, {"model_sha256": None}],
            r"b is of the model \(none given\), but a of aaaaaaaaaaaa", id="no-model",
        ),
        pytest.param(
            [{"checkpoint_sha256": None}, {}, {"checkpoint_sha256": OTHER}],
            r"c is of the checkpoint eeeeeeeeeeee, but b of c+; only", id="checkpoint",
        ),
        pytest.param(
            [{}, {"dataset": {"name": "a", "images": 1, "sha256": made.ANNOTATIONS}}],
            r"dataset 1 images of a \(annotations d+\), but a of 5000 images of val2017 \(",
            id="images",
        ),
        pytest.param(
            [{}, {"network": None}, {"network": made.network(num_classes=1)}],
            r"c is of the network tf_efficientdet_d0, 1 class, 512x512, but a of .*, 90 classes, 5",
            id="network",
        ),
        pytest.param(
            [{"model_sha256": None}, {"model_sha256": None, "checkpoint_sha256": None}],
            r"a and b name no model and no checkpoint that all were run on", id="unknown",
        ),
    ],
)  # fmt: skip
def test_another_artefact_is_refused_with_both_values(artefacts: Any, message: str) -> None:
    """Nobody's accuracy is shown beside another model's times; who named the other is told."""
    runs = [made.run(artefact=made.artefact(**parts)) for parts in artefacts]
    with pytest.raises(RunFileError, match=message):
        record.merge_runs(runs, ["a", "b", "c"][: len(runs)])


@pytest.mark.parametrize("declared", ["int8", None])
def test_a_compiled_model_has_the_precision_that_was_declared(
    declared: str | None, tmp_path: Path
) -> None:
    """An .om does not say what it computes in, and nothing is guessed; merged runs keep it."""
    (tmp_path / "d0.om").write_bytes(b"compiled")
    found = record.artefact_of(tmp_path / "d0.om", None, None, declared=declared)
    assert found.precision == declared
    runs = [made.as_run(made.content()), made.as_run(made.content())]
    runs[1].artefact = msgspec.structs.replace(runs[1].artefact, precision=declared)
    assert record.merge_runs(runs).artefact.precision == declared


@EVERY_SEED
def test_a_mutated_run_is_read_or_refused(seeds: range, tmp_path: Path) -> None:
    """What is read of a run file can be merged, shown and written again; all else is refused."""
    path, plain = tmp_path / "run.json", made.good_content(pictures=1)

    def read() -> object:
        found = record.read_run(path)
        record.write_run(tmp_path / "again.json", record.merge_runs([found, found]))
        write_markdown(tmp_path / "run.md", found)
        compare_runs(found, found)
        return found

    assert_read_or_refused(path, plain, seeds, read)
