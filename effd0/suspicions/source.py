"""What a pipeline makes of one image, step by step, and a mistake that changes a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL import Image

from ..data.preprocess import letterbox, normalize, read_image
from ..spec import ModelSpec
from ..types import Floats, Pixels, Tensor


@dataclass(frozen=True)
class Source:
    """One image file *path* and the *spec* it is fed to; what is read from it is read once."""

    path: Path
    spec: ModelSpec

    @cached_property
    def image(self) -> Image.Image:
        """The picture, RGB, as stored."""
        return read_image(self.path)

    @cached_property
    def pixels(self) -> Pixels:
        """The picture in the square, (size, size, 3) uint8, as effd0 puts it there."""
        return letterbox(self.image, self.spec)[0]

    @cached_property
    def tensor(self) -> Tensor:
        """The network input, (3, size, size) float32, as effd0 makes it."""
        return normalize(self.pixels, self.spec)

    @property
    def scaled(self) -> tuple[int, int]:
        """Width and height of the picture in the square."""
        scale = min(self.spec.image_size / side for side in self.image.size)
        return int(self.image.width * scale), int(self.image.height * scale)


Remake = Callable[[Source], Floats]


@dataclass(frozen=True)
class Mistake:
    """A mistake's *name* in the field, its inverse in words, and how the input is with it."""

    name: str
    inverse: str
    remake: Remake
