"""A pipeline without a fault: scenes, model, inputs, results and detections that fit together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from effd0.data import fixture as embedded
from effd0.data.coco import Dataset, load_coco
from effd0.data.preprocess import preprocess
from effd0.diagnosis.model import fresh_export
from effd0.evaluation.pipeline import run_dataset
from effd0.metrics.coco import to_coco_results
from effd0.metrics.summary import coco_metrics
from effd0.runners.base import Runner
from effd0.runners.registry import RunnerOptions, open_runner
from effd0.spec import D0, ModelSpec
from effd0.tensors.inputs import write_inputs

from .fault import Found, Good

#: Scenes of the zoo: enough for a mAP, few enough for their heads to be kept on disk.
SCENES = 12


def make_good(folder: Path) -> Good:
    """Make all that is right, in *folder*."""
    root = copy_scenes(folder / "coco", SCENES)
    dataset, model = load_coco(root), folder / "d0.onnx"
    shutil.copy(fresh_export(embedded.checkpoint(), D0), model)
    bins = folder / "bins"
    list(write_inputs(dataset, bins, D0))
    found = detections_of(model, dataset)
    points = coco_metrics(dataset, found, D0).ap
    assert points is not None
    write_results(folder / "result", bins, model, dataset)
    path = folder / "detections.json"
    path.write_text(json.dumps(as_results(found, D0)))
    return Good(
        root, dataset, embedded.checkpoint(), model, bins, folder / "result", path, D0,
        100 * points,
    )  # fmt: skip


def copy_scenes(root: Path, count: int) -> Path:
    """Copy the first *count* embedded scenes, in COCO's layout, to *root*; return it."""
    source = embedded.coco_root()
    dataset = load_coco(source, image_limit=count)
    content = json.loads(dataset.annotation_file.read_text())
    ids = set(dataset.image_ids)
    content["images"] = [image for image in content["images"] if image["id"] in ids]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]
    (root / "annotations").mkdir(parents=True)
    (root / "annotations" / dataset.annotation_file.name).write_text(json.dumps(content))
    (root / "val2017").mkdir()
    for sample in dataset.samples:
        shutil.copy(sample.path, root / "val2017")
    return root


def detections_of(model: Path, dataset: Dataset, spec: ModelSpec = D0) -> Found:
    """What the ONNX file *model* finds in *dataset*."""
    with open_runner("ort", model, spec, RunnerOptions()) as runner:
        return detections_by(runner, dataset, spec)


def detections_by(runner: Runner, dataset: Dataset, spec: ModelSpec = D0) -> Found:
    """What *runner*, which is open, finds in *dataset*."""
    found = run_dataset(dataset.samples, runner, spec, batch_size=1)
    return {sample.image_id: detections for sample, detections in found}


def as_results(found: Found, spec: ModelSpec) -> list[dict[str, object]]:
    """*found* in COCO's result format."""
    return [
        {"image_id": int(id_), "category_id": int(category), "bbox": box, "score": score}
        for id_, *box, score, category in to_coco_results(found, spec).tolist()
    ]


def write_results(folder: Path, bins: Path, model: Path, dataset: Dataset) -> None:
    """Write the heads of *dataset* by *model* as ais_bench does, with the inputs' manifest."""
    folder.mkdir()
    with open_runner("ort", model, D0, RunnerOptions()) as runner:
        for sample in dataset.samples:
            tensor = preprocess(sample.path, D0).tensor[None].astype(np.float32)
            heads = runner.infer({runner.inputs[0].name: tensor})
            for n, name in enumerate(D0.output_names):
                heads[name].tofile(folder / f"{sample.path.stem}_{n}.bin")
    shutil.copy(bins / "manifest.json", folder.parent / f"{folder.name}_manifest.json")
