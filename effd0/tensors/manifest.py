"""The manifest of a folder of network inputs: what each file is, by image id."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from ..errors import ResultError
from ..io import sha256
from ..spec import ModelSpec

MANIFEST = "manifest.json"
Dtype = Literal["float32", "float16", "uint8"]
#: What an input may hold: normalised planes, or, for a model with AIPP, (rows, columns, RGB).
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
#: How many of many names a message shows.
SHOWN = 10


class ManifestImage(msgspec.Struct, frozen=True):
    """
    One image: its file of input, and what `ModelInput` says of its geometry.

    *picture_sha256* is of the picture it was made from; None in manifests of early versions.
    """

    image_id: int
    file: str
    image_scale: float
    image_size: tuple[int, int]
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

    path: Path
    sha256: str
    spec: ModelSpec
    dtype: Dtype
    images: tuple[ManifestImage, ...]
    annotations_sha256: str = ""
    images_total: int = 0

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
        if self.spec != spec:
            mine, asked = asdict(self.spec), asdict(spec)
            differ = [f"{k} {mine[k]}, not {asked[k]}" for k in mine if mine[k] != asked[k]]
            raise ResultError(
                f"{self.path} is of inputs with {'; '.join(differ)}; "
                "give the --arch that they were made for, or preprocess again"
            )


def read_manifest(path: Path) -> Manifest:
    """The manifest *path*; raise `ResultError` if it is missing, broken or contradicts itself."""
    remedy = "write the inputs again with 'effd0 preprocess --bin-save'"
    content = read_json(path, remedy)
    try:
        manifest = msgspec.convert(content | {"path": path, "sha256": sha256(path)}, Manifest)
    except msgspec.ValidationError as error:
        raise ResultError(f"{path} is no manifest of inputs: {error}; {remedy}") from error
    for kind, values in (
        ("image ids", (image.image_id for image in manifest.images)),
        ("stems", (image.stem for image in manifest.images)),
    ):
        if twice := [value for value, count in Counter(values).items() if count > 1]:
            raise ResultError(
                f"{path} has {kind} more than once: {listed(twice)}; write the inputs again"
            )
    return manifest


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """The JSON object in *path*; raise `ResultError`, ending with *remedy*, if there is none."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ResultError(f"{path} does not exist; {remedy}") from error
    except (OSError, ValueError) as error:
        raise ResultError(f"{path} is not a readable JSON file: {error}; {remedy}") from error
    if not isinstance(content, dict):
        raise ResultError(f"{path} holds a {type(content).__name__}, not an object; {remedy}")
    return content


def listed(names: Iterable[object]) -> str:
    """The first `SHOWN` of *names*, and how many more there are."""
    every = [str(name) for name in names]
    more = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return ", ".join(every[:SHOWN]) + more
