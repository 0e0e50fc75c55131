"""Tests for `effd0.data.coco`."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from effd0.data.coco import Dataset, Sample, check_images, load_coco
from effd0.errors import DatasetError, ImageError

from .helpers import coco_content, encoded, noise, write_annotations, write_coco


def test_embedded_images_come_by_rising_id(embedded_dataset: Dataset) -> None:
    """All 48 are there, the one that shows nothing too, and each file is the annotated one."""
    ids = embedded_dataset.image_ids
    assert ids == sorted(set(ids))
    assert len(ids) == embedded_dataset.total == 48
    assert not embedded_dataset.limited
    assert embedded_dataset.extra_files == ()
    annotated = Counter(annotation["image_id"] for annotation in embedded_dataset.annotations)
    assert [id_ for id_ in ids if id_ not in annotated] == [2147]
    assert list(check_images(embedded_dataset.samples)) == list(embedded_dataset.samples)


def test_images_are_sorted_by_id_not_by_place(tmp_path: Path) -> None:
    """The order of the annotation file and of file names has no say."""
    content = coco_content()
    content["images"].reverse()
    content["images"][0]["file_name"] = "0.png"
    dataset = load_coco(write_coco(tmp_path, content))
    assert dataset.image_ids == [10, 20, 30]
    assert [sample.path.name for sample in dataset.samples] == ["1.png", "2.png", "0.png"]
    assert {sample.size for sample in dataset.samples} == {(40, 30)}
    assert dataset.categories == {1: "person", 2: "bicycle"}


@pytest.mark.parametrize(
    ("limit", "ids"),
    [
        pytest.param(1, [10], id="one"),
        pytest.param(2, [10, 20], id="two"),
        pytest.param(3, [10, 20, 30], id="all"),
        pytest.param(9, [10, 20, 30], id="more-than-there-are"),
        pytest.param(None, [10, 20, 30], id="none"),
    ],
)
def test_image_limit_keeps_the_first_by_id(
    limit: int | None, ids: list[int], tmp_path: Path
) -> None:
    """A limited dataset holds the annotations of its own images only, and says it is limited."""
    content = coco_content()
    content["images"].reverse()
    dataset = load_coco(write_coco(tmp_path, content), image_limit=limit)
    assert dataset.image_ids == ids
    assert [annotation["image_id"] for annotation in dataset.annotations] == ids
    assert dataset.total == 3
    assert dataset.limited == (len(ids) < 3)
    assert dataset.categories == {1: "person", 2: "bicycle"}


def test_objects_beyond_the_limit_are_counted_by_category(tmp_path: Path) -> None:
    """Crowds, which nobody has to find, are not; without a limit nothing is left out."""
    content = coco_content(4)
    content["annotations"][3]["iscrowd"] = 1
    root = write_coco(tmp_path, content)
    assert load_coco(root, image_limit=1).left_out == {1: 1, 2: 1}
    assert load_coco(root, image_limit=2).left_out == {2: 1}
    assert load_coco(root).left_out == {}


@pytest.mark.parametrize("limit", [0, -1])
def test_image_limit_below_one_is_refused(limit: int, tmp_path: Path) -> None:
    """No limit may stand for "all" or count from the end."""
    with pytest.raises(DatasetError, match=f"--image-limit is {limit}, but must be at least 1"):
        load_coco(write_coco(tmp_path), image_limit=limit)


def test_files_left_out_by_the_limit_may_be_missing(tmp_path: Path) -> None:
    """Only what will be read must be there."""
    root = write_coco(tmp_path)
    (root / "val2017" / "3.png").unlink()
    assert load_coco(root, image_limit=2).image_ids == [10, 20]


def test_another_split_is_read_from_its_own_folder(tmp_path: Path) -> None:
    """The split's name stands in the annotation file's name and in the images' folder."""
    root = write_coco(tmp_path)
    (root / "val2017").rename(root / "mine")
    (root / "annotations" / "instances_val2017.json").rename(
        root / "annotations" / "instances_mine.json"
    )
    assert {s.path.parent.name for s in load_coco(root, "mine").samples} == {"mine"}


def test_pictures_that_nobody_names_are_reported(tmp_path: Path) -> None:
    """A picture outside the annotation file is listed; what is no picture is not."""
    folder = write_coco(tmp_path) / "val2017"
    for name in ("z.JPG", "a.png", "notes.txt"):
        (folder / name).touch()
    assert load_coco(tmp_path, image_limit=1).extra_files == ("a.png", "z.JPG")


def test_missing_root_says_what_to_give(tmp_path: Path) -> None:
    """The message names the file that was looked for and both options that lead to it."""
    path = tmp_path / "nowhere" / "annotations" / "instances_val2017.json"
    with pytest.raises(DatasetError, match=f"{re.escape(str(path))} does not exist; give --root"):
        load_coco(tmp_path / "nowhere")


def test_missing_image_folder_is_named(tmp_path: Path) -> None:
    """Annotations without their images' folder are an error of the folder."""
    write_annotations(tmp_path, coco_content())
    with pytest.raises(DatasetError, match="val2017 is not a folder; the images of the split"):
        load_coco(tmp_path)


def test_missing_images_are_counted_and_shown(tmp_path: Path) -> None:
    """All missing files are one error, of which the first five are shown."""
    root = write_coco(tmp_path, coco_content(images=8))
    for n in range(1, 8):
        (root / "val2017" / f"{n}.png").unlink()
    with pytest.raises(ImageError) as caught:
        load_coco(root)
    assert str(caught.value) == (
        f"7 of the images in {root / 'val2017'} cannot be used:\n"
        "  1.png is missing\n  2.png is missing\n  3.png is missing\n  4.png is missing\n"
        "  5.png is missing\n  and 2 more\n"
        "copy or download them again, or correct the annotation file"
    )


PHOTO = Image.fromarray(noise((40, 30)))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param(b"GIF, said the name", r"2\.png is not a readable image: ", id="undecodable"),
        pytest.param(encoded(PHOTO, "JPEG")[:-99], "truncated.*; copy or download", id="cut-jpeg"),
        pytest.param(encoded(PHOTO, "PNG")[:-99], "truncated.*; copy or download", id="cut-png"),
        pytest.param(b"", "the file is empty", id="empty"),
        pytest.param(
            b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer", id="lfs"
        ),
        pytest.param(
            encoded(PHOTO.rotate(90, expand=True), "PNG"),
            r"2\.png is 30x40 pixels, but annotated as 40x30",
            id="turned",
        ),
    ],
)
def test_broken_image_is_found_before_the_run(content: bytes, problem: str, tmp_path: Path) -> None:
    """Each sample is still given for progress; the error at the end names the broken one."""
    root = write_coco(tmp_path)
    (root / "val2017" / "2.png").write_bytes(content)
    samples = load_coco(root).samples
    checked: list[Sample] = []
    with pytest.raises(ImageError, match=f"^1 of the images in .*(.|\n)*{problem}"):
        checked.extend(check_images(samples))
    assert checked == list(samples)


def test_checking_nothing_finds_nothing() -> None:
    """An empty selection is not an error of the check."""
    assert list(check_images([])) == []
