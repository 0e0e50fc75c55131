"""The inputs in --bins, made elsewhere, are those that effd0 makes of the same images."""

from __future__ import annotations

from pathlib import Path

import pytest

from effd0 import embedded
from effd0.dataset import load_coco
from effd0.spec import ModelSpec
from effd0.suspicions.folder import faults_of_inputs


def test_inputs_made_elsewhere_are_effd0s_own(pytestconfig: pytest.Config, spec: ModelSpec) -> None:
    """Every image has its input, which is effd0's own; no input is of another image."""
    folder: Path | None = pytestconfig.getoption("--bins")
    if folder is None:
        pytest.skip("needs inputs made elsewhere: no --bins DIR was given")
    root: Path | None = pytestconfig.getoption("--coco")
    limit: int | None = pytestconfig.getoption("--image-limit")
    split = pytestconfig.getoption("--split")
    images = load_coco(embedded.coco_root()) if root is None else load_coco(root, split, limit)
    faults = faults_of_inputs(images, folder, spec)
    # One line first: the verdict shows no more.
    assert not faults, "; ".join(faults[:3]) + "".join(f"\n  {fault}" for fault in faults[3:])
