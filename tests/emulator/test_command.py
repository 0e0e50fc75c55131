"""The installed command on an emulated host: a process of its own, let run and killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from effd0.data import fixture as embedded
from effd0.data.coco import load_coco
from effd0.spec import D0
from effd0.tensors.inputs import write_inputs

from .tools import SITE

pytestmark = pytest.mark.slow

IMAGES = 12


@pytest.fixture(scope="module")
def bins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network inputs of the first embedded scenes."""
    folder = tmp_path_factory.mktemp("inputs") / "bins"
    list(write_inputs(load_coco(embedded.coco_root(), image_limit=IMAGES), folder, D0))
    return folder


def start(folder: Path, model: Path, bins: Path) -> subprocess.Popen[str]:
    """Start ``effd0 infer`` in *folder*; its emulator writes ``report.json`` at its end."""
    words = ["infer", "--model", str(model), "--input", str(bins), "--output", str(folder)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(SITE), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "EFFD0_FAKE_ACL_REPORT": str(folder / "report.json"),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "effd0", *words, "--batch-size", "1"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_whole_run_leaves_nothing_behind(
    emulated_model: Path, bins: Path, tmp_path: Path
) -> None:
    """From its start to its end the process breaks no rule of pyACL and gives all back."""
    process = start(tmp_path, emulated_model, bins)
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["violations"], report["leaks"]) == ([], [])
    assert report["calls"] > 100
    assert "[INFO] throughput 1000*batchsize.mean(" in out
    assert len(list((tmp_path / "result").iterdir())) == IMAGES * len(D0.output_names)


def test_a_killed_run_leaves_no_result_that_could_be_taken_for_whole(
    emulated_model: Path, bins: Path, tmp_path: Path
) -> None:
    """Killed between two batches: no result folder, no summary; the next run is not disturbed."""
    process = start(tmp_path, emulated_model, bins)
    while not list(tmp_path.rglob("*_9.*")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the run was over before it was killed"
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith(".")] == []
    again = start(tmp_path, emulated_model, bins)
    _, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
