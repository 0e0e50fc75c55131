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
from torch.nn.functional import interpolate

from effd0.data.coco import Sample
from effd0.data.preprocess import preprocess
from effd0.detection.heads import split_heads
from effd0.detection.postprocess import postprocess
from effd0.runners.registry import RunnerOptions, open_runner
from effd0.spec import ModelSpec

from .run import Fault, Found, Good, Plant, Planted, base_options

Array = npt.NDArray[Any]
#: A sample and the spec -> its input, (3, size, size) float32, as the faulty tool makes it.
Remade = Callable[[Sample, ModelSpec], Array]
MEAN = np.array([0.485, 0.456, 0.406], np.float32).reshape(3, 1, 1)
STD = np.array([0.229, 0.224, 0.225], np.float32).reshape(3, 1, 1)
FILL = (124, 116, 104)


def _pixels(
    sample: Sample,
    spec: ModelSpec,
    *,
    fill: tuple[int, int, int] = FILL,
    kind: Image.Resampling = Image.Resampling.BILINEAR,
    centred: bool = False,
    stretched: bool = False,
    rounded: bool = False,
) -> Array:
    """The picture in its square, as float32 planes of 0..255, by PIL alone."""
    side = spec.image_size
    with Image.open(sample.path) as image:
        picture = image.convert("RGB")
    scale = side / max(picture.size)
    width, height = ((round if rounded else int)(s * scale) for s in picture.size)
    size = (side, side) if stretched else (width, height)
    canvas = Image.new("RGB", (side, side), fill)
    at = ((side - size[0]) // 2, (side - size[1]) // 2) if centred else (0, 0)
    canvas.paste(picture.resize(size, kind), at)
    return np.asarray(canvas, np.float32).transpose(2, 0, 1)


def _normal(planes: Array) -> Array:
    return (planes - MEAN * 255) / (STD * 255)


def _own(sample: Sample, spec: ModelSpec) -> Array:
    return preprocess(sample.path, spec).tensor.astype(np.float32)


def _with(**settings: Any) -> Remade:
    return lambda sample, spec: _normal(_pixels(sample, spec, **settings))


def _unsmoothed(sample: Sample, spec: ModelSpec) -> Array:
    """Bilinear from four neighbours, as cv2.resize does it."""
    with Image.open(sample.path) as image:
        picture = torch.from_numpy(np.asarray(image.convert("RGB"), np.float32).transpose(2, 0, 1))
    scale = spec.image_size / max(picture.shape[1:])
    height, width = (int(side * scale) for side in picture.shape[1:])
    planes = np.empty((3, spec.image_size, spec.image_size), np.float32)
    planes[:] = np.reshape(FILL, (3, 1, 1))
    resized = interpolate(picture[None], (height, width), mode="bilinear", antialias=False)
    planes[:, :height, :width] = resized[0].round().numpy()
    return _normal(planes)


def _bins(remade: Remade) -> Plant:
    """Every input is *remade*, without a manifest: another tool's."""

    def plant(good: Good, folder: Path) -> Planted:
        bins = folder / "bins"
        bins.mkdir()
        tensors = {}
        for sample in good.dataset.samples:
            tensor = np.ascontiguousarray(remade(sample, good.spec), np.float32)
            assert not np.array_equal(tensor, _own(sample, good.spec)), "as it should be: no fault"
            tensor.tofile(bins / f"{sample.path.stem}.bin")
            tensors[sample.image_id] = tensor
        return Planted((*base_options(good), f"--bins={bins}", "--runner=ort"),
                       found=lambda: _found(good, tensors))  # fmt: skip

    return plant


def _found(good: Good, tensors: dict[int, Array]) -> Found:
    """What the good model finds in bad inputs."""
    found = {}
    with open_runner("ort", good.model, good.spec, RunnerOptions()) as runner:
        for sample in good.dataset.samples:
            own = preprocess(sample.path, good.spec)
            feed = {runner.inputs[0].name: tensors[sample.image_id].reshape(1, 3, 512, 512)}
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


def _mirrored(sample: Sample, spec: ModelSpec) -> Array:
    planes = _pixels(sample, spec).copy()
    scale = spec.image_size / max(sample.size)
    width, height = (int(side * scale) for side in sample.size)
    planes[:, :height, :width] = planes[:, :height, :width][:, :, ::-1]
    return planes


FAULTS = (
    Fault("bgr", "preprocess", "peers F1", "BGR", _bins(lambda s, d: _own(s, d)[::-1])),
    Fault("bgr-before-normalising", "preprocess", "peers F1", "BGR",
          _bins(lambda s, d: _normal(_pixels(s, d)[::-1]))),
    Fault("not-normalised", "preprocess", "peers F2", "not normalised", _bins(_pixels)),
    Fault("only-divided-by-255", "preprocess", "peers F2", "divided by 255 only",
          _bins(lambda s, d: _pixels(s, d) / 255)),
    Fault("not-divided-by-255", "preprocess", "peers F5", "not divided by 255",
          _bins(lambda s, d: (_pixels(s, d) - MEAN) / STD)),
    Fault("normalised-twice", "preprocess", "peers F3", "twice",
          _bins(lambda s, d: (_own(s, d) - MEAN) / STD)),
    Fault("advprop-statistics", "preprocess", "effdet's *_ap models", "another architecture",
          _bins(lambda s, d: _pixels(s, d) / 127.5 - 1)),
    Fault("stretched", "preprocess", "peers F6", "stretched", _bins(_with(stretched=True))),
    Fault("centred-letterbox", "preprocess", "YOLO's letterbox", "centred",
          _bins(_with(centred=True))),
    Fault("black-fill", "preprocess", "peers F8", "black fill", _bins(_with(fill=(0, 0, 0)))),
    Fault("fill-114", "preprocess", "YOLO's letterbox", "114",
          _bins(_with(fill=(114, 114, 114)))),
    Fault("nearest", "preprocess", "peers F11", "nearest",
          _bins(_with(kind=Image.Resampling.NEAREST))),
    Fault("bicubic", "preprocess", "timm's default interpolation", "bicubic",
          _bins(_with(kind=Image.Resampling.BICUBIC))),
    Fault("bilinear-without-antialias", "preprocess", "peers F11", "without antialias",
          _bins(_unsmoothed)),
    Fault("nhwc", "preprocess", "peers F26", "NHWC",
          _bins(lambda s, d: _own(s, d).transpose(1, 2, 0).reshape(3, 512, 512))),
    Fault("rows-and-columns-swapped", "preprocess", "peers F27", "transposed",
          _bins(lambda s, d: _own(s, d).transpose(0, 2, 1))),
    Fault("mirrored", "preprocess", "test-time flip left on", "mirrored",
          _bins(lambda s, d: _normal(_mirrored(s, d)))),
    Fault("inputs-shifted-by-one", "preprocess", "peers F18", "shifted by one", _files(_next)),
    Fault("input-missing", "preprocess", "peers F20", "", _files(lambda p: p[3].unlink())),
    Fault("input-cut-off", "preprocess", "peers F20", "", _files(_half)),
)  # fmt: skip
