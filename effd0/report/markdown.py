"""A run in Markdown: the page in short, for GitHub's job summaries and comments."""

import itertools
import os
import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

from ..errors import RunFileError
from ..io import write_text
from ..results.check import STAGES, Verdict
from ..results.compare import RunComparison, compare_runs, row_title
from ..results.run import Run
from .view import NONE, change, figure, milliseconds, percent, stage_mark, with_unit

#: State of a verdict -> the sign before its headline.
SIGNS = {"pass": "✓", "fail": "✗", "undecided": "?", "incomplete": "…"}
#: State of a stage -> its sign, and what it is in words.
STATES = {
    "passed": "✓ {} passed", "broken": "✗ **{} is broken**", "later": "✗ {} failed too",
    "undecided": "? {} undecided", "untested": "– {} not tested",  # noqa: RUF001  # as in tables
}  # fmt: skip
#: State of a verdict -> the level of GitHub's annotation.
LEVELS = {"fail": "error", "undecided": "warning", "incomplete": "warning"}
#: What Markdown or GitHub would read as markup, mentions, issues and formulas among it.
_MARKUP = re.compile(r"[\\`*_\[\]<>&|~]|[@#](?=\w)|#$|\$")


def write_markdown(path: Path, run: Run, baseline: Run | None = None) -> None:
    """Write *run* in Markdown to *path*; raise `OutputError` if it cannot be."""
    write_text(markdown(run, baseline), path)


def markdown(run: Run, baseline: Run | None = None) -> str:
    """The verdict of *run*, its stages, figures and hashes; what *baseline* says of it."""
    verdict, artefact, sign = run.verdict, run.artefact, SIGNS.get(run.verdict.status, NONE)
    later = f" {verdict.later} more failed, which may follow from it." if verdict.later else ""
    said = {
        "Check": verdict.check,
        "Evidence" if verdict.status == "fail" else "Reason": verdict.evidence,
        "Diagnosis": verdict.diagnosis,
        "Lacking": "; ".join(verdict.lacks),
    }
    named = [f"- **{name}**: {_text(words)}" for name, words in said.items() if words]
    step = ["**Next step**", textwrap.indent(verdict.next_step, "    ")]
    hashes = {"model": artefact.model_sha256, "checkpoint": artefact.checkpoint_sha256}
    under_test = [
        *((f"{file}, SHA-256", f"`{digest}`") for file, digest in hashes.items() if digest),
        *([("network", _text(str(artefact.network)))] if artefact.network else []),
        ("data set", _text(str(artefact.dataset or "none was used"))),
        ("date", _text(run.created)),
    ]
    blocks = [
        f"## {sign} {verdict.headline}{': ' if artefact.name else ''}{_text(artefact.name)}",
        f"{verdict.meaning}{later}",
        _stages(run),
        "\n".join(named),
        *(step if verdict.next_step else []),
        _table(("figure", "measured", "wanted"), _figures(run)),
        _beside(baseline, run) if baseline is not None else "",
        _table(("under test", _text(artefact.name) or NONE), under_test),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def comparison(found: RunComparison) -> str:
    """What `compare_runs` *found*: the verdict with all reasons, mAP and times."""
    reasons = [*found.worse, *found.undecided]
    rows = [
        (f"mAP, {_text(one.of)}, %", _two(one.before), _two(one.after), change(one.change))
        for one in found.metrics
        if one.name == "AP"
    ]
    for one in found.speeds:
        took = one.reason if one.ratio is None else f"{one.ratio} times as long"
        rates = figure(one.before), figure(one.after)
        rows.append((f"{_text(one.name)}, images/s", *rates, _text(f"{one.status}: {took}")))
    blocks = [
        f"### Candidate against baseline: {found.status.upper()}",
        "\n".join(f"- {_text(reason)}" for reason in reasons),
        _table(("figure", "baseline", "candidate", "change"), rows),
    ]
    return "\n\n".join(block for block in blocks if block)


def tell_github(run: Run) -> None:
    """In a job on GitHub, add *run* to the job's summary and annotate a verdict that is no pass."""
    if run.checks or run.accuracy or run.latency:
        add_to_summary(markdown(run))
        if "GITHUB_ACTIONS" in os.environ and (line := annotation(run.verdict)):
            # GitHub reads both streams, and the standard output may be a file's content.  pytest's
            # line of dots may be open.
            print(f"\n{line}", file=sys.stderr, flush=True)


def add_to_summary(text: str) -> None:
    """Append Markdown to the summary of a job on GitHub; elsewhere do nothing."""
    try:
        if place := os.environ.get("GITHUB_STEP_SUMMARY"):
            with Path(place).open("a", encoding="utf-8") as file:
                file.write(f"{text}\n")
    except OSError as error:  # in a container, the path may be the host's: no verdict changes
        print(f"GITHUB_STEP_SUMMARY cannot be written: {error}", file=sys.stderr)


def annotation(verdict: Verdict) -> str:
    """GitHub's workflow command that shows *verdict* beside the log; empty for what passed."""
    if verdict.status not in LEVELS:
        return ""
    said = "\n".join(verdict.lines()).translate({ord(sign): quote(sign) for sign in "%\r\n"})
    return f"::{LEVELS[verdict.status]} title=effd0 {verdict.headline}::{said}"


def _stages(run: Run) -> str:
    """All stages in their order on one line; neighbours of the same state share its words."""
    states = ((stage, stage_mark(stage, run.checks, run.verdict)["state"]) for stage in STAGES)
    groups = itertools.groupby(states, key=lambda one: one[1])
    return " → ".join(
        STATES[state].format(", ".join(s for s, _ in group)) for state, group in groups
    )


def _figures(run: Run) -> Iterable[tuple[str, str, str]]:
    """Name, figure and limit of each mAP, its drop, the worst head, and all times."""
    for one in run.accuracy:
        part = "" if one.images == one.images_total else f" on {one.images} of {one.images_total}"
        least = "no threshold" if one.min_map is None else f"at least {figure(one.min_map)} %"
        yield f"mAP, {_text(one.title)}", f"{percent(one.metrics['AP'])} %{part}", least
        if (beside := one.against) is not None:
            drop = beside.drop
            points, low, high = map(_two, (drop.points, drop.low, drop.high))
            wanted = f"interval ends at or below {figure(beside.max_drop)} points"
            said = f"{points} points (95 % interval {low} to {high})"
            yield f"mAP drop against {_text(beside.runner)}", said, wanted
            if drop.worst_classes:
                yield "classes that lose most", _text(drop.worst_classes), NONE
    if heads := [one for one in run.parity if one.heads]:
        worst = max(heads, key=lambda one: one.share)
        error, allowed, unit = worst.worst
        name = f"worst head, {worst.runner} against {worst.reference}, batch {worst.batch}"
        limit = "no limit" if allowed is None else f"at most {figure(allowed)}"
        yield _text(name), f"{figure(error, 2)} {unit}", limit
    for row in run.latency:
        rate = f"{figure(row.images_per_second)} images/s, median {milliseconds(row.p50_ms)} ms"
        yield _text(row_title(row)), rate, NONE
    # What explain-drop found: it decides nothing, and its advice stands beside what it costs.
    for check in run.checks:
        if (check.stage, check.status) == ("graph", "skipped") and check.figure is not None:
            found = with_unit(check.figure, check.unit)
            yield _text(check.name), _text(found), _text(check.evidence) or NONE


def _two(value: float | None) -> str:
    """A figure with two digits behind the point."""
    return change(value).lstrip("+")


def _beside(baseline: Run, run: Run) -> str:
    try:
        return comparison(compare_runs(baseline, run))
    except RunFileError as error:
        return f"### Candidate against baseline: NOT COMPARED\n\n{_text(str(error))}"


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table below *names*, whose cells are escaped already; empty without rows."""
    lines = [f"| {' | '.join(row)} |" for row in (names, ["---"] * len(names), *rows)]
    return "\n".join(lines) if len(lines) > 2 else ""  # noqa: PLR2004  # the two of the head


def _text(words: str) -> str:
    """The *words* on one line, shown as they are."""
    # GitHub finds formulas in the source, but users and issues in the text, which is parted here.
    signs = {"@": "@&#8203;", "#": "#&#8203;", "$": "&#36;"}
    line = " ".join(words.split())
    return _MARKUP.sub(lambda found: signs.get(found[0], f"\\{found[0]}"), line)
