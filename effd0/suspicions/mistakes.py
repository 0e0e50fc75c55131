"""
What pipelines elsewhere do otherwise with an image: each mistake made on purpose, one at a time.

A mistake remakes the whole network input from the image's file, so that it can be compared with
the input that is suspected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
from PIL import Image, ImageOps

from ..data.preprocess import letterbox, normalize
from ..spec import SPECS, ModelSpec, Triple
from ..types import Floats
from .resample import aligned_nearest, area, unsmoothed_bilinear
from .source import Mistake, Source

Resize = Callable[[Image.Image, tuple[int, int]], Image.Image]


def mistakes_for(spec: ModelSpec) -> Iterator[Mistake]:
    """All mistakes that a pipeline for *spec* can make, the cheap ones first."""
    yield from _of_values(spec)
    yield from _of_layout(spec)
    yield from _of_fill(spec)
    yield from _of_geometry()
    yield from _of_resampling()


def _of_values(spec: ModelSpec) -> Iterator[Mistake]:
    mean, std = (np.array(three, np.float32)[:, None, None] for three in (spec.mean, spec.std))

    def planes(source: Source) -> Floats:
        return source.pixels.transpose(2, 0, 1).astype(np.float32)

    yield Mistake("not normalised (0..255)", "the values are normalised", planes)
    yield Mistake(
        "divided by 255 only",
        "mean and deviation are applied too",
        lambda s: planes(s) / np.float32(255),
    )
    yield Mistake(
        "not divided by 255",
        "the values are divided by 255 before mean and deviation",
        lambda s: (planes(s) - mean) / std,
    )
    yield Mistake(
        "not divided by the deviation", "the deviation is divided by", lambda s: s.tensor * std
    )
    yield Mistake("normalised twice", "it is done once", lambda s: (s.tensor - mean) / std)
    others = {(s.mean, s.std) for s in SPECS.values()} - {(spec.mean, spec.std)}
    for other_mean, other_std in sorted(others):
        yield Mistake(
            f"mean {other_mean} and deviation {other_std} of another architecture",
            f"mean {spec.mean} and deviation {spec.std} are used",
            partial(_normalized_with, mean=other_mean, std=other_std),
        )


def _of_layout(spec: ModelSpec) -> Iterator[Mistake]:
    swapped = "red and blue are exchanged"
    yield Mistake("RGB/BGR swapped", swapped, lambda s: s.tensor[::-1])
    # Channels that have means of their own tell when it happened, and what fill they met.
    yield Mistake(
        "RGB/BGR swapped before normalising",
        swapped,
        lambda s: normalize(s.pixels[..., ::-1], spec),
    )
    yield Mistake(
        "RGB/BGR swapped in the picture, not in the fill", swapped, partial(_turned, across=2)
    )
    yield Mistake(
        "NHWC read as NCHW",
        "the channels are moved to the front",
        lambda s: s.tensor.transpose(1, 2, 0).reshape(s.tensor.shape),
    )
    yield Mistake(
        "rows and columns transposed",
        "rows and columns are exchanged",
        lambda s: s.tensor.transpose(0, 2, 1),
    )


def _normalized_with(source: Source, mean: Triple, std: Triple) -> Floats:
    return normalize(source.pixels, replace(source.spec, mean=mean, std=std))


def _of_fill(spec: ModelSpec) -> Iterator[Mistake]:
    inverse = f"the fill is {spec.fill}"
    fills = {
        (0, 0, 0): "black fill",
        (114, 114, 114): "grey fill of 114",
        (128, 128, 128): "grey fill of 128",
        (255, 255, 255): "white fill",
        (123, 116, 103): "fill with the ImageNet mean cut off, not rounded",
        (124, 116, 104): "fill with the ImageNet mean",
        spec.fill[::-1]: "fill with red and blue swapped",
    }
    for fill, name in fills.items():
        if fill != spec.fill:
            yield Mistake(name, inverse, partial(_filled, fill=fill))
    yield Mistake("zero fill after normalising", inverse, _zero_filled)


def _filled(source: Source, fill: tuple[int, int, int]) -> Floats:
    pixels = np.full_like(source.pixels, fill)
    width, height = source.scaled
    pixels[:height, :width] = source.pixels[:height, :width]
    return normalize(pixels, source.spec)


def _zero_filled(source: Source) -> Floats:
    tensor = np.zeros_like(source.tensor)
    width, height = source.scaled
    tensor[:, :height, :width] = source.tensor[:, :height, :width]
    return tensor


def _of_geometry() -> Iterator[Mistake]:
    corner = "the picture lies at the top left"
    yield Mistake("centred letterbox", corner, partial(_moved, share=0.5))
    yield Mistake("padded on the other side", corner, partial(_moved, share=1.0))
    yield Mistake("mirrored", "left and right are exchanged", partial(_turned, across=1))
    yield Mistake("upside down", "top and bottom are exchanged", partial(_turned, across=0))
    yield Mistake("stretched", "the aspect is kept", _stretched)
    yield Mistake("EXIF orientation applied", "the orientation is ignored", _oriented)
    yield Mistake("JPEG decoded at reduced size", "it is decoded whole", _drafted)


def _moved(source: Source, share: float) -> Floats:
    width, height = source.scaled
    free = source.spec.image_size - width, source.spec.image_size - height
    left, top = (int(side * share) for side in free)
    pixels = np.full_like(source.pixels, source.spec.fill)
    pixels[top : top + height, left : left + width] = source.pixels[:height, :width]
    return normalize(pixels, source.spec)


def _turned(source: Source, across: int) -> Floats:
    width, height = source.scaled
    pixels = source.pixels.copy()
    pixels[:height, :width] = np.flip(source.pixels[:height, :width], across)
    return normalize(pixels, source.spec)


def _stretched(source: Source) -> Floats:
    side = source.spec.image_size
    pixels = np.asarray(source.image.resize((side, side), Image.Resampling.BILINEAR))
    return normalize(pixels, source.spec)


def _oriented(source: Source) -> Floats:
    with Image.open(source.path) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    return normalize(letterbox(upright, source.spec)[0], source.spec)


def _drafted(source: Source) -> Floats:
    with Image.open(source.path) as image:
        image.draft("RGB", source.scaled)
        small = image.convert("RGB")
    return _resized(source, lambda _, size: small.resize(size, Image.Resampling.BILINEAR))


def _of_resampling() -> Iterator[Mistake]:
    inverse = "it is resized by PIL's bilinear filter, which smooths as it shrinks"
    methods: dict[str, Resize] = {
        "nearest resampling": _pil(Image.Resampling.NEAREST),
        "nearest resampling from the corner": aligned_nearest,
        "bilinear resampling without antialias": unsmoothed_bilinear,
        "area resampling": area,
        "box resampling": _pil(Image.Resampling.BOX),
        "bicubic resampling": _pil(Image.Resampling.BICUBIC),
        "Lanczos resampling": _pil(Image.Resampling.LANCZOS),
    }
    for name, resize in methods.items():
        yield Mistake(name, inverse, partial(_resized, resize=resize))


def _pil(kind: Image.Resampling) -> Resize:
    return lambda image, size: image.resize(size, kind)


def _resized(source: Source, resize: Resize) -> Floats:
    canvas = Image.new("RGB", (source.spec.image_size,) * 2, source.spec.fill)
    canvas.paste(resize(source.image, source.scaled))
    return normalize(np.asarray(canvas), source.spec)
