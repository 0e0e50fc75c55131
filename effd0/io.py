"""Files written whole or not at all, and their fingerprints."""

import contextlib
import csv
import hashlib
import json
import os
import re
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from .errors import Effd0Error, GraphError, OutputError, listed

#: How a file begins that Git LFS put in place of a large one.
LFS_MAGIC = b"version https://git-lfs"
_T = TypeVar("_T")
#: What stands in an ONNX file before the name of a file with weights: the field external_data of a
#: TensorProto, the key ``location``, and the size of the name as a varint.
_EXTERNAL = re.compile(rb"j.{1,2}\n\x08location\x12([\x00-\x7f]|[\x80-\xff].)", re.DOTALL)
CHECKPOINT, ONNX = "a checkpoint", "an ONNX model"
#: How a file begins -> what it is, and what to do with it where another kind was wanted.
_KINDS = {
    LFS_MAGIC: ("a Git LFS pointer", "run 'git lfs pull'"),
    b"<": ("a web page", "get the file again, since its download failed"),
    b"\x1f\x8b": ("compressed by gzip", "unpack it with gunzip"),
    b"BZh": ("compressed by bzip2", "unpack it with bunzip2"),
    b"\xfd7zXZ": ("compressed by xz", "unpack it with unxz"),
    b"{": ("JSON", "give the file that holds the weights themselves"),
    b"IMOD": ("a model compiled for an NPU", "give it by --model, as a file named .om"),
    b"\x08": (ONNX, "give it by --model"),
    b"PK": (CHECKPOINT, "give it by --checkpoint"),
    b"\x80": (CHECKPOINT, "give it by --checkpoint"),
}


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

    A reader sees the old file or the whole new one.  The standard output, and a *path* that is no
    regular file, such as a pipe, a device or a link, gets the content once it is whole: a rename
    would put a file in its place.  Raises `OutputError` if it cannot be written.
    """
    in_place = _in_place(path)
    with writing_to(path):
        if not in_place:
            path.parent.mkdir(parents=True, exist_ok=True)
        # A folder of its own: an ONNX file may come with a data file beside it.
        beside = None if in_place else path.parent
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=beside))
        try:
            temporary = folder / path.name
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            for part in sorted(folder.iterdir(), key=lambda part: part == temporary):
                place = path.parent / part.name
                if not in_place:
                    part.replace(place)
                    continue
                printed = part == temporary and is_stdout(path)
                with open(1 if printed else place, "wb", closefd=not printed) as target:
                    target.write(part.read_bytes())
        finally:
            for left in folder.iterdir():
                left.unlink()
            folder.rmdir()


def is_stdout(path: Path) -> bool:
    """Whether *path* is ``-``, or another name of what the process writes its lines to."""
    try:
        return str(path) == "-" or os.path.samestat(path.stat(), os.fstat(1))
    except OSError:
        return False


def _in_place(path: Path) -> bool:
    """Whether *path* is the standard output, or is there and no regular file."""
    try:
        return is_stdout(path) or not stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def write_text(text: str, path: Path) -> None:
    """Write *text* in UTF-8, whole or not at all; raise `OutputError` if it cannot be."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(content: Mapping[str, Any], path: Path) -> None:
    """Write *content* as JSON, whole or not at all; raise `OutputError` if it cannot be."""
    write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", path)


def write_csv(rows: Sequence[Mapping[str, object]], path: Path) -> None:
    """
    Write *rows* of the same keys as CSV (RFC 4180) with a header, as `write_json` does.

    None is an empty field.
    """
    with (
        written_whole(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def check_writable(path: Path) -> None:
    """Raise `OutputError` now if *path* could not be written after hours of work."""
    if path.is_dir():
        raise OutputError(f"{path} is a folder, but a file is to be written; give a file's name")
    if _in_place(path):
        return
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass


def is_safetensors(path: Path) -> bool:
    """Whether *path* begins as safetensors do: the length of a header, and its brace."""
    with path.open("rb") as file:
        begins = file.read(9)
    return begins[3:] == bytes(5) + b"{"


def check_kind(path: Path, wanted: str, error: type[Effd0Error], get_one: str) -> None:
    """
    Raise *error* where *path* is no file, or begins as one of another kind than *wanted*.

    *wanted* is `CHECKPOINT` or `ONNX`; *get_one* says how to get one that does not exist.  Raises
    `GraphError` as `external_files` does.
    """
    if not path.exists():
        raise error(f"{path} does not exist; {get_one}")
    if not path.is_file():
        raise error(f"{path} is a folder, but {wanted} was wanted; give a file in it")
    with path.open("rb") as file:
        begins = b"PK" if is_safetensors(path) else file.read(len(LFS_MAGIC))
    for start, (kind, remedy) in _KINDS.items():
        if begins.startswith(start) and kind != wanted:
            raise error(f"{path} is {kind}, but {wanted} was wanted; {remedy}")
    if wanted == ONNX:
        external_files(path)


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of the file *path*."""
    return digest(path, "sha256")


def model_sha256(path: Path) -> str:
    """
    Hexadecimal SHA-256 of the model *path*; with external data, of the digests of all its files.

    Found without the package onnx, so that each host knows a model by the same.  Raises
    `GraphError` where a file with weights is not there.
    """
    own, data = sha256(path), [sha256(place) for place in external_files(path)]
    return hashlib.sha256("".join([own, *data]).encode()).hexdigest() if data else own


def external_files(path: Path) -> list[Path]:
    """The files with weights of the model *path*; raise `GraphError` where one is not there."""
    content = path.read_bytes() if path.suffix.lower() == ".onnx" else b""
    places = set()
    for found in _EXTERNAL.finditer(content):
        size = found[1][0] % 128 + 128 * sum(found[1][1:])
        places.add(path.parent / os.fsdecode(content[found.end() : found.end() + size]))
    if missing := sorted(str(place) for place in places if not place.is_file()):
        raise GraphError(
            f"{path} has weights in {listed(missing)}, but no such file is there; copy it to its "
            "place, or export the model in one file"
        )
    return sorted(places)


def flattened(content: Mapping[Any, Any], joint: str, place: str = "") -> Iterator[tuple[str, Any]]:
    """What *content* and the mappings in it hold, each with its keys, joined by *joint*."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from flattened(value, joint, f"{place}{key}{joint}")
        else:
            yield f"{place}{key}", value


def digest(path: Path, algorithm: str) -> str:
    """Hexadecimal digest of the file *path* by one of hashlib's algorithms."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def decoded(data: bytes, kind: type[_T]) -> _T:
    """The JSON *data* as *kind*; raise `ValueError` with the place, what came, what was wanted."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        text, _, place = str(error).partition(" - at ")
        # What is behind any key, which is written [...], cannot be looked up.
        with contextlib.suppress(ValueError, LookupError, TypeError, RecursionError):
            came: Any = json.loads(data)
            for number, key in re.findall(r"\[(\d+|\.{3})\]|\.(\w+)", place):
                came = came[int(number)] if number else came[key]
            text += f": {json.dumps(came)[:80]}"
        place = place.replace("`", "").strip("$.")
        raise ValueError(f"{place or 'the file'}: {text}") from error
    except RecursionError as error:
        raise ValueError("its lists and objects have too large a depth") from error
    except (msgspec.DecodeError, UnicodeError) as error:
        at = re.search(r"byte (\d+)", str(error))
        near = data[max(int(at[1]) - 30, 0) :][:50] if at else data[-50:]
        raise ValueError(f"{error}, near {near.decode(errors='replace')!r}") from error


def whole(value: float, place: str) -> int:
    """The id or size *value* at *place*; raise `ValueError` unless it is a whole number."""
    if not value.is_integer():
        raise ValueError(f"{place}: {value} is no whole number")
    return int(value)
