"""Plant each fault, run the suite, and tell what it said: ``python -m tests.faults --help``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from .clean import CLEAN
from .run import Good, Outcome, Row, make_good
from .table import TABLE, differences, line_of, rendered, summary
from .work import FAULTS, run_clean, run_fault

#: Runs at a time: much of the suite keeps one core busy.
PROCESSES = 2


def main(arguments: list[str] | None = None) -> int:
    """Run the zoo; return 0 if all was caught, nothing falsely, and the table is as it stands."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="ID", help="these alone, with evidence")
    parser.add_argument("--write", action="store_true", help=f"write the table to {TABLE.name}")
    options = parser.parse_args(arguments)
    known = [fault.id for fault in FAULTS] + [*CLEAN]
    unknown = set(options.only or ()) - set(known)
    if unknown:
        parser.error(f"nothing in the zoo is called {', '.join(sorted(unknown))}")
    chosen = known if options.only is None else options.only
    faults = [fault.id for fault in FAULTS if fault.id in chosen]
    clean = [id_ for id_ in CLEAN if id_ in chosen]
    with (
        tempfile.TemporaryDirectory(prefix="effd0-zoo-") as folder,
        ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool,
    ):
        good = make_good(Path(folder))
        rows = list(_rows(faults, good, pool, verbose=options.only is not None))
        alarms = list(_alarms(clean, good, pool))
    page = rendered(rows, clean, alarms)
    for line in summary(rows, len(clean), alarms):
        print(line)
    if options.only:
        return 0
    if options.write:
        TABLE.write_text(page)
    changed = differences(TABLE.read_text(), page)
    for line in changed:
        print(line)
    return 1 if changed or alarms or not all(row.caught for row in rows) else 0


def _rows(
    faults: list[str], good: Good, pool: ProcessPoolExecutor, *, verbose: bool
) -> Iterator[Row]:
    known = {fault.id: fault for fault in FAULTS}
    for number, (outcome, change) in enumerate(pool.map(partial(run_fault, good), faults)):
        row = Row(known[faults[number]], outcome, change)
        _tell(row, f"{number + 1}/{len(faults)}", verbose=verbose)
        yield row


def _alarms(clean: list[str], good: Good, pool: ProcessPoolExecutor) -> Iterator[str]:
    """The ids of clean runs that fail."""
    outcomes: Iterator[Outcome] = pool.map(partial(run_clean, good), clean)
    for number, outcome in enumerate(outcomes):
        word = "passes" if outcome.passed else "FALSE ALARM"
        told = f"{number + 1}/{len(clean)}  {clean[number]:<36} {word}  {outcome.seconds:.1f} s"
        print(f"    {told}", flush=True)
        if not outcome.passed:
            print(outcome.output)
            yield clean[number]


def _tell(row: Row, number: str, *, verbose: bool) -> None:
    """One line for each fault; with *verbose*, what the verdict said."""
    print(f"{number:>7}  {line_of(row)}", flush=True)
    outcome = row.outcome
    if verbose or not row.caught or not row.stage_right or row.named is False:
        for name in ("check", "evidence", "diagnosis"):
            print(f"         {name:<9} {getattr(outcome, name)}")
    if not row.caught:
        print(outcome.output)


if __name__ == "__main__":
    sys.exit(main())
