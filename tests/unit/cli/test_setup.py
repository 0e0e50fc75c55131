"""Tests for `effd0.cli.setup`: what is there, what is missing, and downloads."""

import hashlib
import importlib.util
import re
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from effd0 import kernels
from effd0.cli import setup
from effd0.cli.setup import Finding, devices, packages
from effd0.data import download, fixture
from effd0.data.download import Source
from effd0.errors import DatasetError
from tests.helpers import ROOT, FakeHost, assert_one_error, effd0, serving

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DECLARED = {"base": PROJECT["dependencies"]} | PROJECT["optional-dependencies"]
del DECLARED["all"]


def finding(name: str) -> Finding:
    """Return the one finding of that name."""
    (only,) = [found for found in (*packages(), *devices()) if found[0].endswith(f": {name}")]
    return only


def test_every_declared_package_is_examined() -> None:
    """Each dependency of pyproject.toml is one line, under the extra that brings it."""
    wanted = [f"{extra}: {Requirement(r).name}" for extra, rs in DECLARED.items() for r in rs]
    found = [canonicalize_name(part) for part, *_ in packages()]
    assert sorted(found) == sorted(map(canonicalize_name, wanted))


def test_doctor_shows_what_is_there() -> None:
    """Packages, devices and the embedded default are listed, and nothing is wrong with that."""
    outcome = effd0("doctor")
    assert (outcome.code, outcome.err) == (0, "")
    parts = ("onnx: onnxruntime", "base: numpy", "device: Ascend NPU", "cache: ", "data: embedded")
    for part in parts:
        assert part in outcome.out
    _, state, well, remedy = finding("numpy")
    assert (well, remedy) == (True, "")
    assert re.fullmatch(r"\d+\.\d+.*", state)
    assert re.fullmatch(r"/.*/effd0: \d+ files, \d+ MB", finding("converted checkpoints")[1])
    assert "CPUExecutionProvider" in finding("ONNX Runtime providers")[1]
    assert (Path(finding("embedded default")[1]) / "coco_data" / "val2017").is_dir()


@pytest.mark.parametrize(
    ("part", "version", "state", "command"),
    [
        ("onnx: onnxruntime", None, "not installed", "pip install 'effd0[onnx]'"),
        ("base: pillow", "0.0.1", r"0\.0\.1, but .*>=.* is needed", "pip install effd0"),
    ],
    ids=["missing", "too-old"],
)
def test_what_is_missing_comes_with_its_command(
    part: str, version: str | None, state: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An absent or old package is not ok, and the command installs the extra that brings it."""
    monkeypatch.setattr(setup, "installed_version", lambda name: version if name in part else "99")
    shown, found, well, remedy = finding(part.split()[1])
    assert (shown, well, remedy) == (part, False, command)
    assert re.fullmatch(state, found)


@pytest.mark.parametrize(
    ("same", "state"),
    [
        (True, r"compiled, to the bit as Pillow \d.*"),
        (False, r"Pillow \d.* rounds otherwise than .*"),
    ],
    ids=["same-bits", "other-bits"],
)
def test_kernels_are_shown(same: bool, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many, how long they took, where they are kept, and whether Pillow resizes instead."""
    monkeypatch.setattr(setup, "resizes_as_pillow", lambda: same)
    assert re.fullmatch(state, finding("resizing")[1])
    shown = r"\d+, \d+ of them compiled now, ready in \d+\.\d\d s; kept in .*"
    assert re.fullmatch(shown, finding("compiled")[1])


def test_kernels_that_are_not_kept_come_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no folder can be written, each process compiles anew; a folder of one's own helps."""
    for kernel in vars(kernels).values():
        if hasattr(kernel, "stats"):
            monkeypatch.setattr(
                type(kernel), "stats", SimpleNamespace(cache_hits={}, cache_path=None)
            )
    _, state, well, remedy = finding("compiled")
    assert (state.endswith("; not kept"), well) == (True, False)
    assert remedy == "export NUMBA_CACHE_DIR=FOLDER"


def test_devices_are_unknown_without_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing backend is said once, with its package, and is no second fault of its devices."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert finding("CUDA (torch)")[1:] == ("unknown: torch is not installed", True, "")


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


def test_a_lost_embedded_default_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without its data is told to install again."""

    def lost() -> Path:
        raise DatasetError("the embedded default is in none of []")

    monkeypatch.setattr(fixture, "folder", lost)
    _, found, well, remedy = finding("embedded default")
    assert (well, remedy) == (False, "pip install effd0")
    assert "in none of" in found


@pytest.mark.parametrize(
    ("absent", "task", "command"),
    [
        ({"torch"}, "run .onnx", ""),
        ({"torch", "onnx", "ray"}, "export weights", "pip install 'effd0[onnx,torch]'"),
        ({"onnx"}, "compile", "pip install 'effd0[onnx]' && source CANN's set_env.sh"),
        (set(), "run an .om", "source CANN's set_env.sh"),
    ],
    ids=["possible", "two-extras", "extra-and-cann", "cann"],
)
def test_what_cannot_be_done_comes_with_one_command(
    absent: set[str], task: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task lacks all that it needs and is absent, and nothing else."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "acl", None)
    assert [add for name, add in setup.tasks(absent) if name.startswith(task)] == [command]


@pytest.mark.parametrize(
    ("arch", "name"),
    [("tf_efficientdet_d1", "d1.pth"), ("efficientdet_d0", "efficientdet_d0.pth")],
    ids=["recipe", "even-padding"],
)
def test_weights_are_called_as_their_architecture(
    arch: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two architectures never have one file; the recipe's are short, as in all examples."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    body = b"weights"
    source = Source("https://example.org/v0/w.pth", "sha256", hashlib.sha256(body).hexdigest())
    monkeypatch.setitem(download.CHECKPOINTS, arch, source)
    with serving(FakeHost({"/v0/w.pth": body})) as host:
        given = ("fetch", "checkpoint", "--arch", arch, "--mirror", host.url)
        assert effd0(*given).out == f"checkpoint is in {name}\n"
    assert (tmp_path / name).read_bytes() == body


@pytest.mark.parametrize("there", [True, False], ids=["there", "not-found"])
def test_fetch_takes_a_mirror(there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published weights come from the mirror, checked; without them nothing is left."""
    body = b"weights" * 1000
    source = Source("https://example.org/v0/d0.pth", "sha256", hashlib.sha256(body).hexdigest())
    monkeypatch.setitem(download.CHECKPOINTS, "tf_efficientdet_d0", source)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    out = tmp_path / "d0.pth"
    with serving(FakeHost({"/v0/d0.pth": body} if there else {})) as host:
        given = ("fetch", "checkpoint", "--out", out, "--mirror", host.url)
        if there:
            assert f"checkpoint is in {out}" in effd0(*given).out
            assert out.read_bytes() == body
        else:
            assert_one_error(r"FetchError: http://127.* cannot be had: 404", *given)
            assert list(tmp_path.iterdir()) == []
