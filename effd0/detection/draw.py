"""Detections drawn on their image."""

import colorsys
from collections.abc import Mapping
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ..data.coco import NAMES
from ..data.preprocess import read_image
from ..errors import OutputError
from ..io import written_whole
from .postprocess import Detections

HALF_LIGHT = 128


def draw_detections(
    image: Path,
    detections: Detections,
    out: Path,
    min_score: float,
    names: Mapping[int, str] = NAMES,
) -> int:
    """
    Write *image* with every detection of at least *min_score* to *out*; return their number.

    *names* are those of categories by id; one without a name is shown by its id.  The suffix of
    *out* picks the format.  Raises `ImageError` or `OutputError`.
    """
    # registered_extensions() loads all formats; some of them Pillow can only read.
    if Image.registered_extensions().get(out.suffix.lower()) not in Image.SAVE:
        raise OutputError(f"--out is {out.name!r}, but its suffix must be a picture's, as in .jpg")
    picture = read_image(image)
    shown = [i for i in range(len(detections)) if detections.scores[i] >= min_score]
    # Lines and letters grow with the picture, so that both thumbnails and photos can be read.
    unit = max(picture.size) / 640
    line = max(2, round(2.5 * unit))
    font = ImageFont.load_default(size=max(10, 13 * unit))
    pen = ImageDraw.Draw(picture)
    for i in reversed(shown):  # the best last, on top
        category = int(detections.classes[i])
        # A colour of its own for each category: neighbours in id are far apart in hue.
        rgb = colorsys.hsv_to_rgb(category * 0.618034 % 1, 0.85, 0.95)
        color = tuple(round(255 * part) for part in rgb)
        # Luminance as in ITU-R BT.601: black letters on light colours, white on dark ones.
        light = sum(c * w for c, w in zip(color, (0.299, 0.587, 0.114), strict=True)) > HALF_LIGHT
        x1, y1, x2, y2 = (float(corner) for corner in detections.boxes[i])
        pen.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=color, width=line)
        label = f"{names.get(category, f'class {category}')} {detections.scores[i]:.2f}"
        _, _, text_width, text_height = pen.textbbox((0, 0), label, font=font)
        # Above the box where there is room, else inside it.
        top = y1 - text_height - 2 if y1 >= text_height + 2 else y1
        left = max(0, min(x1, picture.width - text_width - 4))
        pen.rectangle((left, top, left + text_width + 4, top + text_height + 2), fill=color)
        pen.text((left + 2, top), label, fill="black" if light else "white", font=font)
    with written_whole(out) as temporary:
        picture.save(temporary, quality=92)
    return len(shown)
