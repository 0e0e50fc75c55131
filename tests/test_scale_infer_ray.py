"""Inference by worker processes on Ray, on the embedded model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .cli_run import effd0
from .helpers import names_in

#: Each starts Ray and exports a model: ten seconds and more.
pytestmark = pytest.mark.slow


def test_worker_processes_write_what_one_process_writes(
    onnx_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one thread each, every byte of each result is that of one process."""
    monkeypatch.chdir(tmp_path)
    model = ("infer", "--model", onnx_model, "--input", "bins", "--batch-size", 2)
    for words in (
        ("preprocess", "--bin-save", "bins", "--image-limit", 7),
        (*model, "--output", "alone", "--threads", 1),
        (*model, "--output", "pool", "--workers", 2),
    ):
        outcome = effd0(*words)
        assert outcome.code == 0, outcome.err
    assert names_in(Path("pool/result")) == names_in(Path("alone/result"))
    assert len(names_in(Path("pool/result"))) == 70
    for file in Path("alone/result").iterdir():
        assert Path("pool/result", file.name).read_bytes() == file.read_bytes(), file.name
    summary = json.loads(Path("pool/result_summary.json").read_text())
    workers = [one for one in summary["effd0"]["pool"]["workers"] if one["images"]]
    assert sum(one["images"] for one in workers) == 7
    assert summary["effd0"]["pool"]["faults"] == []
