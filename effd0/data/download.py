"""
COCO val2017 and the published checkpoints, from their official sources.

A broken download goes on where it stopped; a file gets its name only when its checksum is
right.  (pooch, the usual library for this, neither resumes nor knows the abbreviated SHA-256
that torch's file names carry, so this stands on requests.)
"""

from __future__ import annotations

import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import requests

from ..errors import FetchError, listed
from ..io import digest, writing_to
from ..spec import TABLE, ModelSpec

#: A connection that breaks takes the unfinished chunk with it, so chunks are small.
CHUNK = 1 << 15
TIMEOUT_S = 30
ATTEMPTS = 5
#: Called with (bytes of the file that are there, bytes of the whole file or None).
OnBytes = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Source:
    """A file to be had: where, and the beginning of its checksum."""

    url: str
    algorithm: str
    digest: str

    def at(self, mirror: str | None) -> Source:
        """The same file under *mirror*, a URL that stands for the official host."""
        path = urlsplit(self.url).path
        return self if mirror is None else replace(self, url=mirror.rstrip("/") + path)


_COCO = "http://images.cocodataset.org"
_EFFDET = "https://github.com/rwightman/efficientdet-pytorch/releases/download/v0.1"
COCO_IMAGES = Source(f"{_COCO}/zips/val2017.zip", "md5", "442b8da7639aecaf257c1dceb8ba8c80")
COCO_ANNOTATIONS = Source(
    f"{_COCO}/annotations/annotations_trainval2017.zip", "md5", "f4bbac642086de4f52a3fdda2de5fa2c"
)
#: torch's convention: the name ends in the first eight digits of the SHA-256.
CHECKPOINTS = {
    arch: Source(f"{_EFFDET}/{name}.pth", "sha256", name.rpartition("-")[2])
    for arch, facts in TABLE.items()
    if (name := facts.get("checkpoint"))
}


def fetch_checkpoint(
    spec: ModelSpec, out: Path, on_bytes: OnBytes, mirror: str | None = None
) -> Path:
    """Download the published checkpoint of *spec* as *out*; raise `FetchError` or `OutputError`."""
    if spec.arch not in CHECKPOINTS:
        near = [arch for arch in spec.siblings if arch in CHECKPOINTS] or CHECKPOINTS
        raise FetchError(
            f"effdet publishes no weights of {spec.arch}, but of {listed(near)}; name one of these "
            "as --arch, or train your own and give them as --checkpoint"
        )
    with writing_to(out):
        return download(CHECKPOINTS[spec.arch].at(mirror), out, on_bytes)


def fetch_coco(root: Path, on_bytes: OnBytes, mirror: str | None = None) -> Path:
    """
    Download COCO val2017 into *root*: images and their instance annotations.

    What is there already is left as it is.  Raises `FetchError` or `OutputError`.
    """
    instances = "annotations/instances_val2017.json"
    with writing_to(root):
        for source, member in ((COCO_IMAGES, "val2017/"), (COCO_ANNOTATIONS, instances)):
            if not (root / member).exists():
                archive = download(source.at(mirror), root / Path(source.url).name, on_bytes)
                unzip(archive, member, root / member)
                archive.unlink()
    return root


def download(source: Source, out: Path, on_bytes: OnBytes) -> Path:
    """
    Download *source* as *out*, going on from ``out.part`` where that is there.

    Raises `FetchError` if the server fails for good or the checksum is wrong.
    """
    there, part = out.exists(), out.with_name(f"{out.name}.part")
    out.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, ATTEMPTS + 1) if not there else ():
        try:
            _receive(source.url, part, on_bytes)
            break
        except requests.HTTPError as error:
            raise FetchError(f"{source.url} cannot be had: {error}") from error
        except requests.RequestException as error:
            if attempt == ATTEMPTS:
                raise FetchError(
                    f"{source.url} broke off {ATTEMPTS} times: {error}; "
                    f"run the command again, it goes on from {part}"
                ) from error
    path = out if there else part
    found = digest(path, source.algorithm)
    if found.startswith(source.digest):
        return path.replace(out)
    part.unlink(missing_ok=True)  # going on from a wrong file can never end well
    raise FetchError(
        f"{path} has {source.algorithm} {found}, but {source.digest} was published "
        f"for {source.url}; remove it and try again"
    )


def _receive(url: str, part: Path, on_bytes: OnBytes) -> None:
    """Append what is missing to *part*."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
        if have and response.status_code == requests.codes.requested_range_not_satisfiable:
            return  # nothing is missing
        response.raise_for_status()
        done = have if response.status_code == requests.codes.partial_content else 0
        length = response.headers.get("Content-Length")
        total = None if length is None else done + int(length)
        on_bytes(done, total)
        with part.open("ab" if done else "wb") as file:
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                done += len(chunk)
                on_bytes(done, total)
        if total is not None and done < total:
            raise requests.ConnectionError(f"{done} of {total} bytes came")


def unzip(archive: Path, member: str, target: Path) -> None:
    """
    Unzip *member* (a file, or a folder ending in ``/``) of a zip file as *target*.

    *target* appears when all of it is there.  Raises `FetchError` for a broken archive.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    place = tempfile.TemporaryDirectory(prefix=".unzip.", dir=target.parent)
    try:
        with place as scratch, zipfile.ZipFile(archive) as file:
            names = [name for name in file.namelist() if name.startswith(member)]
            if not names:
                raise FetchError(f"{archive} has no {member}; remove it and try again")
            file.extractall(scratch, names)
            Path(scratch, member).replace(target)
    except (zipfile.BadZipFile, zlib.error) as error:
        raise FetchError(f"{archive} is a broken zip file: {error}; remove it") from error
