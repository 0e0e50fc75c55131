"""
Runs on Ray as processes of their own, stopped from outside: nothing of them stays behind.

``python -m tests.unit.distributed.test_stopped COCO PLAN OUT`` is such a run, of two workers.
"""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from effd0.data.coco import Dataset
from effd0.distributed import engine
from effd0.distributed.pool import NPU, Pool
from effd0.distributed.ray_cluster import started
from effd0.errors import RunnerError
from effd0.evaluation.evaluate import EvaluationJob, evaluate
from effd0.evaluation.model import ModelChoice
from effd0.metrics.coco import entries_of, to_coco_results
from tests.helpers import ROOT, SMALL
from tests.helpers.runners import BATCH, ToldRunner, alone, coloured_coco, told_model

pytestmark = pytest.mark.slow

IMAGES = 32
#: Seconds until a stopped run is gone from a host that has better things to do.
GONE_S = 30
#: In the environment of the driver, and so of all that it starts.
MARK = "EFFD0_TEST_RUN"


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Pictures for some seconds."""
    pytest.importorskip("ray", reason="needs ray: pip install 'effd0[ray]'")
    return coloured_coco(tmp_path / "coco", IMAGES)


class Driver:
    """A run on two workers over the pictures in *root*, in a process group of its own."""

    def __init__(self, root: Path) -> None:
        self.out = root / "out"
        self.token = f"{MARK}={uuid.uuid4()}"
        name, _, value = self.token.partition("=")
        words = [str(root / folder) for folder in ("coco", "plan")]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.unit.distributed.test_stopped", *words, str(self.out)],
            cwd=ROOT,
            env={**os.environ, name: value, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait_for_records(self) -> None:
        """Wait until some images are done."""
        records = self.out / "detections.records"
        wait_for(lambda: _size(records) > 1000 or self.process.poll() is not None)
        assert self.process.poll() is None, self.process.communicate()

    def ended(self) -> str:
        """Wait for a good end; return what it printed."""
        out, errors = self.process.communicate(timeout=120)
        assert self.process.returncode == 0, errors
        return out

    def left_running(self) -> list[str]:
        """All processes of this run, its driver too, but for Ray's agents of a node."""
        return [
            f"{folder.name} {command!r}"
            for folder in Path("/proc").glob("[0-9]*")
            if self.token.encode() in _read(folder / "environ").split(b"\0")
            and b"gent" not in (command := _read(folder / "cmdline")[:200])
        ]

    def sessions(self) -> list[Path]:
        """The folders of Ray's sockets and logs that it made."""
        return list(Path("/tmp").glob(f"effd0-ray-*/session_*_{self.process.pid}"))  # noqa: S108


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # gone by now
        return b""


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    """Wait until *condition*, for at most so many *seconds*."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)


def check_result(driver: Driver, dataset: Dataset) -> None:
    """The detections that *driver* wrote are those of one process."""
    rows: list[dict[str, Any]] = json.loads((driver.out / "detections.json").read_text())
    assert rows == [*entries_of(to_coco_results(alone(dataset), SMALL))]


def test_a_killed_driver_leaves_nothing_but_what_is_done(dataset: Dataset, tmp_path: Path) -> None:
    """All its processes end too; a resumed run does the rest, and has each image once."""
    driver = Driver(tmp_path)
    driver.wait_for_records()
    driver.process.send_signal(signal.SIGKILL)
    driver.process.communicate()
    # Workers go within seconds; Ray's agents of a node may look for its head for minutes.
    wait_for(lambda: not driver.left_running(), GONE_S)
    assert driver.left_running() == []
    assert len(driver.sessions()) == 1
    again = Driver(tmp_path)
    assert f"of {IMAGES} images are there" in again.ended()
    check_result(again, dataset)
    assert driver.sessions() == again.sessions() == []


def test_ctrl_c_ends_a_run_and_says_what_is_kept(dataset: Dataset, tmp_path: Path) -> None:
    """Interrupted as by a terminal, all processes end within seconds, and --resume is named."""
    driver = Driver(tmp_path)
    driver.wait_for_records()
    os.killpg(driver.process.pid, signal.SIGINT)
    out, errors = driver.process.communicate(timeout=GONE_S)
    assert driver.process.returncode != 0
    assert f"{driver.out} keeps " in out
    assert "--resume" in out
    # Nothing else is printed: neither by Ray nor by its processes.
    assert errors.strip().endswith("KeyboardInterrupt")
    assert errors.count("Traceback") == 1
    wait_for(lambda: not driver.left_running(), GONE_S)
    assert driver.left_running() == []
    assert driver.sessions() == []
    again = Driver(tmp_path)
    again.ended()
    check_result(again, dataset)


def children() -> set[str]:
    """Return the processes that this one has started, and that are not gone."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def outside() -> tuple[object, ...]:
    """Return what Ray is kept from: the outputs, in Python and below, and logging."""
    output = os.fstat(2)
    level = logging.root.manager.disable
    return sys.stdout, sys.stderr, output.st_dev, output.st_ino, level


def test_ray_leaves_nothing() -> None:
    """Left by an error, and joined in vain: no process, no folder, the outputs are back."""
    pytest.importorskip("ray", reason="needs ray: pip install 'effd0[ray]'")
    before, there = outside(), children()
    with contextlib.suppress(ZeroDivisionError), started(Pool(1), None) as ray:
        assert ray.capacity() >= 1
        assert outside() != before
        raise ZeroDivisionError
    nowhere = Pool(1, (), "127.0.0.1:1")
    with pytest.raises(RunnerError, match=r"joined at 127\.0\.0\.1:1"), started(nowhere, NPU):
        pass
    assert outside() == before
    wait_for(lambda: children() <= there, GONE_S)
    assert children() <= there
    assert not list(Path("/tmp").glob(f"effd0-ray-*/session_*_{os.getpid()}"))  # noqa: S108


def main(coco: str, plan: str, out: str) -> None:
    """Evaluate on two workers; *plan* is a folder that tells them what to do, see `ToldRunner`."""
    folder = Path(plan)
    folder.mkdir(exist_ok=True)
    model = folder / "told.onnx"
    model.write_bytes(b"no model")
    # Seconds a batch: long enough for a run to be stopped in the middle.
    told = partial(told_model, folder, 0.3, ToldRunner)
    ray_engine = engine.RayEngine(ModelChoice(model, spec=SMALL), Pool(2), BATCH)
    job = EvaluationJob(Path(coco), out=Path(out), resume=Path(out).exists())
    with mock.patch.object(engine, "open_on", lambda _r, _s, _o, *where: told(*where)):
        evaluate(job, ray_engine, say=print)


if __name__ == "__main__":
    main(*sys.argv[1:])
