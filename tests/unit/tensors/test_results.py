"""Results on disk: the same heads whoever wrote them, refused unless whole, fresh and ours."""

import contextlib
import itertools
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effd0.data.coco import load_coco
from effd0.detection.heads import named_heads
from effd0.errors import ResultError
from effd0.io import sha256
from effd0.spec import D0, SPECS, ModelSpec
from effd0.tensors.results import Results, check_model, file_shapes, open_results, read_summary
from tests.helpers import (
    EVERY_SEED,
    SMALL,
    TINY,
    assert_one_error,
    assert_read_or_refused,
    effd0,
    write_coco,
)
from tests.helpers.results import (
    FORMATS,
    INTERLEAVED,
    NAMINGS,
    coco_of,
    heads_of,
    write_bins,
    write_results,
    write_summary,
)

STEMS = ("9", "10", "b")  # in natural order
NUMBERED = ("sample-id", "input-n")


def assert_heads(results: Results, stems: Sequence[str], dtype: Any = np.float32) -> None:
    """Each of *stems* has the heads that `write_results` gave it, in the recipe's order."""
    for seed, stem in enumerate(stems):
        heads, wanted = results.heads(stem), heads_of(seed, results.spec)
        assert list(heads) == list(results.spec.output_names)
        for name, head in heads.items():
            assert head.dtype == np.float32
            # Kept for hours, a head keeps no other row of its file in memory.
            assert head.base is None or head.base.nbytes == head.nbytes
            assert np.array_equal(head, wanted[name].astype(dtype)), (stem, name)


@pytest.mark.parametrize("spec", [*SPECS.values(), SMALL], ids=[*SPECS, "small"])
def test_no_two_heads_have_one_size(spec: ModelSpec) -> None:
    """All heads and the two merged ones have two sizes each: a size alone names head and dtype."""
    shapes = file_shapes(spec).values()
    sizes = [math.prod(shape) * itemsize for shape in shapes for itemsize in (2, 4)]
    assert len(set(sizes)) == 2 * (2 * len(spec.levels) + 2)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("naming", NAMINGS)
def test_each_naming_and_format_gives_the_same_heads(
    naming: str, suffix: str, tmp_path: Path
) -> None:
    """By any version of ais_infer or ais_bench, or by effd0, with outputs in any order."""
    write_results(tmp_path / "result", STEMS, naming, suffix)
    assert_heads(open_results(tmp_path / "result", SMALL, STEMS), STEMS)


def write_merged(
    folder: Path, stems: Sequence[str], batch: int = 0, spec: ModelSpec = SMALL
) -> None:
    """Write the synthetic heads of *stems*, as one table of classes and one of boxes each."""
    folder.mkdir()
    tables: list[list[Any]] = [[], []]
    kinds = ((spec.num_classes, spec.class_names), (4, spec.box_names))
    for seed in range(len(stems)):
        for table, (width, names) in zip(tables, kinds, strict=True):
            heads = (heads_of(seed, spec)[name][0] for name in names)
            levels = [head.transpose(1, 2, 0).reshape(-1, width) for head in heads]
            table.append(np.concatenate(levels))
    for number, every in enumerate(tables):
        for first in range(0, len(stems), batch or 1):
            name = f"sample_id_{first // batch}_output_" if batch else f"{stems[first]}_"
            rows = np.stack(every[first : first + (batch or 1)])
            rows.astype(np.float32).tofile(folder / f"{name}{number}.bin")


@pytest.mark.parametrize("batch", [0, 1, 2], ids=["by-stem", "by-number", "in-batches"])
def test_merged_heads_are_split_as_a_models_are(batch: int, tmp_path: Path) -> None:
    """Two files an image, the classes and the boxes of all anchors, lead to the ten heads."""
    write_merged(tmp_path / "result", STEMS, batch)
    results = open_results(tmp_path / "result", SMALL, STEMS)
    for seed, stem in enumerate(STEMS):
        found, wanted = named_heads(results.heads(stem), SMALL), heads_of(seed)
        assert [name for name in wanted if not np.array_equal(found[name], wanted[name])] == []


def test_half_of_merged_heads_is_refused(tmp_path: Path) -> None:
    """An image without its boxes is incomplete; the message names what is missing."""
    write_merged(tmp_path / "result", STEMS)
    (tmp_path / "result" / "9_1.bin").unlink()
    with pytest.raises(ResultError, match=r"1 incomplete: 9 \(no boxes\)"):
        open_results(tmp_path / "result", SMALL, STEMS)


# Specs by which heads have one size.

#: Lite's P7 has 3 rows: half of 5, rounded up.
LITE = replace(SPECS["tf_efficientdet_lite0"], levels=(6, 7))
SIZES = {"small": SMALL, "tiny": TINY, "lite": LITE}
CLASSES = (1, 2, 4, 5, 8, 16, 32, 200)
ALIKE = {
    f"{classes}-{name}": replace(spec, num_classes=classes)
    for classes in CLASSES
    for name, spec in SIZES.items()
} | {"4-lite0": replace(SPECS["tf_efficientdet_lite0"], num_classes=4)}


def outputs_of(spec: ModelSpec, order: Sequence[int], prefix: str) -> dict[str, Any]:
    """What effd0's summary says of a model that gives the heads in this *order*, renamed."""
    names = [spec.output_names[place] for place in order]
    return {"outputs": {f"{prefix}{name}": (None, *spec.head_shapes[name]) for name in names}}


@pytest.mark.parametrize("spec", ALIKE.values(), ids=ALIKE)
def test_heads_of_any_number_of_classes_come_back(spec: ModelSpec, tmp_path: Path) -> None:
    """In the recipe's order, each naming and type gives the heads, whichever have one size."""
    kinds = [(".bin", np.float32), (".bin", np.float16), (".npy", np.float32)]
    order = range(len(spec.output_names))
    for naming, (suffix, dtype) in itertools.product(NAMINGS, kinds):
        folder = tmp_path / f"{naming}{suffix}{np.dtype(dtype)}"
        write_results(folder, STEMS[:2], naming, suffix, dtype=dtype, order=order, spec=spec)
        assert_heads(open_results(folder, spec, STEMS[:2]), STEMS[:2], dtype)


@settings(max_examples=20)
@given(
    classes=st.sampled_from(CLASSES),
    size=st.sampled_from(["tiny", "lite"]),
    naming=st.sampled_from([*NAMINGS]),
    suffix=st.sampled_from([".bin", ".npy", ".txt"]),
    dtype=st.sampled_from([np.float32, np.float16]),
    batch=st.integers(1, 3),
    data=st.data(),
)
def test_outputs_that_a_summary_names_are_found_in_any_order(
    classes: int, size: str, naming: str, suffix: str, dtype: Any, batch: int, data: st.DataObject
) -> None:
    """By name, or by shape where that tells, results of effd0 come back, whatever comes first."""
    spec = replace(SIZES[size], num_classes=classes)
    order = data.draw(st.permutations(range(len(spec.output_names))))
    rows = batch if naming in NUMBERED else 1
    dtype = np.float32 if suffix == ".txt" else dtype
    with tempfile.TemporaryDirectory() as place:
        folder, fed = Path(place) / "result", [f"{stem}.bin" for stem in STEMS]
        options: dict[str, Any] = {"batch": rows, "dtype": dtype, "order": order, "spec": spec}
        write_results(folder, STEMS, naming, suffix, **options)
        samples = [fed[n : n + rows] for n in range(0, len(fed), rows)]
        summary = Path(place) / "result_summary.json"
        prefix = "" if classes == 4 else data.draw(st.sampled_from(["", "output_of_"]))
        write_summary(summary, samples, effd0=outputs_of(spec, order, prefix))
        assert_heads(open_results(folder, spec, STEMS), STEMS, dtype)


@pytest.mark.parametrize("suffix", [".bin", ".npy", ".txt"])
@pytest.mark.parametrize("classes", [1, 4, 16])
def test_another_order_is_refused_where_sizes_do_not_tell(
    classes: int, suffix: str, tmp_path: Path
) -> None:
    """The error names heads of one size, and what to do; arrays are known if their shapes are."""
    spec, folder = replace(SMALL, num_classes=classes), tmp_path / "result"
    write_results(folder, STEMS, "whole-stem", suffix, spec=spec)
    if suffix == ".npy" and classes != 4:
        assert_heads(open_results(folder, spec, STEMS), STEMS)
        return
    one = {1: "class_p3 and box_p4", 4: "class_p3 and box_p3", 16: "class_p4 and box_p3"}[classes]
    message = f"{one} have one size, but the files are not in the order class_p3 to box_p7; run"
    with pytest.raises(ResultError, match=message):
        open_results(folder, spec, STEMS).heads("9")


@pytest.mark.parametrize(
    "order", [("classes", "boxes"), ("boxes", "classes")], ids=["recipes", "boxes-first"]
)
@pytest.mark.parametrize("batch", [0, 2], ids=["by-stem", "in-batches"])
def test_tables_of_one_size_are_told_by_their_number(
    order: tuple[str, ...], batch: int, tmp_path: Path
) -> None:
    """Of 4 classes, both tables have the boxes' size: classes come first, or as a summary says."""
    spec, folder = replace(SMALL, num_classes=4), tmp_path / "result"
    write_merged(folder, STEMS, batch, spec)
    for path in folder.iterdir():
        number = order.index(("classes", "boxes")[int(path.stem[-1])])
        path.rename(folder / f"new-{path.stem[:-1]}{number}.bin")
    for path in folder.iterdir():
        path.rename(folder / path.name.removeprefix("new-"))
    if order[0] == "boxes":
        noted = {"outputs": dict.fromkeys(order, (None, spec.num_anchors, 4))}
        write_summary(tmp_path / "result_summary.json", [], effd0=noted)
    results = open_results(folder, spec, STEMS)
    for seed, stem in enumerate(STEMS):
        found, wanted = named_heads(results.heads(stem), spec), heads_of(seed, spec)
        assert [name for name in wanted if not np.array_equal(found[name], wanted[name])] == []


@pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=["float32", "float16"])
@pytest.mark.parametrize("classes", [1, 4, 8])
def test_damage_is_seen_where_heads_have_one_size(classes: int, dtype: Any, tmp_path: Path) -> None:
    """Without any one file, with any one twice or cut in half, an image is refused."""
    spec, order = replace(SMALL, num_classes=classes), range(10)
    for number, damage in itertools.product(order, ("lost", "twice", "half")):
        folder = tmp_path / f"{number}{damage}"
        write_results(folder, STEMS[:1], "whole-stem", dtype=dtype, order=order, spec=spec)
        file = folder / f"9_{number}.bin"
        if damage == "twice":
            shutil.copy(file, folder / "9_10.bin")
        elif damage == "half":
            halve(file)
        else:
            file.unlink()
        with pytest.raises(ResultError, match="does not hold the results of 1 images; 1 "):
            open_results(folder, spec, STEMS[:1])


def test_outputs_may_differ_in_type(tmp_path: Path) -> None:
    """A model whose box heads alone are in float16 writes them so for each image."""
    folder, spec = tmp_path / "result", D0
    write_results(folder, STEMS, "whole-stem", order=range(10), spec=spec)
    for path in folder.glob("*_[5-9].bin"):
        np.fromfile(path, np.float32).astype(np.float16).tofile(path)
    results = open_results(folder, spec, STEMS)
    for seed, stem in enumerate(STEMS):
        found, wanted = results.heads(stem), heads_of(seed, spec)
        for name, head in wanted.items():
            kept = np.float16 if name in spec.box_names else np.float32
            assert np.array_equal(found[name], head.astype(kept)), name


@pytest.mark.parametrize("padded", [True, False], ids=["tail-padded", "tail-cut"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=["float32", "float16"])
@pytest.mark.parametrize("batch", [2, 3])
@pytest.mark.parametrize("naming", NUMBERED)
def test_a_batch_in_one_file_is_split(
    naming: str, batch: int, dtype: Any, padded: bool, tmp_path: Path
) -> None:
    """Early versions wrote a batch as one file: its rows are of the inputs in natural order."""
    stems = ("2", "10", "b", "c", "d", "e", "f")
    options: dict[str, Any] = {"batch": batch, "padded": padded, "dtype": dtype}
    write_results(tmp_path / "result", stems, naming, **options)
    assert_heads(open_results(tmp_path / "result", SMALL, stems[::-1]), stems, dtype)


@pytest.mark.parametrize("place", ["result/sumary.json", "result_summary.json"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=["float32", "float16"])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_summary_leads_numbers_to_stems(
    place: str, dtype: Any, batch: int, tmp_path: Path
) -> None:
    """Inside the folder or beside it, it is believed before the natural order."""
    stems = ("b", "9", "10")
    write_results(tmp_path / "result", stems, "sample-id", batch=batch, dtype=dtype)
    files = [f"bins/{stem}.bin" for stem in stems] + ["padding_infer_fake_file"] * (batch - 1)
    samples = [files[n : n + batch] for n in range(0, len(files), batch)]
    write_summary(tmp_path / place, samples)
    assert_heads(open_results(tmp_path / "result", SMALL, STEMS), stems, dtype)


@pytest.mark.parametrize("folders", [("device0", "device1"), ("device0_0", "device1_1")])
def test_folders_of_single_devices_are_one(folders: tuple[str, str], tmp_path: Path) -> None:
    """What a run on several devices has divided is put together again."""
    whole = write_results(tmp_path / "result", STEMS, "whole-stem")
    for place in folders:
        (whole / place).mkdir()
    for path in list(whole.glob("*.bin")):
        shutil.move(path, whole / folders[path.stem.startswith("b")] / path.name)
    # Of one device alone: no reason to take the others' results for those of another run.
    write_summary(tmp_path / "result_summary.json", [["bins/b.bin"]])
    assert_heads(open_results(whole, SMALL, STEMS), STEMS)


def test_other_things_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    """Hidden files and folders that are no device's, such as a profiler's, are no results."""
    folder = write_results(tmp_path / "result", STEMS, "whole-stem")
    write_results(folder / "profiler", ("z",), "whole-stem")
    shutil.copy(folder / "9_0.bin", folder / "._9_0.bin")
    (folder / "run.log").write_text("done")
    assert_heads(open_results(folder, SMALL, STEMS), STEMS)


def test_stems_that_look_like_other_namings_are_stems(tmp_path: Path) -> None:
    """An image may be called input1_output, a_1 or a.b: what was fed decides, not the pattern."""
    stems = ("input1_output", "sample_id_0_output", "a_1", "a", "a.b", "1")
    write_results(tmp_path / "result", stems, "whole-stem")
    assert_heads(open_results(tmp_path / "result", SMALL, stems), stems)


def test_arrays_without_a_batch_are_read(tmp_path: Path) -> None:
    """A (C, H, W) or a flat array is a head as (1, C, H, W) is."""
    folder = write_results(tmp_path / "result", ("a",), "whole-stem", ".npy")
    for path, shape in zip(sorted(folder.iterdir()), itertools.cycle([(-1,), None]), strict=False):
        array = np.load(path)[0]
        np.save(path, array if shape is None else array.reshape(shape))
    assert_heads(open_results(folder, SMALL, ["a"]), ["a"])


def test_what_computed_is_told_if_it_is_known(tmp_path: Path) -> None:
    """The description names the folder and, from effd0's own summary, the runner."""
    folder = write_results(tmp_path / "result", ("a",), "whole-stem")
    assert open_results(folder, SMALL, ["a"]).description == f"results in {folder}"
    path = tmp_path / "result_summary.json"
    write_summary(path, [["bins/a.bin"]], effd0={"runner": "ACL 310P3", "model_sha256": "12ab"})
    results = open_results(folder, SMALL, ["a"])
    assert results.description == f"results in {folder}, by ACL 310P3"
    assert results.summary.model_sha256 == "12ab"


STEM = st.text(st.sampled_from("abAB01._-"), min_size=1, max_size=6).filter(
    lambda stem: stem[0] != "." and stem[-1] != "." and ".." not in stem
)


@settings(max_examples=20)
@given(
    stems=st.lists(STEM, unique_by=lambda stem: stem.split(".")[0].lower(), min_size=1, max_size=5),
    naming=st.sampled_from(list(NAMINGS)),
    suffix=st.sampled_from([".bin", ".npy"]),
    order=st.permutations(INTERLEAVED),
    batch=st.integers(1, 3),
)
def test_whatever_the_names_heads_find_their_image(
    stems: list[str], naming: str, suffix: str, order: list[int], batch: int
) -> None:
    """Any stems, naming, format, order of outputs and batch lead each head to its own image."""
    rows = batch if naming in NUMBERED else 1
    with tempfile.TemporaryDirectory() as place:
        fed = [f"bins/{stem}.bin" for stem in stems]
        samples = [fed[n : n + rows] for n in range(0, len(fed), rows)]
        folder = Path(place) / "result"
        write_results(folder, stems, naming, suffix, batch=rows, order=order)
        write_summary(Path(place) / "result_summary.json", samples)
        assert_heads(open_results(folder, SMALL, stems), stems)


ORDER = range(10)


@pytest.fixture
def bins(tmp_path: Path) -> Path:
    """The inputs of three images."""
    return write_bins(tmp_path / "bins", coco_of(tmp_path / "coco", [f"{s}.png" for s in STEMS]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Whole results of three images, output i being the head at place i of the recipe's order."""
    return write_results(tmp_path / "result", STEMS, "whole-stem", order=ORDER)


def halve(path: Path) -> None:
    """Leave half of a file, as a full disk does."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def transpose(folder: Path) -> None:
    """Replace a head by its channels-last layout, which has the same size."""
    (folder / "10_0.bin").unlink()
    np.save(folder / "10_0.npy", heads_of(1)["class_p3"].transpose(0, 2, 3, 1))


def double(folder: Path) -> None:
    """Write a head again in float64."""
    path = folder / "10_5.bin"
    np.fromfile(path, "<f4").astype("<f8").tofile(path)


def truncate_array(folder: Path) -> None:
    """Replace a head by the first bytes of an array file."""
    (folder / "10_0.bin").unlink()
    np.save(folder / "10_0.npy", heads_of(1)["class_p3"])
    halve(folder / "10_0.npy")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda d: [path.unlink() for path in d.glob("10_*")],
            "1 missing: 10; run the inference again, into a new folder",
        ),
        (lambda d: (d / "10_5.bin").unlink(), "1 incomplete: 10 (no box_p3); run"),
        (
            lambda d: shutil.copy(d / "10_5.bin", d / "10_10.bin"),
            "1 doubled: 10 (box_p3); run",
        ),
        (lambda d: halve(d / "10_5.bin"), "1 truncated: 10_5.bin (half of box_p3); run"),
        (double, "1 float64, but float32 or float16 was wanted: 10 (10_5.bin); run"),
        (truncate_array, "1 truncated: 10 (10_0.npy: "),
        (transpose, "1 truncated: 10 (10_0.npy: "),
        (
            lambda d: [(d / name).write_bytes(b"") for name in ("c_0.bin", "notes.txt", "c.bin")],
            "3 foreign: c.bin, notes.txt, c_0.bin; run",
        ),
        (
            lambda d: [(d / "10_5.bin").unlink(), (d / "b_9.bin").write_bytes(b"abc")],
            "1 truncated: b (b_9.bin: 3 bytes); 1 incomplete: 10 (no box_p3); run",
        ),
        (lambda d: (d / "b_9.bin").write_bytes(b""), "1 truncated: b (b_9.bin: 0 bytes); run"),
        (
            lambda d: shutil.copytree(d, d / "device1"),
            "3 doubled: 9 (all heads), 10 (all heads), b (all heads); run",
        ),
    ],
    ids=[
        "image-missing", "missing", "doubled", "half", "float64", "array-cut", "channels-last",
        "foreign", "two", "empty", "devices",
    ],
)  # fmt: skip
def test_a_folder_that_is_not_whole_is_refused(
    damage: Callable[[Path], object], message: str, folder: Path
) -> None:
    """The one message lists what is wrong, by kind, and says what to do."""
    damage(folder)
    start = f"{folder} does not hold the results of 3 images; "
    with pytest.raises(ResultError, match=re.escape(start) + ".*" + re.escape(message)):
        open_results(folder, SMALL, STEMS)


@pytest.mark.parametrize(
    ("suffix", "change", "message"),
    [
        (".bin", Path.unlink, "cannot be read"),
        (".bin", halve, r"holds \d+ values, but 1 times one of"),
        (".txt", lambda path: path.write_text("1 2 3\n4 5 6\n"), "holds 6 values"),
        (".txt", lambda path: path.write_text("1 2 nought\n"), "cannot be read: .*nought"),
    ],
    ids=["gone", "cut", "few", "no-number"],
)
def test_a_file_is_refused_when_it_is_read(
    suffix: str, change: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    """A text shows only then what it holds, and what was whole may not be so hours later."""
    folder = write_results(tmp_path / "result", STEMS, "whole-stem", suffix)
    results = open_results(folder, SMALL, STEMS)
    change(folder / f"10_5{suffix}")
    results.heads("9")
    with pytest.raises(ResultError, match=f"10_5{suffix} {message}"):
        results.heads("10")


def test_a_broken_batch_hides_no_other(tmp_path: Path) -> None:
    """How many rows a file has is told by a batch that is whole."""
    stems = ("1", "2", "3", "4", "5")
    folder = write_results(tmp_path / "result", stems, "input-n", batch=2, order=ORDER)
    (folder / "input0_output_1.bin").unlink()
    with pytest.raises(ResultError, match=r"2 incomplete: 1 \(no class_p4\), 2 \(.*\); run"):
        open_results(folder, SMALL, stems)


def test_a_missing_number_is_the_image_of_that_place(tmp_path: Path) -> None:
    """The images after it are not moved up."""
    folder = write_results(tmp_path / "result", STEMS, "sample-id")
    for path in folder.glob("sample_id_1_*"):
        path.unlink()
    with pytest.raises(ResultError, match=r"1 missing: 10; run"):
        open_results(folder, SMALL, STEMS)


def test_results_of_another_run_are_stale(folder: Path, tmp_path: Path) -> None:
    """What lies in the folder since a run before, the summary of the last run does not list."""
    write_summary(tmp_path / "result_summary.json", [["bins/9.bin"], ["bins/b.bin"]])
    with pytest.raises(ResultError, match=r"1 stale: 10 \(not fed, by the summary\); run"):
        open_results(folder, SMALL, STEMS)


def test_results_older_than_their_input_are_stale(folder: Path, bins: Path) -> None:
    """An input that was written after its result was not what gave it."""
    for path in folder.iterdir():
        os.utime(path, (2e9, 2e9))
    open_results(folder, SMALL, STEMS, bins=bins)
    os.utime(folder / "10_4.bin", (1e9, 1e9))
    with pytest.raises(ResultError, match=r"1 stale: 10 \(older than 10\.bin\); .*touch"):
        open_results(folder, SMALL, STEMS, bins=bins)


def test_results_of_other_inputs_are_stale(folder: Path, bins: Path, tmp_path: Path) -> None:
    """Where both manifests are there, fingerprints decide, and times of files do not count."""
    copy = tmp_path / "result_manifest.json"
    shutil.copy(bins / "manifest.json", copy)
    os.utime(folder / "10_4.bin", (1e9, 1e9))
    open_results(folder, SMALL, STEMS, bins=bins)
    content = json.loads(copy.read_text())
    content["images"][1]["sha256"] = "0" * 64
    copy.write_text(json.dumps(content))
    with pytest.raises(ResultError, match=r"1 stale: 10 \(of another input\); run"):
        open_results(folder, SMALL, STEMS, bins=bins)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read: .* truncated, near .*; delete it, or run"),
        (
            '{"filesinfo": {"x": {}}}',
            "cannot be read: key in .*filesinfo: Expected `int`",
        ),
        (
            '{"filesinfo": {"0": {"infiles": [[1]]}}}',
            "cannot be read: .*infiles.*got `array`; ",
        ),
    ],
    ids=["broken", "number", "no-file"],
)
def test_a_broken_summary_is_refused(
    content: str, message: str, folder: Path, tmp_path: Path
) -> None:
    """A run that died while it wrote its summary is not trusted."""
    (tmp_path / "result_summary.json").write_text(content)
    with pytest.raises(ResultError, match=f"result_summary.json {message}"):
        open_results(folder, SMALL, STEMS)


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    """The two cases in which there is nothing to read name the folder."""
    with pytest.raises(ResultError, match="no is not a folder; make one with 'effd0 infer"):
        open_results(tmp_path / "no", SMALL, STEMS)
    (tmp_path / "readme.md").write_text("no result")
    with pytest.raises(ResultError, match=r"holds no result file \(\.bin, \.npy, \.txt\); give"):
        open_results(tmp_path, SMALL, STEMS)


@pytest.mark.parametrize(
    ("written", "naming", "asked", "message"),
    [
        # Of a.1 and a.2, ais_bench keeps one result under the name of both: nobody knows which.
        (
            ["a.1", "b"],
            "cut-at-dot",
            ["a.1", "a.2", "b"],
            r"1 of one name: a \(a\.1, a\.2\); 2 missing: a\.1",
        ),
        (["a", "b"], "cut-at-dot", ["a", "a.1", "b"], r"1 of one name: a \(a, a\.1\)"),
        (STEMS, "sample-id", STEMS[:2], r"10 foreign: sample_id_2_output_0\.bin, .*_1\.bin"),
    ],
    ids=["cut-to-one", "a-stem-is-another-cut", "more-numbers-than-inputs"],
)
def test_names_that_do_not_lead_to_one_image_are_refused(
    written: Sequence[str], naming: str, asked: Sequence[str], message: str, tmp_path: Path
) -> None:
    """No image gets the results of another, and samples beyond the inputs are another run's."""
    folder = write_results(tmp_path / "result", written, naming)
    with pytest.raises(ResultError, match=message):
        open_results(folder, SMALL, asked)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model file."""
    path = tmp_path / "d0.onnx"
    path.write_bytes(b"a model")
    return path


def summarise(folder: Path, **own: Any) -> None:
    """Write the summary beside *folder* in which effd0 says *own* of the results."""
    files = [[f"bins/{stem}.bin"] for stem in STEMS]
    write_summary(folder.parent / f"{folder.name}_summary.json", files, effd0=own)


@pytest.mark.parametrize("proved", [False, True], ids=["if-known", "proved"])
def test_results_of_another_model_are_refused(folder: Path, model: Path, proved: bool) -> None:
    """Both are named, with their fingerprints; the same file elsewhere is the same model."""
    summarise(folder, model="elsewhere/d0.onnx", model_sha256=sha256(model))
    check_model(folder, model, proved=proved)
    summarise(folder, model="other.onnx", model_sha256="ab" * 32)
    message = (
        rf"result holds the results of other\.onnx \(sha256 {'ab' * 6}\), but --model is "
        rf".*d0\.onnx \(sha256 {sha256(model)[:12]}\); run the inference again with it"
    )
    with pytest.raises(ResultError, match=message):
        check_model(folder, model, proved=proved)


@pytest.mark.parametrize(
    ("own", "names"),
    [
        (None, "no model"),
        ({}, "no model"),
        ({"model": "d0.om", "model_sha256": "ab" * 32}, r"d0\.om"),
    ],
    ids=["no-summary", "another-tools-summary", "compiled"],
)
def test_an_unknown_origin_contradicts_only_where_proof_is_asked(
    own: dict[str, Any] | None, names: str, folder: Path, model: Path
) -> None:
    """What a chip ran was compiled from the .onnx that it is compared with."""
    if own is not None:
        summarise(folder, **own)
    check_model(folder, model)
    with pytest.raises(ResultError, match=f"but the summary of .*result names {names}; leave"):
        check_model(folder, model, proved=True)


def test_results_of_another_manifest_are_refused(bins: Path, tmp_path: Path) -> None:
    """Inputs that were written again, otherwise, are not those that were run."""
    folder = write_results(tmp_path / "result", STEMS, "whole-stem")
    summarise(folder, manifest_sha256=sha256(bins / "manifest.json"))
    assert open_results(folder, SMALL, STEMS, bins=bins)
    write_bins(bins, load_coco(tmp_path / "coco", image_limit=2))
    (bins / "b.bin").unlink()
    with pytest.raises(ResultError, match=r"was made of the inputs of another manifest \(sha256 "):
        open_results(folder, SMALL, STEMS[:2], bins=bins)


def test_results_of_another_spec_are_refused(folder: Path) -> None:
    """The summary tells the architecture where no manifest does."""
    recorded = json.loads(json.dumps(asdict(SMALL)))
    # Versions before wrote one number for the side of a square.
    for known in (recorded, recorded | {"image_size": 128}):
        summarise(folder, spec=known)
        assert open_results(folder, SMALL, STEMS)
    summarise(folder, spec=json.loads(json.dumps(asdict(replace(SMALL, mean=(0.5, 0.5, 0.5))))))
    message = r"is of a model with mean \[0\.5, 0\.5, 0\.5\], not \[.*result_summary\.json; give"
    with pytest.raises(ResultError, match=message):
        open_results(folder, SMALL, STEMS)


def test_postprocess_proves_the_model_if_asked(folder: Path, model: Path, tmp_path: Path) -> None:
    """``--model`` that the results are not of ends the command before anything is scored."""
    write_coco(tmp_path / "coco")
    summarise(folder, model="other.onnx", model_sha256="ab" * 32)
    words = ("postprocess", "--root", tmp_path / "coco", "--omfile", folder, "--model", model)
    assert_one_error(r"ResultError: .*holds the results of other\.onnx", *words)
    assert effd0(*words[:-2]).errors != effd0(*words).errors


@EVERY_SEED
@pytest.mark.parametrize("beside", [True, False], ids=["beside", "in-the-folder"])
def test_a_mutated_summary_is_read_or_refused(seeds: range, beside: bool, tmp_path: Path) -> None:
    """No error but effd0's comes out of a summary of ais_bench or of effd0."""
    folder = write_results(tmp_path / "result", STEMS, "sample-id")
    own = {"runner": "ort", "model": "d0.onnx", "model_sha256": "0" * 64, "spec": asdict(SMALL)}
    path = tmp_path / "result_summary.json" if beside else folder / "sumary.json"
    write_summary(path, [[f"{stem}.bin"] for stem in STEMS], effd0=own)
    model = tmp_path / "d0.onnx"
    model.write_bytes(b"any")

    def read() -> object:
        with contextlib.suppress(ResultError):
            check_model(folder, model, proved=True)
        open_results(folder, SMALL, STEMS)
        return read_summary(folder)

    assert_read_or_refused(path, json.loads(path.read_text()), seeds, read)


@pytest.mark.parametrize("computed", [np.float32, np.float64], ids=["widened", "computed"])
@pytest.mark.parametrize("batch", [1, 2])
def test_numbered_float64_is_no_batch_of_float32(
    computed: Any, batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of float64 have the size of twice as many float32: their values tell them apart."""
    monkeypatch.setattr(
        "tests.helpers.results.heads_of",
        lambda *of: {name: head.astype(computed) / 3 for name, head in heads_of(*of).items()},
    )
    folder, stems = tmp_path / "result", STEMS[:2]
    samples = [[f"{stem}.bin" for stem in stems[n : n + batch]] for n in range(0, 2, batch)]
    write_summary(tmp_path / "result_summary.json", samples)
    write_results(folder, stems, "sample-id", batch=batch)
    open_results(folder, SMALL, stems)
    write_results(folder, stems, "sample-id", batch=batch, dtype=np.float64)
    with pytest.raises(ResultError, match="2 float64, but float32 or float16 was wanted: "):
        open_results(folder, SMALL, stems)


def test_big_endian_heads_are_named(tmp_path: Path) -> None:
    """Values that make sense only with their bytes turned over are refused by what they are."""
    write_results(tmp_path / "result", ["a"], "whole-stem")
    for file in (tmp_path / "result").iterdir():
        np.fromfile(file, "<f4").astype(">f4").tofile(file)
    results = open_results(tmp_path / "result", SMALL, ["a"])
    with pytest.raises(ResultError, match=r"holds big-endian values, but float32, little-endian"):
        results.heads("a")
