"""Tests for `effd0.results.environment`: a machine is known again, and no other is taken for it."""

import json
import platform
from dataclasses import asdict
from pathlib import Path

import pytest

from effd0.results.environment import (
    Fingerprint,
    chip_kind,
    chips,
    cpu_name,
    fingerprint,
    installed_version,
    machine_record,
)
from effd0.runners.registry import RunnerOptions

HERE = Fingerprint("chip", "processor", 2, "", "", "backend 1.0")


@pytest.mark.parametrize("field", Fingerprint.__dataclass_fields__)
def test_every_field_but_the_backend_is_another_machine(field: str) -> None:
    """What a time depends on is named where it is another; a new backend is what is compared."""
    changed = Fingerprint(**{**asdict(HERE), field: 16 if field == "cores" else "other"})
    named = [line.split()[0] for line in changed.differences(HERE)]
    assert named == ([] if field == "backend" else [field])


def test_the_fingerprint_of_this_host_is_stable() -> None:
    """Asked twice, it is the same; an unknown chip is not called by the processor's name."""
    assert fingerprint("backend") == fingerprint("backend")
    assert fingerprint("backend").chip == fingerprint("backend").cpu
    assert fingerprint("backend", "xpu").chip == "unknown xpu"


@pytest.mark.parametrize(
    ("runner", "options", "kind"),
    [
        ("ort", RunnerOptions(), "cpu"),
        ("ort", RunnerOptions(provider="TensorrtExecutionProvider"), "cuda"),
        ("torch", RunnerOptions(), "cpu"),
        ("torch", RunnerOptions(device="cuda:1"), "cuda"),
        ("acl", RunnerOptions(device="0"), "npu"),
    ],
    ids=["ort", "tensorrt", "torch", "torch-cuda", "acl"],
)
def test_the_chip_is_the_one_that_computes(runner: str, options: RunnerOptions, kind: str) -> None:
    """Provider and device decide, not what else the host has."""
    assert chip_kind(runner, options) == kind


def test_the_record_is_fit_for_json() -> None:
    """It has versions and hardware; what cannot be read, or is absent, is null."""
    record = machine_record()
    assert json.loads(json.dumps(record)) == record
    assert {"cpu", "cores", "governor", "packages", "devices"} <= record.keys()
    assert record["cores"] >= 1
    assert installed_version("no-such-package-anywhere") is None


def test_processors_and_chips_are_read_from_their_tools(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ARM without a name is known by its numbers; nvidia-smi has a line for each chip."""
    arm, named, tool = (tmp_path / name for name in ("arm", "named", "nvidia-smi"))
    arm.write_text("processor\t: 0\nCPU implementer\t: 0x48\nCPU part\t: 0xd01\n")
    named.write_text("model name\t: Chip (R) X\nflags\t: a b\n")
    assert cpu_name(arm) == f"{platform.machine()} 0x48 0xd01"
    assert (cpu_name(named), cpu_name(tmp_path / "none")) == ("Chip (R) X", platform.machine())
    tool.write_text("#!/bin/sh\necho 'NVIDIA H200, 570.1'\necho 'NVIDIA H200, 570.1'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert chips.__wrapped__("cuda") == (("NVIDIA H200", "570.1"),) * 2
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert chips.__wrapped__("cuda") == chips.__wrapped__("npu") == ()
