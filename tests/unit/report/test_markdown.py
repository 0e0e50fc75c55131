"""Tests for `effd0.report.markdown`: runs made by hand, as a reader of Markdown shows them."""

import re
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from effd0.report.markdown import annotation, markdown, tell_github
from effd0.results.check import MEANINGS, STAGES
from effd0.results.run import Run, write_run
from tests.helpers import effd0
from tests.helpers import runs as made
from tests.helpers.runs import as_run, run, verdict

READER = MarkdownIt("commonmark").enable("table")
TEXT = {"text", "text_special", "code_inline", "code_block"}
#: What Markdown, a table or GitHub gives a meaning.
SIGNS = st.text(st.sampled_from("ab1 \\`*_[]()<>&|~@#$!-\n"), max_size=30)


def shown(text: str) -> str:
    """What a reader sees of Markdown, on one line."""
    said = []
    for block in READER.parse(text):
        parts = block.children or [block]
        # Nothing else is made of what a run says: no link, no picture, no HTML.
        assert {one.type for one in parts if one.nesting == 0 and one.content} <= TEXT
        said.append("".join(" " if one.type == "softbreak" else one.content for one in parts))
    return " ".join(" ".join(said).split())


def one_of(status: str) -> Run:
    """A run whose verdict has this *status*."""
    if status == "fail":
        return as_run(made.faulty_content(pictures=0))
    return run(verdict=verdict(status, lacks=["a release set"], next_step="effd0 check `a|b`"))


@pytest.mark.parametrize("status", MEANINGS)
def test_the_verdict_comes_first(status: str) -> None:
    """Its headline and the artefact in the first line, what it means below."""
    first, _, meaning, *_ = markdown(one_of(status)).splitlines()
    headline, said = MEANINGS[status]
    assert re.fullmatch(rf"## \S {headline}: [\w\\.]+onnx", first)
    assert meaning.startswith(said.format(stage="preprocess"))


@pytest.mark.parametrize("status", [one for one in MEANINGS if one != "fail"])
def test_what_is_lacking_and_helps_is_said(status: str) -> None:
    """A command can be copied from a block of code, whatever is in it."""
    text = markdown(one_of(status))
    assert "- **Lacking**: a release set" in text
    blocks = [one.content for one in READER.parse(text) if one.type == "code_block"]
    assert blocks == ["effd0 check `a|b`\n"]


def test_every_stage_has_its_state() -> None:
    """All ten are on one line in their order, each group with its state in words."""
    text = markdown(one_of("fail"))
    (line,) = [line for line in text.splitlines() if "→" in line]
    assert re.findall("|".join(STAGES), line) == list(STAGES)
    assert [part.strip() for part in line.split("→")] == [
        "✓ dataset passed", "✗ **preprocess is broken**", "✓ checkpoint, export, graph passed",
        "✗ runner failed too", "– decode, nms not tested",  # noqa: RUF001
        "✓ evaluate passed", "✗ gate failed too",
    ]  # fmt: skip


def test_figures_stand_beside_what_was_wanted() -> None:
    """MAP, its drop with the interval, the worst head and each time have a row."""
    parts = {"accuracy": [made.accuracy(0.336, images=20, against=made.against(-0.05, 0.31))]}
    rows = [line for line in markdown(run(**parts)).splitlines() if line.startswith("|")]
    interval, limit = "95 % interval \u22120.05 to 0.31", "interval ends at or below 0.2 points"
    assert rows[2:6] == [
        "| mAP, ort, batch 1 | 33.60 % on 20 of 5000 | at least 33.4 % |",
        f"| mAP drop against torch | 0.13 points ({interval}) | {limit} |",
        "| worst head, ort against torch, batch 1 | 1e-05 max abs | at most 0.002 |",
        "| ort, fp32, batch 1, input to heads, embedded | 100 images/s, median 10.00 ms | – |",  # noqa: RUF001
    ]
    assert f"| model, SHA-256 | `{'a' * 64}` |" in rows


@given(SIGNS, SIGNS, SIGNS)
def test_what_a_user_named_is_text(name: str, evidence: str, runner: str) -> None:
    """A name or an evidence is shown as it is: it makes no cell, link, mention or HTML."""
    text = markdown(
        as_run(
            made.content(
                artefact=made.artefact(name=name), accuracy=[made.accuracy(runner=runner)],
                verdict=verdict("undecided", evidence=evidence),
            )
        )
    )  # fmt: skip
    seen = shown(text)
    for words in (name, evidence, runner):
        assert " ".join(words.split()) in seen.replace("\u200b", "")
    # A user or an issue, which a space of no width parts from its sign.
    assert not re.search(r"[@#]\w", seen)
    # The cells of the two tables.
    assert sum(one.type == "td_open" for one in READER.parse(text)) == 3 * 3 + 2 * 5


@pytest.mark.parametrize(
    ("older", "said"),
    [
        (run(latency=[made.latency(8.0)]), "WORSE"),
        (run(accuracy=[made.accuracy(0.336)], artefact=made.artefact(dataset=None)), "NO WORSE"),
        (as_run(made.bare_content()), "NOT COMPARED"),
    ],
    ids=["slower", "same", "nothing-in-common"],
)
def test_a_baseline_is_compared_with(older: Run, said: str) -> None:
    """The run is worse, no worse, or cannot be compared."""
    assert f"### Candidate against baseline: {said}\n" in markdown(run(), older)


@pytest.mark.parametrize("status", MEANINGS)
def test_github_marks_what_did_not_pass(status: str) -> None:
    """What must not ship is an error, what is open a warning, in one line that holds all."""
    found = msgspec.structs.replace(one_of(status).verdict, evidence="50 % of a\r\n::error::b")
    line = annotation(found)
    level = {"fail": "error", "undecided": "warning", "incomplete": "warning"}.get(status)
    if level is None:
        assert line == ""
        return
    assert re.match(f"::{level} title=effd0 {found.headline}::[^\r\n]+$", line)
    said = line.partition(f"{found.headline}::")[2]
    for sign in ("\n", "\r", "%"):
        said = said.replace(f"%{ord(sign):02X}", sign)
    assert said == "\n".join(found.lines())


def test_github_gets_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs are appended to the job's summary; elsewhere, or where none can be, nothing fails."""
    summary, failed = tmp_path / "summary.md", one_of("fail")
    tell_github(failed)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    for one in (failed, as_run(made.bare_content()), as_run(made.good_content(pictures=0))):
        tell_github(one)
    headlines = re.findall("^## . ([A-Z ]+):", summary.read_text(), re.MULTILINE)
    assert headlines == ["MUST NOT SHIP", "MAY SHIP"]
    assert capsys.readouterr().err.splitlines() == ["", annotation(failed.verdict)]
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "none" / "summary.md"))
    tell_github(failed)
    assert "GITHUB_STEP_SUMMARY cannot be written: " in capsys.readouterr().err


def test_the_base_install_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither jinja2 nor matplotlib is needed; with - the Markdown alone is on stdout."""
    for package in ("jinja2", "matplotlib"):
        monkeypatch.setitem(sys.modules, package, None)
    path = tmp_path / "run.json"
    write_run(path, run())
    outcome = effd0("report", path, "--markdown", "-")
    assert outcome.code == 0, outcome.err
    assert "wrote -" in outcome.err
