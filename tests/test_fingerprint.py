"""Tests for `effd0.fingerprint`: the same machine is known again, another is not taken for it."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, fields

import pytest

from effd0.fingerprint import (
    Fingerprint,
    chip_kind,
    cpu_name,
    fingerprint,
    machine_record,
    nvidia_chips,
)
from effd0.runners.registry import RunnerOptions

from .bench_samples import HERE


def test_the_key_is_the_same_everywhere() -> None:
    """A saved baseline is found again years later: the key is no hash of this process."""
    assert HERE.key == "87c122ad89f7"


@pytest.mark.parametrize("field", [field.name for field in fields(Fingerprint)])
def test_every_field_changes_the_key(field: str) -> None:
    """What a time depends on makes another fingerprint, and is named as the difference."""
    changed = Fingerprint.from_json({**asdict(HERE), field: 16 if field == "cores" else "other"})
    assert changed.key != HERE.key
    assert [line.split()[0] for line in changed.differences(HERE)] == [field]


def test_the_fingerprint_of_this_host_is_stable() -> None:
    """Asked twice, it is the same; load and date are not in it."""
    assert fingerprint("backend") == fingerprint("backend")
    assert fingerprint("backend").chip == fingerprint("backend").cpu


def test_a_fingerprint_survives_json() -> None:
    """The key beside the fields is no field."""
    written = json.loads(json.dumps({**asdict(HERE), "key": HERE.key}))
    assert Fingerprint.from_json(written) == HERE


def test_a_chip_that_no_tool_shows_is_said_to_be_unknown() -> None:
    """It is not called by the processor's name."""
    assert fingerprint("backend", "xpu").chip == "unknown xpu"


@pytest.mark.parametrize(
    ("runner", "options", "kind"),
    [
        ("ort", RunnerOptions(), "cpu"),
        ("ort", RunnerOptions(provider="TensorrtExecutionProvider"), "cuda"),
        ("openvino", RunnerOptions(), "cpu"),
        ("torch", RunnerOptions(), "cpu"),
        ("torch", RunnerOptions(device="cuda:1"), "cuda"),
        ("torch", RunnerOptions(device="npu"), "npu"),
        ("acl", RunnerOptions(device="0"), "npu"),
    ],
    ids=["ort", "tensorrt", "openvino", "torch", "torch-cuda", "torch-npu", "acl"],
)
def test_the_chip_is_the_one_that_computes(runner: str, options: RunnerOptions, kind: str) -> None:
    """Provider and device decide, not what else the host has."""
    assert chip_kind(runner, options) == kind


def test_the_record_is_fit_for_json() -> None:
    """It tells versions, load and the command, and what cannot be read is null."""
    record = machine_record()
    assert json.loads(json.dumps(record)) == record
    assert {"cpu", "cores", "governor", "load", "packages", "devices", "date"} <= record.keys()
    assert record["cores"] >= 1


def test_an_arm_without_a_name_is_told_by_its_numbers() -> None:
    """Hosts of NPUs often are; two of them are not taken for one."""
    text = "processor\t: 0\nCPU implementer\t: 0x48\nCPU part\t: 0xd01\n"
    assert cpu_name(text) == f"{platform.machine()} 0x48 0xd01"
    assert cpu_name("model name\t: Chip (R) X\nflags\t: a b\n") == "Chip (R) X"


def test_nvidia_smis_lines_are_read() -> None:
    """A line a chip: its name and its driver."""
    assert nvidia_chips("NVIDIA H200, 570.1\nNVIDIA H200, 570.1\n") == (
        ("NVIDIA H200", "570.1"),
    ) * 2  # fmt: skip
    assert nvidia_chips("No devices were found\n") == ()
