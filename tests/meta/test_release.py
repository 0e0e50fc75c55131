"""The way to a release: tox's commands of docs/release-gate.md on real files, and the wheel."""

import json
import re
import shlex
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from effd0.data import fixture as embedded
from effd0.results.compare import MIN_SAMPLES
from effd0.results.run import read_run
from tests.helpers import ROOT, Outcome, effd0

from .tox_commands import commands_of

WHEEL = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
#: In the clone -> in the wheel.
INCLUDED: dict[str, str] = WHEEL["wheel"]["force-include"]
BASELINE = "baselines/board.json"
BASELINES = sorted((ROOT / "baselines").glob("*.json"))
Change: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]


def change(path: Path, how: Change) -> None:
    """Change the first measurement in a run file."""
    content = json.loads(path.read_text())
    part = "accuracy" if content["accuracy"] else "latency"
    content[part][0] = how(content[part][0])
    path.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what was measured on this host: accuracy.json and speed.json."""
    folder = tmp_path_factory.mktemp("gate")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        # In torch nothing has to be exported first.
        speed = f"effd0 benchmark --runner torch --loop {MIN_SAMPLES} --report-json speed.json"
        for line in (*commands_of("evaluate", "--runner torch"), speed):
            assert run(line).code == 0, line
    # On a busy machine even the same times may decide nothing: steady ones stand in.
    change(
        folder / "speed.json",
        lambda row: row | {"samples_ms": [row["p50_ms"]] * len(row["samples_ms"])},
    )
    return folder


@pytest.fixture
def place(measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of its own that holds the same files."""
    folder = tmp_path / "clone"
    shutil.copytree(measured, folder)
    (folder / "baselines").mkdir()
    monkeypatch.chdir(folder)
    return folder


def run(line: str) -> Outcome:
    """Run a command as it stands in tox.ini."""
    return effd0(*shlex.split(line)[1:])


def gate() -> list[Outcome]:
    """Run `tox -e gate` on the baseline: what follows a failure is not run."""
    outcomes = []
    for line in commands_of("gate", BASELINE):
        outcomes.append(run(line))
        if outcomes[-1].code != 0:
            break
    return outcomes


@pytest.mark.slow
@pytest.mark.usefixtures("place")
def test_a_new_board_becomes_its_own_baseline() -> None:
    """Without one the gate stops behind run.json; with that it passes, and the page is there."""
    *_, stopped = gate()
    assert stopped.code == 2
    assert f"--baseline is {BASELINE}, which does not exist" in stopped.err
    shutil.copy("run.json", BASELINE)
    assert [outcome.code for outcome in gate()] == [0, 0, 0]
    for line in commands_of("report"):
        assert run(line).code == 0, line
    assert "<h1" in Path("report.html").read_text()
    assert Path("summary.md").read_text().startswith("## ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "fault", "reason"),
    [
        (
            "accuracy.json",
            lambda one: one | {"metrics": one["metrics"] | {"AP": 0.99 * one["metrics"]["AP"]}},
            "mAP",
        ),
        (
            "speed.json",
            lambda row: row | {"samples_ms": [1.5 * sample for sample in row["samples_ms"]]},
            "1.5 (1.5 to 1.5) times as long",
        ),
    ],
    ids=["less-exact", "slower"],
)
@pytest.mark.usefixtures("place")
def test_a_worse_candidate_is_red(file: str, fault: Change, reason: str) -> None:
    """A loss that the baseline does not have fails the last command, which says which it is."""
    gate()
    shutil.copy("run.json", BASELINE)
    change(Path(file), fault)
    outcomes = gate()
    assert [outcome.code for outcome in outcomes] == [0, 0, 1]
    verdict = next(line for line in outcomes[-1].out.splitlines() if line.startswith("WORSE"))
    assert reason in verdict


@pytest.mark.parametrize("path", BASELINES, ids=lambda path: path.stem)
def test_a_baseline_is_read_and_small(path: Path) -> None:
    """This version compares with it; it has no pictures and no paths of the machine."""
    outcome = effd0("compare", path, path)
    assert outcome.code == 0, outcome.out + outcome.err
    assert path.stat().st_size < 100_000
    assert not re.search(r'"[^"]*: ?"/', path.read_text())
    assert all(one.insight is None for one in read_run(path).accuracy)


def test_the_embedded_default_is_in_the_wheel() -> None:
    """Each file lies where `data.fixture` and `check` look first; together they stay small."""
    parts = [embedded.coco_root(), embedded.checkpoint(), embedded.folder() / "reference.json"]
    sources = [str(path.relative_to(ROOT)) for path in parts]
    places = {source: f"effd0/{source}" for source in sources} | {"tests/suite": "effd0/suite"}
    assert places == INCLUDED
    files = [file for path in parts for file in (path, *path.rglob("*")) if file.is_file()]
    # Package registries take 100 MB; every install downloads it, so a tenth is enough.
    assert 1e6 < sum(file.stat().st_size for file in files) < 1e7 * 1.2
