"""
Image -> network input: letterbox and normalise.

Bit for bit what effdet's evaluation transform (``transforms_coco_eval``, bilinear) and its
loader's normalisation do: PIL's antialiased bilinear resize, sizes cut off by ``int()``, the
picture at the top left, the rest filled.  EXIF orientation is ignored, as effdet ignores it and
as COCO's annotations require.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from .arrays import Pixels, Tensor
from .errors import ImageError
from .files import LFS_MAGIC
from .spec import ModelSpec


@dataclass(frozen=True)
class ModelInput:
    """
    What the network sees of one image, and what leads back to the image.

    *tensor* is (3, size, size) float32, or, for a model that normalises by itself, the letterboxed
    (size, size, 3) uint8; *image_scale* times input pixels gives image pixels; *image_size* is the
    original (width, height).
    """

    tensor: Tensor | Pixels
    image_scale: float
    image_size: tuple[int, int]


def preprocess(path: Path, spec: ModelSpec, *, normalized: bool = True) -> ModelInput:
    """
    Read the image file *path* as network input, *normalized* or as pixels.

    Raises `ImageError` if it cannot be read.
    """
    image = read_image(path)
    try:
        pixels, image_scale = letterbox(image, spec)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    tensor = normalize(pixels, spec) if normalized else pixels
    return ModelInput(tensor, image_scale, image.size)


def read_image(path: Path) -> Image.Image:
    """Decode *path* to RGB, whatever its mode; raise `ImageError` with the reason if it fails."""
    with _opened(path) as image:
        # Transparency is dropped on the way to RGB either way; said here, Pillow does not warn.
        image.info.pop("transparency", None)
        return image.convert("RGB")


def probe_image(path: Path) -> tuple[int, int]:
    """
    Decode *path* only to see that it can be; return its (width, height).

    A JPEG is decoded at an eighth of its size: all of its data is still read, in half the time.
    Raises `ImageError` with the reason if it fails.
    """
    with _opened(path) as image:
        size = image.size
        image.draft("RGB", (max(1, size[0] // 8), max(1, size[1] // 8)))
        image.load()
    return size


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open *path* as a picture; whatever fails on it comes out as an `ImageError`."""
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError as error:
        raise ImageError(f"{path} does not exist; check the path or the dataset's root") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path} is not a readable image: {_reason(path, error)}") from error


def _reason(path: Path, error: Exception) -> str:
    """Why *path* cannot be decoded, in words that lead to the remedy."""
    try:
        if path.is_dir():
            return "it is a directory"
        with path.open("rb") as file:
            start = file.read(len(LFS_MAGIC))
    except OSError:  # not even to be opened; the first error says why
        return str(error)
    if start == LFS_MAGIC:
        return "it is a Git LFS pointer, not the image; run 'git lfs pull'"
    if not start:
        return "the file is empty; copy or download it again"
    if "truncated" in str(error):
        return f"{error}; copy or download it again"
    return f"{error} (it begins with {start[:8]!r})"


def input_scale(size: tuple[int, int], spec: ModelSpec) -> float:
    """Factor from pixels of an image of *size* (width, height) to those of the input."""
    width, height = size
    return min(spec.image_size / height, spec.image_size / width)


def letterbox(image: Image.Image, spec: ModelSpec) -> tuple[Pixels, float]:
    """
    Fit an RGB *image* into the square input, keeping its aspect.

    Returns the (size, size, 3) uint8 canvas and the factor from input back to image pixels.
    Raises `ImageError` for an image so thin that nothing of its short side would be left.
    """
    width, height = image.size
    scale = input_scale(image.size, spec)
    # int(), not round(): some sizes lose their last row to it, and so do the reference's.
    scaled = (int(width * scale), int(height * scale))
    if 0 in scaled:
        raise ImageError(
            f"image is {width}x{height}, which would shrink to {scaled[0]}x{scaled[1]} pixels, "
            f"but every side must keep one; the aspect may be at most {spec.image_size}:1"
        )
    canvas = Image.new("RGB", (spec.image_size, spec.image_size), spec.fill)
    canvas.paste(image.resize(scaled, Image.Resampling.BILINEAR))
    return np.asarray(canvas), 1.0 / scale


def normalize(pixels: Pixels, spec: ModelSpec) -> Tensor:
    """Turn (size, size, 3) uint8 into (3, size, size) float32: (value - 255 mean) / 255 std."""
    table = _normalized_values(spec.mean, spec.std)
    tensor = np.empty((3, *pixels.shape[:2]), np.float32)
    for channel in range(3):
        np.take(table[channel], pixels[:, :, channel], out=tensor[channel], mode="clip")
    return tensor


@functools.cache
def _normalized_values(mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """The normalised value of each channel's 256 pixel values: a look-up is exact and fast."""
    values = np.arange(256, dtype=np.float32)
    shift = np.array([255 * m for m in mean], np.float32)
    scale = np.array([255 * s for s in std], np.float32)
    table: Tensor = (values - shift[:, None]) / scale[:, None]
    return table
