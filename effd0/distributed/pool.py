"""Where the workers of a run are: on this host, on its devices, or in a cluster."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from ..errors import RunnerError, refuse
from ..results.environment import chip_kind
from ..runners.registry import RunnerOptions
from ..types import SCALE, option

#: Accelerators as Ray names them.
GPU, NPU = "GPU", "NPU"


@dataclass(frozen=True)
class Pool:
    """
    So many *workers*, each with a runner of its own.

    *devices* are the numbers of this host's devices, one a worker.  *address* is that of a Ray
    cluster; without one, Ray is started on this host and stopped again.  With *verbose* Ray may
    print.  A run that hears nothing from any worker for *silence_s* seconds gives them up.
    """

    workers: int
    devices: tuple[int, ...] = ()
    address: str | None = None
    verbose: bool = False
    silence_s: float = 600.0

    def __str__(self) -> str:
        if self.devices:
            return f"{self.workers}, on devices {', '.join(map(str, self.devices))} of this host"
        where = "on this host" if self.address is None else f"in the cluster at {self.address}"
        return f"{self.workers} {where}"


@dataclass(frozen=True)
class PoolOptions:
    """Worker processes on Ray."""

    panel: ClassVar = SCALE
    workers: int | None = option(
        "Worker processes on Ray, each with its own model.", shown="this process only"
    )
    devices: str | None = option("Devices of this host, one worker each: 0,1,2,3.", "LIST")
    ray_address: str | None = option("Ray cluster of --workers.", "ADDRESS", shown="this host")
    verbose: bool = option("Show what Ray prints.", default=False)

    def pool(self) -> Pool | None:
        """The workers asked for, if any; raise `RunnerError` for a contradiction."""
        workers, devices, address = self.workers, self.devices, self.ray_address
        parts = [] if devices is None else [part.strip() for part in devices.split(",")]
        numbers = tuple(int(part) for part in parts if part.isdecimal())
        contradictions = {
            f"--devices is {devices}, but --ray-address is given too: a cluster deals out its own "
            "devices; say how many with --workers": devices is not None and address is not None,
            f"--devices is {devices!r}, but numbers of this host's devices, each once, were "
            "wanted, such as 0,1,2,3": len(set(numbers)) != len(parts),
            f"--workers is {workers}, but --devices names {len(parts)} and each has one worker; "
            "leave --workers out": devices is not None and workers not in (None, len(parts)),
            f"--ray-address is {address}, but not how many workers are wanted there; "
            "give --workers": address is not None and workers is None,
        }
        refuse(contradictions, RunnerError)
        count = len(numbers) or workers
        return None if count is None else Pool(count, numbers, address, self.verbose)


def accelerator(runner: str, options: RunnerOptions) -> str | None:
    """What each worker needs one of, as Ray names it; None computes on the CPU."""
    return {"cuda": GPU, "npu": NPU}.get(chip_kind(runner, options))


def check_pool(pool: Pool, runners: Mapping[str, RunnerOptions]) -> str | None:
    """
    The accelerator that each worker of *pool* needs for all of *runners*; None computes on the CPU.

    Raises `RunnerError` where that is not one kind, or where its devices cannot be dealt out.
    """
    kinds = {accelerator(runner, options) for runner, options in runners.items()} - {None}
    names = ", ".join(runners)
    wrong = {
        f"runners {names} need {' and '.join(sorted(map(str, kinds)))}, but all workers have one "
        "kind; choose one with --runner": len(kinds) > 1,
        f"--devices names {len(pool.devices)}, but --runner {names} as asked computes on the CPU; "
        "use --workers, or choose a device (--runner acl, --device cuda, "
        "--provider CUDAExecutionProvider)": pool.devices and not kinds,
    }
    refuse(wrong, RunnerError)
    for options in runners.values():
        number = "" if options.device is None else options.device.rpartition(":")[2]
        numbered = any(pair.startswith("device_id=") for pair in options.provider_option)
        if kinds and (number.isdecimal() or numbered):
            given = options.device if number.isdecimal() else "a device_id"
            raise RunnerError(
                f"--device is {given}, but each worker has a device of its own; "
                "name them with --devices, or give the kind alone"
            )
    return next(iter(kinds), None)


def worker_options(runner: str, options: RunnerOptions, number: int | None) -> RunnerOptions:
    """
    The *options* of one worker, which has the NPU *number*; of a GPU it sees its own only.

    On a CPU, workers share its cores: each computes in one thread unless more are asked for.
    """
    kind = accelerator(runner, options)
    if kind is None:
        return replace(options, threads=1) if options.threads is None else options
    if kind == GPU or number is None:
        return options
    if runner == "ort":
        return replace(options, provider_option=(*options.provider_option, f"device_id={number}"))
    return replace(options, device=f"npu:{number}")
