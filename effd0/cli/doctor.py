"""What is installed, which devices are there, and the command that adds what is missing."""

from __future__ import annotations

import importlib
import importlib.util
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import metadata, requires
from typing import Any

from packaging.requirements import Requirement

from ..ascend import npu_smi
from ..data.fixture import folder
from ..errors import AtcError, DatasetError
from ..results.environment import installed_version


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's table; *remedy* is empty where nothing is to be done."""

    group: str
    name: str
    state: str
    ok: bool
    remedy: str = ""


def examine() -> Iterator[Finding]:
    """Yield a finding for each package, device and file that effd0 can use."""
    yield from _packages()
    yield from _devices()
    yield _embedded_default()


def _packages() -> Iterator[Finding]:
    """Every declared dependency, by extra, with its installed version."""
    for line in requires("effd0") or []:
        requirement = Requirement(line)
        extra = _extra_of(requirement)
        if requirement.name == "effd0" or extra == "all":
            continue
        found = installed_version(requirement.name)
        remedy = f"pip install 'effd0[{extra}]'" if extra else "pip install effd0"
        if found is None:
            yield Finding(extra or "base", requirement.name, "not installed", False, remedy)
        elif not requirement.specifier.contains(found, prereleases=True):
            wanted = f"{found}, but {requirement.specifier} is needed"
            yield Finding(extra or "base", requirement.name, wanted, False, remedy)
        else:
            yield Finding(extra or "base", requirement.name, found, True)


def _extra_of(requirement: Requirement) -> str:
    """The extra that brings *requirement*; empty for the base install."""
    if requirement.marker is None:
        return ""
    extras: list[str] = metadata("effd0").get_all("Provides-Extra") or []
    for extra in extras:
        if requirement.marker.evaluate({"extra": extra}) and not requirement.marker.evaluate(
            {"extra": ""}
        ):
            return extra
    return ""


def _devices() -> Iterator[Finding]:
    yield Finding("device", "ONNX Runtime providers", *_probe("onnxruntime", _providers))
    yield Finding("device", "CUDA (torch)", *_probe("torch", _cuda))
    yield Finding("device", "Ascend NPU", *_ascend())


def _probe(module: str, look: Callable[[Any], str]) -> tuple[str, bool]:
    if importlib.util.find_spec(module) is None:
        return f"unknown: {module} is not installed", True
    return look(importlib.import_module(module)), True


def _providers(ort: Any) -> str:
    return ", ".join(ort.get_available_providers())


def _cuda(torch: Any) -> str:
    cuda = torch.cuda
    names = [cuda.get_device_name(i) for i in range(cuda.device_count())]
    return ", ".join(names) if names else "none"


def _ascend() -> tuple[str, bool]:
    """The chips that npu-smi lists, whether they are well, and whether pyACL can be found."""
    if shutil.which("npu-smi") is None:
        return "none (no npu-smi on the PATH)", True
    try:
        chips = npu_smi.installed()
    except AtcError as error:
        return str(error), False
    counts = Counter(chip.short_name for chip in chips)
    found = ", ".join(f"{count} x {name}" for name, count in counts.items()) or "no chip"
    ill = [f"NPU {chip.npu} chip {chip.chip}: {chip.health}" for chip in chips if not chip.well]
    acl = "pyACL found" if importlib.util.find_spec("acl") else "no pyACL: source set_env.sh"
    return "; ".join([found, *ill, acl]), bool(chips) and not ill


def _embedded_default() -> Finding:
    try:
        return Finding("data", "embedded default", str(folder()), True)
    except DatasetError as error:
        return Finding("data", "embedded default", str(error), False, "pip install effd0")
