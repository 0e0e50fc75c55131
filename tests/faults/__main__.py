"""Plant each fault, run the suite, and tell what it said: ``python -m tests.faults --help``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from .clean import CLEAN
from .run import Row, make_good
from .table import TABLE, cells, differences, rendered, summary
from .work import FAULTS, run_clean, run_fault

#: Runs at a time: much of the suite keeps one core busy.
PROCESSES = 2


def main(arguments: list[str] | None = None) -> int:
    """Run the zoo; return 0 if nothing was caught falsely and the table is as it stands."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="ID", help="these alone, with evidence")
    parser.add_argument("--quarter", action="store_true", help="every fourth row, by the day")
    parser.add_argument("--write", action="store_true", help=f"write the table to {TABLE.name}")
    options = parser.parse_args(arguments)
    every = [*FAULTS, *CLEAN]
    if unknown := set(options.only or ()) - set(every):
        parser.error(f"nothing in the zoo is called {', '.join(sorted(unknown))}")
    chosen = options.only or every
    if options.quarter:
        chosen = every[datetime.now(UTC).toordinal() % 4 :: 4]
    faults = [id_ for id_ in FAULTS if id_ in chosen]
    clean = [id_ for id_ in CLEAN if id_ in chosen]
    rows: list[Row] = []
    alarms: list[str] = []
    with (
        tempfile.TemporaryDirectory(prefix="effd0-zoo-") as folder,
        ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool,
    ):
        good = make_good(Path(folder))
        for outcome, change in pool.map(partial(run_fault, good), faults):
            row = Row(FAULTS[faults[len(rows)]], outcome, change)
            rows.append(row)
            print(f"{len(rows)}/{len(faults)}  {', '.join(cells(row))}", flush=True)
            if options.only or not row.right:
                print("\n".join(outcome.verdict.lines()))
            if outcome.passed:
                print(outcome.output)
        for id_, outcome in zip(clean, pool.map(partial(run_clean, good), clean), strict=True):
            word = "passes" if outcome.passed else "FALSE ALARM"
            print(f"{id_:<36} {word}  {outcome.seconds:.1f} s", flush=True)
            if not outcome.passed:
                print(outcome.output)
                alarms.append(id_)
    page = rendered(rows, clean, alarms)
    print("\n".join(summary(rows, len(clean), alarms)))
    if options.only:
        return 0
    if options.write:
        TABLE.write_text(page)
    changed = differences(TABLE.read_text(), page, chosen)
    print("\n".join(changed))
    return 1 if changed or alarms else 0


if __name__ == "__main__":
    sys.exit(main())
