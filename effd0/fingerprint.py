"""
The machine that a time was taken on: the full record, and the stable part baselines go by.

A new kernel or a higher load does not make a run another machine's; another chip, driver, number
of cores or version of the backend does.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from .ascend import npu_smi
from .errors import AtcError
from .report import environment
from .runners.registry import RunnerOptions

_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
_CPUINFO = Path("/proc/cpuinfo")
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

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read what `asdict` wrote."""
        return cls(**{name: content[name] for name in cls.__dataclass_fields__})

    @property
    def key(self) -> str:
        """Twelve hexadecimal digits that are the same for the same fingerprint, anywhere."""
        written = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(written.encode()).hexdigest()[:12]

    def differences(self, before: Fingerprint) -> list[str]:
        """Each field in which this is not *before*, with both values."""
        now, then = asdict(self), asdict(before)
        return [f"{k} was {then[k]}, is {now[k]}" for k in now if now[k] != then[k]]


def fingerprint(backend: str, kind: str = "cpu") -> Fingerprint:
    """The fingerprint of this host for *backend*, which computes on a chip of *kind*."""
    cpu = cpu_model()
    chip, driver = (cpu, "") if kind == "cpu" else next(_chips(kind), (f"unknown {kind}", ""))
    return Fingerprint(chip, cpu, _cores(), os.environ.get("OMP_NUM_THREADS", ""), driver, backend)


def chip_kind(runner: str, options: RunnerOptions) -> str:
    """The kind of chip, ``cpu``, ``cuda`` or ``npu``, that *runner* computes on."""
    if runner == "acl":
        return "npu"
    if runner == "torch":
        return "cpu" if options.device is None else options.device.partition(":")[0]
    return _PROVIDERS.get(options.provider, options.provider) if runner == "ort" else "cpu"


def machine_record() -> dict[str, Any]:
    """All that is known of this host now, fit for JSON; what cannot be read is None."""
    return {
        **environment(),
        "date": datetime.now(UTC).date().isoformat(),
        "command": " ".join([program(), *sys.argv[1:]]),
        "cpu": cpu_model(),
        "cores": _cores(),
        "governor": _read(_GOVERNOR),
        "load": list(os.getloadavg()),
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 10**6,
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "devices": [
            {"kind": kind, "name": name, "driver": driver}
            for kind in ("cuda", "npu")
            for name, driver in _chips(kind)
        ],
    }


def program() -> str:
    """The program's name as it is typed: ``pytest`` for ``python -m pytest`` too."""
    path = Path(sys.argv[0])
    return path.parent.name if path.name == "__main__.py" else path.name


@functools.cache
def cpu_model() -> str:
    """The processor's name."""
    return cpu_name(_read(_CPUINFO) or "")


def cpu_name(cpuinfo: str) -> str:
    """The processor's name in the text of ``/proc/cpuinfo``; an ARM has numbers in its place."""
    fields = dict(re.findall(r"^(.+?)\s*: (.+)$", cpuinfo, re.MULTILINE))
    if "model name" in fields:
        return str(fields["model name"])
    numbers = [fields[name] for name in ("CPU implementer", "CPU part") if name in fields]
    return " ".join([platform.machine(), *numbers])


def _cores() -> int:
    cores = environment()["cpus"]
    return 0 if cores is None else int(cores)


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _chips(kind: str) -> Iterator[tuple[str, str]]:
    """Name and driver of each chip of *kind*; none where its tool is missing or fails."""
    if kind == "cuda":
        yield from _nvidia()
    elif kind == "npu":
        try:
            chips = npu_smi.installed()
        except AtcError:
            return
        for chip in chips:
            yield chip.short_name, ""


@functools.cache
def _nvidia() -> tuple[tuple[str, str], ...]:
    tool = shutil.which("nvidia-smi")
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
