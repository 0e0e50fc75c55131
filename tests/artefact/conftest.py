"""What is under test, given by options, or the embedded default."""

from __future__ import annotations

from pathlib import Path

import pytest

from effd0 import embedded
from effd0.dataset import Dataset, load_coco


@pytest.fixture(scope="session")
def images_under_test(pytestconfig: pytest.Config) -> Dataset:
    """The images of --coco, or the embedded scenes."""
    root: Path | None = pytestconfig.getoption("--coco")
    if root is None:
        return load_coco(embedded.coco_root())
    split = pytestconfig.getoption("--split")
    return load_coco(root, split, pytestconfig.getoption("--image-limit"))
