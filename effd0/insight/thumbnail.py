"""A small JPEG of an image, as text that a page can hold."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from ..data.preprocess import read_image
from ..errors import ImageError

#: The longest side in pixels.
LONGEST = 320
#: Bytes of base64: eighty of them stay under 3 MB.
LARGEST = 37_500
#: Tried in turn until the text is small enough.  Measured 2026-11-25: the embedded images take
#: 13 kB at most, noise of 320 x 320 pixels 72 kB at the first and 12 kB at the last.
QUALITIES = (70, 50, 30, 10)


def thumbnail(path: Path) -> str | None:
    """The image *path* as a base64 JPEG of at most `LARGEST` bytes; None if it is unreadable."""
    try:
        picture = read_image(path)
    except ImageError:
        return None
    picture.thumbnail((LONGEST, LONGEST))
    for quality in QUALITIES:
        text = _encoded(picture, quality)
        if len(text) <= LARGEST:
            break
    return text


def _encoded(picture: Image.Image, quality: int) -> str:
    file = io.BytesIO()
    # A comment in the file, of whatever length, would be copied.
    picture.save(file, "JPEG", quality=quality, optimize=True, comment=b"")
    return base64.b64encode(file.getvalue()).decode("ascii")
