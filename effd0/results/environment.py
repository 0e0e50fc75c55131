"""
The environment of a run: the machine, its packages, and the fingerprint that times depend on.

A new kernel or a higher load does not make a run another machine's; another chip, driver, number
of cores or version of the backend does.
"""

from __future__ import annotations

import functools
import os
import platform
import re
import subprocess
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..ascend import npu_smi
from ..errors import AtcError
from ..runners.registry import RunnerOptions
from ..timing import cores

#: What takes part in a result.
PACKAGES = (
    "effd0", "numpy", "numba", "pillow", "pycocotools", "torch", "torchvision", "timm",
    "effdet", "onnx", "onnxruntime", "onnxsim", "onnxscript", "openvino",
)  # fmt: skip
#: ONNX Runtime's execution provider -> the kind of chip that it runs on.
_PROVIDERS = {"CPU": "cpu", "CUDA": "cuda", "Tensorrt": "cuda", "CANN": "npu"}


@dataclass(frozen=True)
class Fingerprint:
    """
    What a time depends on beside the code that is timed.

    *chip* is what computed, *cpu* its host's processor with *cores* for this process, *threads*
    the environment's limit, *driver* the chip's, *backend* what computed in words, with versions.
    """

    chip: str
    cpu: str
    cores: int
    threads: str
    driver: str
    backend: str

    def differences(self, before: Fingerprint) -> list[str]:
        """Each field but *backend* in which this is not *before*, with both values."""
        now, then = asdict(self), asdict(before)
        # A new version of the backend is what is to be compared.
        del now["backend"]
        return [f"{k} was {then[k]}, is {now[k]}" for k in now if now[k] != then[k]]


def fingerprint(backend: str, kind: str = "cpu") -> Fingerprint:
    """The fingerprint of this host for *backend*, which computes on a chip of *kind*."""
    own = [(cpu_name(), "")] if kind == "cpu" else [*chips(kind), (f"unknown {kind}", "")]
    (chip, driver), threads = own[0], os.environ.get("OMP_NUM_THREADS", "")
    return Fingerprint(chip, cpu_name(), cores(), threads, driver, backend)


def chip_kind(runner: str, options: RunnerOptions) -> str:
    """The kind of chip, ``cpu``, ``cuda`` or ``npu``, that *runner* computes on."""
    if runner == "acl":
        return "npu"
    if runner == "torch":
        return "cpu" if options.device is None else options.device.partition(":")[0]
    provider = options.provider.removesuffix("ExecutionProvider")
    return _PROVIDERS.get(provider, provider) if runner == "ort" else "cpu"


def environment() -> dict[str, Any]:
    """The machine and the versions of everything that takes part in a result."""
    return {
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "cpus": cores(),
        "python": platform.python_version(),
        "packages": {name: installed_version(name) for name in PACKAGES},
    }


def machine_record() -> dict[str, Any]:
    """The environment and the hardware, fit for JSON; None where something cannot be read."""
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    found = [(kind, *chip) for kind in ("cuda", "npu") for chip in chips(kind)]
    return {
        **environment(),
        "cpu": cpu_name(),
        "cores": cores(),
        "governor": governor.read_text().strip() if governor.exists() else None,
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 10**6,
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "devices": [dict(zip(("kind", "name", "driver"), one, strict=True)) for one in found],
    }


def installed_version(package: str) -> str | None:
    """The installed version of *package*, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@functools.cache
def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name; an ARM has numbers in its place."""
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    fields = dict(re.findall(r"^(.+?)\s*: (.+)$", text, re.MULTILINE))
    numbers = [fields[name] for name in ("CPU implementer", "CPU part") if name in fields]
    return str(fields.get("model name", " ".join([platform.machine(), *numbers])))


@functools.cache
def chips(kind: str) -> tuple[tuple[str, str], ...]:
    """Name and driver of each chip of *kind*; none where its tool is missing or fails."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        if kind == "npu":
            return tuple((chip.short_name, "") for chip in npu_smi.installed())
        if kind != "cuda":
            return ()
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    except (AtcError, OSError, subprocess.SubprocessError):
        return ()
    pairs = (line.rpartition(",") for line in answer.stdout.splitlines() if "," in line)
    return tuple((name.strip(), driver.strip()) for name, _, driver in pairs)
