"""
effd0 in turn with other implementations, on the same images: one ratio per row.

Results are compared; a benchmark whose results differ leaves no row.  An absent peer is skipped.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.measuring import Measure
from benchmarks.synthetic import scored_set
from effd0.benchmark.measure import END_TO_END, NETWORK, Subject, open_subject
from effd0.data.coco import Dataset
from effd0.data.preprocess import ModelInput, input_scale, preprocess
from effd0.detection.heads import HeadOutputs
from effd0.detection.postprocess import Detections, postprocess
from effd0.evaluation.model import ModelChoice
from effd0.evaluation.pipeline import run_dataset
from effd0.export import verify as build
from effd0.export.to_onnx import ExportSettings
from effd0.graph.rewrites import DEFAULT_EDITS
from effd0.metrics.summary import coco_metrics
from effd0.results.environment import installed_version
from effd0.runners.base import make_feed
from effd0.spec import ModelSpec

pytest.importorskip("effdet", reason="needs effdet: pip install 'effd0[torch]'")

import torch  # after the skip

from benchmarks.effdet_path import EffdetPath, as_tensors, assert_same_found

#: Pixels and scores by which float32 in another order may move a detection of the same heads.
#: Measured 2026-11-25 on 8 drawn scenes: 6.1e-5 and 6.0e-8.
BOX_TOLERANCE, SCORE_TOLERANCE = 2e-3, 1e-6
#: IoU and scores of a pair where the heads come from two backends.  Measured 2026-11-25 on 8
#: drawn scenes: 0.999995 and 3.4e-6, no detection without its pair.
MIN_IOU, BACKEND_SCORES = 0.99, 1e-3
#: Of two overlapping boxes of one score, rounding decides which stays, and so which others go.
#: Measured 2026-11-25 on 24 drawn scenes: 0.034 at most, in one of them; 2026-12-01 on 24
#: photographs: 0.058 at most, in four of them.
UNSURE = 0.07
#: Relative L2 norm by which heads may differ; measured 2026-11-25: 9.6e-7 against the plain
#: export, 6.6e-6 against OpenVINO, 7.3e-6 against PyTorch.
SAME_HEADS = 1e-4
#: Sums of the same terms, perhaps in another order; measured 2026-11-25: 0.
SAME_METRICS = 1e-9


@pytest.fixture(scope="session")
def effdet_path(checkpoint: Path, spec: ModelSpec) -> EffdetPath:
    """What effdet itself does from file to detections, with the weights under test."""
    return EffdetPath(checkpoint, spec)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread for torch, as numpy and Pillow have."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def plain_export(
    checkpoint: Path, spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The checkpoint as torch exports it, and nothing more."""
    out = tmp_path_factory.mktemp("peers") / "plain.onnx"
    return build.export_onnx(checkpoint, out, spec, ExportSettings(batch_size=None)).path


@pytest.fixture(scope="session")
def edited(plain_export: Path, spec: ModelSpec) -> Path:
    """The export simplified and edited, every edit exact."""
    simplified, out = plain_export.with_name("sim.onnx"), plain_export.with_name("edited.onnx")
    build.simplify_onnx(plain_export, simplified, spec)
    return build.modify_onnx(simplified, out, spec, DEFAULT_EDITS).path


@pytest.fixture
def ours(edited: Path, spec: ModelSpec) -> Iterator[Subject]:
    """Our model in ONNX Runtime."""
    with open_subject(ModelChoice(edited, None, "ort", spec)) as subject:
        yield subject


@pytest.fixture
def few(dataset: Dataset, quick: bool) -> Dataset:
    """
    So many images that the beginning and the end of a run, where one stage works alone, weigh
    little, and so few that a slow rival can run them often.
    """
    return replace(dataset, samples=dataset.samples[: 2 if quick else 24])


@pytest.mark.usefixtures("one_thread")
def bench_postprocess_effdet(
    measure: Measure,
    seen: list[tuple[HeadOutputs, ModelInput]],
    effdet_path: EffdetPath,
    spec: ModelSpec,
) -> None:
    """Trained heads to identical detections, one thread."""
    tensors = [(as_tensors(heads), image) for heads, image in seen]

    def effdets() -> list[np.ndarray]:
        with torch.inference_mode():
            return [effdet_path.postprocess(h, i.image_scale, i.image_size) for h, i in tensors]

    found, wanted = measure.in_turn(
        lambda: [postprocess(heads, i.image_scale, i.image_size, spec) for heads, i in seen],
        effdets,
        "heads to detections, 1 thread",
        name="effdet DetBenchPredict",
        images=len(seen),
        on=f"numba {installed_version('numba')}",
    )
    for ours, rows in zip(found, wanted, strict=True):
        assert len(ours) > 0
        assert ours.classes.tolist() == rows[:, 5].tolist()
        assert np.abs(ours.scores - rows[:, 4]).max(initial=0) <= SCORE_TOLERANCE
        assert np.abs(ours.boxes - rows[:, :4]).max(initial=0) <= BOX_TOLERANCE


@pytest.mark.parametrize("normalized", [False, True], ids=["to=pixels", "to=input"])
def bench_preprocess_floor(
    measure: Measure, dataset: Dataset, spec: ModelSpec, normalized: bool
) -> None:
    """Files to pixels or to the float32 input, beside decoding and resizing alone, one thread."""
    paths = [sample.path for sample in dataset.samples[:8]]
    # As in a run, where inputs are written to two arrays in turn.
    arrays = np.empty((2, *spec.input_shape), np.float32)

    def ours() -> list[ModelInput]:
        if not normalized:
            return [preprocess(path, spec, normalized=False) for path in paths]
        return [preprocess(path, spec, out=arrays[n % 2]) for n, path in enumerate(paths)]

    def pillows(path: Path) -> Image.Image:
        with Image.open(path) as image:
            rgb = image.convert("RGB")
        scale = input_scale(rgb.size, spec)
        size = (int(rgb.width * scale), int(rgb.height * scale))
        return rgb.resize(size, Image.Resampling.BILINEAR)

    found, floor = measure.in_turn(
        ours,
        lambda: [pillows(path) for path in paths],
        f"file to {'input' if normalized else 'pixels'}, 1 thread",
        name="Pillow decode + resize",
        images=len(paths),
        on=f"Pillow {installed_version('pillow')}",
    )
    for one, resized in zip(found, floor, strict=True):
        part = one.tensor[: resized.height, : resized.width]
        assert (
            np.isfinite(one.tensor).all()
            if normalized
            else np.array_equal(part, np.asarray(resized))
        )


@pytest.mark.usefixtures("one_thread")
def bench_preprocess_effdet(
    measure: Measure, dataset: Dataset, effdet_path: EffdetPath, spec: ModelSpec
) -> None:
    """Files to input, bit for bit effdet's."""
    paths = [sample.path for sample in dataset.samples[:8]]
    found, wanted = measure.in_turn(
        lambda: [preprocess(path, spec) for path in paths],
        lambda: [effdet_path.preprocess(path)[0] for path in paths],
        "file to input, 1 thread",
        name="effdet transforms_coco_eval",
        images=len(paths),
        on=f"Pillow {installed_version('pillow')}",
    )
    for ours, theirs in zip(found, wanted, strict=True):
        assert np.array_equal(ours.tensor, theirs[0].numpy())


@pytest.mark.parametrize(
    ("name", "runner"),
    [
        pytest.param("ONNX Runtime, plain export", "ort", id="peer=ort-plain"),
        pytest.param("OpenVINO, plain export", "openvino", id="peer=openvino-plain"),
        pytest.param("PyTorch eager", "torch", id="peer=torch"),
    ],
)
def bench_inference_peers(
    measure: Measure,
    ours: Subject,
    dataset: Dataset,
    plain_export: Path,
    checkpoint: Path,
    spec: ModelSpec,
    name: str,
    runner: str,
) -> None:
    """The edited graph beside the export as it came and other backends, batch 1."""
    pytest.importorskip("openvino" if runner == "openvino" else "torch")
    feed = make_feed([preprocess(dataset.samples[0].path, spec)], ours.runner)
    choice = (
        ModelChoice(None, checkpoint, runner, spec)
        if runner == "torch"
        else ModelChoice(plain_export, None, runner, spec)
    )
    with open_subject(choice) as rival:
        found, wanted = measure.in_turn(
            lambda: ours.runner.infer(feed),
            lambda: rival.runner.infer(feed),
            f"{NETWORK}, batch 1",
            name=name,
            images=1,
            on=ours,
        )
    for head, values in wanted.items():
        off = np.linalg.norm(found[head] - values) / np.linalg.norm(values)
        assert off <= SAME_HEADS, head


def _files_to_detections(ours: Subject, images: Dataset, spec: ModelSpec) -> Callable[[], Any]:
    return lambda: [
        found for _, found in run_dataset(images.samples, ours.runner, spec, batch_size=1)
    ]


def bench_files_to_detections_effdet(
    measure: Measure, ours: Subject, few: Dataset, effdet_path: EffdetPath, spec: ModelSpec
) -> None:
    """The whole way, one image a batch, all threads."""
    found, wanted = measure.in_turn(
        _files_to_detections(ours, few, spec),
        lambda: [effdet_path.detect(sample.path) for sample in few.samples],
        END_TO_END,
        name="effdet on the CPU",
        images=len(few.samples),
        on=ours,
    )
    for detections, rows in zip(found, wanted, strict=True):
        # The hundredth may be another, where scores end in a crowd.
        unsure = max(UNSURE, rows[:, 4].min() + 1e-3)
        assert_same_found(detections, rows, min_iou=MIN_IOU, unsure=unsure, scores=BACKEND_SCORES)


def bench_files_to_detections_floor(
    measure: Measure, ours: Subject, few: Dataset, spec: ModelSpec
) -> None:
    """The whole way beside our own inference of the same images alone."""
    feeds = [make_feed([preprocess(s.path, spec)], ours.runner) for s in few.samples]
    found, heads = measure.in_turn(
        _files_to_detections(ours, few, spec),
        lambda: list(ours.runner.infer_stream(feeds)),
        END_TO_END,
        name="our inference alone",
        images=len(few.samples),
        on=ours,
    )
    assert len(found) == len(heads) == len(few.samples)


@pytest.mark.parametrize(
    "images",
    [
        pytest.param(200, id="images=200"),
        # pycocotools takes more than a minute a call.
        pytest.param(5000, id="images=5000", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("peer", ["pycocotools", "faster-coco-eval of dicts"])
def bench_evaluate_peers(measure: Measure, images: int, peer: str, spec: ModelSpec) -> None:
    """Arrays of detections to the twelve numbers, 100 detections an image."""
    dataset, found = scored_set(images)
    metrics, wanted = measure.in_turn(
        lambda: coco_metrics(dataset, found, spec),
        coco_eval(peer, dataset, found),
        "detections to mAP",
        name=peer,
        images=images,
        on=f"numba {installed_version('numba')}",
    )
    given = [-1.0 if value is None else value for value in metrics.values.values()]
    assert given == pytest.approx(wanted, rel=0, abs=SAME_METRICS)


def coco_eval(
    peer: str, dataset: Dataset, found: dict[int, Detections]
) -> Callable[[], list[float]]:
    """What COCO's documentation does with a list of results; making the list is not timed."""
    if peer == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    else:
        faster_coco_eval = pytest.importorskip("faster_coco_eval")
        COCO, COCOeval = faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster  # noqa: N806 - classes
    results = [
        {
            "image_id": image_id,
            "category_id": category,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
        }
        for image_id, one in found.items()
        for (x1, y1, x2, y2), score, category in zip(
            one.boxes.astype(float).tolist(),
            one.scores.astype(float).tolist(),
            one.classes.tolist(),
            strict=True,
        )
    ]
    content = {
        "info": {},
        "images": [{"id": n, "width": 640, "height": 640} for n in dataset.image_ids],
        "categories": [{"id": n, "name": one} for n, one in dataset.categories.items()],
    }

    def score() -> list[float]:
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO()
            truth.dataset = {**content, "annotations": [dict(one) for one in dataset.annotations]}
            truth.createIndex()
            scored = COCOeval(truth, truth.loadRes([dict(one) for one in results]), "bbox")
            scored.evaluate()
            scored.accumulate()
            scored.summarize()
        return [float(value) for value in scored.stats[:12]]

    return score
