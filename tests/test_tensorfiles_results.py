"""Tests for `effd0.tensors.results`: whoever wrote them, they come back as the same heads."""

from __future__ import annotations

import itertools
import math
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effd0.spec import SPECS, ModelSpec
from effd0.tensors.results import Results, open_results

from .helpers import SMALL
from .recordings import (
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
        heads, wanted = results.heads(stem), heads_of(seed)
        assert list(heads) == list(SMALL.output_names)
        for name, head in heads.items():
            assert head.dtype == np.float32
            # Kept for hours, a head keeps no other row of its file in memory.
            assert head.base is None or head.base.nbytes == head.nbytes
            assert np.array_equal(head, wanted[name].astype(dtype)), (stem, name)


@pytest.mark.parametrize("spec", [*SPECS.values(), SMALL], ids=[*SPECS, "small"])
def test_no_two_heads_have_one_size(spec: ModelSpec) -> None:
    """Ten heads in float32 and in float16 have twenty sizes: a size alone names head and dtype."""
    sizes = [
        math.prod(shape) * itemsize for shape in spec.head_shapes.values() for itemsize in (2, 4)
    ]
    assert len(set(sizes)) == 20


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("naming", NAMINGS)
def test_each_naming_and_format_gives_the_same_heads(
    naming: str, suffix: str, tmp_path: Path
) -> None:
    """By any version of ais_infer or ais_bench, or by effd0, with outputs in any order."""
    write_results(tmp_path / "result", STEMS, naming, suffix)
    assert_heads(open_results(tmp_path / "result", SMALL, STEMS), STEMS)


@pytest.mark.parametrize("suffix", [".bin", ".npy"])
@pytest.mark.parametrize("naming", NAMINGS)
def test_float16_is_told_by_its_size(naming: str, suffix: str, tmp_path: Path) -> None:
    """Half as many bytes are the same head, rounded."""
    write_results(tmp_path / "result", STEMS, naming, suffix, dtype=np.float16)
    assert_heads(open_results(tmp_path / "result", SMALL, STEMS), STEMS, np.float16)


@pytest.mark.parametrize("padded", [True, False], ids=["tail-padded", "tail-cut"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=["float32", "float16"])
@pytest.mark.parametrize("batch", [2, 3, 4])
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


def test_stems_with_dots_are_found_whole_or_cut(tmp_path: Path) -> None:
    """ais_bench cuts a name at its first dot, effd0 does not; both are found."""
    stems = ("a.b.c", "d.e")
    for naming in ("cut-at-dot", "whole-stem"):
        write_results(tmp_path / naming, stems, naming)
        assert_heads(open_results(tmp_path / naming, SMALL, stems), stems)


def test_a_stem_and_its_cut_are_told_apart(tmp_path: Path) -> None:
    """Where whole stems are written, a and a.b are two images."""
    write_results(tmp_path / "result", ("a", "a.b"), "whole-stem")
    assert_heads(open_results(tmp_path / "result", SMALL, ("a", "a.b")), ("a", "a.b"))


def test_other_things_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    """Hidden files and folders that are no device's, such as a profiler's, are no results."""
    folder = write_results(tmp_path / "result", STEMS, "whole-stem")
    write_results(folder / "profiler", ("z",), "whole-stem")
    shutil.copy(folder / "9_0.bin", folder / "._9_0.bin")
    (folder / "run.log").write_text("done")
    assert_heads(open_results(folder, SMALL, STEMS), STEMS)


def test_stems_that_look_like_other_namings_are_stems(tmp_path: Path) -> None:
    """An image may be called input1_output or a_1: what was fed decides, not the pattern."""
    stems = ("input1_output", "sample_id_0_output", "a_1", "a", "1")
    write_results(tmp_path / "result", stems, "whole-stem")
    assert_heads(open_results(tmp_path / "result", SMALL, stems), stems)


def test_results_of_more_images_serve_for_fewer(tmp_path: Path) -> None:
    """Images that were fed but are not asked for are no foreign ones."""
    write_results(tmp_path / "result", STEMS, "sample-id")
    results = open_results(tmp_path / "result", SMALL, ["10"], fed=STEMS)
    assert np.array_equal(results.heads("10")["box_p7"], heads_of(1)["box_p7"])


@pytest.mark.parametrize("with_bins", [True, False], ids=["bins", "copy-of-manifest"])
def test_a_manifest_tells_what_was_fed(with_bins: bool, tmp_path: Path) -> None:
    """The inputs' own, or its copy beside the results, is taken for what numbers count."""
    bins = write_bins(tmp_path / "bins", coco_of(tmp_path / "coco", [f"{s}.png" for s in STEMS]))
    write_results(tmp_path / "result", STEMS, "input-n")
    if not with_bins:
        shutil.copy(bins / "manifest.json", tmp_path / "result_manifest.json")
    results = open_results(tmp_path / "result", SMALL, ["b"], bins=bins if with_bins else None)
    assert np.array_equal(results.heads("b")["class_p3"], heads_of(2)["class_p3"])
    assert results.manifest is not None


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
    assert results.summary is not None
    assert results.summary.model_sha256 == "12ab"


STEM = st.text(st.sampled_from("abAB01._-"), min_size=1, max_size=6).filter(
    lambda stem: stem[0] != "." and stem[-1] != "." and ".." not in stem
)


@settings(max_examples=40)
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
