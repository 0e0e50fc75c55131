"""Tests for `effd0.progress`: a live bar on a terminal, plain lines in a log."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from effd0 import progress as module
from effd0.progress import download_progress, progress

PLAIN = re.compile(r"^checking: \d+/\d+, [\d.]+/s, \d+ s left$")


def console_of(*, terminal: bool) -> tuple[Console, io.StringIO]:
    """Return a console that writes to memory, and that memory."""
    written = io.StringIO()
    return Console(file=written, force_terminal=terminal, width=80), written


def test_a_log_gets_the_last_line_alone_where_work_is_quick() -> None:
    """A thousand quick pieces are one line, and it says that all are done."""
    console, written = console_of(terminal=False)
    with progress("checking", 1000, console) as advance:
        for _ in range(1000):
            advance(1)
    (line,) = written.getvalue().splitlines()
    assert PLAIN.match(line)
    assert line.startswith("checking: 1000/1000")
    assert line.endswith(" 0 s left")


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work that takes longer than the interval is heard of before its end."""
    monkeypatch.setattr(module, "LOG_EVERY_S", 0.0)
    console, written = console_of(terminal=False)
    with progress("checking", 6, console) as advance:
        for _ in range(3):
            advance(2)
    lines = written.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines] == [f"checking: {n}/6" for n in (2, 4, 6)]
    assert all(PLAIN.match(line) for line in lines)


def test_work_of_nothing_writes_nothing() -> None:
    """Without a piece of work there is no line, and no division by it."""
    console, written = console_of(terminal=False)
    with progress("checking", 0, console):
        pass
    assert written.getvalue() == ""


def test_a_terminal_gets_a_bar() -> None:
    """The bar is drawn in place, with the count, and ends at the whole."""
    console, written = console_of(terminal=True)
    with progress("checking", 4, console) as advance:
        advance(3)
        advance(1)
    shown = written.getvalue()
    assert "\x1b[" in shown
    assert "4/4" in shown
    assert not any(PLAIN.match(line) for line in shown.splitlines())


def test_progress_leaves_results_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a console of its own, progress goes to stderr, so that stdout can be piped."""
    with progress("checking", 1) as advance:
        advance(1)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "checking: 1/1" in captured.err


def test_a_download_log_shows_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines show the bytes that are there, of the whole where the host says how much it is."""
    monkeypatch.setattr(module, "LOG_EVERY_S", 0.0)
    console, written = console_of(terminal=False)
    with download_progress("coco", console) as on_bytes:
        on_bytes(5_000_000, 20_000_000)
        on_bytes(20_000_000, 20_000_000)
        on_bytes(1_000_000, None)  # the next file starts anew
    assert [line for line in written.getvalue().splitlines() if line] == [
        "coco: 5 of 20 MB",
        "coco: 20 of 20 MB",
        "coco: 1 MB",
    ]


def test_a_download_on_a_terminal_is_a_bar() -> None:
    """The bar shows received and whole size."""
    console, written = console_of(terminal=True)
    with download_progress("coco", console) as on_bytes:
        on_bytes(20_000_000, 20_000_000)
    assert "20.0/20.0 MB" in written.getvalue()
