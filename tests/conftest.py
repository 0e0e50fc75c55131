"""What holds for all tests."""

from __future__ import annotations

import os

from hypothesis import settings

# A slow host is no failure of a law: durations are the affair of benchmarks.
settings.register_profile("effd0", deadline=None, max_examples=40)
# CI looks longer than who waits at a terminal.
settings.register_profile("ci", deadline=None, max_examples=200)
settings.load_profile("ci" if os.environ.get("CI") else "effd0")
