"""Plant each fault, run the suite, and tell what it said: ``python -m tests.zoo --help``."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from effd0.dataset import load_coco
from effd0.evaluate import evaluate

from .fault import Fault, Good
from .faults import FAULTS
from .good import make_good
from .run import Row, run_suite
from .table import TABLE, differences, line_of, rendered, summary


def main(arguments: list[str] | None = None) -> int:
    """Run the zoo; return 0 if every fault was caught and the table is as it stands, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.zoo", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="ID", help="these faults alone, with evidence")
    parser.add_argument("--write", action="store_true", help=f"write the table to {TABLE.name}")
    options = parser.parse_args(arguments)
    chosen = [f for f in FAULTS if options.only is None or f.id in options.only]
    if options.only and len(chosen) < len(options.only):
        parser.error(f"no fault is called {set(options.only) - {f.id for f in FAULTS}}")
    with tempfile.TemporaryDirectory(prefix="effd0-zoo-") as folder:
        good = make_good(Path(folder))
        rows = []
        for number, fault in enumerate(chosen):
            rows.append(_row(fault, good, Path(folder) / fault.id))
            _tell(rows[-1], f"{number + 1}/{len(chosen)}", verbose=options.only is not None)
    for line in summary(rows):
        print(line)
    if options.only:
        return 0
    if options.write:
        TABLE.write_text(rendered(rows))
    changed = differences(TABLE.read_text(), rendered(rows))
    for line in changed:
        print(line)
    return 1 if changed or not all(row.caught for row in rows) else 0


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
