"""How threads of numeric libraries wait for work."""

from __future__ import annotations

import os

#: GNU OpenMP's turns of the waiting loop: about 50 us, some operators of the network long.
_SPIN = "10000"


def let_threads_sleep() -> None:
    """
    Ask OpenMP, before PyTorch loads it, to let threads sleep that have nothing to do for long.

    By default they spin for some milliseconds.  One image in PyTorch on two cores (2026-11-25),
    alone and beside one other busy process: by default 0.11 s and 4.4 s, so 0.12 s and 0.35 s,
    with OMP_WAIT_POLICY=PASSIVE 0.19 s and 0.20 s.  What the user has set of either stands.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPIN)
