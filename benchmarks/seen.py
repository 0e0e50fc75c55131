"""What a network saw of an image: its heads, with what leads back to the image."""

from __future__ import annotations

from dataclasses import dataclass

from effd0.detection.heads import HeadOutputs


@dataclass(frozen=True)
class Seen:
    """The heads of one image, the factor from input to image, and the image's (width, height)."""

    heads: HeadOutputs
    scale: float
    size: tuple[int, int]
