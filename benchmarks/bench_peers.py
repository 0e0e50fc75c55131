"""
effd0 in turn with what it replaces, on the same images: one ratio a row, against its target.

Results are compared before anything is timed in earnest.  Who is absent is skipped.
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

from benchmarks.measuring import Versus
from benchmarks.seen import Seen
from benchmarks.synthetic import scored_set
from effd0.bench.rows import END_TO_END, NETWORK
from effd0.bench.subject import Subject, opened
from effd0.bench.targets import Target
from effd0.data.coco import Dataset
from effd0.data.preprocess import input_scale, preprocess
from effd0.detection.postprocess import Detections, postprocess
from effd0.evaluation.model import ModelChoice
from effd0.evaluation.pipeline import run_dataset
from effd0.export import verify as build
from effd0.export.to_onnx import ExportSettings
from effd0.graph.rewrites import DEFAULT_EDITS
from effd0.metrics.detection_diff import match_detections
from effd0.metrics.summary import coco_metrics
from effd0.results.environment import installed_version
from effd0.runners.base import infer_offline, make_feed
from effd0.spec import ModelSpec

pytest.importorskip("effdet", reason="needs effdet: pip install 'effd0[torch]'")

import torch  # after the skip

from benchmarks.effdet_path import EffdetPath, as_tensors

#: Pixels and scores by which float32 in another order may move a detection of the same heads.
#: Measured 2026-11-25 on 8 drawn scenes: 6.1e-5 and 6.0e-8.
BOX_TOLERANCE, SCORE_TOLERANCE = 2e-3, 1e-6
#: IoU and scores of a pair where the heads come from two backends.  Measured 2026-11-25 on 8
#: drawn scenes: 0.999995 and 3.4e-6, no detection without its pair.
MIN_IOU, BACKEND_SCORES = 0.99, 1e-3
#: Of two overlapping boxes of one score, rounding decides which stays, and so which others go.
#: Measured 2026-11-25 on 24 drawn scenes: 0.034 at most, in one of them.
UNSURE = 0.05
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
    with opened(ModelChoice(edited, None, "ort", spec)) as subject:
        yield subject


@pytest.fixture
def few(dataset: Dataset, quick: bool) -> Dataset:
    """
    So many images that the beginning and the end of a run, where one stage works alone, weigh
    little, and so few that a slow rival can run them often.
    """
    return replace(dataset, samples=dataset.samples[: 2 if quick else 24])


def assert_identical(ours: Detections, rows: np.ndarray) -> None:
    """The same detections in the same order, to the last bits of float32."""
    assert ours.classes.tolist() == rows[:, 5].tolist()
    assert np.abs(ours.scores - rows[:, 4]).max(initial=0) <= SCORE_TOLERANCE
    assert np.abs(ours.boxes - rows[:, :4]).max(initial=0) <= BOX_TOLERANCE


def assert_same_found(ours: Detections, rows: np.ndarray) -> None:
    """The same detections, one for one, from two backends."""
    found = Detections(rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int64))
    pairs = match_detections(found, ours, MIN_IOU)
    # The hundredth may be another, where scores end in a crowd.
    unsure = max(UNSURE, found.scores.min() + 1e-3)
    assert max(pairs.missing.max(initial=0), pairs.extra.max(initial=0)) <= unsure
    assert np.abs(pairs.score_differences).max() <= BACKEND_SCORES


@pytest.mark.usefixtures("one_thread")
def bench_postprocess_effdet(
    versus: Versus, seen: tuple[Seen, ...], effdet_path: EffdetPath, spec: ModelSpec
) -> None:
    """Trained heads to identical detections, one thread."""
    tensors = [as_tensors(one.heads) for one in seen]

    def effdets() -> list[np.ndarray]:
        images = zip(tensors, seen, strict=True)
        with torch.inference_mode():
            return [effdet_path.postprocess(heads, one.scale, one.size) for heads, one in images]

    found, wanted = versus.in_turn(
        lambda: [postprocess(one.heads, one.scale, one.size, spec) for one in seen],
        effdets,
        "heads to detections, 1 thread",
        name="effdet DetBenchPredict",
        images=len(seen),
        on=f"numpy {installed_version('numpy')}",
        target=Target(25, 15),
    )
    for ours, rows in zip(found, wanted, strict=True):
        assert len(ours) > 0
        assert_identical(ours, rows)


def _pil_floor(path: Path, spec: ModelSpec) -> Image.Image:
    """Decode and resize, which nothing that gives Pillow's pixels can do without."""
    with Image.open(path) as image:
        rgb = image.convert("RGB")
    scale = input_scale(rgb.size, spec)
    size = (int(rgb.width * scale), int(rgb.height * scale))
    return rgb.resize(size, Image.Resampling.BILINEAR)


def bench_pixels_floor(versus: Versus, dataset: Dataset, spec: ModelSpec) -> None:
    """Files to letterboxed pixels beside decoding and resizing alone, one thread."""
    paths = [sample.path for sample in dataset.samples[:8]]
    found, floor = versus.in_turn(
        lambda: [preprocess(path, spec, normalized=False) for path in paths],
        lambda: [_pil_floor(path, spec) for path in paths],
        "file to pixels, 1 thread",
        name="Pillow decode + resize",
        images=len(paths),
        on=f"Pillow {installed_version('pillow')}",
        target=Target(kind="cost"),
    )
    for ours, resized in zip(found, floor, strict=True):
        assert np.array_equal(ours.tensor[: resized.height, : resized.width], np.asarray(resized))


def bench_preprocess_floor(versus: Versus, dataset: Dataset, spec: ModelSpec) -> None:
    """Files to the normalised float32 input, which the floor does not make, one thread."""
    paths = [sample.path for sample in dataset.samples[:8]]
    # As in a run, where inputs are written to two arrays in turn.
    arrays = np.empty((2, *spec.input_shape), np.float32)
    found, _ = versus.in_turn(
        lambda: [
            preprocess(path, spec, out=arrays[number % 2]) for number, path in enumerate(paths)
        ],
        lambda: [_pil_floor(path, spec) for path in paths],
        "file to input, 1 thread",
        name="Pillow decode + resize",
        images=len(paths),
        on=f"Pillow {installed_version('pillow')}",
        target=Target(1.1, kind="cost"),
    )
    assert all(np.isfinite(one.tensor).all() for one in found)


@pytest.mark.usefixtures("one_thread")
def bench_preprocess_effdet(
    versus: Versus, dataset: Dataset, effdet_path: EffdetPath, spec: ModelSpec
) -> None:
    """Files to input, bit for bit effdet's."""
    paths = [sample.path for sample in dataset.samples[:8]]
    found, wanted = versus.in_turn(
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
    ("name", "runner", "target"),
    [
        pytest.param("ONNX Runtime, plain export", "ort", Target(1.1), id="peer=ort-plain"),
        pytest.param("OpenVINO, plain export", "openvino", None, id="peer=openvino-plain"),
        pytest.param("PyTorch eager", "torch", None, id="peer=torch"),
    ],
)
def bench_inference_peers(
    versus: Versus,
    ours: Subject,
    dataset: Dataset,
    plain_export: Path,
    checkpoint: Path,
    spec: ModelSpec,
    name: str,
    runner: str,
    target: Target | None,
) -> None:
    """The edited graph beside the export as it came and other backends, batch 1."""
    pytest.importorskip("openvino" if runner == "openvino" else "torch")
    feed = make_feed([preprocess(dataset.samples[0].path, spec)], ours.runner)
    choice = (
        ModelChoice(None, checkpoint, runner, spec)
        if runner == "torch"
        else ModelChoice(plain_export, None, runner, spec)
    )
    with opened(choice) as rival:
        found, wanted = versus.in_turn(
            lambda: ours.runner.infer(feed),
            lambda: rival.runner.infer(feed),
            f"{NETWORK}, batch 1",
            name=name,
            images=1,
            on=ours,
            target=target,
        )
    for head, values in wanted.items():
        off = np.linalg.norm(found[head] - values) / np.linalg.norm(values)
        assert off <= SAME_HEADS, head


def _files_to_detections(ours: Subject, images: Dataset, spec: ModelSpec) -> Callable[[], Any]:
    return lambda: [
        found for _, found in run_dataset(images.samples, ours.runner, spec, batch_size=1)
    ]


def bench_files_to_detections_effdet(
    versus: Versus, ours: Subject, few: Dataset, effdet_path: EffdetPath, spec: ModelSpec
) -> None:
    """The whole way, one image a batch, all threads."""
    found, wanted = versus.in_turn(
        _files_to_detections(ours, few, spec),
        lambda: [effdet_path.detect(sample.path) for sample in few.samples],
        END_TO_END,
        name="effdet on the CPU",
        images=len(few.samples),
        on=ours,
        target=Target(4.5, 4),
    )
    for detections, rows in zip(found, wanted, strict=True):
        assert_same_found(detections, rows)


def bench_files_to_detections_floor(
    versus: Versus, ours: Subject, few: Dataset, spec: ModelSpec
) -> None:
    """The whole way beside our own inference of the same images alone."""
    feeds = [make_feed([preprocess(s.path, spec)], ours.runner) for s in few.samples]
    found, heads = versus.in_turn(
        _files_to_detections(ours, few, spec),
        lambda: list(infer_offline(ours.runner, feeds)),
        END_TO_END,
        name="our inference alone",
        images=len(few.samples),
        on=ours,
        target=Target(1.1, kind="cost"),
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
def bench_evaluate_peers(versus: Versus, images: int, peer: str, spec: ModelSpec) -> None:
    """Arrays of detections to the twelve numbers, 100 detections an image."""
    dataset, found = scored_set(images)
    metrics, wanted = versus.in_turn(
        lambda: coco_metrics(dataset, found, spec),
        _coco_eval(*_classes_of(peer), dataset, found),
        "detections to mAP",
        name=peer,
        images=images,
        on=f"numpy {installed_version('numpy')}",
        target=Target(8, 5) if peer == "pycocotools" else None,
    )
    given = [-1.0 if value is None else value for value in metrics.values.values()]
    assert given == pytest.approx(wanted, rel=0, abs=SAME_METRICS)


def _coco_eval(
    coco: type[Any], coco_eval: type[Any], dataset: Dataset, found: dict[int, Detections]
) -> Callable[[], list[float]]:
    """What COCO's documentation tells to do with a list of results; making it is not timed."""
    results = [
        {"image_id": image_id, "category_id": category, "bbox": box, "score": score}
        for image_id, one in found.items()
        for box, score, category in zip(
            np.concatenate([one.boxes[:, :2], one.boxes[:, 2:] - one.boxes[:, :2]], 1)
            .astype(float)
            .tolist(),
            one.scores.astype(float).tolist(),
            one.classes.tolist(),
            strict=True,
        )
    ]

    def score() -> list[float]:
        with contextlib.redirect_stdout(io.StringIO()):
            truth = coco()
            truth.dataset = {
                "info": {},
                "images": [{"id": n, "width": 640, "height": 640} for n in dataset.image_ids],
                "annotations": [dict(one) for one in dataset.annotations],
                "categories": [{"id": n, "name": one} for n, one in dataset.categories.items()],
            }
            truth.createIndex()
            scored = coco_eval(truth, truth.loadRes([dict(one) for one in results]), "bbox")
            scored.evaluate()
            scored.accumulate()
            scored.summarize()
        return [float(value) for value in scored.stats[:12]]

    return score


def _classes_of(peer: str) -> tuple[type[Any], type[Any]]:
    if peer == "pycocotools":
        from pycocotools import coco, cocoeval

        return coco.COCO, cocoeval.COCOeval
    faster_coco_eval = pytest.importorskip("faster_coco_eval")
    return faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster
