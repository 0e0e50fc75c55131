"""Faults of folders of raw outputs that another tool wrote."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from effd0.runners.recorded import RecordedRunner
from effd0.spec import D0

from .fault import Fault, Good, Plant, Planted
from .good import detections_by
from .run import base_options

Array = npt.NDArray[Any]
#: Stem -> output number -> head, (C, H, W).
Heads = dict[str, dict[int, Array]]


def _planted(good: Good, folder: Path, *, runs: bool) -> Planted:
    def found() -> Any:
        with RecordedRunner(folder, good.spec) as runner:
            return detections_by(runner, good.dataset)

    options = (*base_options(good), f"--results={folder}")
    return Planted(options, found=found if runs else None)


def _copied(good: Good, folder: Path) -> Path:
    """A folder of links to the good results; what is changed is written anew."""
    copy = folder / "result"
    shutil.copytree(good.results, copy, copy_function=os.link)
    shutil.copy(good.results.parent / "result_manifest.json", folder)
    return copy


def _heads(change: Callable[[Heads], Heads], *, runs: bool = True) -> Plant:
    """Every file holds what *change* makes of all heads."""

    def plant(good: Good, folder: Path) -> Planted:
        copy = _copied(good, folder)
        for path, content in change(_Lazy(good)).items():
            for number, head in content.items():
                target = copy / f"{path}_{number}.bin"
                target.unlink(missing_ok=True)
                np.ascontiguousarray(head, np.float32).tofile(target)
        return _planted(good, copy, runs=runs)

    return plant


class _Lazy(dict[str, dict[int, Array]]):
    """All heads of the good results."""

    def __init__(self, good: Good) -> None:
        super().__init__()
        for sample in good.dataset.samples:
            stem = sample.path.stem
            self[stem] = {
                n: np.fromfile(good.results / f"{stem}_{n}.bin", np.float32).reshape(shape)
                for n, shape in enumerate(D0.head_shapes.values())
            }


def _files(change: Callable[[list[Path]], object]) -> Plant:
    def plant(good: Good, folder: Path) -> Planted:
        copy = _copied(good, folder)
        change(sorted(copy.iterdir()))
        return _planted(good, copy, runs=False)

    return plant


def _each(change: Callable[[int, Array], Array]) -> Callable[[Heads], Heads]:
    return lambda heads: {
        stem: {n: change(n, head) for n, head in of.items()} for stem, of in heads.items()
    }


def _next_images(heads: Heads) -> Heads:
    stems = list(heads)
    return dict(zip(stems, [heads[s] for s in stems[1:] + stems[:1]], strict=True))


def _cut(paths: list[Path]) -> None:
    content = paths[4].read_bytes()
    paths[4].unlink()
    paths[4].write_bytes(content[: len(content) // 2])


def _classes_only(change: Callable[[Array], Array]) -> Callable[[int, Array], Array]:
    return lambda n, head: change(head) if n < 5 else head


def _boxes_only(change: Callable[[Array], Array]) -> Callable[[int, Array], Array]:
    return lambda n, head: change(head) if n >= 5 else head


def _xy(head: Array) -> Array:
    return head.reshape(9, 4, *head.shape[1:])[:, [1, 0, 3, 2]].reshape(head.shape)


def _class_up(head: Array) -> Array:
    return np.roll(head.reshape(9, 90, *head.shape[1:]), 1, axis=1).reshape(head.shape)


def _anchors_reversed(_: int, head: Array) -> Array:
    return head.reshape(9, -1, *head.shape[1:])[::-1].reshape(head.shape)


def _stale(good: Good, folder: Path) -> Planted:
    """Results of an earlier set of inputs: the manifest beside them is of others."""
    copy = _copied(good, folder)
    path = folder / "result_manifest.json"
    content = json.loads(path.read_text())
    for image in content["images"]:
        image["sha256"] = image["sha256"][::-1]
    path.write_text(json.dumps(content))
    return _planted(good, copy, runs=False)


def _of_bad_inputs(remake: Callable[[Array], Array]) -> Plant:
    """Right results of wrong inputs: what the model says of images that were prepared wrongly."""

    def plant(good: Good, folder: Path) -> Planted:
        from effd0.data.preprocess import preprocess
        from effd0.runners.registry import RunnerOptions, open_runner

        copy = _copied(good, folder)
        with open_runner("ort", good.model, good.spec, RunnerOptions()) as runner:
            for sample in good.dataset.samples:
                tensor = remake(preprocess(sample.path, good.spec).tensor.astype(np.float32))
                feed = {runner.inputs[0].name: np.ascontiguousarray(tensor)[None]}
                for n, head in enumerate(runner.infer(feed).values()):
                    target = copy / f"{sample.path.stem}_{n}.bin"
                    target.unlink()
                    head.tofile(target)
        return _planted(good, copy, runs=True)

    return plant


RESULT_FAULTS = (
    Fault("results-shifted-by-one", "runner", "peers F18", "shifted by one", _heads(_next_images)),
    Fault("a-head-twice-in-results", "runner", "peers F23", "", _heads(
        lambda h: {s: {**of, 4: of[9], 9: of[9]} for s, of in h.items()}, runs=False)),
    Fault("result-missing", "runner", "peers F20", "", _files(lambda p: p[7].unlink())),
    Fault("result-cut-off", "runner", "peers F20", "", _files(_cut)),
    Fault("results-nhwc", "runner", "peers F26", "NHWC", _heads(_each(
        lambda _, h: h.transpose(1, 2, 0).reshape(h.shape)))),
    Fault("scores-not-logits", "runner", "TensorRT's samples", "through a sigmoid", _heads(_each(
        _classes_only(lambda h: 1 / (1 + np.exp(-h)))))),
    Fault("box-x-and-y-swapped", "runner", "peers F27", "box x and y swapped",
          _heads(_each(_boxes_only(_xy)))),
    Fault("background-class", "runner", "peers F46", "class channels shifted up",
          _heads(_each(_classes_only(_class_up)))),
    Fault("anchors-reordered", "runner", "a converter's reshape", "anchors of a cell",
          _heads(_each(_anchors_reversed))),
    Fault("boxes-scaled", "runner", "TFOD's box coder, 10 10 5 5", "boxes scaled",
          _heads(_each(_boxes_only(lambda h: h * 0.2)))),
    Fault("results-of-other-inputs", "runner", "peers F47: inference #1332", "", _stale),
    Fault("results-of-bgr-inputs", "preprocess", "peers F1", "BGR",
          _of_bad_inputs(lambda t: t[::-1])),
    Fault("results-of-unnormalised-inputs", "preprocess", "peers F2", "divided by 255|normalised",
          _of_bad_inputs(lambda t: t * np.array(
              [0.229, 0.224, 0.225], np.float32).reshape(3, 1, 1) + np.array(
              [0.485, 0.456, 0.406], np.float32).reshape(3, 1, 1))),
)  # fmt: skip
