"""Tests for `effd0.ascend.atc_log`: whatever ATC prints leads to a next step."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effd0.ascend.atc_log import CODED_LINES, TAIL_LINES, UNKNOWN, explain, read_log

FAILED = "ATC run failed, Please check the detail log, Try 'atc --help' for more information"
BOTH_PLACES = r"ascend-toolkit/set_env.sh .*/usr/local/Ascend/cann/set_env.sh"


@pytest.mark.parametrize(
    ("line", "exit_code", "first", "advice"),
    [
        pytest.param(
            "E19010: No parser is registered for Op [Resize_5, optype [ai.onnx::18::Resize]].",
            255,
            "E19010: No parser is registered for Op",
            r"parser .*--opset 11",
            id="parser",
        ),
        pytest.param(
            "E10001: Value Ascend310P9 for parameter --soc_version is invalid. Reason: unknown",
            255,
            "E10001: Value Ascend310P9",
            r"compare with 'npu-smi info'",
            id="value",
        ),
        pytest.param(
            "[PID: 12] 2026-11-23-08:00:00.000.000 Invalid_Argument(E10016): Op name images "
            "specified in --input_shape is not found in the model.",
            255,
            "[PID: 12] 2026-11-23-08:00:00.000.000 Invalid_Argument(E10016): Op name images",
            "has no such input",
            id="named-code-of-new-versions",
        ),
        pytest.param(
            "E16002: Node Conv_0 is not valid", 255, "E16002: Node", "effd0 simplify", id="family"
        ),
        pytest.param(
            "EZ9999: Inner Error!", 255, "EZ9999: Inner", "could not be compiled", id="inner"
        ),
        pytest.param(
            "E19999: Inner Error!", 255, "E19999: Inner", "an inner error of ATC", id="inner-19999"
        ),
        pytest.param(
            "[ERROR] GE: No supported Ops kernel and engine are found for Conv_0, optype [Conv2D]\n"
            "EZ9999: Inner Error!",
            255,
            "EZ9999: Inner Error!",
            "holds no kernel .* ops/kernels package",
            id="kernel-says-more-than-its-code",
        ),
        pytest.param(
            "ImportError: optional part\nE19010: No parser is registered for Op [a]\nEZ9999: Inner",
            255,
            "E19010: No parser",
            "parser does not know",
            id="code-says-more-than-texts-around-it",
        ),
        pytest.param(
            "atc.bin: error while loading shared libraries: libascend_hal.so: cannot open",
            127,
            "it ended with exit code 127",
            f"libraries are not found; .*{BOTH_PLACES}",
            id="libraries",
        ),
        pytest.param(
            "ModuleNotFoundError: No module named 'decorator'",
            255,
            "it ended with exit code 255",
            "Python lacks a module .* numpy below 2",
            id="python-module",
        ),
        pytest.param(
            "[ERROR] GE: ASCEND_OPP_PATH is not set",
            255,
            "it ended with exit code 255",
            f"environment is not set; .*{BOTH_PLACES}",
            id="environment",
        ),
        pytest.param(
            "EL0004: Failed to allocate memory.", 255, "EL0004", "smaller batch", id="allocation"
        ),
        pytest.param(
            "write: No space left on device", 255, "it ended with exit", "TMPDIR", id="disk"
        ),
        pytest.param("", -9, r"it was ended by signal 9 (SIGKILL)", "out of memory", id="killed"),
        pytest.param("", 137, r"signal 9 (SIGKILL)", "TE_PARALLEL_COMPILER=1", id="killed-below"),
        pytest.param("", -11, r"signal 11 (SIGSEGV)", "~/ascend/log", id="crash"),
        pytest.param("E99999: news", 255, "E99999: news", "~/ascend/log", id="unknown-code"),
        pytest.param("", 0, "exit code 0, and did not say success", "ascend/log", id="no-word"),
        pytest.param(
            "ATC run success",
            1,
            "it said success, but ended with exit code 1",
            "log",
            id="half-word",
        ),
        pytest.param("what?", 3, "it ended with exit code 3", "~/ascend/log", id="unknown"),
    ],
)
def test_each_failure_is_translated(line: str, exit_code: int, first: str, advice: str) -> None:
    """What ATC said comes first, then what it means and the next step, then its last lines."""
    lines = [*line.splitlines(), FAILED]
    text = explain(exit_code, read_log(lines))
    what, then, heading, *tail = text.splitlines()
    assert what.startswith("ATC failed: ")
    assert first in what
    assert re.search(advice, then), then
    assert heading == "ATC's last lines:"
    assert [said.strip() for said in tail] == [said for said in lines if said]


def test_the_first_code_is_the_cause() -> None:
    """Later codes are what the first one led to, and general ones come last."""
    lines = ["E10016: Op name y is not found", "E19999: Inner Error!", "EZ9999: Inner Error!"]
    text = explain(255, read_log(lines))
    assert text.startswith("ATC failed: E10016: ")
    assert "has no such input" in text.splitlines()[1]


@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r")), max_size=40),
    st.integers(-64, 255),
)
def test_no_output_breaks_the_explanation(lines: list[str], exit_code: int) -> None:
    """Whatever is printed, the message has an advice and no more than the last lines."""
    text = explain(exit_code, read_log(lines))
    assert text.startswith("ATC failed: ")
    assert "ATC's last lines:\n" in text
    assert len(text.split("\n")) <= 3 + TAIL_LINES


def test_a_debug_log_is_cut_to_its_end() -> None:
    """Of a million lines only the end and the coded lines are kept, and figures are no codes."""
    chatter = (f"[DEBUG] GE(1,atc): tensor E{10000 + n % 9} of {n}" for n in range(50_000))
    log = read_log([*chatter, "[INFO] ATC run success?", FAILED, *["E10001: again"] * 9])
    assert log.coded == ("E10001: again",) * CODED_LINES
    assert len(log.tail) == TAIL_LINES
    assert not log.succeeded


def test_success_is_atcs_own_word() -> None:
    """The line may be anywhere, since warnings follow it; failure is no success."""
    said = ["ATC start working now", "ATC run success, welcome to the next use.", "W11001: slow"]
    assert read_log(said).succeeded
    assert not read_log([FAILED]).succeeded


def test_what_is_not_known_leads_to_the_log() -> None:
    """There is always a place to look."""
    assert UNKNOWN in explain(1, read_log([]))
    assert "(nothing)" in explain(1, read_log([]))
