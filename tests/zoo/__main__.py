"""Plant each fault, run the suite, and tell what it said: ``python -m tests.zoo --help``."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from effd0.dataset import load_coco
from effd0.evaluate import evaluate

from .clean import CLEAN, Clean
from .fault import Fault, Good, Planted
from .faults import FAULTS
from .good import make_good
from .run import Row, run_suite
from .table import TABLE, differences, line_of, rendered, summary


def main(arguments: list[str] | None = None) -> int:
    """Run the zoo; return 0 if all was caught, nothing falsely, and the table is as it stands."""
    parser = argparse.ArgumentParser(prog="python -m tests.zoo", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="ID", help="these alone, with evidence")
    parser.add_argument("--write", action="store_true", help=f"write the table to {TABLE.name}")
    options = parser.parse_args(arguments)
    known = [fault.id for fault in FAULTS] + [one.id for one in CLEAN]
    unknown = set(options.only or ()) - set(known)
    if unknown:
        parser.error(f"nothing in the zoo is called {', '.join(sorted(unknown))}")
    chosen = known if options.only is None else options.only
    faults = [fault for fault in FAULTS if fault.id in chosen]
    clean = [one for one in CLEAN if one.id in chosen]
    with tempfile.TemporaryDirectory(prefix="effd0-zoo-") as folder:
        good = make_good(Path(folder))
        rows = list(_rows(faults, good, Path(folder), verbose=options.only is not None))
        alarms = list(_alarms(clean, good, Path(folder)))
    page = rendered(rows, [one.id for one in clean], alarms)
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


def _rows(faults: list[Fault], good: Good, folder: Path, *, verbose: bool) -> Iterator[Row]:
    for number, fault in enumerate(faults):
        row = _row(fault, good, folder / fault.id)
        _tell(row, f"{number + 1}/{len(faults)}", verbose=verbose)
        yield row


def _alarms(clean: list[Clean], good: Good, folder: Path) -> Iterator[str]:
    """The ids of clean runs that fail."""
    for number, one in enumerate(clean):
        (folder / one.id).mkdir()
        outcome = run_suite(Planted(tuple(one.make(good, folder / one.id))), first_only=False)
        shutil.rmtree(folder / one.id)
        word = "passes" if outcome.passed else "FALSE ALARM"
        print(
            f"{number + 1:>4}/{len(clean)}  {one.id:<36} {word}  {outcome.seconds:.1f} s",
            flush=True,
        )
        if not outcome.passed:
            print(outcome.output)
            yield one.id


def _row(fault: Fault, good: Good, folder: Path) -> Row:
    folder.mkdir()
    planted = fault.plant(good, folder)
    outcome = run_suite(planted)
    change = None
    if planted.found is not None:
        dataset = good.dataset if planted.dataset is None else load_coco(planted.dataset)
        with planted.patched():
            ap = evaluate(dataset, planted.found(), good.spec).ap
        change = (0 if ap is None else 100 * ap) - good.points
    shutil.rmtree(folder)
    return Row(fault, outcome, change)


def _tell(row: Row, number: str, *, verbose: bool) -> None:
    """One line for each fault; with *verbose*, what the verdict said."""
    print(f"{number:>7}  {line_of(row)}", flush=True)
    outcome = row.outcome
    if verbose or not row.caught or not row.stage_right or row.suspicion_right is False:
        for name in ("check", "evidence", "suspicion"):
            print(f"         {name:<9} {getattr(outcome, name)}")
    if verbose and not row.caught:
        print(outcome.output)


if __name__ == "__main__":
    sys.exit(main())
