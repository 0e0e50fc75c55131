"""A unit of work, whatever it is made of."""

from __future__ import annotations

from typing import Protocol


class Unit(Protocol):
    """Images from place *first* of all to *stop*."""

    @property
    def first(self) -> int:
        """The place of the first image."""

    @property
    def stop(self) -> int:
        """The place behind the last image."""

    @property
    def image_ids(self) -> tuple[object, ...]:
        """Their ids, or what else names them, in order."""

    @property
    def remedy(self) -> str:
        """What to do about one of them that ends each process."""
