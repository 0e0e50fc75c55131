"""Where the workers of a run are: on this host, on its devices, or in a cluster."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import RunnerError
from ..results.environment import chip_kind
from ..runners.registry import RunnerOptions

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


def pool_of(
    workers: int | None, devices: str | None, address: str | None, *, verbose: bool
) -> Pool | None:
    """
    The pool that the options ``--workers``, ``--devices`` and ``--ray-address`` ask for.

    None where none of them is given.  Raises `RunnerError` where they contradict each other.
    """
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
    for message, found in contradictions.items():
        if found:
            raise RunnerError(message)
    count = len(numbers) or workers
    return None if count is None else Pool(count, numbers, address, verbose)


def accelerator(runner: str, options: RunnerOptions) -> str | None:
    """What each worker needs one of, as Ray names it; None computes on the CPU."""
    return {"cuda": GPU, "npu": NPU}.get(chip_kind(runner, options))


def check_pool(pool: Pool, runner: str, options: RunnerOptions) -> None:
    """Raise `RunnerError` where *runner* with *options* cannot be what each worker runs."""
    kind = accelerator(runner, options)
    if pool.devices and kind is None:
        raise RunnerError(
            f"--devices names {len(pool.devices)}, but --runner {runner} as asked computes on the "
            "CPU; use --workers, or choose a device (--runner acl, --device cuda, "
            "--provider CUDAExecutionProvider)"
        )
    numbered = (options.device or "").rpartition(":")[2].isdecimal()
    named = any(pair.startswith("device_id=") for pair in options.provider_option)
    if kind is not None and (numbered or named):
        raise RunnerError(
            f"--device is {options.device if numbered else 'a device_id'}, but each worker has a "
            "device of its own; name them with --devices, or give the kind alone"
        )


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
        own = (*options.provider_option, f"device_id={number}")
        return replace(options, provider_option=own)
    return replace(options, device=f"npu:{number}")
