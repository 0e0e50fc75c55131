"""Runs in which nothing is wrong, as unlike each other as users' are: none may fail."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import TensorProto
from safetensors.torch import save_file

from effd0.data.coco import load_coco
from effd0.export.to_onnx import ExportSettings, write_onnx, write_simplified
from effd0.graph.onnx_info import load_graph
from effd0.graph.rewrites import DEFAULT_EDITS, apply_edits, save_graph
from effd0.runners.checkpoint import read_weights
from effd0.spec import ModelSpec
from effd0.tensors.inputs import write_inputs
from tests.helpers.onnx_models import (
    nodes_of,
    pinned,
    renamed,
    with_foreign_input,
    with_merged_heads,
)

from .checkpoint import noisy
from .dataset import own_scenes
from .model import rename, unfused
from .quantised import CLEAN as QUANTISED
from .run import Good, base_options, copy_scenes

#: What is right and an empty folder -> the options of pytest.
Make = Callable[[Good, Path], Sequence[str]]


def _model(write: Callable[[Good, Path], object], *options: str) -> Make:
    """The ONNX file that *write* puts at the path it is given."""

    def make(good: Good, folder: Path) -> Sequence[str]:
        path = folder / "d0.onnx"
        write(good, path)
        return (*base_options(good), f"--model={path}", *(options or ("--runner=ort",)))

    return make


def _export(
    settings: ExportSettings,
    *options: str,
    simplified: bool = False,
    edits: Sequence[str] = (),
) -> Make:
    def write(good: Good, path: Path) -> None:
        raw = path.with_name("raw.onnx") if simplified else path
        write_onnx(good.checkpoint, raw, good.spec, settings)
        if simplified:
            write_simplified(raw, path)
        if edits:
            graph = load_graph(path)
            apply_edits(graph, edits)
            save_graph(graph, path)

    return _model(write, *options)


def _edited(*edits: str, then: Callable[[Any, ModelSpec], object] = lambda *_: None) -> Make:
    def write(good: Good, path: Path) -> None:
        graph = load_graph(good.model)
        apply_edits(graph, edits)
        then(graph, good.spec)
        save_graph(graph, path)

    return _model(write)


def _float16_outside(graph: Any, _: ModelSpec) -> None:
    """Take the casts at the borders away: inputs and outputs are float16 too."""
    name = graph.graph.input[0].name
    (cast,) = [n for n in nodes_of(graph, "Cast") if n.input[0] == name]
    graph.graph.node.remove(cast)
    rename(graph, {cast.output[0]: name})
    graph.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    for output in graph.graph.output:
        (cast,) = [n for n in nodes_of(graph, "Cast") if output.name in n.output]
        graph.graph.node.remove(cast)
        rename(graph, {cast.input[0]: output.name})
        output.type.tensor_type.elem_type = TensorProto.FLOAT16
    del graph.graph.value_info[:]


def _weights(seed: int, settings: ExportSettings) -> Make:
    """Other weights, a hundredth of their spread away, with an export of their own."""

    def make(good: Good, folder: Path) -> Sequence[str]:
        state = noisy(read_weights(good.checkpoint), 0.01, seed)
        checkpoint, path = folder / "d0.pth", folder / "d0.onnx"
        torch.save(state, checkpoint)
        write_onnx(checkpoint, path, good.spec, settings)
        options = base_options(good, checkpoint=checkpoint)[:-1]
        # These weights have no record: what they lose is no fault of the pipeline.
        return (*options, "--min-map=30", f"--model={path}", "--runner=ort")

    return make


def _same_weights(name: str, wrap: Callable[[Any], Any]) -> Make:
    """The weights of the model in another kind of file."""

    def make(good: Good, folder: Path) -> Sequence[str]:
        checkpoint, state = folder / name, wrap(dict(read_weights(good.checkpoint)))
        (save_file if checkpoint.suffix == ".safetensors" else torch.save)(state, checkpoint)
        options = base_options(good, checkpoint=checkpoint)
        return (*options, f"--model={good.model}", "--runner=ort")

    return make


def _bins(dtype: str) -> Make:
    """Inputs of another tool: right, but without effd0's manifest."""

    def make(good: Good, folder: Path) -> Sequence[str]:
        bins = folder / "bins"
        list(write_inputs(good.dataset, bins, good.spec, dtype=dtype))
        (bins / "manifest.json").unlink()
        return (*base_options(good), f"--bins={bins}", "--runner=ort")

    return make


def _results(*, manifest: bool) -> Make:
    def make(good: Good, folder: Path) -> Sequence[str]:
        results = good.results
        if not manifest:
            results = folder / "result"
            shutil.copytree(good.results, results)
        return (*base_options(good), f"--results={results}")

    return make


def _reordered(good: Good, folder: Path) -> Sequence[str]:
    """Heads are known by their shapes: a compiler may number its outputs as it likes."""
    results = folder / "result"
    shutil.copytree(good.results, results)
    for path in list(results.iterdir()):
        stem, _, number = path.stem.rpartition("_")
        path.rename(results / f"{stem}_{9 - int(number)}.tmp")
    for path in list(results.iterdir()):
        path.rename(path.with_suffix(".bin"))
    return (*base_options(good), f"--results={results}")


def _merged_results(good: Good, folder: Path) -> Sequence[str]:
    """Two files an image, as a network gives them that joins its levels."""
    results = folder / "result"
    results.mkdir()
    for image in good.dataset.samples:
        heads = [
            np.fromfile(good.results / f"{image.path.stem}_{n}.bin", np.float32)
            for n in range(len(good.spec.output_names))
        ]
        widths = ((good.spec.num_classes, heads[:5]), (4, heads[5:]))
        for n, (width, levels) in enumerate(widths):
            tables = [
                level.reshape(-1, *size).transpose(1, 2, 0).reshape(-1, width)
                for level, size in zip(levels, good.spec.feature_sizes, strict=True)
            ]
            np.concatenate(tables).tofile(results / f"{image.path.stem}_{n}.bin")
    return (*base_options(good), f"--results={results}")


def _other_scenes(good: Good, folder: Path) -> Sequence[str]:
    """Other pictures, under names and ids that no published set has."""
    root = copy_scenes(good.scenes, folder / "coco", 20)
    path = root / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    last = {image["id"] for image in content["images"][10:]}
    content["images"] = [image for image in content["images"] if image["id"] in last]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in last]
    for entry, key in [(i, "id") for i in content["images"]] + [
        (a, "image_id") for a in content["annotations"]
    ]:
        entry[key] += 1_000_000
    path.write_text(json.dumps(content))
    names = {image["file_name"] for image in content["images"]}
    for picture in (root / "val2017").iterdir():
        if picture.name not in names:
            picture.unlink()
    assert len(load_coco(root).samples) == 10
    options = (f"--coco={root}", f"--checkpoint={good.checkpoint}", "--min-map=30")
    return (*options, f"--model={good.model}", "--runner=ort")


def _converted(good: Good, folder: Path) -> Sequence[str]:
    """One's own scenes as converters write them: areas of boxes, whole pixels, no crowds."""
    root = own_scenes(good.scenes, folder / "coco")
    path = root / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    for a in content["annotations"]:
        a |= {"area": a["bbox"][2] * a["bbox"][3], "iscrowd": 0}
    path.write_text(json.dumps(content))
    options = (f"--coco={root}", f"--checkpoint={good.checkpoint}", "--min-map=30")
    return (*options, f"--model={good.model}", "--runner=ort")


def _shuffled(good: Good, path: Path) -> None:
    graph = load_graph(good.model)
    renamed(graph, seed=3)
    save_graph(graph, path)


def _plain(*options: str) -> Make:
    return lambda good, _: (*base_options(good), *options)


def _with_model(*options: str) -> Make:
    return lambda good, _: (*base_options(good), f"--model={good.model}", *options)


#: Id of a run that has to pass -> the options of pytest.
CLEAN: dict[str, Make] = {
    "export-opset-13-free-batch": _export(ExportSettings(None, 13)),
    "export-opset-17-batch-1-simplified": _export(ExportSettings(1, 17), simplified=True),
    "export-opset-11-batch-16": _export(ExportSettings(16, 11)),
    "export-dynamo-opset-18": _export(ExportSettings(None, 18, "dynamo")),
    # All runners, the emulated board among them, which has to be told what batch there is.
    "slow-batch-1": _export(ExportSettings(1), "--slow"),
    # Of eight rows that are computed, most are padding: all runners would take two minutes.
    "slow-batch-8-emulated": _export(ExportSettings(8), "--slow", "--runner=emulated"),
    "slow-batch-1-simplified": _export(ExportSettings(1), "--slow", simplified=True),
    "slow-batch-1-modified": _export(
        ExportSettings(1), "--slow", simplified=True, edits=DEFAULT_EDITS),
    "batch-fixed-to-4": _model(lambda good, path: pinned(good.model, path, 4)),
    "edited-by-default": _edited(*DEFAULT_EDITS),
    "edited-mean-pool": _edited(*DEFAULT_EDITS, "mean-pool"),
    "weights-in-fp16": _edited("fp16"),
    "all-in-fp16": _edited("fp16", then=_float16_outside),
    "renamed-and-shuffled": _model(_shuffled),
    "unfused-batch-norms": _model(unfused),
    "input-of-pixels-planes-last": _edited(
        then=partial(with_foreign_input, pixels=True, last=True)),
    "input-of-pixels": _edited(then=partial(with_foreign_input, pixels=True, last=False)),
    "input-planes-last": _edited(
        then=partial(with_foreign_input, pixels=False, last=True)),
    "heads-merged": _edited(then=with_merged_heads),
    "results-of-merged-heads": _merged_results,
    "runner-openvino": _with_model("--runner=openvino"),
    "runner-torch": _plain("--runner=torch"),
    "runner-ort-1-thread-unoptimised": _with_model(
        "--runner=ort", "--threads=1", "--graph-optimization=disable"),
    "runner-ort-2-threads-basic": _with_model(
        "--runner=ort", "--threads=2", "--graph-optimization=basic"),
    "runner-ort-1-thread-extended": _with_model(
        "--runner=ort", "--threads=1", "--graph-optimization=extended"),
    "batch-7": _with_model("--runner=ort", "--batch-size=7"),
    "results-with-manifest": _results(manifest=True),
    "results-of-another-tool": _results(manifest=False),
    "results-in-another-order": _reordered,
    "bins-in-float32": _bins("float32"),
    "bins-in-float16": _bins("float16"),
    "bins-in-uint8": _bins("uint8"),
    "weights-seed-1": _weights(1, ExportSettings(None, 17)),
    "weights-seed-2": _weights(2, ExportSettings(2, 13)),
    "weights-seed-3": _weights(3, ExportSettings(None, 18, "dynamo")),
    "weights-as-safetensors": _same_weights("d0.safetensors", lambda state: {
        name: value.contiguous() for name, value in state.items()}),
    "weights-in-a-training-file": _same_weights("d0.pth", lambda state: {
        "model": state, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}, "epoch": 3}),
    "weights-of-data-parallel": _same_weights("d0.pth", lambda state: {
        "state_dict": {f"module.{name}": value for name, value in state.items()}}),
    "other-scenes": _other_scenes,
    "own-scenes-whole-pixels-no-crowds": _converted,
    # Weights of nobody knows which checkpoint: what needs one is left out.
    "model-without-its-checkpoint": lambda good, folder: [
        *(o for o in _weights(4, ExportSettings())(good, folder) if "--checkpoint" not in o)],
    "results-without-a-checkpoint": lambda good, folder: [
        *(o for o in _results(manifest=False)(good, folder) if "--checkpoint" not in o)],
    "bins-and-results": lambda good, _: (
        *base_options(good), f"--bins={good.bins}", f"--results={good.results}"),
    **QUANTISED,
}  # fmt: skip
