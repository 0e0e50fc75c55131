"""What a run on a pool begins with: the model file, and Ray."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..evaluation.model import ModelChoice
from ..progress import OpenPoolProgress, OpenProgress
from .cluster import Cluster
from .pool import Pool, accelerator
from .ray_start import cluster, require_ray


@dataclass(frozen=True)
class Displays:
    """How progress is shown: of steps of this process, and of the workers."""

    step: OpenProgress
    pool: OpenPoolProgress


@contextlib.contextmanager
def prepared_model(choice: ModelChoice, batch_size: int | None, show: Displays) -> Iterator[Path]:
    """The file that *choice* runs, exported for the time of the block if need be."""
    require_ray()  # which is said before an export, not after it
    with contextlib.ExitStack() as stack:
        with show.step("preparing the model", 1) as advance:
            path = stack.enter_context(choice.file(batch_size))
            advance(1)
        yield path


@contextlib.contextmanager
def started(pool: Pool, choice: ModelChoice, show: Displays) -> Iterator[Cluster]:
    """Ray for *pool*, each worker with what *choice* computes on; see `ray_start.cluster`."""
    with contextlib.ExitStack() as stack:
        what = "starting Ray" if pool.address is None else f"joining Ray at {pool.address}"
        with show.step(what, 1) as advance:
            kind = accelerator(choice.checked_runner(), choice.options)
            ray = stack.enter_context(cluster(pool, kind))
            advance(1)
        yield ray
