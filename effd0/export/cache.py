"""
Checkpoints that were converted before, in the user's cache folder.

An entry is one file, named by the digest of all that it was made of, and begins with the digest of
the rest.  It is written once the model in it has computed what its checkpoint does.
"""

import contextlib
import hashlib
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from ..errors import OutputError
from ..io import sha256, written_whole
from ..progress import say

#: What takes part in a conversion.
PACKAGES = (
    "effd0", "torch", "torchvision", "timm", "effdet", "onnx", "onnxruntime",
    "onnxruntime-gpu", "onnxsim", "onnxscript", "numpy",
)  # fmt: skip
#: What all entries may take: some 60 of a D0.
MAX_BYTES = 2**30
_SUFFIX, _DIGEST_BYTES = ".converted", 32
_PACKAGE = Path(__file__).parents[1]


def folder() -> Path:
    """Where entries lie: ``effd0`` in $XDG_CACHE_HOME, or in ~/.cache."""
    place = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    with contextlib.suppress(RuntimeError):  # of who has no home
        place = place.expanduser()
    # A place that cannot be written is better than one in the working directory.
    return (place if place.is_absolute() else Path(os.devnull)) / "effd0"


def key_of(checkpoint: Path, *form: Any) -> str:
    """
    The name of the entry of *checkpoint* in *form*, values that are known by their repr.

    It depends on the file's content, effd0's source, the versions of `PACKAGES` and the machine.
    """
    digest = hashlib.sha256(repr((form, platform.machine(), *map(_version, PACKAGES))).encode())
    for path in sorted(p for p in _PACKAGE.rglob("*") if p.suffix in (".py", ".toml", ".json")):
        digest.update(path.read_bytes())
    digest.update(sha256(checkpoint).encode())
    return digest.hexdigest()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def read(key: str, checkpoint: Path, out: Path) -> bool:
    """
    Write the model of the entry *key* to *out*; say that *checkpoint* was converted before.

    What was told then is told again.  False where there is no such entry; a damaged one is removed.
    """
    path = folder() / f"{key}{_SUFFIX}"
    try:
        content = memoryview(path.read_bytes())
    except OSError:
        return False
    digest, rest = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if hashlib.sha256(rest).digest() != digest:
        with contextlib.suppress(OSError):
            path.unlink()
        return False
    name, told, model = msgspec.msgpack.decode(rest, type=tuple[str, str, bytes])
    out.write_bytes(model)
    with contextlib.suppress(OSError):  # others' entries can be read only
        os.utime(path)
    say(f"{checkpoint} was converted before; --no-cache converts it anew")
    sys.stderr.write(told.replace(name, str(checkpoint)))
    return True


def write(key: str, checkpoint: Path, made: Path, told: str) -> None:
    """
    Keep the model *made* of *checkpoint*, and what was *told* then, as the entry *key*.

    Entries unused for longest go where all take more than `MAX_BYTES`.  Where nothing can be
    written, that is said.
    """
    path = folder() / f"{key}{_SUFFIX}"
    rest = msgspec.msgpack.encode((str(checkpoint), told, made.read_bytes()))
    try:
        with written_whole(path) as temporary:
            temporary.write_bytes(hashlib.sha256(rest).digest() + rest)
    except OutputError as error:
        say(
            f"{checkpoint} is converted by each run, since {folder()} cannot be written "
            f"({error.__cause__}); name another folder in XDG_CACHE_HOME, or give --no-cache"
        )
        return
    kept = entries()
    spare = sum(size for _, size, _ in kept) - MAX_BYTES
    for _, size, place in kept:
        if spare > 0:
            with contextlib.suppress(OSError):
                place.unlink()
            spare -= size


def entries() -> list[tuple[int, int, Path]]:
    """Last use in ns, bytes and place of all entries, the one unused for longest first."""
    found = []
    for place, _, names in os.walk(folder()):  # one that was never finished lies in a folder
        for path in (Path(place) / name for name in names if name.endswith(_SUFFIX)):
            with contextlib.suppress(OSError):  # another process may just have removed it
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, path))
    return sorted(found)
