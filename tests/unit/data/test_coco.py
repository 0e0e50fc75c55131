"""Tests for `effd0.data.coco`."""

import copy
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import ExifTags, Image

from effd0.data import coco
from effd0.errors import DatasetError, ImageError
from tests.helpers import coco_content, encoded, noise, write_annotations, write_coco


def test_embedded_images_come_by_rising_id(embedded_dataset: coco.Dataset) -> None:
    """All 48 are there, the one that shows nothing too, and each file is the annotated one."""
    ids = embedded_dataset.image_ids
    assert ids == sorted(set(ids))
    assert len(ids) == embedded_dataset.total == 48
    assert not embedded_dataset.limited
    assert embedded_dataset.extra_files == ()
    annotated = Counter(annotation["image_id"] for annotation in embedded_dataset.annotations)
    assert [id_ for id_ in ids if id_ not in annotated] == [2147]
    assert list(coco.check_images(embedded_dataset.samples)) == list(embedded_dataset.samples)


@pytest.mark.parametrize("limit", [1, 2, 9, None], ids="limit={}".format)
def test_the_first_by_id_are_kept(limit: int | None, tmp_path: Path) -> None:
    """
    The order of the annotation file and of names has no say; what is left out may be missing.

    Objects of images left out are counted by category, but for crowds, which nobody has to find.
    """
    content = coco_content(4)
    content["annotations"][3]["iscrowd"] = 1
    content["images"].reverse()
    content["images"][3]["file_name"] = "z.png"
    root = write_coco(tmp_path, content)
    if limit == 2:
        (root / "val2017" / "3.png").unlink()
    dataset = coco.load_coco(root, image_limit=limit)
    assert dataset.image_ids == [10, 20, 30, 40][:limit]
    names = ["z.png", "2.png", "3.png", "4.png"]
    assert [sample.path.name for sample in dataset.samples] == names[:limit]
    assert {sample.size for sample in dataset.samples} == {(40, 30)}
    assert [annotation["image_id"] for annotation in dataset.annotations] == dataset.image_ids
    assert dataset.categories == {1: "person", 2: "bicycle"}
    assert (dataset.total, dataset.limited) == (4, limit in (1, 2))
    assert dataset.left_out == {1: {1: 1, 2: 1}, 2: {2: 1}}.get(limit or 0, {})


def test_pictures_that_nobody_names_are_reported(tmp_path: Path) -> None:
    """A picture outside the annotation file is listed; what is no picture is not."""
    folder = write_coco(tmp_path) / "val2017"
    for name in ("z.JPG", "a.png", "notes.txt"):
        (folder / name).touch()
    assert coco.load_coco(tmp_path, image_limit=1).extra_files == ("a.png", "z.JPG")


def test_missing_images_are_counted_and_shown(tmp_path: Path) -> None:
    """All missing files are one error, of which the first five are shown."""
    root = write_coco(tmp_path, coco_content(images=8))
    for n in range(1, 8):
        (root / "val2017" / f"{n}.png").unlink()
    with pytest.raises(ImageError) as caught:
        coco.load_coco(root)
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
        pytest.param(encoded(PHOTO, "JPEG")[:-99], "truncated.*; copy or download", id="cut-jpeg"),
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
    samples = coco.load_coco(root).samples
    checked: list[coco.Sample] = []
    with pytest.raises(ImageError, match=f"^1 of the images in .*(.|\n)*{problem}"):
        checked.extend(coco.check_images(samples))
    assert checked == list(samples)


Change = Callable[[dict[str, Any]], object]


def read(content: object) -> dict[str, Any]:
    """What is read of an annotation file with this *content*."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return coco.parse_annotations(data, "some.json")[0]


def test_what_nobody_reads_is_not_kept() -> None:
    """Outlines and addresses would fill the memory; the rest is as it was."""
    content = coco_content()
    del content["annotations"][0]["area"], content["annotations"][0]["iscrowd"]
    full = copy.deepcopy(content)
    full["annotations"][0]["segmentation"] = [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]
    full["annotations"][1]["segmentation"] = {"counts": [7, 8], "size": [3, 5]}
    full["images"][0] |= {"coco_url": "http://images", "license": 3}
    assert read(full) == content


def test_ids_and_sizes_as_floats_are_whole() -> None:
    """A table with an empty cell writes 10.0 for 10; it is read as the integer that it was."""
    content = coco_content()
    floats = json.loads(json.dumps(content), parse_int=float)
    for annotation in floats["annotations"]:
        annotation["iscrowd"] = False
    assert json.dumps(read(floats)).replace("false", "0") == json.dumps(read(content))


def _root_of_classes(content: dict[str, Any]) -> None:
    content["categories"].insert(0, {"id": 0, "name": "person"})


def _root_by_supercategory(content: dict[str, Any]) -> None:
    for category in content["categories"]:  # a class may be a supercategory's only one
        category["supercategory"] = "things" if category["id"] == 1 else category["name"]
    content["categories"].append({"id": 0, "name": "things", "supercategory": "none"})


@pytest.mark.parametrize(
    ("change", "note"),
    [
        pytest.param(
            lambda c: (c["annotations"][0].update(area=None), c["annotations"][2].pop("area")),
            "2 annotations have no area: their boxes' areas count; pycocotools refuses such a file",
            id="area-null-or-missing",
        ),
        pytest.param(
            _root_of_classes,
            "category 0 (person) is left out: it has the name of another and has no annotation",
            id="root-of-the-classes",
        ),
        pytest.param(
            _root_by_supercategory,
            "category 0 (things) is left out: "
            "it is the supercategory of others and has no annotation",
            id="root-by-supercategory",
        ),
    ],
)
def test_what_is_amended_is_said(change: Change, note: str) -> None:
    """What needs no correction by the user is read as if it were not there, with one note."""
    content = coco_content()
    change(content)
    data, notes = coco.parse_annotations(json.dumps(content).encode(), "some.json")
    assert notes == [note]
    assert data["categories"] == coco_content()["categories"]
    assert [a.get("area") for a in data["annotations"]] == [
        annotation.get("area") for annotation in content["annotations"]
    ]


@pytest.mark.parametrize(
    ("written", "place"),
    [
        pytest.param("sub/1.png", "sub/1.png", id="subfolder"),
        pytest.param("../val2017/1.png", "1.png", id="through-the-parent"),
        pytest.param("{root}/val2017/1.png", "1.png", id="absolute"),
        pytest.param("{root}/other/1.png", "../other/1.png", id="outside"),
        pytest.param("/another/host/1.png", "1.png", id="of-another-host"),
        pytest.param("val2017/1.png", "1.png", id="from-the-root"),
        pytest.param("C:\\data\\1.png", "1.png", id="windows"),
        pytest.param("http://images.example/1.png", "1.png", id="url"),
    ],
)
def test_a_file_is_found_by_the_path_that_a_tool_wrote(
    written: str, place: str, tmp_path: Path
) -> None:
    """At that path, below the folder, or there under its bare name; it is no extra file then."""
    root = write_coco(tmp_path)
    file = root / "val2017" / place
    file.parent.mkdir(exist_ok=True)
    (root / "val2017" / "1.png").rename(file)
    content = coco_content()
    content["images"][0]["file_name"] = written.format(root=root)
    write_annotations(root, content)
    dataset = coco.load_coco(root)
    assert dataset.samples[0].path.samefile(file)
    assert (dataset.extra_files, dataset.notes) == ((), ())


def test_a_path_that_leads_nowhere_is_shown_as_written(tmp_path: Path) -> None:
    """One file is not taken for two images whose folders are not there."""
    content = coco_content()
    for image, name in zip(
        content["images"], ("a/1.png", "b/1.png", "c/" + "x" * 999), strict=True
    ):
        image["file_name"] = name
    write_coco(tmp_path)
    write_annotations(tmp_path, content)
    message = r"a/1\.png is missing\n  b/1\.png is missing\n  c/x{999} is missing"
    with pytest.raises(ImageError, match=message):
        coco.load_coco(tmp_path)


def test_a_file_that_lists_a_part_of_the_folder_is_called_a_subset(tmp_path: Path) -> None:
    """The note counts the pictures on both sides."""
    write_coco(tmp_path, coco_content(5))
    write_annotations(tmp_path, coco_content(2))
    dataset = coco.load_coco(tmp_path)
    assert dataset.extra_files == ("3.png", "4.png", "5.png")
    (note,) = dataset.notes
    said = "instances_val2017.json lists 2 of the 5 pictures in val2017: a subset; the others are"
    assert re.sub(r"\S+/", "", note) == f"{said} left out"


def test_a_turned_picture_is_told_by_its_exif(tmp_path: Path) -> None:
    """Where width and height are exchanged and the file says that it is turned, both are named."""
    root, exif = write_coco(tmp_path), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    PHOTO.rotate(90, expand=True).save(root / "val2017" / "2.png", exif=exif)
    with pytest.raises(ImageError, match="annotated as 40x30: its EXIF orientation 6 turns it, wh"):
        [*coco.check_images(coco.load_coco(root).samples)]
    PHOTO.rotate(90, expand=True).save(root / "val2017" / "2.png")
    with pytest.raises(ImageError, match="annotated as 40x30: it is turned, as if an EXIF"):
        [*coco.check_images(coco.load_coco(root).samples)]


@pytest.mark.parametrize("first", [0, 1])
def test_category_ids_that_are_places_are_called_so(first: int) -> None:
    """Where one of them is no id, and all are places in the list, counted from 0 or 1."""
    content = coco_content(1)
    content["categories"] = coco.COCO_CATEGORIES
    places = [first, 11 + first, 79 + first]
    content["annotations"] = [
        content["annotations"][0] | {"id": n, "category_id": place}
        for n, place in enumerate(places, start=1)
    ]
    said = f"category ids are places in the list of categories, counted from {first}; annotation"
    with pytest.raises(DatasetError, match=said):
        coco.parse_annotations(json.dumps(content).encode(), "a.json")
    content["annotations"][2]["category_id"] = 81
    with pytest.raises(DatasetError, match="has unknown category") as caught:
        coco.parse_annotations(json.dumps(content).encode(), "a.json")
    assert "places" not in str(caught.value)


@pytest.mark.parametrize(
    ("lost", "limit", "message"),
    [
        pytest.param("annotations", None, "2017.json does not exist; give --root", id="no-file"),
        pytest.param("val2017", None, "2017 is not a folder with images; those of", id="no-folder"),
        pytest.param(None, 0, "--image-limit is 0, but must be at least 1", id="limit-0"),
    ],
)
def test_root_that_cannot_be_loaded_is_refused(
    lost: str | None, limit: int | None, message: str, tmp_path: Path
) -> None:
    """The message names what was looked for and the option that leads to it."""
    root = write_coco(tmp_path)
    if lost is not None:
        shutil.rmtree(root / lost)
    with pytest.raises(DatasetError, match=message):
        coco.load_coco(root, image_limit=limit)


def second(kind: str, **values: object) -> Change:
    """Return what gives the second entry of *kind* other *values*."""
    return lambda content: content[kind][1].update(values)


def _box(*bbox: object) -> Change:
    return second("annotations", bbox=list(bbox))


#: What is wrong with an annotation file -> how to make it so, and what the error says.
MISTAKES: dict[str, tuple[Change, str]] = {
    "image-twice": (second("images", id=10), "image ids used more than once: [10]"),
    "annotation-twice": (second("annotations", id=1), "annotation ids used more than once: [1]"),
    "class-twice": (second("categories", id=1), "category ids used more than once: [1]"),
    "class-name-twice": (second("categories", name="person"), "category names used more than"),
    "id-0": (second("annotations", id=0), "annotation 0: COCO's metric can never match id 0"),
    "class": (second("annotations", category_id=7), "annotation 2 has unknown category 7"),
    "image": (second("annotations", image_id=77), "annotation 2 belongs to image 77, which is not"),
    "bbox-negative": (
        _box(2, 3, -1, 8),
        "annotation 2 has bbox [2.0, 3.0, -1.0, 8.0], but x, y, width",
    ),
    "no-image": (lambda content: content.update(images=[], annotations=[]), "it lists no image"),
    "many": (
        lambda content: content["annotations"].extend([{**content["annotations"][0], "id": 0}] * 7),
        "and 3 more; correct the file",
    ),
    "width-0": (second("images", width=0), "images[1].width: Expected `int` >= 1: 0"),
    "image-id-text": (
        second("images", id="20"),
        'images[1].id: Expected `int | float`, got `str`: "20"',
    ),
    "category-id-text": (
        second("annotations", category_id="1"),
        'annotations[1].category_id: Expected `int | float`, got `str`: "1"',
    ),
    "id-with-a-fraction": (
        second("annotations", category_id=1.5),
        "annotations[1].category_id: 1.5 is no whole",
    ),
    "id-over-int64": (second("images", id=2**63), "images[1].id: Expected `int` <= 9223372036854"),
    "id-rounded": (second("images", id=2.0**53), "images[1].id: Expected `float` <= 90071992547"),
    "area-text": (second("annotations", area="9"), "annotations[1].area: Expected `float | null`"),
    "area-below-0": (second("annotations", area=-1), "annotations[1].area: Expected `float` >= 0"),
    "bbox-not-finite": (
        _box(2, 3, 1e200, 8),
        "annotations[1].bbox[2]: Expected `float` <= 1000000000000.0: 1e+200",
    ),
    "bbox-null": (_box(2, 3, None, 8), "annotations[1].bbox[2]: Expected `float`, got `null`: n"),
    **{
        f"iscrowd-{value!r}": (
            second("annotations", iscrowd=value),
            f"annotations[1].iscrowd: {message}",
        )
        for value, message in {
            "0": 'Expected `bool | int`, got `str`: "0"',
            "false": 'Expected `bool | int`, got `str`: "false"',
            2: "Invalid enum value 2: 2",
        }.items()
    },
    "no-id": (
        lambda content: content["annotations"][1].pop("id"),
        'annotations[1]: Object missing required field `id`: {"image_id": 20, "category',
    ),
    "bbox-of-three": (
        _box(2, 3, 10),
        "annotations[1].bbox: Expected `array` of length >= 4: [2, 3, 10]",
    ),
}


@pytest.mark.parametrize(("change", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistake_is_refused(change: Change, message: str) -> None:
    """The message names the file, the entry, and what the entry should be."""
    content = coco_content()
    change(content)
    with pytest.raises(
        DatasetError, match=r"^some\.json (is|cannot) .*correct the file$"
    ) as caught:
        read(content)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"{'images': []}", "is not a COCO file: JSON is mal.*near .*im", id="no-json"),
        pytest.param(b'{"images": [NaN]}', "is not a COCO file: JSON.*near .*NaN", id="nan"),
        pytest.param(b'{"x": ' + b"[" * 99_999, "is not a COCO file: .*depth", id="too-deep"),
        pytest.param([1, 2], "file: Expected `object`, got `array`: .1, 2.; correct", id="list"),
        pytest.param({"images": []}, "missing required field `annotations`", id="lists-missing"),
    ],
)
def test_file_that_is_not_coco_is_refused(content: object, message: str) -> None:
    """The message shows what the file holds beside what it should."""
    with pytest.raises(DatasetError, match=message):
        read(content)
