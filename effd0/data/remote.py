"""
A COCO folder that lies where fsspec reaches: ``s3://bucket/coco``, ``hdfs://host/coco``, ...

Paths everywhere are `Path`, which folds the slashes of a URL: ``s3://bucket/coco`` becomes
``s3:/bucket/coco``.  Nothing is lost by that as long as the URL names a host or a bucket.
"""

import contextlib
import errno
import re
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import DatasetError, ImageError, MissingExtra, OutputError, require
from ..io import writing_to
from .coco import LocalFiles, Sample

#: A scheme of one letter is a drive of Windows.
_FOLDED = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(.*)", re.DOTALL)
#: A web server lists nothing that can be relied on: there each file is asked for.
_UNLISTED = {"http", "https"}
_ASKED_AT_ONCE = 16
#: The machine's own disk, and not the connection, is what failed.
_LOCAL_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


def url_of(path: Path) -> str | None:
    """
    The URL that *path* was written as; None where it is a local path.

    Raises `MissingExtra` where it looks like a URL and fsspec, which knows all schemes, is not
    installed.
    """
    folded = _FOLDED.fullmatch(path.as_posix())
    if folded is None:
        return None
    fsspec = require("fsspec", extra="ray")
    scheme, rest = folded.groups()
    if scheme not in fsspec.available_protocols():
        return None
    # A file's URL names no host, so its third slash was folded too.
    return f"{scheme}:///{rest}" if scheme in ("file", "local") else f"{scheme}://{rest}"


class RemoteFiles(LocalFiles):
    """
    Where `effd0.data.coco.load_coco` reads a root that `url_of` has a URL of.

    The annotation file is copied to the folder *cache*, where it has to stay for as long as the
    dataset is used.  Raises `DatasetError`, and `MissingExtra` without the scheme's own package.
    """

    def __init__(self, cache: Path) -> None:
        self.cache = cache

    def shown(self, path: Path) -> str:
        """The URL of *path*."""
        return url_of(path) or super().shown(path)

    def local(self, path: Path) -> Path | None:
        """Copy the file *path* to the cache; None where there is none."""
        url, copy = self.shown(path), self.cache / path.name
        with _reached(url) as fs:
            try:
                data = fs.cat_file(url)
            except (FileNotFoundError, IsADirectoryError):
                return None
        with writing_to(copy):
            self.cache.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(data)
        return copy

    def names(self, folder: Path, wanted: Sequence[str]) -> set[str]:
        """The names, as seen from *folder*, of all files below it, or just of those *wanted*."""
        url = self.shown(folder)
        with _reached(url) as fs:
            if url.partition(":")[0] in _UNLISTED:
                with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
                    asked = pool.map(fs.exists, [f"{url}/{name}" for name in wanted])
                    return {name for name, there in zip(wanted, asked, strict=True) if there}
            base = PurePosixPath(fs._strip_protocol(url))  # noqa: SLF001  # there is no public one
            return {str(PurePosixPath(path).relative_to(base)) for path in fs.find(url)}


@contextlib.contextmanager
def localized(samples: Sequence[Sample], folder: Path) -> Iterator[tuple[Sample, ...]]:
    """
    Yield *samples* with local paths: those of URLs are copied for the time of the block.

    All are copied at once, to a new folder in *folder*.  Raises `ImageError` for a file that is
    missing, and `DatasetError` where the connection failed and it may be tried again.
    """
    urls = {n: url for n, sample in enumerate(samples) if (url := url_of(sample.path)) is not None}
    if not urls:
        yield tuple(samples)
        return
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # An fsspec of 2024 leaves other copies running where one has failed: they may be
        # writing while the folder is removed.
        made = tempfile.TemporaryDirectory("", "images.", folder, ignore_cleanup_errors=True)
    with made as place:
        # Folders below the split's may hold files of one name.
        local = {n: Path(place, str(n), samples[n].path.name) for n in urls}
        with writing_to(folder):
            for path in local.values():
                path.parent.mkdir()
        with _reached(next(iter(urls.values()))) as fs:  # of all
            try:
                fs.get(list(urls.values()), [str(path) for path in local.values()])
            except FileNotFoundError as error:
                # Not every file system's error says which it was.
                for url in urls.values():
                    if not fs.exists(url):
                        raise ImageError(
                            f"{url} is missing; copy it there again, or correct the annotation file"
                        ) from error
                raise
        yield tuple(
            replace(sample, path=local.get(n, sample.path)) for n, sample in enumerate(samples)
        )


@contextlib.contextmanager
def _reached(url: str) -> Iterator[Any]:
    """
    Yield the file system of *url*; whatever its own package raises becomes a `DatasetError`.

    Raises `MissingExtra` without that package, and `OutputError` where this host's disk failed.
    """
    fsspec = require("fsspec", extra="ray")
    try:
        yield fsspec.core.url_to_fs(url)[0]
    except DatasetError:
        raise
    except ImportError as error:
        package = getattr(error.__cause__, "name", None) or error.name
        raise MissingExtra(
            f"{url} cannot be reached: {error}; install it with: pip install {package}"
        ) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _LOCAL_ERRORS:
            raise OutputError(f"what {url} holds cannot be kept: {error}; make room") from error
        raise DatasetError(
            f"{url} cannot be read: {type(error).__name__}: {error}; "
            "see that it can be reached from every host, and try again"
        ) from error
