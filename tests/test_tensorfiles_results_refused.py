"""Tests for `effd0.tensors.results`: what is not whole, fresh and ours is refused by list."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from effd0.errors import ResultError
from effd0.spec import SPECS
from effd0.tensors.results import open_results

from .helpers import SMALL
from .recordings import coco_of, heads_of, write_bins, write_results, write_summary

STEMS = ("9", "10", "b")
ORDER = range(10)


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


def truncate_array(folder: Path) -> None:
    """Replace a head by the first bytes of an array file."""
    (folder / "10_0.bin").unlink()
    np.save(folder / "10_0.npy", heads_of(1)["class_p3"])
    halve(folder / "10_0.npy")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(
            lambda d: [path.unlink() for path in d.glob("10_*")],
            "1 missing: 10; run the inference again, into a new folder",
            id="an-image-is-missing",
        ),
        pytest.param(
            lambda d: (d / "10_5.bin").unlink(),
            r"1 incomplete: 10 (no box_p3); run",
            id="a-head-is-missing",
        ),
        pytest.param(
            lambda d: shutil.copy(d / "10_5.bin", d / "10_10.bin"),
            "1 doubled: 10 (box_p3); run",
            id="a-head-is-doubled",
        ),
        pytest.param(
            lambda d: halve(d / "10_5.bin"),
            "1 truncated: 10_5.bin (half of box_p3); run",
            id="a-head-is-cut-to-the-size-of-float16",
        ),
        pytest.param(
            lambda d: (d / "b_9.bin").write_bytes(b"abc"),
            "1 truncated: b (b_9.bin: 3 bytes); run",
            id="a-head-is-cut-to-a-few-bytes",
        ),
        pytest.param(
            lambda d: (d / "b_9.bin").write_bytes(b""),
            "1 truncated: b (b_9.bin: 0 bytes); run",
            id="a-head-is-empty",
        ),
        pytest.param(truncate_array, "1 truncated: 10 (10_0.npy: ", id="an-array-is-cut"),
        pytest.param(transpose, "1 truncated: 10 (10_0.npy: ", id="a-head-is-channels-last"),
        pytest.param(
            lambda d: [(d / name).write_bytes(b"") for name in ("c_0.bin", "notes.txt", "c.bin")],
            "3 foreign: c.bin, notes.txt, c_0.bin; run",
            id="others-lie-there",
        ),
        pytest.param(
            lambda d: shutil.copytree(d, d / "device1"),
            "3 doubled: 9 (all heads), 10 (all heads), b (all heads); run",
            id="each-device-ran-all",
        ),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(
    damage: Callable[[Path], object], message: str, folder: Path
) -> None:
    """The one message lists what is wrong, by kind, and says what to do."""
    damage(folder)
    start = f"{folder} does not hold the results of 3 images; "
    with pytest.raises(ResultError, match=re.escape(start) + ".*" + re.escape(message)):
        open_results(folder, SMALL, STEMS)


def test_all_that_is_wrong_is_said_at_once(folder: Path) -> None:
    """Nobody runs an hour of inference to learn of the next mistake."""
    (folder / "9_1.bin").unlink()
    (folder / "b_2.bin").write_bytes(b"abc")
    with pytest.raises(ResultError, match=r"1 incomplete: 9 .*; 1 truncated|1 truncated.*1 incom"):
        open_results(folder, SMALL, STEMS)


def test_a_long_list_is_cut(folder: Path) -> None:
    """Ten names and a count tell as much as five thousand names."""
    stems = [*STEMS, *(f"x{n}" for n in range(25))]
    with pytest.raises(ResultError, match=r"25 missing: x0, (x\d, ){8}x9 and 15 more; run"):
        open_results(folder, SMALL, stems)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            lambda d: (d / "10_9.txt").unlink(), r"1 incomplete: 10 \(9 files\)", id="missing"
        ),
        pytest.param(
            lambda d: shutil.copy(d / "10_9.txt", d / "10_10.txt"),
            r"1 doubled: 10 \(11 files\)",
            id="doubled",
        ),
        pytest.param(
            lambda d: (d / "10_9.txt").write_text(""), r"10 \(10_9\.txt: 0 bytes\)", id="empty"
        ),
    ],
)
def test_text_is_counted_by_its_files(
    change: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    """What a text holds is known when it is read; how many there are is known before."""
    folder = write_results(tmp_path / "result", STEMS, "whole-stem", ".txt", order=ORDER)
    change(folder)
    with pytest.raises(ResultError, match=message):
        open_results(folder, SMALL, STEMS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param("1 2 3\n4 5 6\n", "holds 6 values, but 1 times one of", id="few"),
        pytest.param("1 2 nought\n", "cannot be read: .*nought", id="no-number"),
    ],
)
def test_text_that_is_no_head_is_refused_when_it_is_read(
    content: str, message: str, tmp_path: Path
) -> None:
    """A cut or broken text never gives a head."""
    folder = write_results(tmp_path / "result", STEMS, "whole-stem", ".txt")
    results = open_results(folder, SMALL, STEMS)
    (folder / "10_3.txt").write_text(content)
    results.heads("9")
    with pytest.raises(ResultError, match=f"10_3.txt {message}"):
        results.heads("10")


def test_a_head_that_is_there_twice_is_refused_when_it_is_read(tmp_path: Path) -> None:
    """Ten texts of which two hold the same head lack another one."""
    folder = write_results(tmp_path / "result", STEMS, "whole-stem", ".txt", order=ORDER)
    results = open_results(folder, SMALL, STEMS)
    shutil.copy(folder / "10_3.txt", folder / "10_4.txt")
    with pytest.raises(ResultError, match=r"has no class_p7 of 10, but every head was wanted"):
        results.heads("10")


@pytest.mark.parametrize("change", [Path.unlink, halve], ids=["gone", "cut"])
def test_a_file_that_changed_since_is_refused(
    change: Callable[[Path], object], folder: Path
) -> None:
    """What was whole when it was opened may not be so hours later."""
    results = open_results(folder, SMALL, STEMS)
    change(folder / "10_5.bin")
    with pytest.raises(ResultError, match=r"10_5\.bin (cannot be read|holds \d+ values)"):
        results.heads("10")


def test_names_that_were_cut_to_one_are_refused(tmp_path: Path) -> None:
    """Of a.1 and a.2, ais_bench keeps one result under the name of both: nobody knows which."""
    folder = write_results(tmp_path / "result", ["a.1", "b"], "cut-at-dot")
    with pytest.raises(ResultError, match=r"1 of one name: a \(a\.1, a\.2\); 2 missing: a\.1"):
        open_results(folder, SMALL, ["a.1", "a.2", "b"])


def test_a_stem_that_is_another_cut_is_refused(tmp_path: Path) -> None:
    """The results under the name a may be those of a.1, which came later."""
    folder = write_results(tmp_path / "result", ["a", "b"], "cut-at-dot")
    with pytest.raises(ResultError, match=r"1 of one name: a \(a, a\.1\)"):
        open_results(folder, SMALL, ["a", "a.1", "b"])


def test_numbers_beyond_what_was_fed_are_foreign(tmp_path: Path) -> None:
    """More samples than images are of another run."""
    folder = write_results(tmp_path / "result", STEMS, "sample-id")
    with pytest.raises(ResultError, match=r"10 foreign: sample_id_2_output_0\.bin, .*_1\.bin"):
        open_results(folder, SMALL, STEMS[:2])


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


def test_results_older_than_their_input_are_stale(folder: Path, tmp_path: Path) -> None:
    """An input that was written after its result was not what gave it."""
    bins = write_bins(tmp_path / "bins", coco_of(tmp_path / "coco", [f"{s}.png" for s in STEMS]))
    for path in folder.iterdir():
        os.utime(path, (2e9, 2e9))
    open_results(folder, SMALL, STEMS, bins=bins)
    os.utime(folder / "10_4.bin", (1e9, 1e9))
    with pytest.raises(ResultError, match=r"1 stale: 10 \(older than 10\.bin\); .*touch"):
        open_results(folder, SMALL, STEMS, bins=bins)


def test_results_of_other_inputs_are_stale(folder: Path, tmp_path: Path) -> None:
    """Where both manifests are there, fingerprints decide, and times of files do not count."""
    bins = write_bins(tmp_path / "bins", coco_of(tmp_path / "coco", [f"{s}.png" for s in STEMS]))
    copy = tmp_path / "result_manifest.json"
    shutil.copy(bins / "manifest.json", copy)
    os.utime(folder / "10_4.bin", (1e9, 1e9))
    open_results(folder, SMALL, STEMS, bins=bins)
    content = json.loads(copy.read_text())
    content["images"][1]["sha256"] = "0" * 64
    copy.write_text(json.dumps(content))
    with pytest.raises(ResultError, match=r"1 stale: 10 \(of another input\); run"):
        open_results(folder, SMALL, STEMS, bins=bins)


def test_results_of_another_architecture_are_refused(folder: Path, tmp_path: Path) -> None:
    """The inputs' spec is that of the results."""
    bins = write_bins(tmp_path / "bins", coco_of(tmp_path / "coco", ["1.png"]))
    shutil.copy(bins / "manifest.json", tmp_path / "result_manifest.json")
    with pytest.raises(ResultError, match="give the --arch that they were made for"):
        open_results(folder, SPECS["efficientdet_d0"], STEMS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param("{", "is not a readable JSON file: .*; delete it, or run", id="broken"),
        pytest.param('{"filesinfo": {"x": {}}}', "is no summary of a run: .*'x'", id="number"),
        pytest.param('{"filesinfo": [1]}', "is no summary of a run", id="list"),
        pytest.param('{"filesinfo": {"0": {"infiles": [[1]]}}}', "is no summary", id="no-file"),
    ],
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
