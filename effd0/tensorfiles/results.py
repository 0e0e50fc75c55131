"""
Head outputs on disk, of this package or of any ais_infer or ais_bench, read back by image.

A folder is complete, fresh and of these images, or it is refused with a list of what is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..arrays import Tensors
from ..errors import ResultError
from ..spec import ModelSpec
from .heads import HeadFile
from .inputs import InputFiles, open_inputs
from .manifest import MANIFEST, Manifest, listed, read_manifest
from .names import Summary, read_summary, result_files
from .origin import check_origin
from .rows import sort_results


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
    _refuse(folder, len(stems), problems)
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


def _refuse(folder: Path, images: int, problems: Mapping[str, Sequence[str]]) -> None:
    found = [f"{len(names)} {kind}: {listed(names)}" for kind, names in problems.items() if names]
    if not found:
        return
    remedy = "run the inference again, into a new folder"
    if any("older than" in name for name in problems.get("stale", ())):
        remedy += "; or, where the inputs are only a later copy, touch the results"
    raise ResultError(
        f"{folder} does not hold the results of {images} images; {'; '.join(found)}; {remedy}"
    )
