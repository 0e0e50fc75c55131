"""Run files: written whole and valid or not at all, and read with the reason where they are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import RunFileError
from ..io import written_whole
from .schema import FORMAT, SCHEMA, Run, check_run

_WANTED = "a run file was wanted"
_NEXT = (
    "write one with --report-json FILE of pytest, 'effd0 evaluate', 'postprocess' or 'benchmark' "
    "(docs/run-json.md)"
)


def write_run(path: Path, run: Run) -> None:
    """Write *run*; raise `RunFileError` unless it is valid, `OutputError` if it cannot be."""
    check_run(run, f"the run for {path}")
    with written_whole(path) as temporary:
        content = json.dumps(run, indent=1, ensure_ascii=False, allow_nan=False)
        temporary.write_text(content + "\n", encoding="utf-8")


def read_run(path: Path) -> Run:
    """Read the run in the file *path*; raise `RunFileError` with the reason for any other file."""
    content = _content(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise RunFileError(f"{path} {_foreign(content)}, but {_WANTED}; {_NEXT}")
    version = content.get("schema")
    if version != SCHEMA:
        raise RunFileError(f"{path} {_version(version)}")
    check_run(content, str(path))
    return content


def _content(path: Path) -> Any:
    """The JSON in *path*, whatever it is."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RunFileError(
            f"{path} cannot be read: {error.strerror}, but {_WANTED}; {_NEXT}"
        ) from error
    if not data.strip():
        raise RunFileError(f"{path} is empty, but {_WANTED}; {_NEXT}")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        cut = data.lstrip()[:1] in (b"{", b"[") and data.rstrip()[-1:] not in (b"}", b"]")
        # A file that is cut off behind an inner bracket ends where more was expected.
        cut = cut or getattr(error, "pos", -1) >= len(data.decode(errors="replace").rstrip())
        what = "ends in the middle, as if writing it was cut off" if cut else "is not JSON"
        raise RunFileError(f"{path} {what} ({error}), but {_WANTED}; {_NEXT}") from error


def _version(version: Any) -> str:
    """What is said of a run in another version of the schema."""
    newer = isinstance(version, int) and version > SCHEMA
    what = f"is a run in schema {version!r}, but this effd0 reads {SCHEMA}"
    return f"{what}; {'install a newer effd0' if newer else 'run it again with this one'}"


#: What a foreign file is -> the keys that it is known by.
_KNOWN = {
    "is a run in schema 1, of an effd0 before 0.2": {"schema", "verdict", "checks"},
    "is an evaluation, as 'effd0 evaluate --json' writes it": {"schema", "metrics", "per_class"},
    "is saved benchmarks, as --benchmark-json writes them": {"benchmarks", "machine_info"},
    "is an annotation file of COCO": {"images", "annotations"},
}


def _foreign(content: Any) -> str:
    """What a JSON file that is no run seems to be."""
    if isinstance(content, list):
        entry = content[0] if content else None
        results = isinstance(entry, dict) and {"image_id", "category_id"} <= entry.keys()
        return "is a COCO results file" if results else "holds a list"
    if not isinstance(content, dict):
        return f"holds {type(content).__name__} {str(content)[:40]!r}"
    for what, keys in _KNOWN.items():
        if keys <= content.keys():
            return what
    return f"is JSON of another kind, with {', '.join(sorted(content)[:5]) or 'no key'}"
