"""Tests for `effd0.bench.baseline`: a run against a saved one, and when there is none to hold."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from effd0.bench.baseline import (
    FASTER,
    NO_BASELINE,
    SAME,
    SLOWER,
    UNSURE,
    compare,
    compare_with,
    read_run,
    run_to_json,
)
from effd0.bench.rows import Rival, Row
from effd0.bench.targets import Target
from effd0.errors import BenchmarkError
from effd0.timing import Latency

from .bench_samples import HERE, row, times

MACHINE = {"cpu": "processor", "cores": 2}


def saved(folder: Path, *rows: Row) -> Path:
    """Write *rows* as a run; return its file."""
    path = folder / "run.json"
    path.write_text(json.dumps(run_to_json(MACHINE, rows)))
    return path


def drawn(median: float, count: int = 20, seed: int = 0) -> Row:
    """Return a row of times around *median*."""
    return row(times(np.random.default_rng(seed), count, median))


def test_a_run_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    """Every sample, the machine, transfers apart and the rival's times survive the file."""
    whole = replace(
        row([1.5, 2.5, 3.0]),
        apart={"upload": Latency((0.25, 0.5))},
        rival=Rival("peer", Latency((4.0, 5.0, 6.0)), Target(2.0, 1.5)),
        notes=("a note",),
    )
    assert read_run(saved(tmp_path, whole)) == (MACHINE, [whole])


@pytest.mark.parametrize(
    ("median", "status"),
    [(10.0, SAME), (10.2, SAME), (12.0, SLOWER), (8.0, FASTER)],
    ids=["same", "two-percent", "slower", "faster"],
)
def test_a_row_is_held_against_its_namesake(tmp_path: Path, median: float, status: str) -> None:
    """What is surely slower by more than 5 % regressed; what is surely faster is told."""
    (one,) = compare_with(saved(tmp_path, drawn(10.0, seed=1)), [drawn(median)])
    assert one.status == status
    assert one.regressed == (status == SLOWER)
    assert one.ratio is not None
    assert one.ratio.value == pytest.approx(median / 10, rel=0.05)


def test_the_allowance_can_be_widened() -> None:
    """A fifth slower passes where a quarter is allowed."""
    assert compare(drawn(12.0), drawn(10.0, seed=1), 0.25).status == SAME


def test_a_missing_file_is_no_baseline(tmp_path: Path) -> None:
    """It is neither a pass nor an error, and says which file."""
    (one,) = compare_with(tmp_path / "none.json", [row()])
    assert (one.status, one.regressed, one.ratio) == (NO_BASELINE, False, None)
    assert one.reason.endswith("none.json is missing")


def test_a_new_row_is_no_baseline(tmp_path: Path) -> None:
    """A benchmark that the saved run does not have cannot have regressed."""
    (one,) = compare_with(saved(tmp_path, row(name="other")), [row(times(RNG, 20, 99))])
    assert (one.status, one.reason) == (NO_BASELINE, "it is not in the saved run")


RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"cores": 16}, "cores was 16, is 2"),
        ({"chip": "other"}, "chip was other, is chip"),
        ({"backend": "backend 0.9"}, "backend was backend 0.9, is backend 1.0"),
        ({"threads": "1"}, "threads was 1, is "),
    ],
    ids=["cores", "chip", "backend", "threads"],
)
def test_another_fingerprint_is_no_baseline(changed: dict[str, object], reason: str) -> None:
    """Ten times slower on another machine says nothing; what differs is named."""
    before = replace(drawn(1.0), fingerprint=replace(HERE, **changed))  # type: ignore[arg-type]  # one field
    one = compare(drawn(10.0), before)
    assert (one.status, one.reason) == (NO_BASELINE, reason)


@pytest.mark.parametrize(
    ("changed", "was"),
    [
        ({"images": 8}, "8 images of drawn scenes, input to heads"),
        ({"dataset": "coco"}, "1 images of coco, input to heads"),
        ({"timed": "file to input"}, "1 images of drawn scenes, file to input"),
    ],
    ids=["images", "dataset", "timed"],
)
def test_other_work_is_no_baseline(changed: dict[str, object], was: str) -> None:
    """A call that did something else is not the same row, whatever its name."""
    one = compare(drawn(10.0), replace(drawn(1.0), **changed))  # type: ignore[arg-type]  # one field
    assert (one.status, one.reason) == (NO_BASELINE, f"a call was {was}")


def test_few_samples_decide_nothing() -> None:
    """Three calls cannot accuse a build of anything."""
    one = compare(drawn(20.0, count=3), drawn(10.0))
    assert (one.status, one.regressed) == (UNSURE, False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no json", r"is not a saved run \(JSONDecodeError"),
        ("{}", r"is not a saved run \(KeyError: 'benchmarks'\)"),
        ('{"benchmarks": [], "machine_info": {}}', r"KeyError: 'effd0'"),
        (
            '{"benchmarks": [{"fullname": "x", "extra_info": {}}], "machine_info": {"effd0": {}}}',
            r"a benchmark lacks 'timed'",
        ),
    ],
    ids=["text", "empty", "other-suite", "other-benchmark"],
)
def test_another_file_is_an_error(tmp_path: Path, content: str, message: str) -> None:
    """A file that is there but is no run is not passed over as "no baseline"."""
    path = tmp_path / "run.json"
    path.write_text(content)
    with pytest.raises(BenchmarkError, match=message):
        compare_with(path, [row()])
