"""Result files -> the files, and in them the rows, that belong to each image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..spec import ModelSpec
from .heads import MAX_ROWS, HeadFile, fit_rows
from .inputs import natural_key
from .names import Summary, named_files, numbered_files

HeadFiles = dict[str, list[HeadFile]]
Problems = dict[str, list[str]]


def sort_results(
    paths: Sequence[Path], fed: Sequence[str], summary: Summary | None, spec: ModelSpec
) -> tuple[HeadFiles, Problems]:
    """
    Sort *paths* by the stems of the inputs that were *fed*; give what is wrong by its kind too.

    Names that only count are led back to stems by *summary*, or by the natural order of *fed*.
    """
    named, numbered = named_files(paths, fed), numbered_files(paths)
    problems: Problems = defaultdict(list)
    if named.foreign and numbered is not None:
        files, foreign = _by_number(numbered, fed, summary, spec)
    else:
        files = {stem: [_whole(path, spec) for path in of] for stem, of in named.files.items()}
        foreign = named.foreign
        problems["of one name"] += named.collisions
    problems["foreign"] += [path.name for path in foreign]
    problems["truncated"] += _halves(files.values(), spec)
    return files, problems


def _whole(path: Path, spec: ModelSpec) -> HeadFile:
    """A file of one image; in float16 if that makes it a head."""
    half = HeadFile(path, itemsize=2)
    return half if path.suffix == ".bin" and half.head(spec) is not None else HeadFile(path)


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
        order, count = sorted(fed, key=_listed_at), max(numbered) + 1
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


def _listed_at(stem: str) -> list[object]:
    """Where ais_bench came upon the input *stem* in its folder."""
    return natural_key(f"{stem}.bin")
