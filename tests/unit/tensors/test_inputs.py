"""Network inputs on disk: written with their manifest, read back, refused where incomplete."""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from effd0.data import fixture
from effd0.data.coco import Dataset, load_coco
from effd0.data.preprocess import preprocess
from effd0.errors import ImageError, OutputError, ResultError
from effd0.io import sha256
from effd0.spec import SPECS, ModelSpec
from effd0.tensors.inputs import (
    MANIFEST,
    natural_key,
    open_inputs,
    other_layout,
    read_manifest,
    write_inputs,
)
from tests.helpers import (
    EVERY_SEED,
    SMALL,
    assert_read_or_refused,
    coco_content,
    names_in,
    write_coco,
)
from tests.helpers.results import coco_of, write_array, write_bins

PLANES, PIXELS = SMALL.input_shape, (128, 128, 3)
#: Two rows for each column.
OBLONG = replace(SMALL, image_size=(256, 128))
SIDES = pytest.mark.parametrize("spec", [SMALL, OBLONG], ids=["square", "oblong"])


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Three small images."""
    return load_coco(write_coco(tmp_path / "coco"))


def test_each_image_is_a_file_of_its_network_input(dataset: Dataset, tmp_path: Path) -> None:
    """Raw float32, planes first, is what any runner reads back as the same tensor."""
    folder = tmp_path / "bins"
    assert list(write_inputs(dataset, folder, SMALL)) == list(dataset.samples)
    assert names_in(folder) == ["1.bin", "2.bin", "3.bin", MANIFEST]
    for sample in dataset.samples:
        back = np.fromfile(folder / f"{sample.path.stem}.bin", "<f4").reshape(SMALL.input_shape)
        assert np.array_equal(back, preprocess(sample.path, SMALL).tensor)


def test_manifest_says_what_leads_back_to_the_images(dataset: Dataset, tmp_path: Path) -> None:
    """By image id: file, fingerprint, scale and size; for all of them: model and annotations."""
    limited = load_coco(tmp_path / "coco", image_limit=2)
    list(write_inputs(limited, tmp_path / "bins", SMALL))
    manifest = json.loads((tmp_path / "bins" / MANIFEST).read_text())
    assert manifest == {
        "spec": json.loads(json.dumps(asdict(SMALL))),
        "dtype": "float32",
        "annotations_sha256": sha256(dataset.annotation_file),
        "images_total": 3,
        "images": [
            {
                "image_id": image_id,
                "file": f"{image_id // 10}.bin",
                "image_scale": 40 / 128,
                "image_size": [40, 30],
                "sha256": sha256(tmp_path / "bins" / f"{image_id // 10}.bin"),
                "picture_sha256": sha256(tmp_path / "coco" / "val2017" / f"{image_id // 10}.png"),
            }
            for image_id in (10, 20)
        ],
    }


def test_images_of_one_stem_are_refused(tmp_path: Path) -> None:
    """Two images that would share a file are an error before anything is written."""
    content = coco_content()
    content["images"][1]["file_name"] = "1.jpg"
    dataset = load_coco(write_coco(tmp_path, content))
    message = (
        f"3 images have only 2 different stems, but each needs a file of its own in "
        f"{tmp_path / 'bins'}; rename the images"
    )
    with pytest.raises(OutputError, match=re.escape(message)):
        list(write_inputs(dataset, tmp_path / "bins", SMALL))
    assert not (tmp_path / "bins").exists()


def test_manifest_of_an_earlier_run_goes_first(dataset: Dataset, tmp_path: Path) -> None:
    """A run that breaks off leaves a folder without manifest, which nobody takes for complete."""
    folder = tmp_path / "bins"
    list(write_inputs(dataset, folder, SMALL))
    dataset.samples[2].path.write_bytes(b"")
    with pytest.raises(ImageError, match="the file is empty"):
        list(write_inputs(dataset, folder, SMALL))
    assert names_in(folder) == ["1.bin", "2.bin", "3.bin"]


@pytest.fixture
def bins(tmp_path: Path) -> Path:
    """Three inputs with their manifest, of images 1.png, 2.png and 3.png with ids 10, 20, 30."""
    dataset = coco_of(tmp_path / "coco", ["1.png", "2.png", "3.png"])
    return write_bins(tmp_path / "bins", dataset)


def edit(bins: Path, **changes: Any) -> None:
    """Change keys of the manifest in *bins*; None takes one away."""
    content = json.loads((bins / MANIFEST).read_text()) | changes
    content = {key: value for key, value in content.items() if value is not None}
    (bins / MANIFEST).write_text(json.dumps(content))


@SIDES
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_inputs_come_back_as_they_were_written(dtype: str, spec: ModelSpec, tmp_path: Path) -> None:
    """What a model asks for, normalised planes or pixels, goes to disk and back unchanged."""
    dataset = coco_of(tmp_path / "coco", ["a.png", "b.png"])
    inputs = open_inputs(write_bins(tmp_path / "bins", dataset, spec, dtype=dtype), spec)
    assert inputs.shape == ((*spec.image_size, 3) if dtype == "uint8" else (3, *spec.image_size))
    for sample, file in zip(dataset.samples, inputs.files, strict=True):
        tensor = preprocess(sample.path, spec, normalized=dtype != "uint8").tensor
        assert inputs.read(file).dtype == dtype
        assert np.array_equal(inputs.read(file), tensor.astype(dtype))


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
@pytest.mark.parametrize("suffix", [".bin", ".npy"])
def test_foreign_inputs_tell_what_they_are(dtype: str, suffix: str, tmp_path: Path) -> None:
    """Without a manifest, the size of the first file says its dtype, and its shape with it."""
    shape = PIXELS if dtype == "uint8" else PLANES
    tensor = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    for name in ("10", "9", "b"):
        write_array(tmp_path / f"{name}{suffix}", tensor[None], dtype)
    inputs = open_inputs(tmp_path, SMALL)
    assert [file.stem for file in inputs.files] == ["9", "10", "b"]
    assert inputs.manifest is None
    assert np.array_equal(inputs.read(inputs.files[0]), tensor)


@given(st.lists(st.integers(0, 10**12), unique=True))
def test_natural_order_counts(numbers: list[int]) -> None:
    """Files that differ in a number only come in the order of that number."""
    names = sorted((f"img_{number}.bin" for number in numbers), key=natural_key)
    assert names == [f"img_{number}.bin" for number in sorted(numbers)]


def cut(bins: Path) -> None:
    """Leave half of an input."""
    (bins / "2.bin").write_bytes((bins / "2.bin").read_bytes()[: 128 * 128 * 6])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "2.bin").unlink(), r"holds 2 .* lists 3; 1 are missing: 2\.bin; write"),
        (lambda d: (d / "7.bin").touch(), r"holds 4 .* lists 3; 1 are foreign: 7\.bin; write"),
        (cut, r"1 inputs in .* not the 196608 bytes of float32 .*: 2\.bin \(98304\)"),
        (
            lambda d: (d / MANIFEST).write_text("{"),
            r"manifest\.json cannot be read: .*; write the inputs again",
        ),
        (
            lambda d: (d / MANIFEST).write_text("[]"),
            r"the file: Expected `object`, got `array`: \[\]; write",
        ),
        (
            lambda d: edit(d, images=None),
            r"the file: Object missing required field `images`: ",
        ),
        (lambda d: edit(d, dtype="int4"), r"dtype: Invalid enum value 'int4'"),
        (lambda d: edit(d, spec={"arch": 3}), r"spec\.arch: Expected `str`, got `int`: 3; write"),
    ],
    ids=["lost", "added", "cut", "broken-json", "list", "key", "dtype", "spec-key"],
)
def test_a_damaged_folder_is_refused(damage: Any, message: str, bins: Path) -> None:
    """The message names the files, and says that they are to be written again."""
    damage(bins)
    with pytest.raises(ResultError, match=message):
        open_inputs(bins, SMALL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 10}, "has image ids more than once: 10; write"),
        ({"file": "1.npy"}, "has stems more than once: 1; write"),
        ({"file": "../2.bin"}, r"'\.\./2\.bin' is not the name of a file"),
        ({"image_size": [40]}, r"images\[1\]\.image_size: Expected `array` of length 2: \[40\]"),
        ({"image_size": [40, 0]}, r"images\[1\]\.image_size\[1\]: Expected `int` >= 1: 0"),
        ({"image_scale": 0.0}, r"images\[1\]\.image_scale: Expected `float` > 0\.0: 0\.0"),
    ],
    ids=["id", "stem", "path", "size", "no-row", "scale"],
)
def test_an_entry_that_cannot_be_is_refused(
    change: dict[str, Any], message: str, bins: Path
) -> None:
    """A manifest that would lead to two images, or out of its folder, leads nowhere."""
    images = json.loads((bins / MANIFEST).read_text())["images"]
    edit(bins, images=[images[0], images[1] | change, images[2]])
    with pytest.raises(ResultError, match=message):
        open_inputs(bins, SMALL)


def test_inputs_of_another_architecture_are_refused(bins: Path) -> None:
    """What differs is named, so that the right --arch can be given."""
    message = r"arch tf_efficientdet_d0, not tf_efficientdet_d0_ap.*give the --arch"
    with pytest.raises(ResultError, match=message):
        open_inputs(bins, SPECS["tf_efficientdet_d0_ap"])


def test_a_manifest_of_one_number_for_the_side_is_of_a_square(bins: Path) -> None:
    """Versions before wrote it so; what a manifest leaves out of the spec is as in D0."""
    spec = json.loads((bins / MANIFEST).read_text())["spec"]
    del spec["category_ids"], spec["fill"]
    edit(bins, spec=spec | {"image_size": 128})
    assert open_inputs(bins, SMALL).shape == PLANES
    with pytest.raises(ResultError, match=r"image_size \(128, 128\), not \(256, 128\); give the"):
        open_inputs(bins, OBLONG)


def test_an_input_that_changed_since_is_not_read(bins: Path) -> None:
    """One bit is enough: results would be noted under the wrong fingerprint."""
    inputs = open_inputs(bins, SMALL)
    raw = bytearray((bins / "2.bin").read_bytes())
    raw[1000] ^= 1
    (bins / "2.bin").write_bytes(raw)
    inputs.read(bins / "1.bin")
    with pytest.raises(ResultError, match=r"2\.bin has changed since the manifest"):
        inputs.read(bins / "2.bin")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: d.rmdir(), "is not a folder; make one with"),
        (Path.resolve, r"holds no \.bin or \.npy; make some with"),
        (
            lambda d: (d / "a.bin").write_bytes(b"x" * 100),
            r"a\.bin is 100 bytes, but one input is float32 \(3, 128, 128\) of 196608 bytes, flo",
        ),
        (lambda d: (d / "a.npy").write_bytes(b"x"), r"a\.npy is no \.npy file"),
        (lambda d: np.save(d / "a.npy", np.zeros(PLANES)), r"a\.npy is float64"),
        (
            lambda d: [(d / name).write_bytes(b"x") for name in ("a.bin", "a.npy")],
            r"has two files each for a; keep one of each",
        ),
    ],
    ids=["no-folder", "empty", "size", "no-npy", "float64", "doubled"],
)
def test_a_foreign_folder_of_no_inputs_is_refused(make: Any, message: str, tmp_path: Path) -> None:
    """What lies there is told, beside what an input would be."""
    make(tmp_path)
    with pytest.raises(ResultError, match=message):
        open_inputs(tmp_path, SMALL)


@pytest.mark.parametrize(
    "tensor",
    [np.zeros((128, 128, 3), np.float32), np.zeros(PLANES, np.float16)],
    ids=["channels-last", "half"],
)
def test_a_foreign_array_unlike_the_first_is_not_read(tensor: Any, tmp_path: Path) -> None:
    """An array that says what it is, is held to it."""
    np.save(tmp_path / "1.npy", np.zeros(PLANES, np.float32))
    np.save(tmp_path / "2.npy", tensor)
    inputs = open_inputs(tmp_path, SMALL)
    with pytest.raises(ResultError, match=re.escape(f"is {tensor.dtype} {tensor.shape}, but")):
        inputs.read(tmp_path / "2.npy")


@EVERY_SEED
def test_a_mutated_manifest_is_read_or_refused(seeds: range, bins: Path) -> None:
    """No error but effd0's comes out of a manifest, and nothing that is not finite."""
    path = bins / MANIFEST
    content = json.loads(path.read_text())

    def read() -> object:
        open_inputs(bins, SMALL)
        return read_manifest(path)

    assert_read_or_refused(path, content, seeds, read)


#: How a file of floats is written that is not as it is read -> what it is called.
OTHERWISE: dict[str, tuple[Callable[[Any], Any], str]] = {
    "big-endian": (lambda own: own.astype(">f4"), "big-endian"),
    "two-in-float16": (lambda own: np.stack([own, own]).astype("<f2"), "float16"),
    "channels-last": (lambda own: own.transpose(1, 2, 0), "NHWC"),
}


@SIDES
@pytest.mark.parametrize(("write", "said"), OTHERWISE.values(), ids=OTHERWISE)
def test_values_of_another_type_or_layout_are_refused(
    write: Callable[[Any], Any], said: str, spec: ModelSpec, tmp_path: Path
) -> None:
    """Where the values show it, the error says what they are; right ones pass, zeros too."""
    dataset = load_coco(fixture.coco_root(), image_limit=1)
    own = preprocess(dataset.samples[0].path, spec).tensor
    file = tmp_path / "1.bin"
    for right in (own, np.zeros_like(own)):
        right.tofile(file)
        assert np.array_equal(open_inputs(tmp_path, spec).checked(file), right)
    np.ascontiguousarray(write(own)).tofile(file)
    with pytest.raises(ResultError, match=f"1.bin holds {said} values, but float32 .* was wanted"):
        open_inputs(tmp_path, spec).checked(file)


@SIDES
def test_planes_of_bytes_are_told_from_pixels(spec: ModelSpec) -> None:
    """Bytes are pixels, channels last: planes of them are refused."""
    dataset = load_coco(fixture.coco_root(), image_limit=1)
    pixels = preprocess(dataset.samples[0].path, spec, normalized=False).tensor
    assert other_layout(pixels) == ""
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1)).reshape(pixels.shape)
    assert other_layout(planes) == "NCHW"
