"""Which images of a set are wrong: what they have in common, and whose content they hold."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..data.coco import Sample
from ..tensors.inputs import natural_key
from .hypothesis import Diagnosis

#: Share of the right images that may have what all wrong ones have: more, and it is chance.
FEW = 0.05
#: Seconds between two files from which they were written in two runs.
PAUSE_S = 60
#: Wrong images of which the content is looked for in others, and how many of them a line shows.
LOOKED_AT, SHOWN = 64, 3
#: Images from which a regular order is no chance.
PATTERN = 3


def in_file_order(samples: Sequence[Sample]) -> list[Sample]:
    """Return *samples* by the names of their files, numbers by size, as other tools list them."""
    return sorted(samples, key=lambda sample: natural_key(sample.path.name))


def differing(
    wrong: Sequence[Sample], samples: Sequence[Sample], what: str, files: Mapping[str, Path]
) -> str:
    """
    Say how many of *samples* are *wrong*, in *what*, the first names, and what they have in common.

    *files* are those made of the images, by the images' stems.
    """
    names = [sample.path.name for sample in in_file_order(wrong)]
    shown = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
    shared = in_common(wrong, samples, files)
    text = f"{what} of {len(wrong)} of {len(samples)} images differ ({shown})"
    return f"{text}: {shared}" if shared else text


def in_common(wrong: Sequence[Sample], samples: Sequence[Sample], files: Mapping[str, Path]) -> str:
    """
    Say what all *wrong* images of *samples* have and at most `FEW` of the others; empty if nothing.

    Compared are their places in the order of files, shape and colour, and folder and time of
    *files*, which were made of the images, by their stems.
    """
    ordered, bad = in_file_order(samples), set(wrong)
    right = [sample for sample in ordered if sample not in bad]
    if len(wrong) <= 1 or not right:
        return ""
    first, *_, last = (n for n, sample in enumerate(ordered) if sample in bad)
    found = []
    if last - first < len(wrong):
        end = ", the last of all" if last == len(ordered) - 1 else ""
        span = f"{ordered[first].path.name} to {ordered[last].path.name}"
        found.append(f"neighbours in file order, {span}{end}")

    def folder(sample: Sample) -> str:
        file = files.get(sample.path.stem)
        return "" if file is None else f"in {file.parent.name}"

    for feature in (_orientation, _colour, folder):
        value, *others = {feature(sample) for sample in wrong}
        alike = 0 if others else sum(feature(sample) == value for sample in right)
        if value and not others and alike <= FEW * len(right):
            found.append(f"all are {value}" + (f", as {alike} others are" if alike else ""))
    times = [
        sorted(files[s.path.stem].stat().st_mtime for s in side if s.path.stem in files)
        for side in (wrong, right)
    ]
    if all(times):
        within = max(float(np.diff(side).max(initial=0)) for side in times)
        for (one, other), word in zip((times, times[::-1]), ("after", "before"), strict=True):
            if (pause := one[0] - other[-1]) > max(PAUSE_S, 2 * within):
                found.append(f"their files were written {pause:.0f} s {word} those of all others")
    return "; ".join(found)


def _orientation(sample: Sample) -> str:
    width, height = sample.size
    return "portrait" if height > width else "landscape" if width > height else "square"


def _colour(sample: Sample) -> str:
    with Image.open(sample.path) as image:
        return "grayscale" if image.mode in ("1", "L", "LA") else ""


def misplaced(
    wrong: Sequence[Sample],
    samples: Sequence[Sample],
    error: Callable[[Sample, Sample], float],
    limit: float,
) -> Diagnosis | None:
    """
    Name how *wrong* images hold the content of others of *samples*; None where none does.

    *error* compares what the first image holds with what the second should hold; it is at most
    *limit* where they are alike, and an image that is like its own holds that.  The first
    `LOOKED_AT` wrong images are looked at.
    """
    place = {sample: n for n, sample in enumerate(in_file_order(samples))}
    order: dict[Sample, Sample] = {}
    before = after = 0.0
    for one in in_file_order(wrong)[:LOOKED_AT]:
        left, _, other = min((error(one, other), n, other) for other, n in place.items())
        own = error(one, one)
        if left <= limit < own:
            order[one] = other
            before, after = max(before, own), max(after, left)
    if not order:
        return None
    steps = {place[other] - place[one] for one, other in order.items()}
    sums = {place[other] + place[one] for one, other in order.items()}
    others, batch = [*{*order.values()}], max(steps) - min(steps)
    which = "next" if 1 in steps else "one before"
    names = {
        f"all images are {others[0].path.name}": len(others) == 1 < len(order),
        "images in reversed order": len(sums) == 1 and len(order) >= PATTERN,
        "images exchanged": all(order.get(other) == one for one, other in order.items()),
        f"images shifted by one (each holds the {which})": len(order) > 1
        and (steps in ({1}, {-1}) or batch == len(place)),
        f"images rotated within a batch of {batch}": min(steps) < 0 < max(steps)
        and steps == {min(steps), max(steps)},
        "images mixed up": True,
    }
    name = next(name for name, fits in names.items() if fits)
    pairs = [f"{one.path.name} holds {other.path.name}" for one, other in order.items()]
    shown = ", ".join(pairs[:SHOWN]) + (", ..." if len(pairs) > SHOWN else "")
    return Diagnosis(name, f"each is compared with the image that it holds: {shown}", before, after)
