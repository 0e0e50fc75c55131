"""Files written whole or not at all, and their fingerprints."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import OutputError

#: How a file begins that Git LFS put in place of a large one.
LFS_MAGIC = b"version https://git-lfs"


@contextlib.contextmanager
def writing_to(place: Path) -> Iterator[None]:
    """Turn what the file system refuses into an `OutputError` that names *place*."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{place} cannot be written: {error}; choose another place") from error


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """
    Yield a temporary name beside *path*; rename it to *path* once the block has succeeded.

    A reader sees the old file or the whole new one.  Raises `OutputError` if it cannot be written.
    """
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # A folder of its own: an ONNX file may come with a data file beside it.
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            temporary = folder / path.name
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            for part in sorted(folder.iterdir(), key=lambda part: part == temporary):
                part.replace(path.parent / part.name)
        finally:
            for left in folder.iterdir():
                left.unlink()
            folder.rmdir()


def write_json(content: Mapping[str, Any], path: Path) -> None:
    """Write *content* as JSON, whole or not at all; raise `OutputError` if it cannot be."""
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def check_writable(path: Path) -> None:
    """Raise `OutputError` now if *path* could not be written after hours of work."""
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    if path.is_dir():
        raise OutputError(f"{path} is a folder, but a file is to be written; give a file's name")


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of the file *path*."""
    return digest(path, "sha256")


def digest(path: Path, algorithm: str) -> str:
    """Hexadecimal digest of the file *path* by one of hashlib's algorithms."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
