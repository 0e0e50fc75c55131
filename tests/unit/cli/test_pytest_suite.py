"""A run on a user's artefact: which tests it takes, in which order, and what it writes."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from xml.etree import ElementTree as ET

import pytest
import torch
from PIL import Image

from effd0.cli import pytest_suite
from effd0.cli.pytest_plugin import PATHS
from effd0.data import fixture as embedded
from effd0.data.coco import load_coco
from effd0.io import sha256
from effd0.results.check import next_step
from effd0.results.run import read_run
from tests import helpers
from tests.helpers.runs import content_of

WEIGHTS = f"--checkpoint={embedded.checkpoint()}"


class Item:
    """A test, as far as selection looks at it; with a *stage* it checks an artefact."""

    def __init__(self, name: str, stage: str | None = None, *marks: str) -> None:
        self.nodeid = name
        made = [getattr(pytest.mark, one) for one in marks]
        if stage is not None:
            made += [pytest.mark.stage(stage), pytest.mark.artefact]
        self.marks = {one.mark.name: one.mark for one in made}

    def get_closest_marker(self, name: str) -> pytest.Mark | None:
        """The mark of that name."""
        return self.marks.get(name)

    def add_marker(self, mark: pytest.MarkDecorator) -> None:
        """Add one more mark."""
        self.marks[mark.name] = mark.mark


def selected(items: list[Item], source: str = "TESTPATHS", **options: object) -> list[str]:
    """Select *items* in a session with these *options*; return the names of those left out."""
    left_out: list[Item] = []
    record = pytest_suite.SessionRecord()
    values = dict.fromkeys((*PATHS, "--slow", "--keep-going")) | {"--require": []}
    values |= {f"--{name}": value for name, value in options.items()}
    config = SimpleNamespace(
        getoption=values.__getitem__,
        args_source=pytest.Config.ArgsSource[source],
        stash={pytest_suite.RECORD: record},
        pluginmanager=SimpleNamespace(has_plugin=lambda name: name == "timeout"),
        hook=SimpleNamespace(pytest_deselected=lambda *, items: left_out.extend(items)),
    )
    pytest_suite.pytest_collection_modifyitems(
        cast(pytest.Config, config), cast(list[pytest.Item], items)
    )
    return [one.nodeid for one in left_out]


@pytest.mark.parametrize(
    ("given", "names", "deselected"),
    [
        ({}, ["images", "export", "gate", "own"], []),
        ({"checkpoint": Path()}, ["images", "export", "gate"], ["own"]),
        ({"checkpoint": Path(), "source": "ARGS"}, ["images", "export", "gate", "own"], []),
    ],
    ids=["nothing-given", "artefact-given", "files-named"],
)
def test_checks_run_in_the_order_of_their_stages(
    given: dict[str, Any], names: list[str], deselected: list[str]
) -> None:
    """With an artefact its checks alone run, unless files are named; they come first."""
    items = [Item("own"), Item("gate", "gate"), Item("images", "dataset"), Item("export", "export")]
    assert selected(items, **given) == deselected
    assert [one.nodeid for one in items] == names


@pytest.mark.parametrize(
    ("options", "skipped"),
    [({}, ["slow", "coco"]), ({"slow": True}, ["coco"])],
    ids=["by-default", "slow"],
)
def test_what_is_absent_is_skipped(options: dict[str, Any], skipped: list[str]) -> None:
    """The reason names what would lift it."""
    items = [Item("slow", None, "slow"), Item("coco", None, "coco"), Item("other")]
    selected(items, **options)
    reasons = {
        one.nodeid: one.marks["skip"].kwargs["reason"] for one in items if "skip" in one.marks
    }
    assert list(reasons) == skipped
    assert all(reason.startswith(f"needs {name}: no --{name}") for name, reason in reasons.items())


@pytest.mark.parametrize(("given", "sizes"), [([], [None]), ([1, 8], [1, 8])], ids=["none", "two"])
def test_every_batch_size_given_counts(given: list[int], sizes: list[int | None]) -> None:
    """A test that asks for the batch size runs once with each of --batch-size."""
    asked = {}
    metafunc = SimpleNamespace(
        config=SimpleNamespace(getoption={"--batch-size": given, "--runner": []}.__getitem__),
        function=test_every_batch_size_given_counts,
        fixturenames=["given_batch"],
        parametrize=lambda name, values, ids: asked.update({name: (values, ids)}),
    )
    pytest_suite.pytest_generate_tests(cast(pytest.Metafunc, metafunc))
    assert asked["given_batch"][0] == sizes


def shifted_scenes(folder: Path) -> Path:
    """A COCO folder whose category ids are shifted by one; nothing else is wrong."""
    root = helpers.write_coco(folder / "coco")
    file = root / "annotations" / "instances_val2017.json"
    content: dict[str, Any] = json.loads(file.read_text())
    for entry, key in [(c, "id") for c in content["categories"]] + [
        (a, "category_id") for a in content["annotations"]
    ]:
        entry[key] -= 1
    helpers.write_annotations(root, content)
    return root


@pytest.mark.slow
def test_the_report_holds_verdict_and_checks(tmp_path: Path) -> None:
    """What is wrong with an artefact can be read by a program as on the terminal."""
    report, junit = tmp_path / "report.json", tmp_path / "junit.xml"
    done = helpers.run_pytest(
        f"--report-json={report}", f"--junit-xml={junit}", WEIGHTS,
        f"--coco={shifted_scenes(tmp_path)}", "tests/suite/test_dataset.py",
    )  # fmt: skip
    content = content_of(report)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert (content["exit_status"], content["accuracy"], content["latency"]) == (1, [], [])
    verdict = content["verdict"]
    (failed,) = [check for check in content["checks"] if check["status"] == "failed"]
    assert len(content["checks"]) == 5
    (command,) = content["commands"]
    assert shlex.split(command)[-1] == "tests/suite/test_dataset.py"
    artefact, scenes = content["artefact"], load_coco(tmp_path / "coco")
    assert artefact["checkpoint_sha256"] == sha256(embedded.checkpoint())
    assert artefact["dataset"] == {
        "name": "coco val2017", "images": len(scenes.samples),
        "sha256": sha256(scenes.annotation_file), "release_set": False,
    }  # fmt: skip
    assert failed["name"].endswith("test_dataset.py::test_categories_are_the_models_classes")
    assert failed["evidence"].startswith("category person has id 0, but 1 in COCO, as have 2 of 2")
    assert failed["diagnosis"].startswith("80 categories numbered 0 to 79: every id")
    assert (verdict["status"], verdict["stage"]) == ("fail", "dataset")
    assert (verdict["evidence"], verdict["diagnosis"]) == (failed["evidence"], failed["diagnosis"])
    assert f"evidence   {failed['evidence']}\ndiagnosis  {failed['diagnosis']}\n" in done.stdout
    # The verdict is the last that is said, and a user reads what is wrong, not how it was found.
    assert done.stdout.endswith(f"next step  {verdict['next_step']}\n")
    assert f"\n{failed['evidence']}\ndiagnosis: {failed['diagnosis']}\n" in done.stdout
    assert "    def test_categories" not in done.stdout
    cases = [
        {found.attrib["name"]: found.attrib["value"] for found in case.iter("property")}
        for case in ET.parse(junit).iter("testcase")  # noqa: S314  # our own file
    ]
    words = ("stage", "evidence", "diagnosis", "unit")
    written = [{key: case[key] for key in words if key in case} for case in cases]
    assert written == [{key: one[key] for key in words if one[key]} for one in content["checks"]]


def test_the_next_step_repeats_what_decides_the_run() -> None:
    """A run that is repeated has the thresholds and runners of the first."""
    words = "--min-map=60 --release-set --runner=ort --runner=torch --image-limit=9"
    given = pytest_suite.given_to(helpers.session_config(f"--model=a.onnx {words}"))
    assert {option: str(value) for option, value in given.items() if value is not None} == {
        "--model": "a.onnx", "--release-set": "", "--min-map": "60.0",
        "--runner": "ort --runner torch",
    }  # fmt: skip
    repeated = "effd0 check a.onnx --runner ort --runner torch --release-set --min-map 60.0"
    assert next_step("limited", given) == repeated


@pytest.mark.slow
@pytest.mark.parametrize(
    "content",
    ['{"a":', '[{"image_id": 5, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]'],
    ids=["unreadable", "of-other-images"],
)
def test_detections_that_cannot_be_compared_test_no_stage(content: str, tmp_path: Path) -> None:
    """The file is wrong; of its boxes and their suppression, nothing is known."""
    (tmp_path / "theirs.json").write_text(content)
    report, tests = tmp_path / "report.json", "tests/suite/test_detections.py"
    helpers.run_pytest(
        WEIGHTS, f"--detections={tmp_path / 'theirs.json'}", f"--report-json={report}", tests
    )
    found = {check["stage"]: check["status"] for check in content_of(report)["checks"]}
    assert found == {"decode": "skipped", "nms": "skipped", "evaluate": "failed"}


@pytest.mark.slow
def test_twice_verbose_shows_the_code_of_a_failed_check(tmp_path: Path) -> None:
    """Who doubts a check can read it."""
    tests = "tests/suite/test_dataset.py::test_categories_are_the_models_classes"
    done = helpers.run_pytest("-vvv", WEIGHTS, f"--coco={shifted_scenes(tmp_path)}", tests)
    assert "def test_categories_are_the_models_classes" in done.stdout


@pytest.mark.slow
def test_an_error_of_the_suite_exits_with_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fixture that breaks is no broken stage: the verdict and the exit code say so."""
    report = tmp_path / "report.json"
    (tmp_path / "full_disc.py").write_text(
        "def pytest_fixture_setup(fixturedef): raise OSError('no space left')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    given = ("-p", "full_disc", f"--report-json={report}")
    done = helpers.run_pytest(*given, "tests/suite/test_dataset.py::test_boxes_lie_in_their_images")
    content = content_of(report)
    said = "the suite could not run: OSError: no space left"
    assert done.returncode == content["exit_status"] == pytest.ExitCode.INTERRUPTED
    assert (content["verdict"]["status"], content["verdict"]["evidence"]) == ("undecided", said)
    assert f"UNDECIDED  {said}" in done.stdout


@pytest.mark.slow
def test_a_job_on_github_gets_the_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its summary has the verdict once, the log one annotation, beside a run file on stdout."""
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    scenes = f"--coco={shifted_scenes(tmp_path)}"
    done = helpers.run_pytest(WEIGHTS, scenes, "--report-json=-", "tests/suite/test_dataset.py")
    assert json.loads(done.stdout)["verdict"]["stage"] == "dataset"
    assert summary.read_text().count("MUST NOT SHIP") == 1
    marked = [line for line in done.stderr.splitlines() if line.startswith("::")]
    assert len(marked) == 1
    assert marked[0].startswith("::error title=effd0 MUST NOT SHIP::FAIL  ")


@pytest.mark.slow
def test_a_warning_of_a_library_decides_nothing(tmp_path: Path) -> None:
    """Damaged EXIF blocks, and a picture of 90 megapixels, are told in a line; the stage passes."""
    content, side = helpers.coco_content(3), 9500
    content["images"][2] |= {"width": side, "height": side}
    for entry in content["images"]:
        entry["file_name"] = f"{entry['id']}.jpg"
    root = helpers.write_coco(tmp_path / "coco", content)
    for name in ("10.jpg", "20.jpg"):
        path = root / "val2017" / name
        Image.open(path).save(path, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x02\0\x12\x01")
    Image.new("L", (side, side), 99).save(root / "val2017" / "30.jpg", "PNG")
    done = helpers.run_pytest(f"--coco={root}", WEIGHTS, "tests/suite/test_dataset.py")
    assert done.returncode == 0, done.stdout
    assert "passed     dataset" in done.stdout
    assert done.stdout.count("Corrupt EXIF data") == 1
    assert done.stdout.count("(90250000 pixels) exceeds limit") == 1
    command = [sys.executable, "-m", "effd0", "evaluate", "--root", str(root), *WEIGHTS.split("=")]
    ran = subprocess.run([*command, "--runner=torch"], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr.count("(90250000 pixels) exceeds limit")) == (0, 1)


@pytest.mark.slow
def test_workers_of_xdist_say_what_one_process_says(tmp_path: Path) -> None:
    """Verdict, exit code, run file and figures do not depend on who ran the checks."""
    pytest.importorskip("xdist")
    scenes = (f"--coco={embedded.coco_root()}", "--image-limit=2", "--runner=torch")
    tests, told = ("tests/suite/test_dataset.py", "tests/suite/test_accuracy.py"), []
    for count in (0, 2):
        path = tmp_path / f"{count}.json"
        done = helpers.run_pytest(WEIGHTS, *scenes, *tests, "-n", count, f"--report-json={path}")
        run = read_run(path)
        checks = sorted((check.name, check.status, check.evidence) for check in run.checks)
        metrics = [each.metrics for each in run.accuracy]
        told.append((done.returncode, run.verdict, run.artefact, checks, metrics))
    assert told[0] == told[1]
    assert len(told[0][-1]) == 1


@pytest.mark.slow
def test_a_run_file_on_a_full_disk_is_one_error_behind_the_verdict() -> None:
    """What was found is not lost with the file: exit code 2, and no traceback."""
    done = helpers.run_pytest(WEIGHTS, "tests/suite/test_dataset.py", "--report-json=/dev/full")
    assert done.returncode == 2
    assert "passed     dataset" in done.stdout
    assert re.match("Exit: /dev/full cannot be written: .*; choose another", done.stderr)
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
def test_the_suite_takes_the_weights_that_are_named(tmp_path: Path) -> None:
    """Of two sets the named one is loaded, exported, and the reference; the default is broken."""
    good = torch.load(embedded.checkpoint(), weights_only=True)
    broken = {name: v * float("nan") if v.is_floating_point() else v for name, v in good.items()}
    torch.save({"model": good, "ema": broken}, tmp_path / "both.pth")
    stages = [f"tests/suite/test_{name}.py" for name in ("checkpoint", "export")]
    words = (*stages, f"--checkpoint={tmp_path / 'both.pth'}")
    done = helpers.run_pytest(*words, "--weights=model", "-rf")
    assert done.returncode == 0, done.stdout
    done = helpers.run_pytest(stages[0], words[2])
    assert "holds NaN or infinity" in done.stdout
    done = helpers.run_pytest(stages[0], words[2], "--weights=best")
    assert done.returncode == 2
    assert "--weights is best, but" in done.stdout
    assert "UNDECIDED" in done.stdout
