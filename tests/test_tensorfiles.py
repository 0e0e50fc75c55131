"""Tests for `effd0.tensors.inputs`."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from effd0.data.coco import Dataset, load_coco
from effd0.data.preprocess import preprocess
from effd0.errors import ImageError, OutputError
from effd0.io import sha256
from effd0.spec import SPECS
from effd0.tensors.inputs import write_inputs
from effd0.tensors.manifest import MANIFEST

from .helpers import SMALL, coco_content, names_in, write_coco


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


def test_architecture_shapes_the_files(dataset: Dataset, tmp_path: Path) -> None:
    """Another architecture's mean and fill give other numbers, and the manifest says which."""
    spec = SPECS["tf_efficientdet_d0_ap"]
    list(write_inputs(dataset, tmp_path / "bins", spec))
    padding = np.fromfile(tmp_path / "bins" / "1.bin", "<f4").reshape(spec.input_shape)[:, -1]
    assert (padding == -1).all()  # black, of mean 0.5 and deviation 0.5
    assert json.loads((tmp_path / "bins" / MANIFEST).read_text())["spec"]["arch"] == spec.arch


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


def test_manifest_comes_last(dataset: Dataset, tmp_path: Path) -> None:
    """While inputs are being written, there is none, not even that of an earlier run."""
    folder = tmp_path / "bins"
    list(write_inputs(dataset, folder, SMALL))
    for _ in write_inputs(dataset, folder, SMALL):
        assert not (folder / MANIFEST).exists()
    assert (folder / MANIFEST).exists()


@pytest.mark.parametrize("name", ["file", "file/bins"], ids=["a-file", "below-a-file"])
def test_folder_that_cannot_be_made_is_named(name: str, dataset: Dataset, tmp_path: Path) -> None:
    """Where a file is in the way, the message names the folder that was asked for."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=f"{re.escape(str(tmp_path / name))} cannot be written"):
        list(write_inputs(dataset, tmp_path / name, SMALL))
