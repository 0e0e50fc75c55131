"""The table of faults is whole, and what a run says is compared with it."""

import re
from dataclasses import replace

from effd0.results.check import STAGES, Stage, Verdict

from ..faults import work
from ..faults.clean import CLEAN
from ..faults.run import Fault, Outcome, Planted, Row
from ..faults.table import TABLE, differences, rendered
from ..faults.work import FAULTS


def test_the_faults_are_a_table() -> None:
    """Ids are words and unique; every stage has a fault, every fault a source of one line."""
    assert set(FAULTS).isdisjoint(CLEAN)
    assert len(FAULTS) == sum(len(table.FAULTS) for table in work._TABLES)
    ids = [*FAULTS, *CLEAN]
    assert [i for i in ids if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+(\.\d+)?)*", i)] == []
    faults = FAULTS.values()
    assert {fault.stage for fault in faults} == set(STAGES)
    assert [f.id for f in faults if not f.source.strip() or {"|", "\n"} & set(f.source)] == []
    # A pattern that matches an empty diagnosis would call right what was not named.
    assert [f.id for f in faults if f.diagnosis and re.search(f.diagnosis, "")] == []


def row(
    name: str,
    *,
    found: Stage | None = "runner",
    diagnosis: str = "",
    said: str = "",
    change: float | None = -3.0,
) -> Row:
    """How the fault *name* fared; *found* is the first broken stage, None for a pass."""
    fault = Fault(name, "runner", "peers 4.1 (a thread)", diagnosis, lambda *_: Planted(()))
    verdict = Verdict("pass" if found is None else "fail", found, diagnosis=said)
    outcome = Outcome(found is None, verdict, 1.2, "")
    return Row(fault, outcome, change)


RIGHT = row("right", diagnosis="BGR", said="input BGR swapped", change=-0.04)
ROWS = (
    replace(RIGHT, fault=replace(RIGHT.fault, in_part=True)),
    row("missed", found=None, diagnosis="BGR", change=None),
    row("wrong-stage", found="gate", diagnosis="BGR", said="heads scaled", change=0.1),
    row("no-cause"),
)


def page(*rows: Row) -> str:
    """The page of *rows* and two clean runs, one of which was not green."""
    return rendered(rows, ["clean-one", "clean-two"], ["clean-two"])


def test_the_page_has_the_shares_and_a_line_for_each_fault() -> None:
    """Caught, stage and diagnosis right, the effect on mAP, bold where small, and the time."""
    shares = [
        "caught: 3 of 4 (75.0%)",
        "stage right: 2 of 4 (50.0%)",
        "diagnosis right: 1 of 3 (33.3%)",
        "in int8 builds: 0 of 0 caught, 0 in their stage and under their name",
        "in fp16 builds: 0 of 0 caught, 0 in their stage and under their name",
        "in part: 1 of 1 caught, 1 in their stage and under their name",
        "false alarms: 1 of 2 runs without a fault: clean-two",
    ]
    lines, source = page(*ROWS).splitlines(), "peers 4.1 (a thread)"
    assert [line.removeprefix("- ") for line in lines if line.startswith("- ")][-8:-1] == shares
    assert f"| right | runner | {source} | yes | yes | yes | **-0.04** | 1.2 | part |" in lines
    assert f"| missed | runner | {source} | no | no: None | no | - | 1.2 |  |" in lines
    assert f"| wrong-stage | runner | {source} | yes | no: gate | no | +0.10 | 1.2 |  |" in lines
    assert f"| no-cause | runner | {source} | yes | yes | - | -3.00 | 1.2 |  |" in lines


def test_only_a_worse_verdict_is_a_difference() -> None:
    """Times and mAP move from host to host; what is caught, where and as what may get better."""
    moved = [replace(one, map_change=5.0) for one in ROWS]
    assert differences(page(*ROWS), page(*moved)) == []
    for now, said in (
        (row("right", found=None, diagnosis="BGR"), "runner, no, no: None, no"),
        (row("right", found="gate", diagnosis="BGR", said="BGR"), "runner, yes, no: gate, yes"),
        (row("right", diagnosis="BGR", said="RGB"), "runner, yes, yes, no"),
        (row("right"), "runner, yes, yes, -"),
    ):
        assert differences(page(*ROWS), page(now, *ROWS[1:])) == [
            f"right: {TABLE.name} says runner, yes, yes, yes, this run {said}"
        ]
    lost = row("right", found=None, diagnosis="BGR")
    assert differences(page(lost, *ROWS[1:]), page(*ROWS)) == []
    more = page(*ROWS, row("iou-0.65"))
    assert differences(page(*ROWS), more) == [
        f"iou-0.65: {TABLE.name} says nothing, this run runner, yes, yes, -"
    ]
    assert differences(more, page(*ROWS)) == [f"iou-0.65: {TABLE.name} has it, this run not"]


def test_the_table_as_it_stands_is_read_whole() -> None:
    """Every row of docs/detection-power.md is compared, and is of a fault that there is."""
    content = TABLE.read_text()
    assert {line.partition(":")[0] for line in differences("", content)} == set(FAULTS)
