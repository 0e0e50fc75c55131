"""Runs on Ray as processes of their own, stopped from outside: nothing of them stays behind."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import pytest

from effd0.data.coco import Dataset
from effd0.detection.postprocess import Detections
from effd0.scale.kept import SHARDS

from .killed import ROOT
from .pool_driver import FOUND
from .pool_runs import alone, coloured_coco, same

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

    def __init__(self, root: Path, **environment: str) -> None:
        self.out = root / "out"
        self.token = f"{MARK}={uuid.uuid4()}"
        name, _, value = self.token.partition("=")
        words = [str(root / folder) for folder in ("coco", "plan")]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.pool_driver", *words, str(self.out)],
            cwd=ROOT,
            env={**os.environ, name: value, "PYTHONUNBUFFERED": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    @property
    def shards(self) -> list[Path]:
        """What is done."""
        return sorted((self.out / SHARDS).glob("[!.]*.parquet"))

    def wait_for_shards(self, count: int) -> None:
        """Wait until so many units are done."""
        wait_for(lambda: len(self.shards) >= count or self.process.poll() is not None)
        assert self.process.poll() is None, self.process.communicate()

    def ended(self) -> str:
        """Wait for a good end; return what it printed."""
        out, errors = self.process.communicate(timeout=120)
        assert self.process.returncode == 0, errors
        return out

    def found(self) -> Mapping[int, Detections]:
        """What it found."""
        found: Mapping[int, Detections] = pickle.loads((self.out / FOUND).read_bytes())  # noqa: S301
        return found

    def left_running(self) -> list[str]:
        """All processes of this run, its driver too, but for Ray's agents of a node."""
        return [
            f"{folder.name} {command!r}"
            for folder in Path("/proc").glob("[0-9]*")
            if self.token.encode() in _read(folder / "environ").split(b"\0")
            and b"gent" not in (command := _read(folder / "cmdline")[:200])
        ]


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


def sessions(driver: Driver) -> list[Path]:
    """Return the folders of Ray's sockets and logs that *driver* made."""
    return list(Path("/tmp").glob(f"effd0-ray-*/session_*_{driver.process.pid}"))  # noqa: S108


def places(shards: list[Path]) -> list[tuple[int, int]]:
    """Return first and stop of each of *shards*."""
    return [tuple(map(int, path.stem.split("-"))) for path in shards]  # type: ignore[misc]


def test_a_killed_driver_leaves_nothing_but_what_is_done(dataset: Dataset, tmp_path: Path) -> None:
    """All its processes end too; a resumed run does the rest, and has each image once."""
    driver = Driver(tmp_path)
    driver.wait_for_shards(3)
    driver.process.send_signal(signal.SIGKILL)
    driver.process.communicate()
    # Workers go within seconds; Ray's agents of a node may look for its head for minutes.
    wait_for(lambda: not driver.left_running(), GONE_S)
    assert driver.left_running() == []
    assert len(sessions(driver)) == 1
    kept = {path: path.stat().st_mtime_ns for path in driver.shards}
    assert len(kept) < IMAGES // 2, "it was over before it was killed"
    again = Driver(tmp_path)
    assert f"of {IMAGES} images are there" in again.ended()
    assert same(again.found(), alone(dataset))
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    done = places(again.shards)
    assert all(stop == first for (_, stop), (first, _) in pairwise(done))
    assert (done[0][0], done[-1][1]) == (0, IMAGES)
    assert sessions(driver) == sessions(again) == []


def test_ctrl_c_ends_a_run_and_says_what_is_kept(dataset: Dataset, tmp_path: Path) -> None:
    """Interrupted as by a terminal, all processes end within seconds, and --resume is named."""
    driver = Driver(tmp_path)
    driver.wait_for_shards(3)
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
    assert sessions(driver) == []
    again = Driver(tmp_path)
    again.ended()
    assert same(again.found(), alone(dataset))
