"""
Which fault a network input of another tool has: each is planted on purpose, and one may fit.

A fault remakes the whole input from the image's file, so that it can be compared with the input in
question, or the reference network can be run on it where only the heads are known.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from ..data.coco import Dataset, Sample
from ..data.preprocess import input_scale, letterbox, normalize, read_image
from ..errors import ResultError, listed
from ..progress import OpenProgress, silent
from ..results.check import Broken
from ..spec import SPECS, ModelSpec
from ..tensors.diff import compare_tensors
from ..tensors.inputs import REREAD, open_inputs
from ..tolerances import INPUTS
from ..types import Floats, Fractions, Pixels, Tensor, Tensors
from .heads import CLEAN, EXPLAINED, FALL
from .hypothesis import Diagnosis, Hypothesis, best
from .images import differing, misplaced

#: Largest relative L2 error of an input that is right, in whatever order it was computed: 9e-8 was
#: measured with the division by 255 first (three embedded scenes, 2026-11-23).
SAME = 1e-6
#: Share of the error that a fault which fits may leave: 30 faults planted by other code leave at
#: most 0.039 on three embedded scenes in float16 (zero fill, 2026-11-23).
FRACTION = 0.2
#: Largest relative L2 error of thumbnails of one image: 7e-5 in float16; those of two embedded
#: images of the 48 differ by 0.72 at least (2026-11-23).
SAME_THUMBNAIL = 1e-3
#: Grey levels by which two that round alike may differ: one, and what the spread of the values
#: leaves uncertain of it.
ROUNDING = 1.25
#: Share of the elements that may differ by more: a row that another tool takes from the neighbour.
STRAYS = 0.02
#: Sides of the thumbnail that tells images apart.
THUMBNAIL = 16
#: How many wrong inputs are diagnosed.
DIAGNOSED = 5
#: Less than this part of an error is none; the steepest part of a picture is its edges, which
#: differ so many times as much where the error is theirs; thirds of the picture differ so much more
#: from the first to the last where it grows.
ONE_PART, STEEP, AT_EDGES, GROWS = 0.01, 0.1, 3, 1.3

#: Network input, (1, 3, size, size) -> heads by the spec's names, as the reference computes them.
Infer = Callable[[Tensor], Tensors]
#: Sides wanted and there -> the part that each pixel there has in each one wanted, (wanted, there).
Weights = Callable[[int, int], Fractions]


class ImageFile:
    """One image file *path* and the *spec* it is fed to; what is read from it is read once."""

    def __init__(self, path: Path, spec: ModelSpec) -> None:
        self.path, self.spec = path, spec

    @cached_property
    def image(self) -> Image.Image:
        """The picture, RGB, as stored."""
        return read_image(self.path)

    @cached_property
    def pixels(self) -> Pixels:
        """The picture in the square, (size, size, 3) uint8, as effd0 puts it there."""
        return letterbox(self.image, self.spec)[0]

    @property
    def planes(self) -> Floats:
        """The picture in the square, (3, size, size) float32, from 0 to 255."""
        return self.pixels.transpose(2, 0, 1).astype(np.float32)

    @cached_property
    def tensor(self) -> Tensor:
        """The network input, (3, size, size) float32, as effd0 makes it."""
        return normalize(self.pixels, self.spec)

    @property
    def scaled(self) -> tuple[int, int]:
        """Width and height of the picture in the square."""
        scale = input_scale(self.image.size, self.spec)
        return int(self.image.width * scale), int(self.image.height * scale)

    def remade(
        self,
        small: Image.Image | None = None,
        fill: tuple[int, ...] | None = None,
        place: float = 0.0,
        turn: Callable[[Pixels], Pixels] = lambda inside: inside,
    ) -> Floats:
        """
        Return the input with another *small* picture or *fill*, or with the picture turned.

        *place* is the share of the free space that lies left of and above the picture.
        """
        width, height = self.scaled
        inside = turn(self.pixels[:height, :width] if small is None else np.asarray(small))
        canvas = np.full_like(self.pixels, self.spec.fill if fill is None else fill)
        free = zip(canvas.shape, inside.shape[:2], strict=False)
        top, left = (int((whole - side) * place) for whole, side in free)
        canvas[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
        return normalize(canvas, self.spec)


def diagnose_input(path: Path, given: Floats, spec: ModelSpec) -> Diagnosis | None:
    """
    Name the fault by which *given* is not the network input of the image *path*.

    *given* is (3, size, size) float, as a pipeline elsewhere made it.  A fault fits where it leaves
    at most `FRACTION` of the error, and no more than a grey level of it but for a few strays.  None
    where *given* is right, or no fault fits.  Raises `ResultError` for another shape and
    `ImageError` for an unreadable image.
    """
    if given.shape != spec.input_shape:
        raise ResultError(
            f"the input of {path.name} is {given.shape}, but {spec.input_shape} was wanted; "
            "write it again"
        )
    file = ImageFile(path, spec)
    before = _relative_error(given, file.tensor)
    for name, reread in REREAD.items() if given.dtype.kind == "f" else ():
        read = np.resize(reread(np.ascontiguousarray(given)), given.shape)
        after = _relative_error(read, file.tensor)
        if after <= SAME_THUMBNAIL and not before <= SAME_THUMBNAIL:
            return Diagnosis(f"{name} values", f"they are read as {name}", before, after)
    if not SAME < before < np.inf:
        return None
    levels = max(int(np.ptp(file.pixels)), 1)

    def error_with(hypothesis: Hypothesis) -> float:
        remade = hypothesis.apply(file)
        # One grey level in the unit of this fault, by how far its values spread.
        level = ROUNDING * float(np.ptp(remade)) / levels
        # Most faults miss by far: some rows say so, at little cost.
        for rows, allowed in ((slice(None, None, 17), 3 * STRAYS), (slice(None), STRAYS)):
            if np.mean(np.abs(given[:, rows] - remade[:, rows]) > level) > allowed:
                return np.inf
        return _relative_error(given, remade)

    return _diagnosis(best(input_hypotheses(spec), error_with, FRACTION * before), before)


def diagnose_input_of(
    path: Path, heads: Tensors, infer: Infer, spec: ModelSpec
) -> Diagnosis | None:
    """
    Name the fault in the input of the image *path* that explains its *heads*, (1, ...) each.

    The reference *infer* is run on the input with each fault: where that gives *heads*, the model
    was right and its input was not.  None where the heads are right or no fault fits.  Raises
    `ImageError` for an image that cannot be read.
    """
    file = ImageFile(path, spec)

    def error_of(tensor: Floats) -> float:
        feed = np.ascontiguousarray(tensor, np.float32)[None]
        return max(diff.relative_l2 for diff in compare_tensors(infer(feed), heads))

    before = error_of(file.tensor)
    if not CLEAN < before < np.inf:
        return None
    limit = min(EXPLAINED, FALL * before)
    found = best(input_hypotheses(spec), lambda h: error_of(h.apply(file)), limit)
    return _diagnosis(found, before, "input ")


def model_expects(cause: Diagnosis) -> str:
    """Say what a model expects whose heads *cause* explains, though its input was right."""
    expected = EXPECTED.get(cause.name.removeprefix("input "))
    lead = f"the model expects {expected}" if expected else "the model changes a right input"
    return f"{lead}: {cause}"


def block_means(tensor: Floats) -> Floats:
    """The means of blocks of *tensor* (3, size, size), (3, 16, 16): they tell images apart."""
    side = tensor.shape[-1] // THUMBNAIL
    blocks = tensor.astype(np.float32).reshape(3, THUMBNAIL, side, THUMBNAIL, side)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(blocks.mean(axis=(2, 4), dtype=np.float32))


def pattern(path: Path, given: Floats, spec: ModelSpec) -> str:
    """
    Say how *given*, (3, size, size), differs from the network input of the image *path*.

    In which channels, outside the picture only, by a constant, everywhere or at edges, and whether
    more and more to the right and down.
    """
    file = ImageFile(path, spec)
    delta = np.abs(given.astype(np.float64) - file.tensor)
    if not np.isfinite(delta).all():
        return f"{np.mean(~np.isfinite(delta)):.1%} of the values are not finite"
    if np.ptp(given) == 0:
        return f"every value is {given.flat[0]:.3g}"
    width, height = file.scaled
    inside = delta[:, :height, :width]
    energy = (delta**2).sum(axis=(1, 2))
    channels = np.flatnonzero(energy > ONE_PART * energy.sum())
    names = " and ".join("RGB"[channel] for channel in channels)
    said = ["in all channels" if len(channels) == len(energy) else f"in {names} only"]
    if (inside**2).sum() < ONE_PART * energy.sum():
        return f"{said[0]}, outside the picture only"
    offset = (given.astype(np.float64) - file.tensor)[channels]
    if (offset.std(axis=(1, 2)) <= ONE_PART * np.abs(offset.mean(axis=(1, 2)))).all():
        return f"{said[0]}, a constant offset of {', '.join(f'{c.mean():.3g}' for c in offset)}"
    # What is flat in the picture differs little where pixels are moved, or filtered otherwise.
    slope = sum(np.abs(np.gradient(file.tensor[:, :height, :width], axis=axis)) for axis in (1, 2))
    steep = slope > np.quantile(slope, 1 - STEEP)
    edges = inside[steep].mean() > AT_EDGES * max(inside[~steep].mean(), 1e-12)
    said.append("at edges" if edges else "everywhere")
    # Relative to the slope, what a wrong scale does grows with the distance from the corner.
    where = []
    for axis, name in ((1, "down"), (2, "to the right")):
        thirds = (np.array_split(side, 3, axis=axis) for side in (inside, slope))
        way = [one.sum() / max(other.sum(), 1e-12) for one, other in zip(*thirds, strict=True)]
        where += [name] if way == sorted(way) and way[-1] > GROWS * way[0] else []
    return ", ".join(said) + (f", growing {' and '.join(where)} (a scale)" if where else "")


def faults_of_inputs(
    dataset: Dataset, folder: Path, spec: ModelSpec, open_progress: OpenProgress = silent
) -> list[Broken]:
    """
    Return what is wrong with the inputs in *folder* as those of *dataset*.

    Missing and foreign files are faults; the latter are not looked for where the dataset is
    limited.  Every image is compared: bit for bit where effd0's manifest is beside them, else
    within `INPUTS`' limits.  Raises `ResultError` where the folder cannot be read as inputs of
    *spec*.
    """
    inputs = open_inputs(folder, spec)
    files = {file.stem: file for file in inputs.files}
    stems = {sample.path.stem for sample in dataset.samples}
    missing = sorted(stems - files.keys())
    # A limited dataset does not know all the images that the folder may hold.
    foreign = [] if dataset.limited else sorted(files.keys() - stems)
    of = f"{len(missing)} of {len(stems)} images have no input", missing
    others = f"{len(foreign)} of {len(files)} inputs are of no image", foreign
    faults = [Broken(f"{text}: {listed(names)}") for text, names in (of, others) if names]

    def values(sample: Sample) -> Floats:
        """The input of *sample* as floats (3, size, size), whatever the folder holds."""
        given: npt.NDArray[Any] = inputs.read(files[sample.path.stem])
        return normalize(given, spec) if given.dtype == np.uint8 else given

    def compared(sample: Sample) -> tuple[str, Floats]:
        """How the given input of *sample* differs from effd0's own, whose means come second."""
        given, own = values(sample), ImageFile(sample.path, spec).tensor
        wanted, means = own.astype(given.dtype, copy=False), block_means(own)
        if np.array_equal(given, wanted):
            return "", means
        with np.errstate(invalid="ignore"):
            differences = np.abs(given.astype(np.float64) - wanted)
        worst = np.unravel_index(np.argmax(differences), differences.shape)
        allowed = 0.0 if inputs.manifest is not None else INPUTS[str(inputs.dtype)].limit
        # Not the other way round: NaN is not within any tolerance.
        if differences[worst] <= allowed:
            return "", means
        return (
            f"{sample.path.name}: the largest difference is {differences[worst]:.3g} at "
            f"{tuple(map(int, worst))}, {given[worst]:.6g} where {wanted[worst]:.6g} was wanted "
            f"(allowed: {allowed:g})"
        ), means

    samples = [sample for sample in dataset.samples if sample.path.stem in files]
    found: dict[Sample, tuple[str, Floats]] = {}
    with ThreadPoolExecutor(2) as pool, open_progress("inputs", len(samples)) as advance:
        for sample, one in zip(samples, pool.map(compared, samples), strict=True):
            found[sample] = one
            advance(1)
    wrong = [sample for sample, (text, _) in found.items() if text]
    if not wrong:
        return faults
    means = cache(lambda sample: block_means(values(sample)))

    def error(one: Sample, other: Sample) -> float:
        return _relative_error(means(one), found[other][1])

    details, named = [], misplaced(wrong, samples, error, SAME_THUMBNAIL)
    for sample in wrong[:DIAGNOSED]:
        given = sample.path, values(sample), spec
        cause = diagnose_input(*given)
        named = named or cause
        details.append(f"{found[sample][0]}; {cause or pattern(*given)}")
    first = details[0] if named is None else found[wrong[0]][0]
    evidence = f"{differing(wrong, samples, 'inputs', files)}; {first}"
    return [*faults, Broken(evidence, named, details=details)]


def _relative_error(given: Floats, wanted: Floats) -> float:
    """L2 norm of the difference over that of *wanted*: NaN or infinite where *given* is."""
    with np.errstate(invalid="ignore", over="ignore"):
        difference = given.astype(np.float64) - wanted
        return float(np.linalg.norm(difference) / np.linalg.norm(wanted.astype(np.float64)))


def _diagnosis(
    found: tuple[Hypothesis, float] | None, before: float, what: str = ""
) -> Diagnosis | None:
    if found is None:
        return None
    return Diagnosis(f"{what}{found[0].name}", found[0].inverse, before, found[1])


# The catalogue: what pipelines elsewhere do otherwise with an image.


def input_hypotheses(spec: ModelSpec) -> Iterator[Hypothesis]:
    """All faults that a pipeline for *spec* can have, of an `ImageFile`; the cheap ones first."""
    mean, std = (np.array(three, np.float32)[:, None, None] for three in (spec.mean, spec.std))
    swapped, corner = "red and blue are exchanged", "the picture lies at the top left"
    rows: tuple[tuple[str, str, Callable[[ImageFile], Floats]], ...] = (
        ("not normalised (0..255)", "the values are normalised", lambda p: p.planes),
        ("divided by 255 only", "mean and deviation are applied too",
         lambda p: p.planes / np.float32(255)),
        ("not divided by 255", "the values are divided by 255 before mean and deviation",
         lambda p: (p.planes - mean) / std),
        ("not divided by the deviation", "the deviation is divided by", lambda p: p.tensor * std),
        ("normalised twice", "it is done once", lambda p: (p.tensor - mean) / std),
        *((f"mean {other[0]} and deviation {other[1]} of another architecture",
           f"mean {spec.mean} and deviation {spec.std} are used",
           lambda p, o=other: normalize(p.pixels, replace(spec, mean=o[0], std=o[1])))
          for other in sorted({(s.mean, s.std) for s in SPECS.values()} - {(spec.mean, spec.std)})),
        ("RGB/BGR swapped", swapped, lambda p: p.tensor[::-1]),
        # Channels that have means of their own tell when it happened, and what fill they met.
        ("RGB/BGR swapped before normalising", swapped,
         lambda p: normalize(p.pixels[..., ::-1], spec)),
        ("RGB/BGR swapped in the picture, not in the fill", swapped,
         lambda p: p.remade(turn=lambda inside: inside[..., ::-1])),
        ("NHWC read as NCHW", "the channels are moved to the front",
         lambda p: p.tensor.transpose(1, 2, 0).reshape(p.tensor.shape)),
        ("rows and columns transposed", "rows and columns are exchanged",
         lambda p: p.tensor.transpose(0, 2, 1)),
        *((name, f"the fill is {spec.fill}", lambda p, fill=fill: p.remade(fill=fill))
          for name, fill in {**_FILLS, "fill with red and blue swapped": spec.fill[::-1]}.items()
          if fill != spec.fill),
        ("zero fill after normalising", f"the fill is {spec.fill}", _zero_filled),
        ("centred letterbox", corner, lambda p: p.remade(place=0.5)),
        ("padded on the other side", corner, lambda p: p.remade(place=1.0)),
        ("mirrored", "left and right are exchanged",
         lambda p: p.remade(turn=lambda inside: inside[:, ::-1])),
        ("upside down", "top and bottom are exchanged",
         lambda p: p.remade(turn=lambda inside: inside[::-1])),
        ("stretched", "the aspect is kept", lambda p: p.remade(
            p.image.resize(spec.image_size[::-1], Image.Resampling.BILINEAR))),
        ("EXIF orientation applied", "the orientation is ignored", _upright),
        ("JPEG decoded at reduced size", "it is decoded whole", _drafted),
        *((name, "it is resized by PIL's bilinear filter, which smooths as it shrinks",
           lambda p, kind=kind: p.remade(_resampled(p.image, p.scaled, kind)))
          for name, kind in _RESAMPLING.items()),
    )  # fmt: skip
    for name, inverse, remade in rows:
        yield Hypothesis(name, inverse, remade, "preprocess")


#: Fault of an input -> what a model expects that makes it of a right one.
EXPECTED = {
    "RGB/BGR swapped": "BGR",
    "RGB/BGR swapped before normalising": "BGR",
    "normalised twice": "inputs that are not normalised",
    "rows and columns transposed": "rows and columns exchanged",
}
_FILLS = {
    "black fill": (0, 0, 0),
    "grey fill of 114": (114, 114, 114),
    "grey fill of 128": (128, 128, 128),
    "white fill": (255, 255, 255),
    "fill with the ImageNet mean cut off, not rounded": (123, 116, 103),
    "fill with the ImageNet mean": (124, 116, 104),
}


def _zero_filled(file: ImageFile) -> Floats:
    tensor = np.zeros_like(file.tensor)
    width, height = file.scaled
    tensor[:, :height, :width] = file.tensor[:, :height, :width]
    return tensor


def _upright(file: ImageFile) -> Floats:
    with Image.open(file.path) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    return normalize(letterbox(upright, file.spec)[0], file.spec)


def _drafted(file: ImageFile) -> Floats:
    with Image.open(file.path) as image:
        image.draft("RGB", file.scaled)
        small = image.convert("RGB")
    return file.remade(small.resize(file.scaled, Image.Resampling.BILINEAR))


def _resampled(
    image: Image.Image, size: tuple[int, int], kind: Image.Resampling | Weights
) -> Image.Image:
    """
    The *image* in another *size* (width, height), by PIL or by weights.

    Of weights, fractions are kept until both sides are done, and halves go up, as with the
    whole-number arithmetic of image libraries.
    """
    if isinstance(kind, Image.Resampling):
        return image.resize(size, kind)
    values = np.asarray(image, np.float32)
    for axis, wanted in ((0, size[1]), (1, size[0])):
        matrix = kind(wanted, values.shape[axis]).astype(np.float32)
        values = np.moveaxis(np.tensordot(matrix, values, (1, axis)), 0, axis)
    return Image.fromarray(np.floor(values + np.float32(0.5)).astype(np.uint8))


def _corners(wanted: int, there: int) -> Fractions:
    """Each pixel is the one whose corner lies before its own."""
    return np.eye(there)[np.arange(wanted) * there // wanted]


def _four_neighbours(wanted: int, there: int) -> Fractions:
    """Linear between the centres of pixels, half a pixel from their corners."""
    places = np.clip((np.arange(wanted) + 0.5) * there / wanted - 0.5, 0, there - 1)
    return np.asarray(np.clip(1 - np.abs(places[:, None] - np.arange(there)), 0, None))


def _areas(wanted: int, there: int) -> Fractions:
    """The mean of the area under a pixel, parts counted."""
    pixels, edges = np.arange(there), np.arange(wanted + 1)[:, None] * there / wanted
    shared = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    return np.asarray(np.clip(shared, 0, None) * wanted / there)


_RESAMPLING: dict[str, Image.Resampling | Weights] = {
    "nearest resampling": Image.Resampling.NEAREST,
    "nearest resampling from the corner": _corners,
    "bilinear resampling without antialias": _four_neighbours,
    "area resampling": _areas,
    "box resampling": Image.Resampling.BOX,
    "bicubic resampling": Image.Resampling.BICUBIC,
    "Lanczos resampling": Image.Resampling.LANCZOS,
}
