"""What holds for all tests."""

from __future__ import annotations

from hypothesis import settings

# A slow host is no failure of a law: durations are the affair of benchmarks.
settings.register_profile("effd0", deadline=None)
settings.load_profile("effd0")
