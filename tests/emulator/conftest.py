"""The emulator's own tests: they run where they are named, with --slow, and in CI."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from .acl import Emulator, installed
from .host import Times
from .om import tiny_om
from .user import User

HERE = Path(__file__).parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the emulator's tests out of a run that is about other things."""
    named = any("emulator" in argument for argument in config.args)
    if named or config.getoption("--slow") or os.environ.get("CI"):
        return
    config.hook.pytest_deselected(items=[item for item in items if item.path.parent == HERE])
    items[:] = [item for item in items if item.path.parent != HERE]


@pytest.fixture(scope="session")
def om(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of batch 2."""
    return tiny_om(tmp_path_factory.mktemp("om") / "tiny.om", batch=2)


@pytest.fixture(scope="session")
def geared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with gears 1, 2 and 4."""
    return tiny_om(tmp_path_factory.mktemp("om") / "geared.om", gears=(1, 2, 4))


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    """A host on which copies take 1 ms a megabyte and executions 3 ms."""
    with installed(times=Times(h2d_gbps=1, d2h_gbps=1, compute_ms=3)) as host:
        yield host


@pytest.fixture
def user(emulator: Emulator, om: Path) -> Iterator[User]:
    """An open model of batch 2, with two images in pinned memory and on the device."""
    with User(emulator.module(), om) as user:
        user.fill(np.random.default_rng(3).random((2, 3, 8, 8), np.float32))
        user.upload()
        yield user
