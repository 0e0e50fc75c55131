"""The rows of a session of pytest-benchmark."""

from __future__ import annotations

from typing import Any

from .rows import Row


def rows_of(config: Any) -> list[Row]:
    """The rows of the session that pytest's *config* is of, those of failed benchmarks left out."""
    session = getattr(config, "_benchmarksession", None)
    done = [] if session is None else session.benchmarks
    # What is only run, or timed without a row, has no figures of ours.
    entries = [
        {"fullname": one.fullname, "extra_info": one.extra_info}
        for one in done
        if not one.has_error
    ]
    return [Row.from_json(entry) for entry in entries]
