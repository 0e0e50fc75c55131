"""Tests for `effd0.cli`: the commands that build models and set a machine up."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import onnx
import pytest

from effd0.data import download as fetch
from effd0.data import fixture as embedded
from effd0.data.download import Source
from effd0.export import verify as build
from effd0.export.to_onnx import ExportSettings
from effd0.export.verify import Built
from effd0.graph.rewrites import DEFAULT_EDITS, EDITS
from effd0.spec import D0, ModelSpec
from effd0.tensor_diff import TensorDiff
from tests.helpers import FakeHost, effd0, serving
from tests.helpers.onnx_models import need_own_export, pinned


@pytest.fixture(scope="module")
def one(
    onnx_model: Path, pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The export with its batch fixed to one."""
    need_own_export(pytestconfig)
    return pinned(onnx_model, tmp_path_factory.mktemp("cli") / "one.onnx", 1)


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ([], ExportSettings(1, None, "torchscript")),
        (["--batch-size", 8, "--opset", 13], ExportSettings(8, 13, "torchscript")),
        (["--dynamic-batch", "--exporter", "dynamo"], ExportSettings(None, None, "dynamo")),
    ],
    ids=["default", "fixed", "free"],
)
def test_export_is_asked_as_the_options_say(
    options: list[object],
    settings: ExportSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The options reach the exporter, and each head's difference from torch is shown."""
    asked = []

    def quick(source: Path, out: Path, spec: ModelSpec, settings: ExportSettings) -> Built:
        asked.append((source, out, spec, settings))
        return Built(out, [TensorDiff("class_p3", 1.25e-5, 2.5e-7, (0,), 1.0, 1.0)])

    monkeypatch.setattr(build, "export_onnx", quick)
    out = tmp_path / "d0.onnx"
    outcome = effd0("export", "--out", out, *options)
    assert outcome.code == 0
    assert asked == [(embedded.checkpoint(), out, D0, settings)]
    assert re.search(r"class_p3\W+1\.25e-05\W+2\.50e-07", outcome.out)
    assert f"wrote {out}" in outcome.out


@pytest.mark.slow
def test_simplify_and_modify_follow_each_other(one: Path, tmp_path: Path) -> None:
    """Each step is told with what it found and moved, and leaves a model of fewer nodes."""
    simplified, modified = tmp_path / "sim.onnx", tmp_path / "m.onnx"
    first = effd0("simplify", "--model", one, "--out", simplified)
    assert (first.code, first.errors) == (0, [])
    assert f"wrote {simplified}" in first.out
    second = effd0("modify", "--model", simplified, "--out", modified)
    assert (second.code, second.errors) == (0, [])
    assert "fold-pad: nothing to do" in second.out
    assert "finite-pad: nothing to do" in second.out
    assert re.search(r"fuse-sums: 24 matches, heads moved by at most \d\.\d\de[-+]\d\d", second.out)
    nodes = [len(onnx.load(str(path)).graph.node) for path in (one, simplified, modified)]
    assert nodes[0] > nodes[1] > nodes[2] > 0


def test_modify_explains_its_edits() -> None:
    """--list needs no model: each edit is there with its purpose, and nothing is written."""
    outcome = effd0("modify", "--list")
    assert (outcome.code, outcome.err) == (0, "")
    rows = [line for line in outcome.out.splitlines() if re.match(r"│ \w", line)]
    flags = {cells[1]: (cells[4], cells[5]) for row in rows for cells in [_cells(row)]}
    assert {name: flags[name] for name in EDITS} == {
        name: ("yes" if edit.exact else "no", "yes" if name in DEFAULT_EDITS else "no")
        for name, edit in EDITS.items()
    }


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.split("│")]


def test_doctor_shows_what_is_there() -> None:
    """Packages, devices and the embedded default are listed, and nothing is wrong with that."""
    outcome = effd0("doctor")
    assert (outcome.code, outcome.err) == (0, "")
    for part in ("onnx: onnxruntime", "base: numpy", "device: Ascend NPU", "data: embedded"):
        assert part in outcome.out


def test_fetch_takes_a_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published weights come from the mirror under their own path, checked."""
    body = b"weights" * 1000
    source = Source("https://example.org/v0/d0.pth", "sha256", hashlib.sha256(body).hexdigest())
    monkeypatch.setitem(fetch.CHECKPOINTS, "tf_efficientdet_d0", source)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    out = tmp_path / "d0.pth"
    with serving(FakeHost({"/v0/d0.pth": body})) as host:
        outcome = effd0("fetch", "checkpoint", "--out", out, "--mirror", host.url)
    assert outcome.code == 0
    assert f"checkpoint is in {out}" in outcome.out
    assert out.read_bytes() == body
