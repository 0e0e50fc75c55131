"""
Image -> network input: letterbox and normalise.

Bit for bit what effdet's evaluation transform (``transforms_coco_eval``, bilinear) and its
loader's normalisation do: PIL's antialiased bilinear resize, sizes cut off by ``int()``, the
picture at the top left, the rest filled.  EXIF orientation is ignored, as effdet ignores it and
as COCO's annotations require.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from ..errors import ImageError
from ..io import LFS_MAGIC
from ..spec import ModelSpec
from ..types import Pixels, Tensor

#: Rows of the picture that are normalised at a time.
_BAND = 128
#: The sum of libjpeg's table for luma at quality 50; how far channels of a gray pixel may differ.
_LUMA, _ROUNDED = 3688, 4


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


def preprocess(
    path: Path, spec: ModelSpec, *, normalized: bool = True, out: Tensor | None = None
) -> ModelInput:
    """
    Read the image file *path* as network input, *normalized* or as pixels.

    What is normalised is written to *out*, (3, size, size) float32, where that is given: fresh
    memory costs more than normalising does.  Raises `ImageError` if *path* cannot be read.
    """
    image = read_image(path)
    if not normalized:
        return ModelInput(*letterbox(image, spec, f"{path}: "), image.size)
    picture, image_scale = _resized(image, spec, f"{path}: ")
    tensor = np.empty(spec.input_shape, np.float32) if out is None else out
    _write_normalized(picture, spec, tensor)
    return ModelInput(tensor, image_scale, image.size)


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
    return min(spec.image_size / side for side in size)


def letterbox(image: Image.Image, spec: ModelSpec, of: str = "") -> tuple[Pixels, float]:
    """
    Fit an RGB *image* into the square input, keeping its aspect.

    Returns the (size, size, 3) uint8 canvas, the picture at its top left, and the factor from
    input back to image pixels.  Raises `ImageError`, which *of* begins, for an image so thin that
    nothing of its short side would be left.
    """
    picture, image_scale = _resized(image, spec, of)
    canvas = Image.new("RGB", (spec.image_size, spec.image_size), spec.fill)
    canvas.paste(picture)
    return np.asarray(canvas), image_scale


def normalize(pixels: Pixels, spec: ModelSpec) -> Tensor:
    """Turn (size, size, 3) uint8 into (3, size, size) float32: (value - 255 mean) / 255 std."""
    tensor = np.empty((3, *pixels.shape[:2]), np.float32)
    for channel in range(3):
        _normalize_plane(pixels[:, :, channel], channel, spec, tensor[channel])
    return tensor


def pixels_of(tensor: Tensor, spec: ModelSpec) -> Pixels:
    """Undo `normalize` exactly: (N, 3, size, size) float32 becomes (N, size, size, 3) uint8."""
    mean, std = (255 * np.array(of, np.float32)[:, None, None] for of in (spec.mean, spec.std))
    pixels: Pixels = np.clip(np.rint(tensor * std + mean), 0, 255).astype(np.uint8)
    return pixels.transpose(0, 2, 3, 1)


def _resized(image: Image.Image, spec: ModelSpec, of: str) -> tuple[Image.Image, float]:
    """The picture in the input's pixels, and the factor from those back to the image's."""
    width, height = image.size
    scale = input_scale(image.size, spec)
    # int(), not round(): some sizes lose their last row to it, and so do the reference's.
    scaled = (int(width * scale), int(height * scale))
    if 0 in scaled:
        raise ImageError(
            f"{of}image is {width}x{height}, which would shrink to {scaled[0]}x{scaled[1]} pixels, "
            f"but every side must keep one; the aspect may be at most {spec.image_size}:1"
        )
    return image.resize(scaled, Image.Resampling.BILINEAR), 1.0 / scale


def _write_normalized(picture: Image.Image, spec: ModelSpec, tensor: Tensor) -> None:
    """Write `normalize` of the letterboxed *picture* to *tensor*, without making the canvas."""
    width, height = picture.size
    filler = normalize(np.array([[spec.fill]], np.uint8), spec)
    tensor[:, :height, width:], tensor[:, height:] = filler, filler
    # By bands: what is small stays in the cache, and takes no fresh memory from the system.
    for top in range(0, height, _BAND):
        band = picture.crop((0, top, width, min(top + _BAND, height)))
        for channel, name in enumerate("RGB"):
            values = np.frombuffer(band.tobytes("raw", name), np.uint8).reshape(-1, width)
            place = tensor[channel, top : top + len(values), :width]
            _normalize_plane(values, channel, spec, place)


def _normalize_plane(values: Pixels, channel: int, spec: ModelSpec, out: Tensor) -> None:
    """Write the normalised *values* of one channel to *out*."""
    np.subtract(values, np.float32(255 * spec.mean[channel]), out=out, dtype=np.float32)
    out /= np.float32(255 * spec.std[channel])
