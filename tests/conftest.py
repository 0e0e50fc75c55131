"""What holds for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from effd0.results.check import STAGES

# A slow host is no failure of a law: durations are the affair of benchmarks.
settings.register_profile("effd0", deadline=None, max_examples=30)
# CI looks longer than who waits at a terminal.
settings.register_profile("ci", deadline=None, max_examples=200)
settings.load_profile("ci" if os.environ.get("CI") else "effd0")

#: Stage -> the rooms, or modules in them, whose tests are its checks.  Others check a tool.
CHECKED_BY = {
    "dataset": ("data/test_coco", "data/test_fixture"),
    "preprocess": ("data/test_preprocess", "tensors/test_inputs"),
    "checkpoint": ("runners/test_checkpoint",),
    "export": ("export",),
    "graph": ("graph",),
    "runner": (
        "runners", "ascend/test_acl_runner", "evaluation/test_pipeline", "tensors/test_results",
        "tests/test_hardware",
    ),
    "decode": ("detection",),
    "nms": ("detection/test_boxes",),
    "evaluate": ("metrics",),
    "gate": ("suite/test_accuracy", "tests/test_ascend_chain"),
}  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def _github_hears_the_session_alone() -> Iterator[None]:
    """Commands that tests run add nothing to the summary of the job that runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_cache_of_before(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test runs what a session before has converted, or adds to the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with the stage that it checks."""
    stage_of = {place: stage for stage in STAGES for place in CHECKED_BY[stage]}
    for item in items:
        room = item.path.parent.name
        stage = stage_of.get(f"{room}/{item.path.stem}") or stage_of.get(room)
        if stage is not None:
            item.add_marker(pytest.mark.stage(stage))
