"""Tests for ``effd0 bisect``: what it prints, writes and returns."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from effd0.data import fixture as embedded
from effd0.data.coco import load_coco
from effd0.export import verify as build
from effd0.spec import ModelSpec
from tests.helpers import assert_one_error, effd0
from tests.helpers.onnx_models import nodes_of, parsed, scaled

GRAPH = """
strided (float[1,3,512,512] x, float[4,3,8,8] w) => (float[1,4,64,64] y) {
  a = Conv<strides=[8,8]>(x, w)
  y = Sigmoid(a)
}
"""


def strided() -> Any:
    """Two nodes that take a D0's input."""
    model = parsed(GRAPH)
    weight = np.random.default_rng(0).standard_normal((4, 3, 8, 8), np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight / 10, "w"))
    del model.graph.input[1:]
    for node, name in zip(model.graph.node, ("first", "last"), strict=True):
        node.name = name
    return model


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A good file and a bad one."""
    bad = strided()
    scaled(bad, nodes_of(bad, "Conv")[0])
    paths = {}
    for name, model in (("good", strided()), ("bad", bad)):
        paths[name] = tmp_path / f"{name}.onnx"
        onnx.save(model, str(paths[name]))
    return paths


def test_a_difference_is_shown_and_written(files: dict[str, Path], tmp_path: Path) -> None:
    """The node, its error and its weight are on the terminal and in the JSON; the code is 1."""
    out = tmp_path / "finding.json"
    given = ("--model", files["bad"], "--reference", files["good"], "--json", out)
    outcome = effd0("bisect", *given)
    assert outcome.code == 1
    assert "2 of 2 nodes have a partner" in outcome.out
    assert re.search("first: Conv first: .*scaled by 1.02.*; what it reads is off by", outcome.out)
    content = json.loads(out.read_text())
    assert content["status"] == "differs"
    assert content["suspects"][0]["node"] == "first"
    assert content["suspects"][0]["input_shapes"] == [[1, 3, 512, 512]]
    # All weights are 2 % too large, and a convolution without bias is linear in them.
    assert content["suspects"][0]["error"] == pytest.approx(0.02, rel=1e-3)


def test_no_difference_is_said(files: dict[str, Path]) -> None:
    """A model beside itself, on a picture of one's own, ends with code 0."""
    picture = load_coco(embedded.coco_root(), image_limit=1).samples[0].path
    given = ("--model", files["bad"], "--reference", files["bad"], "--image", picture)
    outcome = effd0("bisect", *given)
    assert outcome.code == 0
    assert "SAME  all that both compute agrees up to float noise" in outcome.out


def test_inputs_that_differ_are_said(files: dict[str, Path], tmp_path: Path) -> None:
    """What cannot be fed the same is not compared."""
    model = strided()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, str(tmp_path / "two.onnx"))
    given = ("--model", tmp_path / "two.onnx", "--reference", files["good"])
    outcome = effd0("bisect", *given)
    assert outcome.code == 1
    assert "the input is float32 (2, 3, 512, 512), but float32 (1, 3, 512, 512)" in outcome.out
    assert "INPUTS DIFFER" in outcome.out


def test_a_checkpoint_is_exported_first(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reference that is no ONNX file stands for its export."""

    @contextlib.contextmanager
    def exported(checkpoint: Path, _spec: ModelSpec) -> Iterator[Path]:
        assert checkpoint == tmp_path / "d0.pth"
        yield files["good"]

    monkeypatch.setattr(build, "exported", exported)
    given = ("--model", files["good"], "--reference", tmp_path / "d0.pth")
    assert effd0("bisect", *given).code == 0


def test_a_file_that_is_not_there_is_one_error(files: dict[str, Path], tmp_path: Path) -> None:
    """A slip of the pen in a path is told as such."""
    given = ("--model", tmp_path / "no.onnx", "--reference", files["good"])
    assert_one_error(r"GraphError: .*no\.onnx does not exist", "bisect", *given)
