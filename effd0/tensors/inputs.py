"""
Network inputs on disk: one ``<stem>.bin`` per image, as the recipe's runners read them.

A manifest beside them says what they are, by image id; it is written last, so that a folder
with a manifest is complete.  A folder of another tool, without one, is read in natural order.
"""

import hashlib
import io
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import msgspec
import numpy as np
import numpy.typing as npt

from ..data.coco import Dataset, Sample
from ..data.preprocess import preprocess
from ..errors import Effd0Error, OutputError, ResultError, listed
from ..io import decoded, sha256, write_json, writing_to, written_whole
from ..spec import ModelSpec

MANIFEST = "manifest.json"
Dtype = Literal["float32", "float16", "uint8"]
#: What an input may hold: normalised planes, or, for a model with AIPP, (rows, columns, RGB).
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
#: What of a spec an input is made by.
FED_BY = ("arch", "image_size", "mean", "std", "fill")
SUFFIXES = (".bin", ".npy")
#: How floats may have been written that were read as little-endian ones of their type -> the values
#: that they are then, flat.
REREAD: dict[str, Callable[[npt.NDArray[Any]], npt.NDArray[Any]]] = {
    "big-endian": lambda values: values.ravel().byteswap(),
    "float64": lambda values: values.ravel()[: values.size // 2 * 2].view(np.float64),
    "float16": lambda values: values.ravel().view(np.float16),
}
#: What values of images and heads lie between, but for zeros and strays, and the share that does.
#: Of 128 scenes and photographs at least 0.9965 of the values of an input or head do, and at most
#: 0.82 of what is to be read by `REREAD`, 2026-11-30.
ORDINARY, MOST = (1e-4, 1e3), 0.95
#: So many values are looked at.
_SAMPLE = 4096
_CHANNELS = 3
#: Planes of one image are this much rougher where they are read as pixels, or the other way.
_ROUGHER = 2
#: The input size of a spec as earlier versions wrote it, one number for the side of a square.
_SIDE = re.compile(rb'("image_size": *)(\d+)(?=\s*[,}])')


_Side = Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
_Content = TypeVar("_Content")


class ManifestImage(msgspec.Struct, frozen=True):
    """
    One image: its file of input, and what `ModelInput` says of its geometry.

    *picture_sha256* is of the picture it was made from; None in manifests of early versions.
    """

    image_id: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
    file: str
    image_scale: Annotated[float, msgspec.Meta(gt=0, lt=2**31)]
    image_size: tuple[_Side, _Side]
    sha256: str
    picture_sha256: str | None = None

    def __post_init__(self) -> None:
        if Path(self.file).name != self.file:
            raise ValueError(f"{self.file!r} is not the name of a file")

    @property
    def stem(self) -> str:
        """The name that its results begin with."""
        return Path(self.file).stem


class Manifest(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """
    The inputs of a run: their images, and the spec and *dtype* that they were made with.

    *path* is the file that it was read from and *sha256* the fingerprint of that.
    """

    path: Path = Path()
    sha256: str = ""
    spec: ModelSpec
    dtype: Dtype
    images: tuple[ManifestImage, ...]

    @cached_property
    def digests(self) -> dict[str, str]:
        """Stem -> SHA-256 of its input."""
        return {image.stem: image.sha256 for image in self.images}

    @cached_property
    def by_id(self) -> dict[int, ManifestImage]:
        """Image id -> its entry."""
        return {image.image_id: image for image in self.images}

    def check_spec(self, spec: ModelSpec) -> None:
        """Raise `ResultError` where the inputs were made for another model than *spec*."""
        # Of the classes that are found in it, an input knows nothing.
        mine, asked = ({k: getattr(one, k) for k in FED_BY} for one in (self.spec, spec))
        if differ := [f"{k} {mine[k]}, not {asked[k]}" for k in FED_BY if mine[k] != asked[k]]:
            raise ResultError(
                f"{self.path} is of inputs with {'; '.join(differ)}; "
                "give the --arch and --image-size that they were made for, or preprocess again"
            )


def read_manifest(path: Path) -> Manifest:
    """The manifest *path*; raise `ResultError` if it is missing, broken or contradicts itself."""
    remedy = "write the inputs again with 'effd0 preprocess --bin-save'"
    content = read_json(path, Manifest, remedy)
    manifest = msgspec.structs.replace(content, path=path, sha256=sha256(path))
    for kind, name in (("image ids", "image_id"), ("stems", "stem")):
        counts = Counter(getattr(image, name) for image in manifest.images)
        if twice := [value for value, count in counts.items() if count > 1]:
            raise ResultError(
                f"{path} has {kind} more than once: {listed(twice)}; write the inputs again"
            )
    return manifest


def find_manifest(folder: Path, bins: Path | None) -> Manifest | None:
    """The manifest of what was fed: beside the results in *folder*, or else in *bins*."""
    place = folder.absolute()
    places = [place.parent / f"{place.name}_manifest.json"]
    places += [] if bins is None else [bins / MANIFEST]
    return next((read_manifest(path) for path in places if path.exists()), None)


def read_json(
    path: Path, kind: type[_Content], remedy: str, error: type[Effd0Error] = ResultError
) -> _Content:
    """
    The JSON in *path* as *kind*; raise *error*, ending with *remedy*, if it is not one.

    An image size that is one number is read as that of a square.
    """
    try:
        return decoded(_SIDE.sub(rb"\1[\2, \2]", path.read_bytes()), kind)
    except FileNotFoundError as missing:
        raise error(f"{path} does not exist; {remedy}") from missing
    except (OSError, ValueError) as wrong:
        raise error(f"{path} cannot be read: {wrong}; {remedy}") from wrong


def input_shape(dtype: str, spec: ModelSpec) -> tuple[int, int, int]:
    """Shape of one image's input of *dtype*, one of `DTYPES`."""
    return (*spec.image_size, 3) if dtype == "uint8" else spec.input_shape


def write_inputs(
    dataset: Dataset,
    folder: Path,
    spec: ModelSpec,
    host_threads: int = 2,
    *,
    dtype: str = "float32",
) -> Iterator[Sample]:
    """
    Write the network input of every image to *folder*, yielding each sample when it is written.

    Each file is 3 x rows x columns of *spec* as float32 in C order, little endian; or that as
    float16; or, of dtype uint8, the letterboxed pixels, rows x columns x 3.  A manifest of an
    earlier run is removed first, since it no longer tells the truth.  Raises `OutputError` where
    two images have the same stem.
    """
    stems, count = {sample.path.stem for sample in dataset.samples}, len(dataset.samples)
    if len(stems) != count:
        raise OutputError(
            f"{count} images have only {len(stems)} different stems, "
            f"but each needs a file of its own in {folder}; rename the images"
        )
    with writing_to(folder):
        (folder / MANIFEST).unlink(missing_ok=True)

    def written(sample: Sample) -> ManifestImage:
        model_input = preprocess(sample.path, spec, normalized=dtype != "uint8")
        tensor = model_input.tensor.astype(np.dtype(dtype).newbyteorder("<"), copy=False)
        path = folder / f"{sample.path.stem}.bin"
        with written_whole(path) as temporary:
            tensor.tofile(temporary)
        of = path.name, model_input.image_scale, model_input.image_size
        return ManifestImage(sample.image_id, *of, sha256(path), sha256(sample.path))

    images = []
    with ThreadPoolExecutor(host_threads) as pool:
        for sample, image in zip(dataset.samples, pool.map(written, dataset.samples), strict=True):
            images.append(image)
            yield sample
    manifest = {
        "spec": asdict(spec),
        "dtype": dtype,
        "annotations_sha256": sha256(dataset.annotation_file),
        "images_total": dataset.total,
        "images": msgspec.to_builtins(images),
    }
    write_json(manifest, folder / MANIFEST)


@dataclass(frozen=True)
class InputFiles:
    """
    A folder of network inputs, one *file* per image, each of *shape* and *dtype*.

    *manifest* is None where another tool wrote them; the files are then in natural order.
    """

    files: tuple[Path, ...]
    dtype: np.dtype[Any]
    shape: tuple[int, int, int]
    manifest: Manifest | None

    def checked(self, file: Path) -> npt.NDArray[Any]:
        """
        The tensor in *file*, as `read` gives it.

        Raises `ResultError` as `read` does, and where the values show another type or layout: those
        of effd0's manifest are known.
        """
        tensor = self.read(file)
        if self.manifest is None and (found := misread(tensor) or other_layout(tensor)):
            raise ResultError(
                f"{file} holds {found} values, but {self.dtype} {self.shape}, little-endian, was "
                "wanted; write the inputs again"
            )
        return tensor

    def read(self, file: Path) -> npt.NDArray[Any]:
        """
        The tensor in *file*, of `shape` and `dtype`.

        Raises `ResultError` if it is not, or has changed since the manifest was written.
        """
        try:
            content = file.read_bytes()
            if file.suffix == ".bin":
                raw = np.frombuffer(content, self.dtype.newbyteorder("<"))
                tensor: npt.NDArray[Any] = raw.reshape(self.shape)
            else:
                tensor = np.load(io.BytesIO(content), allow_pickle=False)
                tensor = tensor[0] if tensor.shape[:1] == (1,) else tensor
        except (OSError, ValueError, EOFError) as error:
            raise ResultError(f"{file} cannot be read: {error}; write the inputs again") from error
        known = None if self.manifest is None else self.manifest.digests[file.stem]
        if known is not None and hashlib.sha256(content).hexdigest() != known:
            raise ResultError(
                f"{file} has changed since the manifest beside it was written; "
                "write the inputs again"
            )
        if (tensor.shape, tensor.dtype) != (self.shape, self.dtype):
            raise ResultError(
                f"{file} is {tensor.dtype} {tensor.shape}, but {self.dtype} {self.shape} was "
                "wanted, as of the first; write the inputs again"
            )
        return tensor


def open_inputs(folder: Path, spec: ModelSpec) -> InputFiles:
    """
    The inputs of *spec* in *folder*: what its manifest lists, or else all .bin and .npy files.

    Raises `ResultError` with a list of what is missing, foreign, doubled or of another size.
    """
    if not folder.is_dir():
        raise ResultError(f"{folder} is not a folder; make one with 'effd0 preprocess --bin-save'")
    found = [path for path in folder.iterdir() if path.suffix in SUFFIXES]
    found.sort(key=lambda path: natural_key(path.name))
    if not found:
        raise ResultError(f"{folder} holds no .bin or .npy; make some with 'effd0 preprocess'")
    manifest = read_manifest(folder / MANIFEST) if (folder / MANIFEST).exists() else None
    if manifest is not None:
        manifest.check_spec(spec)
        there, wanted = {path.name for path in found}, {image.file for image in manifest.images}
        wrong = {"are missing": wanted - there, "are foreign": there - wanted}
        if problems := [f"{len(n)} {w}: {listed(sorted(n))}" for w, n in wrong.items() if n]:
            raise ResultError(
                f"{folder} holds {len(there)} inputs, but its manifest lists {len(wanted)}; "
                f"{'; '.join(problems)}; write the inputs again, into an empty folder"
            )
        found = [folder / image.file for image in manifest.images]
    if twice := [stem for stem, n in Counter(path.stem for path in found).items() if n > 1]:
        raise ResultError(f"{folder} has two files each for {listed(twice)}; keep one of each")
    dtype = _common_dtype(folder, found, spec) if manifest is None else manifest.dtype
    inputs = InputFiles(tuple(found), np.dtype(dtype), input_shape(dtype, spec), manifest)
    sizes, size = (
        {p.name: p.stat().st_size for p in found if p.suffix == ".bin"},
        _size(dtype, spec),
    )
    if other := [f"{name} ({own})" for name, own in sizes.items() if own != size]:
        raise ResultError(
            f"{len(other)} inputs in {folder} have not the {size} bytes of "
            f"{inputs.dtype} {inputs.shape}: {listed(other)}; write them again"
        )
    return inputs


def misread(values: npt.NDArray[Any]) -> str:
    """Name how float *values* were written, where they make sense in that way alone; else empty."""

    def sensible(values: npt.NDArray[Any]) -> bool:
        # An odd step: of values that were read in pairs, both are looked at.
        sizes = np.abs(values[:: values.size // _SAMPLE | 1])
        sizes, (low, high) = sizes[sizes != 0], ORDINARY
        within = (sizes >= low) & (sizes <= high)
        return sizes.size > 0 and bool(within.mean() >= MOST)

    with np.errstate(all="ignore"):
        if values.dtype.kind != "f" or sensible(values.ravel()):
            return ""
        return next((name for name, read in REREAD.items() if sensible(read(values))), "")


def other_layout(values: npt.NDArray[Any]) -> str:
    """Name the other layout of one input's *values* where they are smoother in it; else empty."""

    def roughness(picture: npt.NDArray[Any]) -> float:
        return sum(float(np.abs(np.diff(picture, axis=axis)).mean()) for axis in (0, 1))

    floats, last = values.astype(np.float32).ravel(), values.shape[-1] == _CHANNELS
    sides = values.shape[:2] if last else values.shape[1:]
    planes = roughness(np.moveaxis(floats.reshape(_CHANNELS, *sides), 0, -1))
    pixels = roughness(floats.reshape(*sides, _CHANNELS))
    if last:
        return "NCHW" if _ROUGHER * planes < pixels else ""
    return "NHWC" if _ROUGHER * pixels < planes else ""


def natural_key(name: str) -> list[Any]:
    """Sort key that counts: 9.bin before 10.bin, whatever the case; ais_bench lists folders so."""
    # Text and numbers take turns, so that only like is compared with like.
    parts = re.split(r"([0-9]+)", name.lower())
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def _common_dtype(folder: Path, found: Sequence[Path], spec: ModelSpec) -> str:
    """What the first of *found* holds, which has no manifest to say it."""
    first = found[0]
    if first.suffix == ".npy":
        try:
            kind = str(np.load(first, mmap_mode="r", allow_pickle=False).dtype)
        except (OSError, ValueError, EOFError) as error:
            raise ResultError(f"{first} is no .npy file: {error}; write it again") from error
    else:
        kinds = {_size(dtype, spec): dtype for dtype in DTYPES}
        kind = kinds.get(first.stat().st_size, f"{first.stat().st_size} bytes")
    if kind not in DTYPES:
        wanted = ", ".join(f"{d} {input_shape(d, spec)} of {_size(d, spec)} bytes" for d in DTYPES)
        raise ResultError(
            f"{first} is {kind}, but one input is {wanted}; write {folder} with 'effd0 preprocess'"
        )
    return kind


def _size(dtype: str, spec: ModelSpec) -> int:
    """Bytes of one input."""
    return math.prod(input_shape(dtype, spec)) * np.dtype(dtype).itemsize
