"""Runs as data, made by hand: what is not said is a green run of one model."""

from __future__ import annotations

from typing import Any

from effd0.runfile import Run
from effd0.stages import STAGES

MODEL, CHECKPOINT, ANNOTATIONS = "a" * 64, "c" * 64, "d" * 64
METRICS = (
    "AP", "AP50", "AP75", "APs", "APm", "APl",
    "AR1", "AR10", "AR100", "ARs", "ARm", "ARl",
)  # fmt: skip
HELD = ["dataset", "runner", "gate"]


def metrics(ap: float | None = 0.336) -> dict[str, float | None]:
    """Twelve numbers that are all *ap*, but for APs, which is undefined."""
    return {**dict.fromkeys(METRICS, ap), "APs": None}


def verdict(status: str = "pass", stage: str | None = None, **more: Any) -> dict[str, Any]:
    """A verdict; a failing one says where it broke."""
    held = HELD if stage is None else [one for one in HELD if one != stage]
    return {
        "status": status,
        "stage": stage,
        "evidence": "" if stage is None else f"{stage} is off by 3",
        "suspicion": "",
        "held": held,
        "untested": [one for one in STAGES if one not in (*held, stage)],
        "later": 0,
        **more,
    }


def check(stage: str = "gate", status: str = "passed", **more: Any) -> dict[str, Any]:
    """A check of *stage* that is named after it."""
    return {
        "stage": stage,
        "name": f"tests/test_{stage}.py::test_it",
        "status": status,
        "evidence": "",
        "suspicion": "",
        "figure": 33.6,
        "tolerance": 33.4,
        "unit": "%",
        "seconds": 0.3,
        **more,
    }


def parity(runner: str = "ort", worst: float | None = 1e-5) -> dict[str, Any]:
    """Two heads of *runner* beside torch's."""
    figures = {
        "max_abs": worst,
        "relative_l2": 1e-6,
        "cosine": 1.0,
        "q999": 1e-6,
        "allowed": 0.002,
        "required": worst,
    }
    heads = [{"head": head, "level": "P3", **figures} for head in ("class", "box")]
    return {"runner": runner, "reference": "torch", "batch": 1, "precision": "fp32", "heads": heads}


def accuracy(ap: float | None = 0.336, runner: str = "ort", **more: Any) -> dict[str, Any]:
    """What *runner* reached on all 5000 images."""
    return {
        "runner": runner,
        "backend": "ONNX Runtime 1.32.0, CPUExecutionProvider",
        "batch": 1,
        "images": 5000,
        "images_total": 5000,
        "metrics": metrics(ap),
        "undefined": {"APs": "no small ones"},
        "per_class": {"person": ap, "car": 0.4, "kite": None},
        "min_map": 33.4,
        "against": None,
        "images_per_second": 20.0,
        "peak_rss_mb": 700.0,
        "stages": {"infer": {"mean_ms": 9.0, "p50_ms": 9.0, "p90_ms": 9.5, "p99_ms": 9.9}},
        "settings": {},
        "insight": None,
        **more,
    }


def latency(median: float = 10.0, batch: int = 1, count: int = 20, **more: Any) -> dict[str, Any]:
    """*count* calls around *median*, within 1 % of it."""
    samples = [median * (1 + 0.01 * (n % 5 - 2) / 2) for n in range(count)]
    return {
        "name": f"effd0 benchmark[runner=ort-batch={batch}]",
        "runner": "ort",
        "precision": "fp32",
        "batch": batch,
        "dataset": "embedded",
        "chip": "a processor",
        "images_per_second": 1000 * batch / median,
        "p50_ms": median,
        "p90_ms": max(samples),
        "p99_ms": max(samples),
        "samples_ms": samples,
        "map": None,
        "setup": {},
        **more,
    }


def run(**parts: Any) -> Run:
    """A green run of all kinds, with some *parts* replaced."""
    return {
        "format": "effd0 run",
        "schema": 2,
        "created": "2026-11-25T07:00:00+00:00",
        "commands": ["pytest --model=mine.onnx --checkpoint=d0.pth"],
        "artefact": artefact(),
        "environment": [{"machine": {"cpu": "a processor"}, "packages": {"numpy": "2.4.6"}}],
        "verdict": verdict(),
        "checks": [check(stage) for stage in HELD],
        "parity": [parity()],
        "accuracy": [accuracy()],
        "latency": [latency()],
        "exit_status": 0,
        **parts,
    }


def artefact(**more: Any) -> dict[str, Any]:
    """mine.onnx of a checkpoint on val2017."""
    dataset = {"name": "val2017", "images": 5000, "sha256": ANNOTATIONS}
    return {
        "name": "mine.onnx",
        "model_sha256": MODEL,
        "checkpoint_sha256": CHECKPOINT,
        "dataset": dataset,
        **more,
    }
