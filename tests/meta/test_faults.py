"""The zoo of faults is whole, and its table compares what it should."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import pytest

from effd0.results.check import STAGES

from ..faults.clean import CLEAN
from ..faults.run import Fault, Outcome, Planted, Row
from ..faults.table import TABLE, differences, line_of, rendered, summary
from ..faults.work import FAULTS

#: At least so many faults, and so many runs without one.
FEWEST_FAULTS, FEWEST_CLEAN = 50, 20


def test_ids_are_words_and_unique() -> None:
    """A fault or a clean run is asked for by its id; a number in one may have a fraction."""
    ids = [fault.id for fault in FAULTS] + [*CLEAN]
    assert [id_ for id_, count in Counter(ids).items() if count > 1] == []
    assert [i for i in ids if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+(\.\d+)?)*", i)] == []


def test_every_stage_has_a_fault() -> None:
    """A stage without one is a stage whose checks have not been seen to fail."""
    assert {fault.stage for fault in FAULTS} == set(STAGES)


def test_faults_stand_in_the_order_of_their_stages() -> None:
    """As the pipeline is read, so is the table."""
    places = [STAGES.index(fault.stage) for fault in FAULTS]
    assert places == sorted(places)


def test_the_zoo_is_large_enough() -> None:
    """Shares of a handful say nothing."""
    assert len(FAULTS) >= FEWEST_FAULTS
    assert len(CLEAN) >= FEWEST_CLEAN


def test_every_fault_has_a_source_that_fits_a_table() -> None:
    """Nobody made it up, and its row stays one row."""
    sources = {fault.id: fault.source for fault in FAULTS}
    assert [id_ for id_, source in sources.items() if not source.strip()] == []
    assert [id_ for id_, source in sources.items() if {"|", "\n"} & set(source)] == []


def test_every_diagnosis_is_a_pattern_that_can_fail() -> None:
    """One that matches an empty diagnosis would call right what was not named."""
    patterns = {fault.id: re.compile(fault.diagnosis) for fault in FAULTS if fault.diagnosis}
    assert [id_ for id_, pattern in patterns.items() if pattern.search("")] == []


# The table, from runs that were never made.


def row(
    name: str,
    *,
    stage: str = "runner",
    found: str | None = "runner",
    diagnosis: str = "",
    said: str = "",
    seconds: float = 1.2,
    change: float | None = -3.0,
) -> Row:
    """How the fault *name* of *stage* fared; *found* is the first broken stage, None for a pass."""
    fault = Fault(name, stage, "peers 4.1 (a thread)", diagnosis, lambda *_: Planted(()))
    outcome = Outcome(found is None, found, "test_x", "0.3 off", said, seconds, "")
    return Row(fault, outcome, change)


ROWS = (
    row("right", diagnosis="BGR", said="input BGR swapped", change=-0.04),
    row("missed", found=None, diagnosis="BGR", change=None),
    row("wrong-stage", found="gate", diagnosis="BGR", said="heads scaled", change=0.1),
    row("no-cause", stage="nms", found="nms"),
)


def page(*rows: Row, alarms: tuple[str, ...] = ()) -> str:
    """The page of *rows* and two clean runs."""
    return rendered(rows, ["clean-one", "clean-two"], alarms)


def test_the_page_has_a_line_for_each_fault() -> None:
    """Caught, stage and diagnosis right, the effect on mAP, bold where small, and the time."""
    lines = page(*ROWS).splitlines()
    source = "peers 4.1 (a thread)"
    assert f"| right | runner | {source} | yes | yes | yes | **-0.04** | 1.2 |" in lines
    assert f"| missed | runner | {source} | no | no: None | no | - | 1.2 |" in lines
    assert f"| wrong-stage | runner | {source} | yes | no: gate | no | +0.10 | 1.2 |" in lines
    assert f"| no-cause | nms | {source} | yes | yes | - | -3.00 | 1.2 |" in lines
    assert lines[0] == "# Detection power"
    assert lines[-1] == "Runs without a fault: clean-one, clean-two."


def test_the_page_begins_with_the_shares() -> None:
    """Diagnoses count where there is a cause to be told; alarms are named."""
    shares = list(summary(ROWS, 2, ["clean-two"]))
    assert shares == [
        "caught: 3 of 4 (75.0%)",
        "stage right: 2 of 4 (50.0%)",
        "diagnosis right: 1 of 3 (33.3%)",
        "false alarms: 1 of 2 runs without a fault: clean-two",
    ]
    lines = page(*ROWS, alarms=("clean-two",)).splitlines()
    assert [line for line in lines if line.removeprefix("- ") in shares] == [
        f"- {share}" for share in shares
    ]
    assert "- the suite's runs on faults took 5 s together, on two cores" in lines


def test_no_fault_at_all_has_shares_too() -> None:
    """A run of clean pipelines alone is not divided by zero."""
    assert next(summary([], 2, [])) == "caught: 0 of 0 (0.0%)"


def test_a_terminal_shouts_what_went_wrong() -> None:
    """Lines are read as they go by."""
    right, missed, wrong, quiet = (line_of(one) for one in ROWS)
    assert re.fullmatch(r"right +caught  runner  named  \*\*-0\.04\*\*  1\.2 s", right)
    assert "MISSED  - (WRONG, planted in runner)  NOT NAMED" in missed
    assert "caught  gate (WRONG, planted in runner)  NOT NAMED" in wrong
    assert "caught  nms  -  -3.00" in quiet


def test_the_same_verdicts_are_no_difference() -> None:
    """Times and mAP move from host to host."""
    moved = [replace(one, map_change=5.0) for one in ROWS]
    moved = [replace(one, outcome=replace(one.outcome, seconds=99.0)) for one in moved]
    assert differences(page(*ROWS), page(*ROWS)) == []
    assert differences(page(*ROWS), page(*moved)) == []


@pytest.mark.parametrize(
    ("now", "told"),
    [
        pytest.param(
            row("right", found=None, diagnosis="BGR"), "runner, no, no: None, no", id="missed-now"
        ),
        pytest.param(
            row("right", found="gate", diagnosis="BGR", said="BGR"),
            "runner, yes, no: gate, yes",
            id="another-stage",
        ),
        pytest.param(
            row("right", diagnosis="BGR", said="RGB"), "runner, yes, yes, no", id="not-named"
        ),
        pytest.param(row("right"), "runner, yes, yes, -", id="no-cause-any-more"),
        pytest.param(
            row("right", stage="nms", found="nms", diagnosis="BGR", said="BGR"),
            "nms, yes, yes, yes",
            id="planted-elsewhere",
        ),
    ],
)
def test_a_changed_verdict_is_a_difference(now: Row, told: str) -> None:
    """The line shows both."""
    assert differences(page(*ROWS), page(now, *ROWS[1:])) == [
        f"right: {TABLE.name} says runner, yes, yes, yes, this run {told}"
    ]


def test_new_and_lost_rows_are_differences() -> None:
    """A fault that was left out of the run, or of the table, is told."""
    more = page(*ROWS, row("iou-0.65"))
    assert differences(page(*ROWS), more) == [
        f"iou-0.65: {TABLE.name} says nothing, this run runner, yes, yes, -"
    ]
    assert differences(more, page(*ROWS)) == [f"iou-0.65: {TABLE.name} has it, this run not"]


def test_the_table_as_it_stands_is_read_whole() -> None:
    """Every row of docs/detection-power.md is compared, and is of a fault that is in the zoo."""
    content = TABLE.read_text()
    named = re.findall(r"^\| (?!fault )(?!-)(\S+) \|", content, re.MULTILINE)
    assert [line.partition(":")[0] for line in differences("", content)] == named
    assert set(named) <= {fault.id for fault in FAULTS}
