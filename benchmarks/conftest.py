"""After the benchmarks: images per second, the figure that builds are compared by."""

from __future__ import annotations

from typing import Any

import pytest


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print one line a benchmark: images/s from the median, and the batch's median time."""
    session: Any = getattr(config, "_benchmarksession", None)
    done = [b for b in session.benchmarks if b.extra_info.get("images")] if session else []
    if not done:
        return
    terminalreporter.section("throughput")
    terminalreporter.write_line(f"{'benchmark':<48}{'median ms':>12}{'images/s':>12}")
    for bench in done:
        rate = bench.extra_info["images"] / bench.stats.median
        median = 1000 * bench.stats.median
        terminalreporter.write_line(f"{bench.name:<48}{median:>12.2f}{rate:>12.2f}")
