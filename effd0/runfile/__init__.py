"""A run as data: one JSON file that says what was run on what, and what came of it."""

from __future__ import annotations

from .file import read_run, write_run
from .schema import FORMAT, SCHEMA, Run, check_run

__all__ = ["FORMAT", "SCHEMA", "Run", "check_run", "read_run", "write_run"]
