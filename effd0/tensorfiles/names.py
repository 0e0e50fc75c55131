"""
Which image a result file is of, by its name; ais_infer and ais_bench have named them in turn:

==========================  =========================================
``sample_id_{n}_output_{i}``  until 2022-06, n counts batches
``input{n}_output_{i}``       2022-07
``{name}_{i}``                since 2022-09, *name* up to its first dot
``{stem}_{i}``                effd0: the whole stem
==========================  =========================================

The number i is not looked at: which head a file holds is told by its size.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ResultError
from .manifest import read_json

SUFFIXES = (".bin", ".npy", ".txt")
_NUMBERED = re.compile(r"(?:sample_id_|input)(\d+)_output_\d+")
_NAMED = re.compile(r"(.+)_\d+")
#: A folder for each device of a run on several: of 2023, and of 2024.
_DEVICE = re.compile(r"device\d+(_\d+)?")


@dataclass(frozen=True)
class Summary:
    """
    What a run says of itself: the stems that each numbered sample was made of, in order.

    ais_bench's name for padding is one of them.  The rest is what effd0 adds, None where another
    tool wrote it: what computed, of which model file and spec, on the inputs of which manifest.
    """

    path: Path
    samples: Mapping[int, tuple[str, ...]]
    runner: str | None = None
    model: str | None = None
    model_sha256: str | None = None
    manifest_sha256: str | None = None
    spec: Mapping[str, Any] | None = None

    @property
    def stems(self) -> set[str]:
        """All inputs that were fed."""
        return {stem for sample in self.samples.values() for stem in sample}


@dataclass
class Named:
    """Result files by the stem of their input; *foreign* are those of no input."""

    files: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))
    foreign: list[Path] = field(default_factory=list)
    collisions: list[str] = field(default_factory=list)


def result_files(folder: Path) -> list[Path]:
    """All result files in *folder* and in its folders of single devices, in order of name."""
    if not folder.is_dir():
        raise ResultError(f"{folder} is not a folder; make one with 'effd0 infer --output'")
    places = [folder, *(p for p in folder.iterdir() if p.is_dir() and _DEVICE.fullmatch(p.name))]
    files = (path for place in places for path in place.iterdir())
    found = sorted(path for path in files if path.suffix in SUFFIXES and path.name[0] != ".")
    if not found:
        raise ResultError(
            f"{folder} holds no result file ({', '.join(SUFFIXES)}); "
            "give the folder that 'effd0 infer' or ais_bench named"
        )
    return found


def read_summary(folder: Path) -> Summary | None:
    """The summary beside *folder* or, of early versions, in it; None where there is none."""
    folder = folder.absolute()
    for path in (folder.parent / f"{folder.name}_summary.json", folder / "sumary.json"):
        if path.exists():
            remedy = "delete it, or run the inference again"
            content = read_json(path, remedy)
            try:
                return _summary(path, content)
            except (AttributeError, TypeError, ValueError) as error:
                raise ResultError(f"{path} is no summary of a run: {error}; {remedy}") from error
    return None


def _summary(path: Path, content: Mapping[str, Any]) -> Summary:
    samples = {
        int(number): tuple(Path(file).stem for file in sample.get("infiles", ()))
        for number, sample in content.get("filesinfo", {}).items()
    }
    own = content.get("effd0", {})
    keys = ("runner", "model", "model_sha256", "manifest_sha256", "spec")
    return Summary(path, samples, *(own.get(key) for key in keys))


def named_files(files: Iterable[Path], stems: Sequence[str]) -> Named:
    """Sort *files* named after their inputs by the inputs' *stems*, whole or cut at a dot."""
    by_key: dict[str, list[Path]] = defaultdict(list)
    named = Named()
    for path in files:
        match = _NAMED.fullmatch(path.stem)
        (by_key[match[1]] if match else named.foreign).append(path)
    cut: dict[str, list[str]] = defaultdict(list)
    for stem in stems:
        cut[stem.partition(".")[0]].append(stem)
    whole = set(stems)
    for key, found in by_key.items():
        owners = [key, *(s for s in cut.get(key, ()) if s not in by_key and s != key)]
        owners = owners if key in whole else owners[1:]
        if len(owners) == 1:
            named.files[owners[0]] += found
        elif owners:
            named.collisions.append(f"{key} ({', '.join(owners)})")
        else:
            named.foreign += found
    return named


def numbered_files(files: Sequence[Path]) -> dict[int, list[Path]] | None:
    """Sort *files* by their sample's number; None unless all are named by one."""
    numbered: dict[int, list[Path]] = defaultdict(list)
    for path in files:
        match = _NUMBERED.fullmatch(path.stem)
        if match is None:
            return None
        numbered[int(match[1])].append(path)
    return numbered
