"""
Results on disk: the heads of each image, whichever of the known namings their files have.

Which head a file holds, or which of the two tables of all anchors, is told by its size alone where
each has a size of its own, as with COCO's 90 classes; neither a file's number nor the order of a
model's outputs is then trusted.  With other numbers of classes, heads may have one size: a class
head of 1 class has that of the box head of the level below.  There the shape of an array tells
them apart, and else the file's number, the place of its output in the model.  Outputs are those
that the summary lists, or else in the recipe's order, class heads from P3 up, then boxes; this
order is trusted where the sizes of all files of the image fit it, and refused elsewhere.  Whether
raw values are float32 or float16 is told by all files of an image together.
"""

import contextlib
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ..detection.heads import MERGED, head_names, merged_shapes
from ..errors import HeadError, ResultError, listed
from ..io import model_sha256
from ..spec import ModelSpec
from ..types import Tensors
from . import inputs as fed_by
from .inputs import InputFiles, Manifest

SUFFIXES = (".bin", ".npy", ".txt")
_NUMBERED = re.compile(r"(?:sample_id_|input)(\d+)_output_\d+")
_NAMED = re.compile(r"(.+)_\d+")
#: A folder for each device of a run on several: of 2023, and of 2024.
_DEVICE = re.compile(r"device\d+(_\d+)?")
#: Rows that one file of an early ais_infer may hold.
MAX_ROWS = 1024
#: Bytes of a value that may be: float32, float16.
_ITEMSIZES = (4, 2)
#: No logit or box code is so large; of the lower halves of float64, read as float32, at least a
#: quarter is (of values that were float32, those whose last three bits are 3 or 7), and of a head
#: that overflowed, both halves are.
_WILD, _HALVES = 1e9, 0.05


#: Shape of what a file holds; flat, where it is no array.
Shape = tuple[int, ...]


@dataclass(frozen=True)
class HeadFile:
    """One image's *row* among the *rows* of a file, whose raw values have *itemsize* bytes."""

    path: Path
    row: int = 0
    rows: int = 1
    itemsize: int = 4

    @property
    def number(self) -> int:
        """The number of the output, which ends the name."""
        return int(self.path.stem.rpartition("_")[2])

    def shape(self) -> Shape:
        """Shape of the whole file; (-1,) if it is broken.  A text file has to be read for it."""
        if self.path.suffix == ".bin":
            count, rest = divmod(self.path.stat().st_size, self.itemsize)
            return (-1,) if rest else (count,)
        try:
            return tuple(_content(self.path, self.itemsize, mmap_mode="r").shape)
        except (OSError, ValueError, EOFError):
            return (-1,)

    def may_be(self, shape: Shape, spec: ModelSpec) -> tuple[str, ...]:
        """Names of the heads of *spec* that a file of *shape* can hold."""
        size, rest = divmod(math.prod(shape), self.rows)
        shapes = file_shapes(spec)
        return tuple(
            name
            for name in (() if rest else head_sizes(spec).get(size, ()))
            # A flat one says nothing; one of another layout says that it is not to be read.
            if len(shape) == 1 or shape[-len(shapes[name]) :] == shapes[name]
        )

    def load(self, spec: ModelSpec) -> tuple[Shape, np.ndarray]:
        """Shape of the whole file, and this image's values, flat; `ResultError` if none."""
        again = "run the inference again"
        try:
            values = _content(self.path, self.itemsize)
        except (OSError, ValueError, EOFError) as error:
            raise ResultError(f"{self.path} cannot be read: {error}; {again}") from error
        if not self.may_be(values.shape, spec):
            raise ResultError(
                f"{self.path} holds {values.size} values, but {self.rows} times one of "
                f"{sorted(head_sizes(spec))} were wanted; {again}"
            )
        if found := fed_by.misread(values):
            raise ResultError(
                f"{self.path} holds {found} values, but float{8 * self.itemsize}, little-endian, "
                "was wanted; write the results again"
            )
        row = values.reshape(self.rows, -1)[self.row]
        # Of a batch, a copy: the other rows are not to stay in memory.
        return values.shape, row.astype(np.float32, copy=self.rows > 1)


def told_apart(
    files: Sequence[HeadFile], shapes: Sequence[Shape], spec: ModelSpec, order: Sequence[str] | None
) -> list[tuple[str, ...]]:
    """
    Names of the heads that each of *files*, of *shapes*, can hold: one if it is told, else several.

    They are the *files* of one image, of a model with outputs in this *order*, the recipe's if
    None.
    """
    every = [file.may_be(shape, spec) for file, shape in zip(files, shapes, strict=True)]
    if all(len(names) <= 1 for names in every):
        return every
    fitting = MERGED if len(files) <= len(MERGED) else spec.output_names
    placed = dict(enumerate(order or fitting))
    told = [placed.get(file.number, "") for file in files]
    if all(name in names for name, names in zip(told, every, strict=True) if names):
        return [names and (name,) for name, names in zip(told, every, strict=True)]
    return [tuple(name for name in names if name in fitting) or names for names in every]


@cache
def file_shapes(spec: ModelSpec) -> dict[str, Shape]:
    """Shapes of what a file may hold of one image: the heads, and the two `MERGED` ones."""
    return {**spec.head_shapes, **merged_shapes(spec)}


def wanted_heads(names: Iterable[str | None], spec: ModelSpec) -> tuple[str, ...]:
    """All heads of an image some of whose are *names*: the merged ones, or else each by itself."""
    return MERGED if set(MERGED) & set(names) else tuple(spec.head_shapes)


@cache
def head_sizes(spec: ModelSpec) -> dict[int, tuple[str, ...]]:
    """How many values a head of one image has -> the names of all that have so many."""
    sizes = defaultdict[int, list[str]](list)
    for name, shape in file_shapes(spec).items():
        sizes[math.prod(shape)].append(name)
    return {size: tuple(names) for size, names in sizes.items()}


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
    itemsizes: tuple[int, ...] = _ITEMSIZES,
) -> tuple[int, int] | None:
    """The first number of rows, and itemsize, with which *files* are all heads of *spec*, once."""
    counts = {
        size: sorted(math.prod(HeadFile(path, itemsize=size).shape()) for path in files)
        for size in itemsizes
    }
    shapes = merged_shapes(spec) if len(files) == len(MERGED) else spec.head_shapes
    sizes = sorted(map(math.prod, shapes.values()))
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
    manifest, and which outputs the files of an image are, by name, with their shapes.
    """

    path: Path = Path()
    samples: dict[int, tuple[str, ...]] = {}
    runner: str | None = None
    model: str | None = None
    model_sha256: str | None = None
    manifest_sha256: str | None = None
    spec: dict[str, Any] | None = None
    outputs: dict[str, tuple[int | None, ...]] | None = None

    def order(self, spec: ModelSpec) -> tuple[str, ...] | None:
        """The heads of *spec* in the order of the outputs; None where these do not tell."""
        with contextlib.suppress(HeadError):
            heads = {given: name for name, given in head_names(self.outputs or {}, spec).items()}
            return tuple(heads[given] for given in self.outputs or ())
        return None


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
        files, cut = _raw_files(named, spec)
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


def _raw_files(named: Mapping[str, list[Path]], spec: ModelSpec) -> tuple[HeadFiles, list[str]]:
    """
    The files of each stem with their itemsize, and those that are cut in half.

    The itemsize is that by which most of a stem's raw files are heads of *spec*, or most of all
    raw files where this leaves it open.
    """
    known = Counter(map(math.prod, file_shapes(spec).values()))
    sizes = {p: p.stat().st_size for of in named.values() for p in of if p.suffix == ".bin"}

    def fit(paths: Iterable[Path], itemsize: int) -> int:
        values = (divmod(sizes[path], itemsize) for path in paths if path in sizes)
        return (Counter(count for count, rest in values if not rest) & known).total()

    fits = {stem: {i: fit(of, i) for i in _ITEMSIZES} for stem, of in named.items()}
    usual = max(_ITEMSIZES, key=lambda i: sum(of[i] for of in fits.values()))
    single, half = _ITEMSIZES
    files, odd = defaultdict[str, list[HeadFile]](list), set[Path]()
    for stem, of in named.items():
        itemsize = max(_ITEMSIZES, key=lambda i: (fits[stem][i], i == usual))
        for path in of:
            own = half if fit([path], half) and not fit([path], single) else itemsize
            files[stem].append(HeadFile(path, itemsize=own))
            odd |= {path} if own != itemsize else set()
    # Where others are float32, what looks like a head of theirs in float16 was cut in half.
    raw = {file.path: file.itemsize for of in files.values() for file in of if file.path in sizes}
    full = {sizes[path] for path, itemsize in raw.items() if itemsize == single}
    # A model may write one output in float16 and another in float32, but the same in each image.
    ends = Counter(HeadFile(path).number for path in odd)
    odd = {path for path in odd if ends[HeadFile(path).number] < max(2, len(named))}
    cut = [p for p, own in raw.items() if own == half and (p in odd or 2 * sizes[p] in full)]
    heads = ((path, head_sizes(spec).get(sizes[path] // half, ())) for path in cut)
    return files, [f"{path.name} (half of {' or '.join(of)})" for path, of in heads if of]


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
        rows //= 2  # then the largest file, at least, has the size of no head, and is reported
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
        files, shapes = self.files[stem], file_shapes(self.spec)
        of, rows = zip(*(file.load(self.spec) for file in files), strict=True)
        told = told_apart(files, of, self.spec, self.summary.order(self.spec))
        if unclear := _unclear(told, self.spec):
            raise ResultError(f"{stem} in {self.folder} is unclear: {unclear}")
        found = {
            name: row.reshape(1, *shapes[name]) for (name,), row in zip(told, rows, strict=True)
        }
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
    order = summary.order(spec)
    for stem in stems:
        for kind, what in _head_problems(files.get(stem, ()), spec, order):
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


def _unclear(told: Iterable[tuple[str, ...]], spec: ModelSpec) -> str:
    """Which heads *told* leaves open, and what helps; empty if none."""
    several = next((names for names in told if len(names) > 1), ())
    if not several:
        return ""
    order = f"{spec.output_names[0]} to {spec.output_names[-1]}"
    return (
        f"{' and '.join(several)} have one size, but the files are not in the order {order}; "
        "run 'effd0 infer', which notes the order, or a model with its outputs in this one"
    )


def _head_problems(
    files: Sequence[HeadFile], spec: ModelSpec, order: Sequence[str] | None
) -> Iterator[tuple[str, str]]:
    """What keeps *files* from being one image's heads: kind of problem, and its details."""
    if not files:
        return
    # How many values a text file holds is only known once it has been read.
    sized = [file for file in files if file.path.suffix != ".txt"]
    told = told_apart(sized, [file.shape() for file in sized], spec, order)
    heads = [names[0] for names in told if names]
    broken = [f.path for f, names in zip(sized, told, strict=True) if not names]
    broken += [f.path for f in files if f.path.stat().st_size == 0 and f not in sized]
    wide = (replace(file, itemsize=8) for file in files if file.path in broken)
    doubles = [f.path for f in wide if f.path.suffix == ".bin" and f.may_be(f.shape(), spec)]
    if doubles:
        yield "float64, but float32 or float16 was wanted", listed(p.name for p in doubles)
    elif broken:
        yield "truncated", listed(f"{p.name}: {p.stat().st_size} bytes" for p in broken)
    if unclear := _unclear(told, spec):
        yield "unclear", unclear
        return
    twice = sorted({head for head in heads if heads.count(head) > 1})
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
