"""Faults of network inputs that another tool preprocessed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from effd0.data.preprocess import preprocess
from effd0.detection.heads import split_heads
from effd0.detection.postprocess import postprocess
from effd0.runners.registry import RunnerOptions, open_runner
from effd0.spec import D0
from effd0.types import Floats

from .run import Fault, Found, Good, Plant, Planted, base_options

Values = npt.NDArray[np.float64]
#: Pixels and the wanted (width, height) -> pixels.
Resize = Callable[[Values, tuple[int, int]], Values]
MEAN, STD = np.array(D0.mean), np.array(D0.std)
ADVPROP = "mean (0.5, 0.5, 0.5) and deviation (0.5, 0.5, 0.5) of another architecture"


def decoded(path: Path) -> Values:
    """Return the pixels of *path* as stored, (height, width, 3), from 0 to 255."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), np.float64)


def pil(kind: Image.Resampling) -> Resize:
    """Return a filter of PIL."""
    return lambda pixels, size: np.asarray(
        Image.fromarray(pixels.astype(np.uint8)).resize(size, kind), np.float64
    )


def interpolated(mode: str) -> Resize:
    """Return an interpolation of torch, rounded to whole grey levels, halves up."""

    def resize(pixels: Values, size: tuple[int, int]) -> Values:
        planes = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        small = torch.nn.functional.interpolate(planes, size[::-1], mode=mode)
        return np.floor(small[0].permute(1, 2, 0).numpy() + 0.5)

    return resize


def mean_of_area(pixels: Values, size: tuple[int, int]) -> Values:
    """Differences of the running sum at the edges of the new pixels."""
    for axis, wanted in ((0, size[1]), (1, size[0])):
        rows = np.moveaxis(pixels, axis, 0)
        edges = np.arange(wanted + 1) * len(rows) / wanted
        sums = np.concatenate([np.zeros_like(rows[:1]), rows.cumsum(0)])
        at = np.apply_along_axis(lambda sums: np.interp(edges, np.arange(len(sums)), sums), 0, sums)  # noqa: B023
        pixels = np.moveaxis(np.diff(at, axis=0) * wanted / len(rows), 0, axis)
    return np.floor(pixels + 0.5)


BILINEAR = pil(Image.Resampling.BILINEAR)


def boxed(
    pixels: Values,
    side: int,
    *,
    by: Resize = BILINEAR,
    fill: tuple[int, int, int] = D0.fill,
    place: float = 0.0,
    turn: Callable[[Values], Values] = lambda small: small,
) -> Values:
    """Return *pixels* in the square of *side*; *place* is the share of fill before them."""
    height, width = pixels.shape[:2]
    scale = min(side / height, side / width)
    small = turn(by(pixels, (int(width * scale), int(height * scale))))
    height, width = small.shape[:2]
    top, left = int((side - height) * place), int((side - width) * place)
    square = np.full((side, side, 3), fill, np.float64)
    square[top : top + height, left : left + width] = small
    return square


def normal(square: Values) -> Values:
    """Return *square*, divided by 255, less the mean, over the deviation."""
    values: Values = (square / 255 - MEAN) / STD
    return values


def zero_fill(path: Path, side: int) -> Values:
    """Return the input of *path*, padded with zeros after it was normalised."""
    inside = boxed(np.ones_like(decoded(path)), side, fill=(0, 0, 0))
    return normal(boxed(decoded(path), side)) * inside


def upright(path: Path, side: int) -> Values:
    """Return the input of *path*, turned as its orientation (6: clockwise) demands."""
    with Image.open(path) as image:
        assert image.getexif()[0x0112] == 6
    return normal(boxed(np.rot90(decoded(path), -1), side))


def halved(path: Path, side: int) -> Values:
    """Return the input of *path*, decoded at half its size."""
    with Image.open(path) as image:
        size = image.size
        image.draft("RGB", (size[0] // 2, size[1] // 2))
        small = np.asarray(image, np.float64)
    scale = side / max(size)
    square = np.full((side, side, 3), D0.fill, np.float64)
    width, height = int(size[0] * scale), int(size[1] * scale)
    square[:height, :width] = BILINEAR(small, (width, height))
    return normal(square)


def plain(**options: object) -> Callable[[Path, int], Values]:
    """Return a plant that is right but for the *options* of `boxed`."""
    return lambda path, side: normal(boxed(decoded(path), side, **options))  # type: ignore[arg-type]


def valued(change: Callable[[Values], Values]) -> Callable[[Path, int], Values]:
    """Return a plant that makes of the square what *change* does."""
    return lambda path, side: change(boxed(decoded(path), side))


#: What the fault is called -> the input of a file with it, (side, side, 3).
MISTAKES: dict[str, Callable[[Path, int], Values]] = {
    "RGB/BGR swapped": valued(lambda x: normal(x)[..., ::-1]),
    "RGB/BGR swapped before normalising": valued(lambda x: normal(x[..., ::-1])),
    "RGB/BGR swapped in the picture, not in the fill": plain(turn=lambda x: x[..., ::-1]),
    "not normalised (0..255)": valued(lambda x: x),
    "divided by 255 only": valued(lambda x: x / 255),
    "not divided by 255": valued(lambda x: (x - MEAN) / STD),
    "not divided by the deviation": valued(lambda x: x / 255 - MEAN),
    "normalised twice": valued(lambda x: (normal(x) - MEAN) / STD),
    ADVPROP: valued(lambda x: x / 127.5 - 1),
    "NHWC read as NCHW": valued(lambda x: normal(x).reshape(3, *x.shape[:2]).transpose(1, 2, 0)),
    "rows and columns transposed": valued(lambda x: normal(x).transpose(1, 0, 2)),
    "black fill": plain(fill=(0, 0, 0)),
    "grey fill of 114": plain(fill=(114, 114, 114)),
    "grey fill of 128": plain(fill=(128, 128, 128)),
    "white fill": plain(fill=(255, 255, 255)),
    "fill with the ImageNet mean cut off, not rounded": plain(fill=(123, 116, 103)),
    "fill with red and blue swapped": plain(fill=(104, 116, 124)),
    "zero fill after normalising": zero_fill,
    "centred letterbox": plain(place=0.5),
    "padded on the other side": plain(place=1.0),
    "mirrored": plain(turn=lambda small: small[:, ::-1]),
    "upside down": plain(turn=lambda small: small[::-1]),
    "stretched": lambda path, side: normal(BILINEAR(decoded(path), (side, side))),
    "EXIF orientation applied": upright,
    "JPEG decoded at reduced size": halved,
    "nearest resampling": plain(by=interpolated("nearest-exact")),
    "nearest resampling from the corner": plain(by=interpolated("nearest")),
    "bilinear resampling without antialias": plain(by=interpolated("bilinear")),
    "area resampling": plain(by=mean_of_area),
    "box resampling": plain(by=pil(Image.Resampling.BOX)),
    "bicubic resampling": plain(by=pil(Image.Resampling.BICUBIC)),
    "Lanczos resampling": plain(by=pil(Image.Resampling.LANCZOS)),
}


def planted(name: str, path: Path, side: int) -> Floats:
    """Return the input of *path* with the fault *name*, (3, side, side) float32."""
    square = MISTAKES[name](path, side)
    return np.ascontiguousarray(square.transpose(2, 0, 1), np.float32)


def _bins(name: str) -> Plant:
    """Every input has the fault *name*, without a manifest: another tool's."""

    def plant(good: Good, folder: Path) -> Planted:
        bins = folder / "bins"
        bins.mkdir()
        tensors = {}
        for sample in good.dataset.samples:
            tensor = planted(name, sample.path, good.spec.image_size[0])
            tensor.tofile(bins / f"{sample.path.stem}.bin")
            tensors[sample.image_id] = tensor
        return Planted((*base_options(good), f"--bins={bins}", "--runner=ort"),
                       found=lambda: _found(good, tensors))  # fmt: skip

    return plant


def _found(good: Good, tensors: dict[int, Floats]) -> Found:
    """What the good model finds in bad inputs."""
    found = {}
    with open_runner("ort", good.model, good.spec, RunnerOptions()) as runner:
        for sample in good.dataset.samples:
            own = preprocess(sample.path, good.spec)
            feed = {runner.inputs[0].name: tensors[sample.image_id][None]}
            head = split_heads(runner.infer(feed), good.spec)[0]
            found[sample.image_id] = postprocess(head, own.image_scale, own.image_size, good.spec)
    return found


def _files(change: Callable[[list[Path]], object]) -> Plant:
    """The files of effd0's own inputs are changed, and the manifest is not there."""

    def plant(good: Good, folder: Path) -> Planted:
        bins = folder / "bins"
        shutil.copytree(good.bins, bins)
        (bins / "manifest.json").unlink()
        change(sorted(bins.glob("*.bin")))
        return Planted((*base_options(good), f"--bins={bins}", "--runner=ort"))

    return plant


def _next(paths: list[Path]) -> None:
    contents = [path.read_bytes() for path in paths]
    for path, content in zip(paths, contents[1:] + contents[:1], strict=True):
        path.write_bytes(content)


def _half(paths: list[Path]) -> None:
    paths[2].write_bytes(paths[2].read_bytes()[: paths[2].stat().st_size // 2])


def _exchanged(paths: list[Path]) -> None:
    one, other = paths[2].read_bytes(), paths[9].read_bytes()
    paths[2].write_bytes(other)
    paths[9].write_bytes(one)


def _each(change: Callable[[Floats], npt.NDArray[Any]]) -> Plant:
    """Each file holds what *change* makes of the values of the right input."""

    def rewrite(paths: list[Path]) -> None:
        for path in paths:
            change(np.fromfile(path, np.float32)).tofile(path)

    return _files(rewrite)


def _three_by_another_dct(good: Good, folder: Path) -> Planted:
    """Three of the pictures, decoded by a DCT that rounds a tenth of the grey levels otherwise."""
    bins, rng = folder / "bins", np.random.default_rng(0)
    shutil.copytree(good.bins, bins)
    (bins / "manifest.json").unlink()
    for sample in good.dataset.samples[5:8]:
        pixels = decoded(sample.path)
        steps = rng.choice([-1, 0, 1], pixels.shape, p=[0.05, 0.9, 0.05])
        square = normal(boxed((pixels + steps).clip(0, 255), good.spec.image_size[0]))
        tensor = np.ascontiguousarray(square.transpose(2, 0, 1), np.float32)
        tensor.tofile(bins / f"{sample.path.stem}.bin")
    return Planted((*base_options(good), f"--bins={bins}", "--runner=ort"))


FAULTS = (
    *(Fault(id_, "preprocess", source, said, _bins(name)) for id_, source, said, name in (
        ("bgr", "peers F1", "BGR", "RGB/BGR swapped"),
        ("bgr-before-normalising", "peers F1", "BGR", "RGB/BGR swapped before normalising"),
        ("not-normalised", "peers F2", "not normalised", "not normalised (0..255)"),
        ("only-divided-by-255", "peers F2", "divided by 255 only", "divided by 255 only"),
        ("not-divided-by-255", "peers F5", "not divided by 255", "not divided by 255"),
        ("normalised-twice", "peers F3", "twice", "normalised twice"),
        ("advprop-statistics", "effdet's *_ap models", "another architecture", ADVPROP),
        ("stretched", "peers F6", "stretched", "stretched"),
        ("centred-letterbox", "YOLO's letterbox", "centred", "centred letterbox"),
        ("black-fill", "peers F8", "black fill", "black fill"),
        ("fill-114", "YOLO's letterbox", "114", "grey fill of 114"),
        ("nearest", "peers F11", "nearest", "nearest resampling"),
        ("bicubic", "timm's default interpolation", "bicubic", "bicubic resampling"),
        ("bilinear-without-antialias", "peers F11", "without antialias",
         "bilinear resampling without antialias"),
        ("nhwc", "peers F26", "NHWC", "NHWC read as NCHW"),
        ("rows-and-columns-swapped", "peers F27", "transposed", "rows and columns transposed"),
        ("mirrored", "test-time flip left on", "mirrored", "mirrored"),
    )),
    Fault("inputs-shifted-by-one", "preprocess", "peers F18", "shifted by one", _files(_next)),
    Fault("input-missing", "preprocess", "peers F20", "", _files(lambda p: p[3].unlink())),
    Fault("input-cut-off", "preprocess", "peers F20", "", _files(_half)),
    Fault("inputs-two-exchanged", "preprocess", "two workers on one queue", "images exchanged",
          _files(_exchanged), in_part=True),
    Fault("inputs-three-other-dct", "preprocess", "libjpeg's fast DCT", "",
          _three_by_another_dct, in_part=True),
    Fault("inputs-float16-as-float32", "preprocess", "batches of two in float16", "float16 values",
          _each(lambda own: np.stack([own, own]).astype(np.float16))),
    Fault("inputs-big-endian", "preprocess", "Java's DataOutputStream", "big-endian values",
          _each(lambda own: own.astype(">f4"))),
)  # fmt: skip
