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
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..ascend import npu_smi
from ..errors import AtcError
from ..runners.registry import RunnerOptions

#: What takes part in a result.
PACKAGES = (
    "effd0", "numpy", "pillow", "pycocotools", "torch", "torchvision", "timm",
    "effdet", "onnx", "onnxruntime", "onnxsim", "onnxscript", "openvino",
)  # fmt: skip
#: ONNX Runtime's provider -> the kind of chip that it runs on.
_PROVIDERS = {
    "CPUExecutionProvider": "cpu",
    "CUDAExecutionProvider": "cuda",
    "TensorrtExecutionProvider": "cuda",
    "CANNExecutionProvider": "npu",
}


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

    def differences(self, before: Fingerprint, names: Sequence[str] = ()) -> list[str]:
        """Each field, of *names* if given, in which this is not *before*, with both values."""
        now, then = asdict(self), asdict(before)
        return [f"{k} was {then[k]}, is {now[k]}" for k in names or now if now[k] != then[k]]


def fingerprint(backend: str, kind: str = "cpu") -> Fingerprint:
    """The fingerprint of this host for *backend*, which computes on a chip of *kind*."""
    cpu = cpu_model()
    chip, driver = cpu, ""
    if kind != "cpu":
        chip, driver = next(iter(_chips(kind)), (f"unknown {kind}", ""))
    return Fingerprint(chip, cpu, _cores(), os.environ.get("OMP_NUM_THREADS", ""), driver, backend)


def chip_kind(runner: str, options: RunnerOptions) -> str:
    """The kind of chip, ``cpu``, ``cuda`` or ``npu``, that *runner* computes on."""
    if runner == "acl":
        return "npu"
    if runner == "torch":
        return "cpu" if options.device is None else options.device.partition(":")[0]
    return _PROVIDERS.get(options.provider, options.provider) if runner == "ort" else "cpu"


def machine_record() -> dict[str, Any]:
    """All that is known of this host now, fit for JSON; None where it cannot be read."""
    return {
        **environment(),
        "date": datetime.now(UTC).date().isoformat(),
        "command": " ".join([program(), *sys.argv[1:]]),
        "cpu": cpu_model(),
        "cores": _cores(),
        "governor": _read(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        "load": list(os.getloadavg()),
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 10**6,
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "devices": [
            {"kind": kind, "name": name, "driver": driver}
            for kind in ("cuda", "npu")
            for name, driver in _chips(kind)
        ],
    }


def environment() -> dict[str, Any]:
    """The machine and the versions of everything that takes part in a result."""
    return {
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "cpus": _cores(),
        "python": platform.python_version(),
        "packages": {name: installed_version(name) for name in PACKAGES},
    }


def installed_version(package: str) -> str | None:
    """The installed version of *package*, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def program() -> str:
    """The program's name as it is typed: ``pytest`` for ``python -m pytest`` too."""
    path = Path(sys.argv[0])
    return path.parent.name if path.name == "__main__.py" else path.name


@functools.cache
def cpu_model() -> str:
    """The processor's name."""
    return cpu_name(_read(Path("/proc/cpuinfo")) or "")


def cpu_name(cpuinfo: str) -> str:
    """The processor's name in the text of ``/proc/cpuinfo``; an ARM has numbers in its place."""
    fields = dict(re.findall(r"^(.+?)\s*: (.+)$", cpuinfo, re.MULTILINE))
    if "model name" in fields:
        return str(fields["model name"])
    numbers = [fields[name] for name in ("CPU implementer", "CPU part") if name in fields]
    return " ".join([platform.machine(), *numbers])


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 0


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


@functools.cache
def _chips(kind: str) -> tuple[tuple[str, str], ...]:
    """Name and driver of each chip of *kind*; none where its tool is missing or fails."""
    if kind == "npu":
        try:
            return tuple((chip.short_name, "") for chip in npu_smi.installed())
        except AtcError:
            return ()
    tool = shutil.which("nvidia-smi") if kind == "cuda" else None
    if tool is None:
        return ()
    query = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return nvidia_chips(answer.stdout)


def nvidia_chips(csv: str) -> tuple[tuple[str, str], ...]:
    """Name and driver in each line of what nvidia-smi was asked for."""
    pairs = (line.rpartition(",") for line in csv.splitlines() if "," in line)
    return tuple((name.strip(), driver.strip()) for name, _, driver in pairs)
