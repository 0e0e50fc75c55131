"""Tests for `effd0 doctor`: what is there, what is missing, and the command that adds it."""

from __future__ import annotations

import importlib.util
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from effd0.cli import setup
from effd0.cli.setup import Finding, devices, packages
from effd0.data import fixture
from effd0.errors import DatasetError
from effd0.results.environment import installed_version

PROJECT = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
DECLARED = {"base": PROJECT["dependencies"]} | PROJECT["optional-dependencies"]
del DECLARED["all"]


def finding(name: str) -> Finding:
    """Return the one finding of that name."""
    (only,) = [found for found in (*packages(), *devices()) if found[0].endswith(f": {name}")]
    return only


def test_every_declared_package_is_examined() -> None:
    """Each dependency of pyproject.toml is one line, under the extra that brings it."""
    wanted = [f"{extra}: {Requirement(r).name}" for extra, rs in DECLARED.items() for r in rs]
    assert sorted(part for part, *_ in packages()) == sorted(wanted)


def test_an_installed_package_shows_its_version() -> None:
    """What is there needs nothing done."""
    _, state, well, remedy = finding("numpy")
    assert (well, remedy) == (True, "")
    assert re.fullmatch(r"\d+\.\d+.*", state)


@pytest.mark.parametrize(
    ("package", "group", "command"),
    [
        ("onnxruntime", "onnx", "pip install 'effd0[onnx]'"),
        ("effdet", "torch", "pip install 'effd0[torch]'"),
        ("openvino", "openvino", "pip install 'effd0[openvino]'"),
        ("ray", "ray", "pip install 'effd0[ray]'"),
        ("hypothesis", "test", "pip install 'effd0[test]'"),
        ("pillow", "base", "pip install effd0"),
    ],
    ids=["onnxruntime", "effdet", "openvino", "ray", "hypothesis", "pillow"],
)
@pytest.mark.parametrize(
    ("version", "state"),
    [(None, r"not installed"), ("0.0.1", r"0\.0\.1, but .*>=.* is needed")],
    ids=["missing", "too-old"],
)
def test_what_is_missing_comes_with_its_command(
    package: str,
    group: str,
    command: str,
    version: str | None,
    state: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An absent or old package is not ok, and the command installs the extra that brings it."""
    real = installed_version
    monkeypatch.setattr(
        setup, "installed_version", lambda name: version if name == package else real(name)
    )
    part, found, well, remedy = finding(package)
    assert (part, well, remedy) == (f"{group}: {package}", False, command)
    assert re.fullmatch(state, found)


def test_providers_of_onnx_runtime_are_listed() -> None:
    """The CPU provider is in every build of ONNX Runtime."""
    _, found, well, _ = finding("ONNX Runtime providers")
    assert well
    assert "CPUExecutionProvider" in found


@pytest.mark.parametrize(
    ("module", "device"),
    [("onnxruntime", "ONNX Runtime providers"), ("torch", "CUDA (torch)")],
    ids=["onnxruntime", "torch"],
)
def test_devices_are_unknown_without_their_package(
    module: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing backend is said once, with its package, and is no second fault of its devices."""
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == module else real(name)
    )
    assert finding(device)[1:] == (f"unknown: {module} is not installed", True, "")


#: A healthy chip and one that is not, as npu-smi lists them.
WELL = "| 0 310P3 | OK | 15.8 |\n| 0 0 | 0000:82:00.0 | 0 |"
ILL = "| 1 310P3 | Alarm | 15.4 |\n| 0 1 | 0000:89:00.0 | 0 |"


@pytest.mark.parametrize(
    ("script", "state", "ok"),
    [
        (None, r"none \(no npu-smi on the PATH\)", True),
        (f"echo '{WELL}'", "1 x Ascend310P3; no pyACL: source set_env.sh", True),
        (f"echo '{WELL}'; echo '{ILL}'", "2 x Ascend310P3; NPU 1 chip 0: Alarm; no pyACL.*", False),
        ("echo NPU", "no chip; no pyACL: source set_env.sh", False),
        ("echo no driver >&2; exit 3", r"npu-smi failed: no driver \(exit 3\).*", False),
    ],
    ids=["no-tool", "well", "ill", "empty", "fails"],
)
def test_an_ascend_device_is_seen_through_its_tool(
    script: str | None, state: str, ok: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """npu-smi names and counts the chips; without it there is none, which is no fault."""
    if script is not None:
        tool = tmp_path / "npu-smi"
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "acl", None)
    _, found, well, _ = finding("Ascend NPU")
    assert re.fullmatch(state, found)
    assert well is ok


def test_the_embedded_default_is_there() -> None:
    """The finding names the folder that holds the drawn scenes."""
    _, found, well, _ = finding("embedded default")
    assert well
    assert (Path(found) / "coco_data" / "val2017").is_dir()


def test_a_lost_embedded_default_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without its data is told to install again."""

    def lost() -> Path:
        raise DatasetError("the embedded default is in none of []")

    monkeypatch.setattr(fixture, "folder", lost)
    _, found, well, remedy = finding("embedded default")
    assert (well, remedy) == (False, "pip install effd0")
    assert "in none of" in found
