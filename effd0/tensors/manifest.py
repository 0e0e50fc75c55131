"""The manifest of a folder of network inputs: what each file is, by image id."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import ResultError
from ..io import sha256, written_whole
from ..spec import ModelSpec

MANIFEST = "manifest.json"
#: What an input may hold: normalised planes, or, for a model with AIPP, (rows, columns, RGB).
DTYPES = ("float32", "float16", "uint8")
#: How many of many names a message shows.
SHOWN = 10


@dataclass(frozen=True)
class ManifestImage:
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

    @property
    def stem(self) -> str:
        """The name that its results begin with."""
        return Path(self.file).stem


@dataclass(frozen=True)
class Manifest:
    """
    The inputs of a run: their images, and the spec and *dtype* that they were made with.

    *path* is the manifest's file and *sha256* its fingerprint.
    """

    path: Path
    sha256: str
    spec: ModelSpec
    dtype: str
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
        if self.spec != spec:
            mine, asked = asdict(self.spec), asdict(spec)
            differ = [f"{k} {mine[k]}, not {asked[k]}" for k in mine if mine[k] != asked[k]]
            raise ResultError(
                f"{self.path} is of inputs with {'; '.join(differ)}; "
                "give the --arch that they were made for, or preprocess again"
            )


def write_manifest(path: Path, content: Mapping[str, Any]) -> None:
    """Write *content* as the manifest *path*, whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def read_manifest(path: Path) -> Manifest:
    """The manifest *path*; raise `ResultError` if it is missing, broken or contradicts itself."""
    content = read_json(path, "write the inputs again with 'effd0 preprocess --bin-save'")
    try:
        images = tuple(_image(entry) for entry in content["images"])
        dtype = _dtype(content["dtype"])
        spec = ModelSpec(**{name: _frozen(value) for name, value in content["spec"].items()})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ResultError(
            f"{path} is no manifest of inputs ({type(error).__name__}: {error}); "
            "write the inputs again with 'effd0 preprocess --bin-save'"
        ) from error
    for kind, values in (
        ("image ids", (image.image_id for image in images)),
        ("stems", (image.stem for image in images)),
    ):
        if twice := [value for value, count in Counter(values).items() if count > 1]:
            raise ResultError(
                f"{path} has {kind} more than once: {listed(twice)}; write the inputs again"
            )
    return Manifest(path, sha256(path), spec, dtype, images)


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


def _image(entry: Mapping[str, Any]) -> ManifestImage:
    width, height = entry["image_size"]
    file = entry["file"]
    if Path(file).name != file:
        raise ValueError(f"{file!r} is not the name of a file")
    return ManifestImage(
        int(entry["image_id"]),
        file,
        float(entry["image_scale"]),
        (int(width), int(height)),
        str(entry["sha256"]),
        entry.get("picture_sha256"),
    )


def _dtype(name: object) -> str:
    if name not in DTYPES:
        raise ValueError(f"dtype is {name!r}, but {', '.join(DTYPES)} are known")
    return str(name)


def _frozen(value: Any) -> Any:
    """JSON's lists as the tuples that a spec is made of."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
