"""
Runs made by hand: small ones of one model, and those that the page is shown with.

Builders give the content of a file, as plain values, so that a test can change any key; `run` and
`as_run` make it a run.
"""

import copy
import functools
import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np

from effd0.data import fixture
from effd0.data.coco import NAMES, load_coco
from effd0.metrics.coco import match_table
from effd0.report.insight import insight_of
from effd0.results.check import STAGES
from effd0.results.run import SCHEMA, Run, read_run
from effd0.spec import D0
from tests.helpers.results import jittered

MODEL, CHECKPOINT, ANNOTATIONS = "a" * 64, "c" * 64, "d" * 64
METRICS = (
    "AP", "AP50", "AP75", "APs", "APm", "APl",
    "AR1", "AR10", "AR100", "ARs", "ARm", "ARl",
)  # fmt: skip
PASSED = ["dataset", "runner", "gate"]


def metrics(ap: float | None = 0.336) -> dict[str, float | None]:
    """Twelve numbers that are all *ap*, but for APs, which is undefined."""
    return {**dict.fromkeys(METRICS, ap), "APs": None}


def verdict(status: str = "pass", stage: str | None = None, **more: Any) -> dict[str, Any]:
    """A verdict; a failing one says where it broke."""
    passed = PASSED if stage is None else [one for one in PASSED if one != stage]
    return {
        "status": status, "stage": stage, "diagnosis": "", "later": 0, "passed": passed,
        "check": "" if stage is None else f"tests/test_{stage}.py::test_it",
        "evidence": "" if stage is None else f"{stage} is off by 3",
        "untested": [one for one in STAGES if one not in (*passed, stage)],
        **more,
    }  # fmt: skip


def check(stage: str = "gate", status: str = "passed", **more: Any) -> dict[str, Any]:
    """A check of *stage* that is named after it."""
    return {
        "stage": stage, "name": f"tests/test_{stage}.py::test_it", "status": status,
        "evidence": "", "diagnosis": "", "figure": 33.6, "tolerance": 33.4, "unit": "%",
        "seconds": 0.3, **more,
    }  # fmt: skip


def parity(runner: str = "ort", worst: float | None = 1e-5) -> dict[str, Any]:
    """Two heads of *runner* beside torch's."""
    figures = {
        "max_abs": worst, "relative_l2": 1e-6, "cosine": 1.0, "q999": 1e-6, "allowed": 0.002,
        "required": worst,
    }  # fmt: skip
    heads = [{"head": head, "level": "P3", **figures} for head in ("class", "box")]
    return {"runner": runner, "reference": "torch", "batch": 1, "precision": "fp32", "heads": heads}


def accuracy(ap: float | None = 0.336, runner: str = "ort", **more: Any) -> dict[str, Any]:
    """What *runner* reached on all 5000 images."""
    return {
        "runner": runner, "backend": "ONNX Runtime 1.32.0, CPUExecutionProvider", "batch": 1,
        "images": 5000, "images_total": 5000, "detections": 36000, "metrics": metrics(ap),
        "undefined": {"APs": "no small ones"}, "min_map": 33.4, "against": None,
        "per_class": {"person": ap, "car": 0.4, "kite": None}, "images_per_second": 20.0,
        "peak_rss_mb": 700.0, "stages_ms": {"infer": stage_times(9.0)}, "model_sha256": MODEL,
        "settings": {}, "insight": None, **more,
    }  # fmt: skip


def stage_times(ms: float) -> dict[str, float]:
    """The times of a stage with a median of *ms*."""
    return {"mean": ms, "p50": ms, "p90": 1.2 * ms, "p99": 1.6 * ms, "count": 48}


def against(low: float, high: float, ap: float | None = 0.34, **per_class: Any) -> dict[str, Any]:
    """A comparison with torch whose drop has the interval *low* to *high*."""
    return {
        "drop": {
            "points": (low + high) / 2, "low": low, "high": high, "images": 5000,
            "reference_ap": 0.34, "candidate_ap": 0.335,
        },
        "parity": {
            "images": 5000, "matched": 9, "missing": 1, "extra": 2, "score_difference": None,
            "iou": None, "worst": [],
        },
        "max_drop": 0.2,
        "runner": "torch",
        "model_sha256": CHECKPOINT,
        "metrics": {
            "values": metrics(ap), "per_class": per_class, "undefined": {}, "images": 5000,
            "detections": 36000,
        },
    }  # fmt: skip


def latency(median: float = 10.0, batch: int = 1, count: int = 20, **more: Any) -> dict[str, Any]:
    """*count* calls around *median*, within 1 % of it."""
    samples = [median * (1 + 0.01 * (n % 5 - 2) / 2) for n in range(count)]
    return {
        "name": f"effd0 benchmark[runner=ort-batch={batch}]", "runner": "ort", "precision": "fp32",
        "batch": batch, "dataset": "embedded", "timed": "input to heads", "images": batch,
        "model_sha256": MODEL, "fingerprint": fingerprint(),
        "images_per_second": 1000 * batch / median, "p50_ms": median, "p90_ms": max(samples),
        "p99_ms": max(samples), "samples_ms": samples, "map": None, "notes": [], **more,
    }  # fmt: skip


def fingerprint(**more: Any) -> dict[str, Any]:
    """A machine of two cores."""
    return {
        "chip": "a processor", "cpu": "a processor", "cores": 2, "threads": "", "driver": "",
        "backend": "ONNX Runtime 1.32.0", **more,
    }  # fmt: skip


def run(**parts: Any) -> Run:
    """A green run of all kinds, with some *parts* replaced."""
    return as_run(content(**parts))


def as_run(plain: dict[str, Any]) -> Run:
    """The run of *plain* values."""
    return msgspec.convert(plain, Run)


def content_of(path: Path) -> dict[str, Any]:
    """The plain values of the run in the file *path*, which is valid."""
    read_run(path)
    plain: dict[str, Any] = json.loads(path.read_text())
    return plain


def content(**parts: Any) -> dict[str, Any]:
    """The content of a green run of all kinds, with some *parts* replaced."""
    return {
        "format": "effd0 run", "schema": SCHEMA, "created": "2026-11-25T07:00:00+00:00",
        "commands": ["pytest --model=mine.onnx --checkpoint=d0.pth"], "artefact": artefact(),
        "environment": [{"machine": {"cpu": "a processor"}, "packages": {"numpy": "2.4.6"}}],
        "verdict": verdict(), "checks": [check(stage) for stage in PASSED], "parity": [parity()],
        "accuracy": [accuracy()], "latency": [latency()], "exit_status": 0, **parts,
    }  # fmt: skip


def artefact(**more: Any) -> dict[str, Any]:
    """mine.onnx of a checkpoint on val2017."""
    return {
        "name": "mine.onnx", "model_sha256": MODEL, "checkpoint_sha256": CHECKPOINT,
        "dataset": {"name": "val2017", "images": 5000, "sha256": ANNOTATIONS},
        "network": network(), **more,
    }  # fmt: skip


def network(**more: Any) -> dict[str, Any]:
    """The recipe's D0."""
    return {"arch": D0.arch, "num_classes": 90, "image_size": D0.image_size, **more}


BATCHES = (1, 4, 8, 16, 32, 64)
REFERENCE_AP = 0.6534


def good_content(*, pictures: int = 24) -> dict[str, Any]:
    """A run of every kind in which each stage holds."""
    return content(
        commands=[
            "pytest --model=d0_bs8.onnx --checkpoint=d0.pth --report-json=checks.json",
            "effd0 evaluate --model d0_bs8.onnx --reference d0.pth --report-json accuracy.json",
            "effd0 benchmark --model d0_bs8.onnx --batch-size 1 4 8 16 32 64 --report-json t.json",
        ],
        artefact=artefact(
            name="d0_bs8.onnx", dataset={"name": "embedded", "images": 48, "sha256": "d" * 64}
        ),
        environment=[environment()],
        verdict=verdict(passed=list(STAGES), untested=[]),
        checks=[check for stage in STAGES for check in _checks(stage)],
        parity=[_parity("ort", 1, 4e-5, 0), _parity("ort", 8, 6e-5, 1)],
        accuracy=[pictured(REFERENCE_AP - 0.0004, pictures)],
        latency=_latencies(24.0),
    )


def faulty_content(*, pictures: int = 24) -> dict[str, Any]:
    """The same with red and blue swapped: preprocess is broken, and what follows from it."""
    run = good_content(pictures=pictures)
    evidence = (
        "input 000000001000 is off by 2.9 on average, but 0.01 is allowed: channel 0 is 1.4 "
        "times what it is in effd0's own preprocessing"
    )
    diagnosis = "RGB/BGR swapped: with the channels turned round the difference is 0"
    failed = {"status": "failed", "evidence": evidence}
    checks = [check for check in run["checks"] if check["stage"] not in ("decode", "nms")]
    for check in checks:
        if check["stage"] == "preprocess":
            check |= {**failed, "figure": 2.9, "tolerance": 0.01, "diagnosis": diagnosis}
        elif check["stage"] == "runner" and check["figure"] is not None:
            off = "class_p4 is off by 0.0286, but 0.002 is allowed"
            check |= {**failed, "evidence": off, "figure": 0.0286}
        elif check["stage"] == "gate" and check["figure"] is not None:
            check |= {**failed, "evidence": "mAP 58.10 % is below 65.13 %", "figure": 58.1}
    low = pictured(REFERENCE_AP - 0.0724, pictures)
    low["against"]["drop"] |= {"points": 7.24, "low": 5.1, "high": 9.3}
    return {
        **run,
        "checks": checks,
        "verdict": {
            **verdict("fail", passed=["dataset"], untested=["decode", "nms"]),
            "stage": "preprocess",
            "evidence": evidence,
            "diagnosis": diagnosis,
            "later": sum(check["status"] == "failed" for check in checks) - 1,
        },
        "parity": [_parity("ort", 1, 4e-3, 0), _parity("ort", 8, 3e-2, 1)],
        "accuracy": [low],
        "exit_status": 1,
    }


def older_content() -> dict[str, Any]:
    """What `good_content` may be held against: an earlier build, a little slower."""
    run = good_content(pictures=0)
    run["accuracy"][0]["metrics"] |= {"AP": REFERENCE_AP - 0.001}
    return {
        **run,
        "created": "2026-10-02T09:30:00+00:00",
        "artefact": {**run["artefact"], "name": "d0_bs8_october.onnx"},
        "latency": _latencies(27.0),
    }


def bare_content() -> dict[str, Any]:
    """A run in which nothing was measured."""
    none: dict[str, Any] = {"passed": [], "untested": list(STAGES), "evidence": "nothing was run"}
    return content(
        artefact=artefact(dataset=None, model_sha256=None), verdict=verdict("not gated", **none),
        checks=[], parity=[], accuracy=[], latency=[],
    )  # fmt: skip


def environment() -> dict[str, Any]:
    """A machine, and what is installed on it."""
    return {
        "machine": {
            "platform": "Linux-6.1-x86_64", "cpu": "a processor of two cores", "cores": 2,
            "governor": None, "memory_mb": 8192, "devices": [],
        },
        "packages": {"numpy": "2.4.6", "onnxruntime": "1.32.0", "torch": None},
    }  # fmt: skip


def pictured(ap: float, pictures: int = 0) -> dict[str, Any]:
    """An evaluation against torch, with pictures of the embedded scenes."""
    rng = np.random.default_rng(0)
    names = sorted(NAMES.values())
    reference = {name: float(np.clip(rng.normal(0.62, 0.18), 0.02, 0.98)) for name in names}
    drop = REFERENCE_AP - ap
    classes: dict[str, float | None] = {
        name: float(np.clip(value - drop * rng.uniform(0, 2) + rng.normal(0, 0.002), 0, 1))
        for name, value in reference.items()
    }
    classes["toaster"] = None
    compared = against(100 * drop - 0.05, 100 * drop + 0.06)
    compared["metrics"] |= {
        "values": _metrics(REFERENCE_AP), "per_class": {**reference, "toaster": None}
    }  # fmt: skip
    times = (("preprocess", 6.1), ("infer", 182.0), ("postprocess", 15.8))
    return accuracy(
        ap, batch=8, images=48, images_total=48, min_map=65.13, metrics=_metrics(ap),
        per_class=classes, against=compared,
        stages_ms={name: stage_times(ms) for name, ms in times},
        settings={"batch_size": 8, "min_score": 0.001, "host_threads": 2},
        operating_point={
            "candidate": operating_point(classes, drop), "reference": operating_point(reference, 0)
        },
        insight=insight(pictures),
    )  # fmt: skip


def operating_point(classes: Iterable[str], drop: float) -> dict[str, Any]:
    """Figures at the highest F1 of *classes*, of ten objects each, some lost, some confused."""
    names, lost = sorted(classes), 1 + int(20 * drop)
    hits, counts = 10 - lost, {"objects": 10, "detections": 10}
    share = {"precision": hits / 10, "recall": hits / 10, "f1": hits / 10}
    fall = np.linspace(1, 0, 101)
    pairs: list[tuple[str | None, str | None, int]] = []
    for name, other in zip(names, names[1:] + names[:1], strict=True):
        pairs += [(name, name, hits), (name, other, 1), (name, None, lost - 1)]
        pairs += [(None, name, lost - 1)]
    return {
        "threshold": 0.5 + drop,
        "total": {**share, **{key: n * len(names) for key, n in counts.items()}},
        "per_class": {name: {**share, **counts} for name in names},
        "confusion": [pair for pair in pairs if pair[2]],
        "curves": {
            "precision": [*(1 - fall[:-1] / 2).tolist(), None],
            "recall": fall.tolist(),
            "f1": (fall * (1 - drop)).tolist(),
        },
    }


@functools.cache
def _seen() -> bytes:
    """What is to be seen of two middling detectors of the embedded scenes."""
    dataset = load_coco(fixture.coco_root())
    sides = [
        SimpleNamespace(dataset=dataset, spec=D0, matches=match_table(dataset, found, D0))
        for found in (jittered(dataset, 0), jittered(dataset, 1))
    ]
    evaluation: Any = sides[0]
    evaluation.reference = sides[1]
    return msgspec.json.encode(insight_of(evaluation))


def insight(pictures: int = 0) -> dict[str, Any]:
    """What pictures of an evaluation need, with scenes over and over if need be."""
    seen: dict[str, Any] = json.loads(_seen())
    scenes = itertools.cycle(seen["gallery"])
    shown = (copy.deepcopy(scene) for scene in itertools.islice(scenes, pictures))
    return seen | {"gallery": sorted(shown, key=lambda one: -one["difference"])}


def _checks(stage: str) -> list[dict[str, Any]]:
    """Three checks of *stage*: with a figure, without, and skipped."""
    figures = {
        "preprocess": (0.0, 0.01, "of input"),
        "export": (3.1e-5, 2e-3, "max abs"),
        "graph": (3.3e-5, 2e-3, "max abs"),
        "runner": (6e-5, 2e-3, "max abs"),
        "decode": (4e-4, 0.5, "px"),
        "gate": (65.3, 65.13, "%"),
    }
    value, limit, unit = figures.get(stage, (None, None, ""))
    name = f"tests/suite/test_{stage}.py::test_"
    no_figure: dict[str, Any] = {"figure": None, "tolerance": None, "unit": ""}
    return [
        check(stage, figure=value, tolerance=limit, unit=unit, name=f"{name}it_is_right"),
        check(stage, **no_figure, name=f"{name}it_repeats_itself", seconds=0.02),
        check(
            stage, "skipped", **no_figure, name=f"{name}it_on_an_npu", seconds=0.0,
            evidence="needs npu: pyACL cannot be imported; source CANN's set_env.sh",
        ),
    ]  # fmt: skip


def _parity(runner: str, batch: int, worst: float, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    heads = []
    for head in ("class", "box"):
        for level in range(3, 8):
            error = float(worst * rng.uniform(0.05, 1))
            heads.append({
                "head": head, "level": f"P{level}", "max_abs": error, "relative_l2": error / 4,
                "cosine": 1 - error**2, "q999": error / 2, "allowed": 2e-3, "required": error,
                "measure": "max_abs",
            })  # fmt: skip
    return {
        "runner": runner, "reference": "torch", "batch": batch, "precision": "fp32",
        "heads": sorted(heads, key=lambda one: -one["max_abs"]),
    }  # fmt: skip


def _latencies(one: float) -> list[dict[str, Any]]:
    return [latency(one * (0.35 + 0.65 * batch**0.93), batch) for batch in BATCHES]


def _metrics(ap: float) -> dict[str, float | None]:
    factors = (1, 1.38, 1.1, 0.62, 0.98, 1.21, 0.84, 1.09, 1.12, 0.74, 1.08, 1.29)
    pairs = zip(METRICS, factors, strict=True)
    return {name: min(1.0, ap * factor) for name, factor in pairs}
