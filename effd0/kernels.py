"""The loops that numpy has no fast form of, compiled by numba; every kernel releases the GIL."""

from __future__ import annotations
