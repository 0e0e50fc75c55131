"""Tests for `effd0.ascend.atc_log`: whatever ATC prints leads to a next step."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effd0.ascend.atc_log import TAIL_LINES, failure

FAILED = "ATC run failed, Please check the detail log, Try 'atc --help' for more information"
SET_ENV = r".*ascend-toolkit/set_env.sh .*/usr/local/Ascend/cann/set_env.sh"


@pytest.mark.parametrize(
    ("line", "exit_code", "first", "advice"),
    [
        ("E19010: No parser is registered for Op [Resize_5]", 255, "E19010: No", "--opset 11"),
        ("E10001: Value Ascend310P9 is invalid", 255, "E10001: Value", "with 'npu-smi info'"),
        ("[PID: 12] Invalid_Argument(E10016): Op name", 255, "[PID: 12] Inv", "no such input"),
        ("E16002: Node Conv_0 is not valid", 255, "E16002: Node", "effd0 simplify"),
        ("EZ9999: Inner Error!", 255, "EZ9999: Inner", "could not be compiled"),
        ("E19999: Inner Error!", 255, "E19999: Inner", "an inner error of ATC"),
        # A text says more than a vague code beside it, a clear code more than texts around it.
        ("No supported Ops kernel\nEZ9999: Inner!", 255, "EZ9999: Inner", "no kernel .* ops/kern"),
        ("ImportError: part\nE19010: Op\nEZ9999: Inner", 255, "E19010: Op", "parser does not know"),
        # Later codes are what the first one led to.
        ("E10016: Op name y\nE10001: Value", 255, "E10016: Op name y", "has no such input"),
        ("atc.bin: error while loading shared libraries", 127, "exit code 127", SET_ENV),
        ("ModuleNotFoundError: No module named 'x'", 255, "exit code 255", "numpy below 2"),
        ("[ERROR] GE: ASCEND_OPP_PATH is not set", 255, "exit code 255", SET_ENV),
        ("EL0004: Failed to allocate memory.", 255, "EL0004", "smaller batch"),
        ("write: No space left on device", 255, "it ended with exit", "TMPDIR"),
        ("", -9, "it was ended by signal 9 (SIGKILL)", "out of memory"),
        ("", 137, "signal 9 (SIGKILL)", "TE_PARALLEL_COMPILER=1"),
        ("", -11, "signal 11 (SIGSEGV)", "~/ascend/log"),
        ("E99999: news", 255, "E99999: news", "~/ascend/log"),
        ("", 0, "exit code 0, and did not say success", "ascend/log"),
        ("ATC run success", 1, "it said success, but ended with exit code 1", "log"),
        ("what?", 3, "it ended with exit code 3", "~/ascend/log"),
    ],
    ids=lambda value: re.sub(r"\W+", "-", value)[:20] if isinstance(value, str) else str(value),
)
def test_each_failure_is_translated(line: str, exit_code: int, first: str, advice: str) -> None:
    """What ATC said comes first, then what it means and the next step, then its last lines."""
    lines = [*line.splitlines(), FAILED]
    what, then, heading, *tail = str(failure(exit_code, lines)).splitlines()
    assert what.startswith("ATC failed: ")
    assert first in what
    assert re.search(advice, then), then
    assert heading == "ATC's last lines:"
    assert [said.strip() for said in tail] == [said for said in lines if said]


@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r")), max_size=40),
    st.integers(-64, 255),
)
def test_no_output_breaks_the_explanation(lines: list[str], exit_code: int) -> None:
    """Whatever is printed, the message has an advice and no more than the last lines."""
    text = str(failure(exit_code, lines))
    assert text.startswith("ATC failed: ")
    assert "ATC's last lines:\n" in text
    assert len(text.split("\n")) <= 3 + TAIL_LINES


def test_a_debug_log_is_cut_to_its_end() -> None:
    """Of a million lines only the end is kept; figures of chatter are no codes of errors."""
    chatter = [f"[DEBUG] GE(1,atc): tensor E{10000 + n % 9} of {n}" for n in range(50_000)]
    lines = [*chatter, "[INFO] ATC run success?", FAILED, *["E10016: again"] * 9]
    what, then, _, *tail = str(failure(0, lines)).splitlines()
    assert what == "ATC failed: E10016: again"
    assert "has no such input" in then
    assert len(tail) == TAIL_LINES


def test_success_is_atcs_own_word() -> None:
    """With exit code 0 and that word nothing failed, whatever warnings were printed."""
    assert failure(0, ["ATC run success, welcome to the next use.", "W11001: slow"]) is None
