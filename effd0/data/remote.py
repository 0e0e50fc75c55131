"""
A COCO folder that lies where fsspec reaches: ``s3://bucket/coco``, ``hdfs://host/coco``, ...

Paths everywhere are `Path`, which folds the slashes of a URL: ``s3://bucket/coco`` becomes
``s3:/bucket/coco``.  Nothing is lost by that as long as the URL names a host or a bucket.
"""

from __future__ import annotations

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
from .coco import (
    Dataset,
    Sample,
    annotation_path,
    check_limit,
    dataset_of,
    no_annotations,
    no_image_folder,
    parse_annotations,
)

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


def load_remote(root: Path, split: str, image_limit: int | None, cache: Path) -> Dataset:
    """
    As `effd0.data.coco.load_coco`, of a *root* that `url_of` has a URL of.

    The annotation file is copied to the folder *cache*, where it has to stay for as long as the
    dataset is used.  Raises `DatasetError`, and `MissingExtra` without the scheme's own package.
    """
    check_limit(image_limit)
    remote, folder = annotation_path(root, split), root / split
    url, folder_url = _url(remote), _url(folder)
    fs = _file_system(url)
    with _reaching(url):
        try:
            data = fs.cat_file(url)
        except (FileNotFoundError, IsADirectoryError) as error:
            raise no_annotations(url) from error
    content = parse_annotations(data, url)
    annotation_file = cache / remote.name
    with writing_to(annotation_file):
        cache.mkdir(parents=True, exist_ok=True)
        annotation_file.write_bytes(data)
    with _reaching(folder_url):
        wanted = sorted(content["images"], key=lambda image: int(image["id"]))[:image_limit]
        names = _names(fs, folder_url, [image["file_name"] for image in wanted])
    if not names:
        raise no_image_folder(folder_url)
    in_it = [name for name in names if "/" not in name]
    there = names.__contains__
    return dataset_of(content, annotation_file, folder, in_it, there, image_limit, folder_url)


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
    with contextlib.ExitStack() as stack:
        with writing_to(folder):
            folder.mkdir(parents=True, exist_ok=True)
            # An fsspec of 2024 leaves other copies running where one has failed: they may be
            # writing while the folder is removed.
            made = tempfile.TemporaryDirectory("", "images.", folder, ignore_cleanup_errors=True)
            place = Path(stack.enter_context(made))
            # Folders below the split's may hold files of one name.
            local = {n: place / str(n) / samples[n].path.name for n in urls}
            for path in local.values():
                path.parent.mkdir()
        # All are of one file system.
        first = next(iter(urls.values()))
        fs = _file_system(first)
        with _reaching(first):
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


def _names(fs: Any, folder: str, wanted: Sequence[str]) -> set[str]:
    """The names, as seen from *folder*, of the files that are below it, or just of *wanted*."""
    if folder.partition(":")[0] in _UNLISTED:
        with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
            asked = pool.map(fs.exists, [f"{folder}/{name}" for name in wanted])
            return {name for name, there in zip(wanted, asked, strict=True) if there}
    base = PurePosixPath(fs._strip_protocol(folder))  # noqa: SLF001  # there is no public one
    return {str(PurePosixPath(path).relative_to(base)) for path in fs.find(folder)}


def _url(path: Path) -> str:
    url = url_of(path)
    if url is None:
        raise DatasetError(f"{path} is no URL of a file system that fsspec knows; give a local one")
    return url


def _file_system(url: str) -> Any:
    """The file system of *url*; raise `MissingExtra` without the package that reaches it."""
    fsspec = require("fsspec", extra="ray")
    try:
        with _reaching(url):
            return fsspec.core.url_to_fs(url)[0]
    except ImportError as error:
        package = getattr(error.__cause__, "name", None) or error.name
        raise MissingExtra(
            f"{url} cannot be reached: {error}; install it with: pip install {package}"
        ) from error


@contextlib.contextmanager
def _reaching(url: str) -> Iterator[None]:
    """Turn what a file system's own package raises, of whatever kind, into a `DatasetError`."""
    try:
        yield
    except (DatasetError, ImportError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _LOCAL_ERRORS:
            raise OutputError(f"what {url} holds cannot be kept: {error}; make room") from error
        raise DatasetError(
            f"{url} cannot be read: {type(error).__name__}: {error}; "
            "see that it can be reached from every host, and try again"
        ) from error
