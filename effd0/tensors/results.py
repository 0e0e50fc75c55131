"""
Which head a file holds, by its size alone.

No head of any spec has the size of another, in float32 as in float16, so that neither a file's
number nor the order of a model's outputs is trusted.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ResultError
from ..io import sha256
from ..spec import ModelSpec
from ..types import Floats, Tensors
from .inputs import InputFiles, natural_key, open_inputs
from .manifest import MANIFEST, Manifest, listed, read_json, read_manifest

#: Rows that one file of an early ais_infer may hold.
MAX_ROWS = 1024


@dataclass(frozen=True)
class HeadFile:
    """One image's *row* among the *rows* of a file, whose raw values have *itemsize* bytes."""

    path: Path
    row: int = 0
    rows: int = 1
    itemsize: int = 4

    def head(self, spec: ModelSpec) -> str | None:
        """Name of the head that the file holds; None if it holds none of *spec*."""
        name = self._named(value_count(self.path, self.itemsize), spec)
        if name is None or self.path.suffix != ".npy":
            return name
        shape = np.load(self.path, mmap_mode="r", allow_pickle=False).shape
        # A flat one says nothing; one of another layout says that it is not to be read.
        return name if len(shape) == 1 or shape[-3:] == spec.head_shapes[name] else None

    def load(self, spec: ModelSpec) -> tuple[str, Floats]:
        """Name and values of this image's head, (1, C, H, W) float32; `ResultError` if none."""
        try:
            values = _values(self.path, self.itemsize)
        except (OSError, ValueError, EOFError) as error:
            raise ResultError(
                f"{self.path} cannot be read: {error}; run the inference again"
            ) from error
        name = self._named(values.size, spec)
        if name is None:
            raise ResultError(
                f"{self.path} holds {values.size} values, but {self.rows} times one of "
                f"{sorted(head_sizes(spec))} were wanted; run the inference again"
            )
        rows = values.reshape(self.rows, *spec.head_shapes[name])
        # Of a batch, a copy: the other rows are not to stay in memory.
        return name, rows[self.row : self.row + 1].astype(np.float32, copy=self.rows > 1)

    def _named(self, values: int, spec: ModelSpec) -> str | None:
        size, rest = divmod(values, self.rows)
        return None if rest else head_sizes(spec).get(size)


@cache
def head_sizes(spec: ModelSpec) -> dict[int, str]:
    """How many values each head of one image has -> its name."""
    return {math.prod(shape): name for name, shape in spec.head_shapes.items()}


def value_count(path: Path, itemsize: int) -> int:
    """How many values *path* holds; -1 if it is broken.  A text file has to be read for it."""
    if path.suffix == ".bin":
        count, rest = divmod(path.stat().st_size, itemsize)
        return -1 if rest else count
    try:
        if path.suffix == ".npy":
            return int(np.load(path, mmap_mode="r", allow_pickle=False).size)
        return int(_values(path, itemsize).size)
    except (OSError, ValueError, EOFError):
        return -1


def _values(path: Path, itemsize: int) -> np.ndarray:
    """The content of *path*."""
    if path.suffix == ".npy":
        array: np.ndarray = np.load(path, allow_pickle=False)
        return array
    if path.suffix == ".txt":
        return np.loadtxt(path, np.float32, ndmin=1).ravel()
    return np.fromfile(path, f"<f{itemsize}")


def fit_rows(
    files: Sequence[Path], possible: Iterable[int], itemsizes: Sequence[int], spec: ModelSpec
) -> tuple[int, int] | None:
    """The first number of rows, and itemsize, with which *files* are all heads of *spec*, once."""
    counts = {size: sorted(value_count(path, size) for path in files) for size in itemsizes}
    sizes = sorted(head_sizes(spec))
    for rows in possible:
        wanted = [rows * size for size in sizes]
        for itemsize in itemsizes:
            if counts[itemsize] == wanted:
                return rows, itemsize
    return None


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
                samples = {
                    int(number): tuple(Path(file).stem for file in sample.get("infiles", ()))
                    for number, sample in content.get("filesinfo", {}).items()
                }
                own, first = content.get("effd0", {}), list(Summary.__dataclass_fields__)[2:]
                return Summary(path, samples, *(own.get(key) for key in first))
            except (AttributeError, TypeError, ValueError) as error:
                raise ResultError(f"{path} is no summary of a run: {error}; {remedy}") from error
    return None


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


def check_origin(
    folder: Path, summary: Summary | None, manifest: Manifest | None, spec: ModelSpec
) -> None:
    """
    Raise `ResultError` where *summary* is of other inputs than *manifest* or another model's spec.

    What it does not say cannot contradict.
    """
    if summary is None:
        return
    known = summary.manifest_sha256
    if manifest is not None and known is not None and known != manifest.sha256:
        raise ResultError(
            f"{folder} was made of the inputs of another manifest (sha256 {known[:12]}, by "
            f"{summary.path.name}) than {manifest.path} ({manifest.sha256[:12]}); "
            "run the inference again on these inputs, or give those that it was run on"
        )
    asked = json.loads(json.dumps(asdict(spec)))
    recorded = asked if summary.spec is None else summary.spec
    differ = [f"{k} {recorded.get(k)}, not {v}" for k, v in asked.items() if recorded.get(k) != v]
    if differ:
        raise ResultError(
            f"{folder} is of a model with {'; '.join(differ)}, by {summary.path.name}; "
            "give the --arch that it was run with"
        )


def check_model(folder: Path, model: Path, *, proved: bool = False) -> None:
    """
    Raise `ResultError` where the results in *folder* are those of another model than *model*.

    A summary that names no model, or one in another format (an .om, say, compiled from *model*),
    contradicts only where the origin has to be *proved*.
    """
    if not model.is_file():
        raise ResultError(f"--model is {model}, which is no file; give the model of the results")
    summary = read_summary(folder)
    known = None if summary is None else summary.model_sha256
    recorded = None if summary is None else summary.model
    same_kind = recorded is None or Path(recorded).suffix == model.suffix
    if known is None or not same_kind:
        if proved:
            what = "no model" if known is None else recorded
            raise ResultError(
                f"--model is {model}, but the summary of {folder} names {what}; leave --model out, "
                "or run the inference again with 'effd0 infer'"
            )
        return
    wanted = sha256(model)
    if known != wanted:
        name = "a model" if recorded is None else recorded
        raise ResultError(
            f"{folder} holds the results of {name} (sha256 {known[:12]}), but --model is {model} "
            f"(sha256 {wanted[:12]}); run the inference again with it, or give the results of it"
        )


HeadFiles = dict[str, list[HeadFile]]
Problems = dict[str, list[str]]


def sort_results(
    paths: Sequence[Path], fed: Sequence[str], summary: Summary | None, spec: ModelSpec
) -> tuple[HeadFiles, Problems]:
    """
    Sort *paths* by the stems of the inputs that were *fed*; give what is wrong by its kind too.

    Names that only count are led back to stems by *summary*, or by the natural order of *fed*.
    """
    named, matches = named_files(paths, fed), [_NUMBERED.fullmatch(path.stem) for path in paths]
    problems: Problems = defaultdict(list)
    files: HeadFiles = defaultdict(list)
    if named.foreign and None not in matches:
        numbered: dict[int, list[Path]] = defaultdict(list)
        for path, match in zip(paths, matches, strict=True):
            numbered[int(match[1]) if match else 0].append(path)
        files, foreign = _by_number(numbered, fed, summary, spec)
    else:
        for stem, of in named.files.items():
            for path in of:
                half = HeadFile(path, itemsize=2)
                is_half = path.suffix == ".bin" and half.head(spec) is not None
                files[stem].append(half if is_half else HeadFile(path))
        foreign = named.foreign
        problems["of one name"] += named.collisions
    problems["foreign"] += [path.name for path in foreign]
    problems["truncated"] += _halves(files.values(), spec)
    return files, problems


def _halves(files: Iterable[Sequence[HeadFile]], spec: ModelSpec) -> list[str]:
    """Files that look like a head in float16, but are float32 cut in half: others hold twice."""
    raw = [file for of in files for file in of if file.path.suffix == ".bin"]
    if {file.itemsize for file in raw} != {2, 4}:
        return []
    full = {file.head(spec) for file in raw if file.itemsize == 4}  # noqa: PLR2004  # float32
    halves = {f.path: f.head(spec) for f in raw if f.itemsize == 2}  # noqa: PLR2004  # float16
    return [f"{path.name} (half of {head})" for path, head in halves.items() if head in full]


def _by_number(
    numbered: Mapping[int, list[Path]],
    fed: Sequence[str],
    summary: Summary | None,
    spec: ModelSpec,
) -> tuple[HeadFiles, list[Path]]:
    """Files by stem, and those of no stem, where names only count samples, or whole batches."""
    samples: Mapping[int, Sequence[str]]
    if summary is not None and summary.samples:
        samples = summary.samples
        rows, itemsize = _fit(numbered, max(map(len, samples.values())), MAX_ROWS, spec)
    else:
        order, count = sorted(fed, key=lambda stem: natural_key(f"{stem}.bin")), max(numbered) + 1
        most = MAX_ROWS if count == 1 else (len(order) - 1) // (count - 1)
        rows, itemsize = _fit(numbered, -(-len(order) // count), most, spec)
        samples = {n: order[n * rows : (n + 1) * rows] for n in range(count)}
    files: HeadFiles = defaultdict(list)
    foreign = []
    for n, paths in numbered.items():
        stems = samples.get(n, ())
        of = rows
        if 0 < len(stems) < rows:  # the last batch: filled up to all rows, or cut to what was left
            fit = fit_rows(paths, (rows, len(stems)), (itemsize,), spec)
            of = rows if fit is None else fit[0]
        for row, stem in enumerate(stems):
            files[stem] += [HeadFile(path, row, of, itemsize) for path in paths]
        foreign += [] if stems else paths
    return dict(files), foreign


def _fit(
    numbered: Mapping[int, list[Path]], fewest: int, most: int, spec: ModelSpec
) -> tuple[int, int]:
    """Rows and itemsize of the files of whole batches; where none fits, all will be reported."""
    possible = range(max(1, fewest), most + 1)
    for n in sorted(numbered)[:10]:  # one may be broken, but not ten
        fit = fit_rows(numbered[n], possible, (4, 2), spec)
        if fit is not None:
            return fit
    return max(1, fewest), 4


@dataclass(frozen=True)
class Results:
    """
    The heads of each image in *folder*, read when they are asked for.

    *manifest* and *summary* are those that lay with them, if any did.
    """

    folder: Path
    spec: ModelSpec
    files: Mapping[str, Sequence[HeadFile]]
    manifest: Manifest | None
    summary: Summary | None

    @property
    def description(self) -> str:
        """Where the results are and, if that is known, what computed them."""
        runner = None if self.summary is None else self.summary.runner
        return f"results in {self.folder}" + ("" if runner is None else f", by {runner}")

    def heads(self, stem: str) -> Tensors:
        """
        Head outputs of the image *stem* by name, in the recipe's order, (1, C, H, W) float32.

        Raises `ResultError` where its files have changed since the folder was opened.
        """
        found = dict(file.load(self.spec) for file in self.files[stem])
        missing = [name for name in self.spec.head_shapes if name not in found]
        if missing:
            raise ResultError(
                f"{self.folder} has no {listed(missing)} of {stem}, but every head was wanted; "
                "run the inference again"
            )
        return {name: found[name] for name in self.spec.head_shapes}


def open_results(
    folder: Path,
    spec: ModelSpec,
    stems: Sequence[str],
    *,
    bins: Path | None = None,
    fed: Sequence[str] | None = None,
) -> Results:
    """
    The results of the inputs *stems* in *folder*, whichever of the known names its files have.

    *bins* is the folder of inputs, if it is at hand; *fed* are the stems of all that was fed, if
    that is more.  Raises `ResultError` with a list of what is missing, doubled, truncated,
    foreign or stale.
    """
    inputs = None if bins is None else open_inputs(bins, spec)
    manifest = find_manifest(folder, bins)
    if manifest is not None:
        manifest.check_spec(spec)
        fed = list(manifest.digests)
    elif inputs is not None:
        fed = [file.stem for file in inputs.files]
    summary, paths = read_summary(folder), result_files(folder)
    check_origin(folder, summary, manifest, spec)
    files, problems = sort_results(paths, stems if fed is None else fed, summary, spec)
    problems["missing"] += [stem for stem in stems if stem not in files]
    for stem in stems:
        for kind, what in _head_problems(files.get(stem, ()), spec):
            problems[kind].append(f"{stem} ({what})")
    problems["stale"] += _stale(folder, files, stems, manifest, summary, inputs)
    found = [f"{len(names)} {kind}: {listed(names)}" for kind, names in problems.items() if names]
    if found:
        remedy = "run the inference again, into a new folder"
        if any("older than" in name for name in problems["stale"]):
            remedy += "; or, where the inputs are only a later copy, touch the results"
        wrong = f"{folder} does not hold the results of {len(stems)} images"
        raise ResultError(f"{wrong}; {'; '.join(found)}; {remedy}")
    return Results(folder, spec, files, manifest, summary)


def find_manifest(folder: Path, bins: Path | None) -> Manifest | None:
    """The manifest of what was fed: beside the results in *folder*, or else in *bins*."""
    place = folder.absolute()
    places = [place.parent / f"{place.name}_manifest.json"]
    places += [] if bins is None else [bins / MANIFEST]
    return next((read_manifest(path) for path in places if path.exists()), None)


def _head_problems(files: Sequence[HeadFile], spec: ModelSpec) -> Iterator[tuple[str, str]]:
    """What keeps *files* from being one image's heads: kind of problem, and its details."""
    if not files:
        return
    # How many values a text file holds is only known once it has been read.
    sized = [file for file in files if file.path.suffix != ".txt"]
    heads = [file.head(spec) for file in sized]
    broken = [f.path for f, head in zip(sized, heads, strict=True) if head is None]
    broken += [f.path for f in files if f.path.stat().st_size == 0 and f not in sized]
    if broken:
        yield "truncated", listed(f"{p.name}: {p.stat().st_size} bytes" for p in broken)
    twice = sorted({head for head in heads if head is not None and heads.count(head) > 1})
    if twice:
        yield "doubled", "all heads" if len(twice) == len(spec.head_shapes) else listed(twice)
    missing = [name for name in spec.head_shapes if name not in heads]
    unread = len(files) - len(sized)
    if len(missing) > unread + len(broken):
        yield "incomplete", f"{unread} files" if unread else f"no {listed(missing)}"
    elif unread > len(missing):
        yield "doubled", f"{len(files)} files"


def _stale(
    folder: Path,
    files: Mapping[str, Sequence[HeadFile]],
    stems: Iterable[str],
    manifest: Manifest | None,
    summary: Summary | None,
    inputs: InputFiles | None,
) -> Iterator[str]:
    """Stems whose results were made of other inputs than those at hand."""
    unfed = set(stems) - summary.stems if summary is not None and summary.stems else set()
    current = None if inputs is None else inputs.manifest
    paths = {} if inputs is None else {path.stem: path for path in inputs.files}
    for stem in stems:
        # Of several devices, each has a summary of its own.
        if stem in unfed and all(file.path.parent == folder for file in files.get(stem, ())):
            yield f"{stem} (not fed, by the summary)"
        elif current is not None and manifest is not None and manifest.path != current.path:
            if current.digests.get(stem) != manifest.digests.get(stem):
                yield f"{stem} (of another input)"
        elif stem in paths and stem in files:
            oldest = min(file.path.stat().st_mtime_ns for file in files[stem])
            if oldest < paths[stem].stat().st_mtime_ns:
                yield f"{stem} (older than {paths[stem].name})"
