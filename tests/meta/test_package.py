"""What an installed effd0 runs on travels in the wheel; `tox -e package` installs and runs one."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from effd0.data import fixture as embedded

ROOT = Path(__file__).parents[2]
WHEEL = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
#: In the clone -> in the wheel.
INCLUDED: dict[str, str] = WHEEL["wheel"]["force-include"]


@pytest.mark.parametrize(
    "path",
    [embedded.coco_root(), embedded.checkpoint(), embedded.folder() / "reference.json"],
    ids=lambda path: path.name,
)
def test_the_embedded_default_is_in_the_wheel(path: Path) -> None:
    """Each of its files lies in the package where `embedded` looks for it first."""
    source = str(path.relative_to(ROOT))
    assert INCLUDED[source] == f"effd0/{source}"


def test_the_wheel_stays_small() -> None:
    """Package registries take 100 MB; every install downloads it, so a tenth is enough."""
    files = [ROOT / source for source in INCLUDED]
    files += [file for folder in files if folder.is_dir() for file in folder.rglob("*")]
    assert 1e6 < sum(file.stat().st_size for file in files if file.is_file()) < 1e7 * 1.2
