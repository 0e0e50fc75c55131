"""
Results on disk: the heads of each image, whichever of the known namings their files have.

Which head a file holds is told by its size alone, or which of the two tables of all anchors.  None
of any spec has the size of another, in float32 as in float16, so that neither a file's number nor
the order of a model's outputs is trusted.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ..errors import ResultError, listed
from ..io import model_sha256
from ..spec import ModelSpec
from ..types import Floats, Tensors
from . import inputs as fed_by
from .inputs import InputFiles, Manifest

SUFFIXES = (".bin", ".npy", ".txt")
_NUMBERED = re.compile(r"(?:sample_id_|input)(\d+)_output_\d+")
_NAMED = re.compile(r"(.+)_\d+")
#: A folder for each device of a run on several: of 2023, and of 2024.
_DEVICE = re.compile(r"device\d+(_\d+)?")
#: Rows that one file of an early ais_infer may hold.
MAX_ROWS = 1024
#: No logit or box code is so large; of the lower halves of float64, read as float32, at least a
#: quarter is (of values that were float32, those whose last three bits are 3 or 7), and of a head
#: that overflowed, both halves are.
_WILD, _HALVES = 1e9, 0.05


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
        wanted = file_shapes(spec)[name]
        return name if len(shape) == 1 or shape[-len(wanted) :] == wanted else None

    def load(self, spec: ModelSpec) -> tuple[str, Floats]:
        """Name and values of this image's head, (1, *shape) float32; `ResultError` if none."""
        again = "run the inference again"
        try:
            values = _content(self.path, self.itemsize)
        except (OSError, ValueError, EOFError) as error:
            raise ResultError(f"{self.path} cannot be read: {error}; {again}") from error
        if (name := self._named(values.size, spec)) is None:
            raise ResultError(
                f"{self.path} holds {values.size} values, but {self.rows} times one of "
                f"{sorted(head_sizes(spec))} were wanted; {again}"
            )
        if found := fed_by.misread(values):
            raise ResultError(
                f"{self.path} holds {found} values, but float{8 * self.itemsize}, little-endian, "
                "was wanted; write the results again"
            )
        rows = values.reshape(self.rows, *file_shapes(spec)[name])
        # Of a batch, a copy: the other rows are not to stay in memory.
        return name, rows[self.row : self.row + 1].astype(np.float32, copy=self.rows > 1)

    def _named(self, values: int, spec: ModelSpec) -> str | None:
        size, rest = divmod(values, self.rows)
        return None if rest else head_sizes(spec).get(size)


#: The two tables of all anchors.
MERGED = ("classes", "boxes")


def file_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Shapes of what a file may hold of one image: the ten heads, and the two merged ones."""
    merged = {"classes": (spec.num_anchors, spec.num_classes), "boxes": (spec.num_anchors, 4)}
    return {**spec.head_shapes, **merged}


def wanted_heads(names: Iterable[str | None], spec: ModelSpec) -> tuple[str, ...]:
    """All heads of an image some of whose are *names*: the merged ones, or else the ten."""
    return MERGED if set(MERGED) & set(names) else tuple(spec.head_shapes)


@cache
def head_sizes(spec: ModelSpec) -> dict[int, str]:
    """How many values each head of one image has -> its name."""
    return {math.prod(shape): name for name, shape in file_shapes(spec).items()}


def value_count(path: Path, itemsize: int) -> int:
    """How many values *path* holds; -1 if it is broken.  A text file has to be read for it."""
    if path.suffix == ".bin":
        count, rest = divmod(path.stat().st_size, itemsize)
        return -1 if rest else count
    try:
        return int(_content(path, itemsize, mmap_mode="r").size)
    except (OSError, ValueError, EOFError):
        return -1


def _content(path: Path, itemsize: int, **options: Any) -> np.ndarray:
    """The content of *path*."""
    if path.suffix == ".npy":
        array: np.ndarray = np.load(path, allow_pickle=False, **options)
        return array
    if path.suffix == ".txt":
        return np.loadtxt(path, np.float32, ndmin=1).ravel()
    return np.fromfile(path, f"<f{itemsize}")


def fit_rows(
    files: Sequence[Path],
    possible: Iterable[int],
    spec: ModelSpec,
    itemsizes: tuple[int, ...] = (4, 2),
) -> tuple[int, int] | None:
    """The first number of rows, and itemsize, with which *files* are all heads of *spec*, once."""
    counts = {size: sorted(value_count(path, size) for path in files) for size in itemsizes}
    merged = len(files) == len(MERGED)
    sizes = sorted(n for n, name in head_sizes(spec).items() if (name in MERGED) == merged)
    for rows in possible:
        wanted = [rows * size for size in sizes]
        for itemsize, found in counts.items():
            if found == wanted:
                return rows, itemsize
    return None


class Summary(msgspec.Struct, frozen=True):
    """
    What a run says of itself: the stems that each numbered sample was made of, in order.

    ais_bench's name for padding is one of them.  The rest is what effd0 adds, None where another
    tool wrote it or nobody did: what computed, of which model file and spec, on the inputs of which
    manifest.
    """

    path: Path = Path()
    samples: dict[int, tuple[str, ...]] = {}
    runner: str | None = None
    model: str | None = None
    model_sha256: str | None = None
    manifest_sha256: str | None = None
    spec: dict[str, Any] | None = None


class _Sample(msgspec.Struct):
    infiles: tuple[str, ...] = ()


class _SummaryFile(msgspec.Struct):
    filesinfo: dict[int, _Sample] = {}
    effd0: Summary = Summary()


def read_summary(folder: Path) -> Summary:
    """The summary beside *folder* or, of early versions, in it; empty where there is none."""
    folder = folder.absolute()
    beside = folder.parent / f"{folder.name}_summary.json"
    path = next((p for p in (beside, folder / "sumary.json") if p.exists()), None)
    if path is None:
        return Summary(beside)
    content = fed_by.read_json(path, _SummaryFile, "delete it, or run the inference again")
    files = {number: sample.infiles for number, sample in content.filesinfo.items()}
    samples = {number: tuple(Path(file).stem for file in of) for number, of in files.items()}
    return msgspec.structs.replace(content.effd0, path=path, samples=samples)


def check_origin(
    folder: Path, summary: Summary, manifest: Manifest | None, spec: ModelSpec
) -> None:
    """
    Raise `ResultError` where *summary* is of other inputs than *manifest* or another model's spec.

    What it does not say cannot contradict.
    """
    known = summary.manifest_sha256
    if manifest is not None and known not in (None, manifest.sha256):
        raise ResultError(
            f"{folder} was made of the inputs of another manifest (sha256 {known[:12]}, by "
            f"{summary.path.name}) than {manifest.path} ({manifest.sha256[:12]}); "
            "run the inference again on these inputs, or give those that it was run on"
        )
    # Which categories its classes are is the affair of the data set.
    asked = json.loads(json.dumps(asdict(replace(spec, category_ids=None))))
    recorded = asked if summary.spec is None else summary.spec
    differ = [f"{k} {recorded.get(k)}, not {v}" for k, v in asked.items() if recorded.get(k) != v]
    if differ:
        raise ResultError(
            f"{folder} is of a model with {'; '.join(differ)}, by {summary.path.name}; "
            "give the --arch, --image-size and --num-classes that it was run with"
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
    known, recorded = summary.model_sha256, summary.model
    if known is None or Path(recorded or model).suffix != model.suffix:
        what = "no model" if known is None else recorded
        if proved:
            raise ResultError(
                f"--model is {model}, but the summary of {folder} names {what}; leave --model out, "
                "or run the inference again with 'effd0 infer'"
            )
    elif known != (wanted := model_sha256(model)):
        raise ResultError(
            f"{folder} holds the results of {recorded or 'a model'} (sha256 {known[:12]}), but "
            f"--model is {model} (sha256 {wanted[:12]}); run the inference again with it, or give "
            "the results of it"
        )


HeadFiles = Mapping[str, Sequence[HeadFile]]
Problems = dict[str, list[str]]


def sort_results(
    paths: Sequence[Path], fed: Sequence[str], summary: Summary, spec: ModelSpec
) -> tuple[HeadFiles, Problems]:
    """
    Sort *paths* by the stems of the inputs that were *fed*; give what is wrong by its kind too.

    Names that only count are led back to stems by *summary*, or by the natural order of *fed*.
    """
    problems: Problems = defaultdict(list)
    named, foreign, collisions = _by_stem(paths, fed)
    numbered: dict[int, list[Path]] = defaultdict(list)
    for path in paths:
        if match := _NUMBERED.fullmatch(path.stem):
            numbered[int(match[1])].append(path)
    files: HeadFiles
    if foreign and sum(map(len, numbered.values())) == len(paths):
        files, foreign = _by_number(numbered, fed, summary, spec)
    else:
        raw = [path for of in named.values() for path in of if path.suffix == ".bin"]
        sizes = ((path, HeadFile(path, itemsize=2).head(spec)) for path in raw)
        halves = {path: head for path, head in sizes if head is not None}
        files = {
            stem: [HeadFile(path, itemsize=2 if path in halves else 4) for path in of]
            for stem, of in named.items()
        }
        # Where others are float32, what looks like a head of theirs in float16 was cut in half.
        full = {HeadFile(path).head(spec) for path in raw if path not in halves}
        cut = [f"{path.name} (half of {head})" for path, head in halves.items() if head in full]
        problems |= {"of one name": collisions, "truncated": cut}
    problems["foreign"] += [path.name for path in foreign]
    return files, problems


def _by_stem(
    files: Iterable[Path], stems: Sequence[str]
) -> tuple[dict[str, list[Path]], list[Path], list[str]]:
    """
    Sort *files* named after their inputs by the inputs' *stems*, whole or cut at a dot.

    The second are those of no input, the third names that several inputs have when cut.
    """
    by_key, named = defaultdict[str, list[Path]](list), defaultdict[str, list[Path]](list)
    cut, foreign = defaultdict[str, list[str]](list), list[Path]()
    collisions, whole = [], set(stems)
    for path in files:
        match = _NAMED.fullmatch(path.stem)
        (by_key[match[1]] if match else foreign).append(path)
    for stem in stems:
        cut[stem.partition(".")[0]].append(stem)
    for key, found in by_key.items():
        owners = [key] if key in whole else []
        owners += [stem for stem in cut.get(key, ()) if stem not in by_key and stem != key]
        if len(owners) == 1:
            named[owners[0]] += found
        elif owners:
            collisions.append(f"{key} ({', '.join(owners)})")
        else:
            foreign += found
    return named, foreign, collisions


def _by_number(
    numbered: Mapping[int, list[Path]], fed: Sequence[str], summary: Summary, spec: ModelSpec
) -> tuple[HeadFiles, list[Path]]:
    """Files by stem, and those of no stem, where names only count samples, or whole batches."""
    samples: Mapping[int, Sequence[str]] = summary.samples
    order = sorted(fed, key=lambda stem: fed_by.natural_key(f"{stem}.bin"))
    count = max(numbered) + 1
    fewest = max(map(len, samples.values())) if samples else -(-len(order) // count)
    most = MAX_ROWS if samples or count == 1 else (len(order) - 1) // (count - 1)
    possible = range(fewest := max(1, fewest), most + 1)
    # One batch may be broken, but not ten; where none fits, all will be reported.
    tried = (fit_rows(numbered[n], possible, spec) for n in sorted(numbered)[:10])
    rows, itemsize = next(filter(None, tried), (fewest, 4))
    if (rows % 2, itemsize) == (0, 4) and _is_float64(numbered[min(numbered)][0]):
        rows //= 2  # then no file has the size of a head, and all will be reported
    samples = samples or {n: order[n * rows : (n + 1) * rows] for n in range(count)}
    files, foreign = defaultdict[str, list[HeadFile]](list), list[Path]()
    for n, paths in numbered.items():
        stems, of = samples.get(n, ()), rows
        if 0 < len(stems) < rows:  # the last batch: filled up to all rows, or cut to what was left
            of, _ = fit_rows(paths, (rows, len(stems)), spec, (itemsize,)) or (rows, 0)
        for row, stem in enumerate(stems):
            files[stem] += [HeadFile(path, row, of, itemsize) for path in paths]
        foreign += [] if stems else paths
    return files, foreign


def _is_float64(path: Path) -> bool:
    """Whether each second float32 in *path* is wild, as the lower halves of float64 are."""
    if path.suffix != ".bin":
        return False
    lower, upper = (~(np.abs(_content(path, 4)[half::2]) < _WILD) for half in (0, 1))
    return bool(lower.mean() > _HALVES and not upper.any())


@dataclass(frozen=True)
class Results:
    """
    The heads of each image in *folder*, read when they are asked for.

    *manifest* is that which lay with them, if any did; *summary* is empty if none did.
    """

    folder: Path
    spec: ModelSpec
    files: HeadFiles
    manifest: Manifest | None
    summary: Summary

    @property
    def description(self) -> str:
        """Where the results are and, if that is known, what computed them."""
        runner = self.summary.runner
        return f"results in {self.folder}" + ("" if runner is None else f", by {runner}")

    def heads(self, stem: str) -> Tensors:
        """
        Head outputs of the image *stem* by name, in the recipe's order, (1, C, H, W) float32;
        `MERGED` ones are (1, anchors, classes or 4).

        Raises `ResultError` where its files have changed since the folder was opened.
        """
        found = dict(file.load(self.spec) for file in self.files[stem])
        wanted = wanted_heads(found, self.spec)
        if missing := [name for name in wanted if name not in found]:
            raise ResultError(
                f"{self.folder} has no {listed(missing)} of {stem}, but every head was wanted; "
                "run the inference again"
            )
        return {name: found[name] for name in wanted}


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
    inputs = None if bins is None else fed_by.open_inputs(bins, spec)
    manifest = fed_by.find_manifest(folder, bins)
    if manifest is not None:
        manifest.check_spec(spec)
        fed = list(manifest.digests)
    elif inputs is not None:
        fed = [file.stem for file in inputs.files]
    if not folder.is_dir():
        raise ResultError(f"{folder} is not a folder; make one with 'effd0 infer --output'")
    summary = read_summary(folder)
    places = [folder, *(p for p in folder.iterdir() if p.is_dir() and _DEVICE.fullmatch(p.name))]
    every = sorted(path for place in places for path in place.iterdir())
    paths = [path for path in every if path.suffix in SUFFIXES and path.name[0] != "."]
    if not paths:
        raise ResultError(
            f"{folder} holds no result file ({', '.join(SUFFIXES)}); "
            "give the folder that 'effd0 infer' or ais_bench named"
        )
    check_origin(folder, summary, manifest, spec)
    files, problems = sort_results(paths, stems if fed is None else fed, summary, spec)
    problems["missing"] = [stem for stem in stems if stem not in files]
    for stem in stems:
        for kind, what in _head_problems(files.get(stem, ()), spec):
            problems[kind].append(f"{stem} ({what})")
    results = Results(folder, spec, files, manifest, summary)
    problems["stale"] = list(_stale(results, stems, inputs))
    if found := [f"{len(of)} {kind}: {listed(of)}" for kind, of in problems.items() if of]:
        remedy = "run the inference again, into a new folder"
        if any("older than" in name for name in problems["stale"]):
            remedy += "; or, where the inputs are only a later copy, touch the results"
        wrong = f"{folder} does not hold the results of {len(stems)} images"
        raise ResultError(f"{wrong}; {'; '.join(found)}; {remedy}")
    return results


def _head_problems(files: Sequence[HeadFile], spec: ModelSpec) -> Iterator[tuple[str, str]]:
    """What keeps *files* from being one image's heads: kind of problem, and its details."""
    if not files:
        return
    # How many values a text file holds is only known once it has been read.
    sized = [file for file in files if file.path.suffix != ".txt"]
    heads = [file.head(spec) for file in sized]
    broken = [f.path for f, head in zip(sized, heads, strict=True) if head is None]
    broken += [f.path for f in files if f.path.stat().st_size == 0 and f not in sized]
    wide = (replace(file, itemsize=8) for file in files if file.path in broken)
    doubles = [file.path for file in wide if file.path.suffix == ".bin" and file.head(spec)]
    if doubles:
        yield "float64, but float32 or float16 was wanted", listed(p.name for p in doubles)
    elif broken:
        yield "truncated", listed(f"{p.name}: {p.stat().st_size} bytes" for p in broken)
    twice = sorted({head for head in heads if head is not None and heads.count(head) > 1})
    if twice:
        yield "doubled", "all heads" if len(twice) == len(spec.head_shapes) else listed(twice)
    missing = [name for name in wanted_heads(heads, spec) if name not in heads]
    unread = len(files) - len(sized)
    if len(missing) > unread + len(broken):
        yield "incomplete", f"{unread} files" if unread else f"no {listed(missing)}"
    elif unread > len(missing):
        yield "doubled", f"{len(files)} files"


def _stale(results: Results, stems: Iterable[str], inputs: InputFiles | None) -> Iterator[str]:
    """Stems whose *results* were made of other inputs than those at hand."""
    listed_stems = {stem for sample in results.summary.samples.values() for stem in sample}
    current = None if inputs is None else inputs.manifest
    both = [one for one in (current, results.manifest) if one is not None]
    digests = [one.digests for one in both] if len({one.path for one in both}) > 1 else []
    paths = {} if inputs is None else {path.stem: path for path in inputs.files}
    for stem in stems:
        found = [file.path for file in results.files.get(stem, ())]
        # Of several devices, each has a summary of its own.
        here = all(path.parent == results.folder for path in found)
        if listed_stems and stem not in listed_stems and here:
            yield f"{stem} (not fed, by the summary)"
        elif len({of.get(stem) for of in digests}) > 1:
            yield f"{stem} (of another input)"
        elif not digests and stem in paths and found:
            oldest = min(path.stat().st_mtime_ns for path in found)
            if oldest < paths[stem].stat().st_mtime_ns:
                yield f"{stem} (older than {paths[stem].name})"
