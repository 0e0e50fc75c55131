"""A run as data: one JSON file that says what was run on what, and what came of it."""

from __future__ import annotations

from .compare import RunComparison, compare_runs
from .file import read_run, write_run
from .merge import merge_runs
from .schema import FORMAT, SCHEMA, Run, check_run

__all__ = [
    "FORMAT", "SCHEMA", "Run", "RunComparison", "check_run", "compare_runs", "merge_runs",
    "read_run", "write_run",
]  # fmt: skip
