"""
Image -> network input: letterbox and normalise.

Bit for bit what effdet's evaluation transform (``transforms_coco_eval``, bilinear) and its
loader's normalisation do: PIL's antialiased bilinear resize, sizes cut off by ``int()``, the
picture at the top left, the rest filled.  EXIF orientation is ignored, as effdet ignores it and
as COCO's annotations require.
"""

import contextlib
import ctypes
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from ..errors import ImageError
from ..io import LFS_MAGIC
from ..spec import ModelSpec
from ..types import Floats, Pixels, Tensor

#: The sum of libjpeg's table for luma at quality 50; how far channels of a gray pixel may differ.
_LUMA, _ROUNDED = 3688, 4


_capsule_pointer = ctypes.PYFUNCTYPE(ctypes.c_size_t, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


@dataclass(frozen=True)
class ModelInput:
    """
    What the network sees of one image, and what leads back to the image.

    *tensor* is (3, rows, columns) float32, or, for a model that normalises by itself, the
    letterboxed (rows, columns, 3) uint8; *image_scale* times input pixels gives image pixels;
    *image_size* is the original (width, height).
    """

    tensor: Tensor | Pixels
    image_scale: float
    image_size: tuple[int, int]


def preprocess(
    path: Path, spec: ModelSpec, *, normalized: bool = True, out: Tensor | None = None
) -> ModelInput:
    """
    Read the image file *path* as network input, *normalized* or as pixels.

    What is normalised is written to *out*, (3, rows, columns) float32 in C order, where given:
    fresh memory costs more than normalising does.  Raises `ImageError` if *path* cannot be read.
    """
    image = read_image(path)
    size, image_scale = _scaled(image.size, spec, f"{path}: ")
    if not normalized:
        return ModelInput(letterbox(image, spec)[0], image_scale, image.size)
    tensor = np.empty(spec.input_shape, np.float32) if out is None else out
    # Where the height loses more than twice what the width does, Pillow 13 takes the rows first.
    tall = image.height - size[1] > max(0, 2 * (image.width - size[0]))
    if not tall and resizes_as_pillow():
        _write_resized(image, size, *_moments(spec), tensor)
        filler = normalize(np.array([[spec.fill]], np.uint8), spec)
        tensor[:, : size[1], size[0] :], tensor[:, size[1] :] = filler, filler
    else:
        tensor[...] = normalize(letterbox(image, spec)[0], spec)
    return ModelInput(tensor, image_scale, image.size)


@functools.cache
def resizes_as_pillow() -> bool:
    """Whether our kernel gives every bit of the Pillow that is installed; else Pillow resizes."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (29, 41, 3), np.uint8))
    zeros, ones = np.zeros(3, np.float32), np.ones(3, np.float32)
    for width, height in ((17, 12), (83, 60), (41, 58)):
        resized = np.empty((3, height, width), np.float32)
        _write_resized(image, (width, height), zeros, ones, resized)
        wanted = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
        if not np.array_equal(resized, wanted.transpose(2, 0, 1)):
            return False
    return True


def read_image(path: Path) -> Image.Image:
    """Decode *path* to RGB, whatever its mode; raise `ImageError` with the reason if it fails."""
    with _opened(path) as image:
        # Transparency is dropped on the way to RGB either way; said here, Pillow does not warn.
        image.info.pop("transparency", None)
        image.load()
        # To convert what is RGB already would be to copy it.
        return image if image.mode == "RGB" else image.convert("RGB")


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


def exif_orientation(path: Path) -> int:
    """The EXIF orientation of *path*, 1 to 8; 0 where there is none."""
    with _opened(path) as image:
        value = image.getexif().get(ExifTags.Base.Orientation, 0)
    return value if isinstance(value, int) else 0


def gray_and_quality(path: Path) -> tuple[bool, int]:
    """Whether *path* is without colour, and its JPEG quality by libjpeg; 100 of other formats."""
    with _opened(path) as image:
        luma: list[int] = getattr(image, "quantization", {}).get(0, [])
        image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
        pixels = np.asarray(image.convert("RGB"))
    # The table of quality 50 is multiplied by a percentage.
    percent = sum(luma) / _LUMA
    quality = 100 - 50 * percent if percent <= 1 else 50 / percent
    return bool(np.ptp(pixels, axis=2).max() <= _ROUNDED), round(quality)


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
        with path.open("rb") as file:
            start = file.read(len(LFS_MAGIC))
    except OSError:  # not even to be opened; the first error says why
        return str(error)
    if start == LFS_MAGIC:
        return "it is a Git LFS pointer, not the image; run 'git lfs pull'"
    if not start:
        return "the file is empty; copy or download it again"
    if isinstance(error, Image.DecompressionBombError):
        return f"{str(error).partition(',')[0]}; scale it and its annotations down"
    if "truncated" in str(error):
        return f"{error}; copy or download it again"
    return f"{error} (it begins with {start[:8]!r})"


def input_scale(size: tuple[int, int], spec: ModelSpec) -> float:
    """Factor from pixels of an image of *size* (width, height) to those of the input."""
    return min(of / side for of, side in zip(spec.image_size[::-1], size, strict=True))


def letterbox(image: Image.Image, spec: ModelSpec, of: str = "") -> tuple[Pixels, float]:
    """
    Fit an RGB *image* into the input, keeping its aspect.

    Returns the (rows, columns, 3) uint8 canvas, the picture at its top left, and the factor from
    input back to image pixels.  Raises `ImageError`, which *of* begins, for an image so thin that
    nothing of its short side would be left.
    """
    size, image_scale = _scaled(image.size, spec, of)
    canvas = Image.new("RGB", spec.image_size[::-1], spec.fill)
    canvas.paste(image.resize(size, Image.Resampling.BILINEAR))
    return np.asarray(canvas), image_scale


def normalize(pixels: Pixels, spec: ModelSpec) -> Tensor:
    """Turn (rows, columns, 3) uint8 into float32 planes: (value - 255 mean) / 255 std."""
    mean, std = (of[:, None, None] for of in _moments(spec))
    planes: Tensor = np.subtract(pixels.transpose(2, 0, 1), mean, dtype=np.float32, order="C")
    planes /= std
    return planes


def pixels_of(tensor: Tensor, spec: ModelSpec) -> Pixels:
    """Undo `normalize` exactly: (N, 3, rows, columns) becomes (N, rows, columns, 3) uint8."""
    mean, std = (of[:, None, None] for of in _moments(spec))
    pixels: Pixels = np.clip(np.rint(tensor * std + mean), 0, 255).astype(np.uint8)
    return pixels.transpose(0, 2, 3, 1)


def _scaled(size: tuple[int, int], spec: ModelSpec, of: str) -> tuple[tuple[int, int], float]:
    """An image's *size*, (width, height), in the input, and the factor from input to image."""
    scale = input_scale(size, spec)
    # int(), not round(): some sizes lose their last row to it, and so do the reference's.
    width, height = (int(side * scale) for side in size)
    if not width or not height:
        raise ImageError(
            f"{of}image is {size[0]}x{size[1]}, which would shrink to {width}x{height} pixels, "
            f"but every side must keep one; the aspect may be at most {max(spec.image_size)}:1"
        )
    return (width, height), 1.0 / scale


@functools.cache
def _moments(spec: ModelSpec) -> tuple[Floats, Floats]:
    """Mean and deviation of each channel in pixel values, (3,) float32 each."""
    mean, std = ((255 * np.array(of)).astype(np.float32) for of in (spec.mean, spec.std))
    return mean, std


def _at(address: int) -> int:
    """The pointer that lies at *address*."""
    return ctypes.c_size_t.from_address(address).value


def _write_resized(
    image: Image.Image, size: tuple[int, int], mean: Floats, std: Floats, out: Tensor
) -> None:
    """Write the RGB *image* at *size*, (width, height), normalised, to the top left of *out*."""
    from ..kernels import resize_normalized

    width, height = image.size
    try:
        # Shared, not copied, while *image* and its *capsule* live.  By Arrow's C data interface the
        # first child of the array has the pixels in its second buffer.
        _, capsule = image.__arrow_c_array__()
        buffers = _at(_at(_at(_capsule_pointer(capsule, b"arrow_array") + 48)) + 40)
        words: Any = (ctypes.c_uint32 * (width * height)).from_address(_at(buffers + 8))
    except (AttributeError, ValueError):  # a Pillow before 11.2, or a picture in several blocks
        words = image.tobytes("raw", "RGBX")
    pixels = np.frombuffer(words, np.uint32).reshape(height, width)
    resize_normalized(pixels, size[1], size[0], mean, std, out)
