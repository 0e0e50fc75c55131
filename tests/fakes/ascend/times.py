"""Virtual time: a clock in milliseconds, engines side by side, and how long work takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Times:
    """
    How long a device takes.

    *compute_ms* is one execution of the model, or a function from the number of the execution
    (from 0) to it; the first *warmups* executions take *warmup_ms* more.  *call_ms* of host time
    pass with each call, and finalize takes *finalize_ms*.
    """

    h2d_gbps: float = 10.0
    d2h_gbps: float = 10.0
    compute_ms: float | Callable[[int], float] = 1.0
    per_image_ms: float = 0.0
    warmups: int = 1
    warmup_ms: float = 0.0
    call_ms: float = 0.0
    finalize_ms: float = 2000.0

    def copy_ms(self, engine: str, size: int) -> float:
        """Milliseconds that copying *size* bytes takes on *engine*."""
        gbps = self.d2h_gbps if engine == "d2h" else self.h2d_gbps
        return size / (gbps * 1e6)

    def execution_ms(self, number: int, batch: int) -> float:
        """Milliseconds that execution *number* takes."""
        base = self.compute_ms(number) if callable(self.compute_ms) else self.compute_ms
        return base + self.per_image_ms * batch + (self.warmup_ms if number < self.warmups else 0)


@dataclass
class Clock:
    """The host's time in milliseconds; only work, and tests, move it."""

    now: float = 0.0

    def advance(self, ms: float) -> None:
        """Let *ms* of host time pass."""
        self.now += ms

    def reach(self, moment: float) -> None:
        """Wait for *moment*, if it is still to come."""
        self.now = max(self.now, moment)


@dataclass
class Engine:
    """A part of a device that does one piece of work at a time."""

    busy: list[tuple[float, float]] = field(default_factory=list)

    def reserve(self, ready: float, duration: float, now: float) -> float:
        """Take the first free *duration* from *ready* on; return its start."""
        self.busy = [span for span in self.busy if span[1] > now]
        start = ready
        for begin, end in self.busy:
            if start + duration <= begin:
                break
            start = max(start, end)
        self.busy = sorted([*self.busy, (start, start + duration)])
        return start
