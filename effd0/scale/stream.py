"""What a dataset of Ray gives, on its way to the driver: reports, and then how it ended."""

from __future__ import annotations

import gc
import pickle
import queue
import warnings
from dataclasses import dataclass
from typing import Any

from .worker import UnitReport


@dataclass(frozen=True)
class End:
    """
    How a round ended: as it should, or *why* not; *silent* is when nothing came any more.

    No exception of Ray's, which would hold its actors, and they the devices of the next round.
    """

    why: str = ""
    silent: bool = False


def drain(dataset: Any, came: queue.SimpleQueue[UnitReport | End]) -> None:
    """Hand on each report of *dataset*, then its end."""
    from ray.data.exceptions import ExecutionTimeoutError

    end = End()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # few units for many workers are no mistake
            for rows in dataset.iter_batches(batch_size=None, prefetch_batches=0):
                for blob in rows["report"]:
                    came.put(pickle.loads(blob))  # noqa: S301
    except ExecutionTimeoutError:
        end = End(silent=True)
    except BaseException as error:
        end = End(last_line(error))
    del dataset
    came.put(end)


def last_line(error: BaseException) -> str:
    """The last line of the innermost reason in *error*, without Ray's traces."""
    cause: BaseException = error
    while inner := getattr(cause, "cause", None) or cause.__cause__:
        cause = inner
    lines = [line.strip() for line in str(cause).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(cause).__name__


def let_go_of_actors() -> None:
    """
    Give back what the actors of an ended round had: a new round's could wait for it for ever.

    Ray ends an actor once nobody refers to it, and the error of a block refers to itself.
    """
    gc.collect()
