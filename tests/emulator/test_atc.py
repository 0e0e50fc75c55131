"""The emulated ATC refuses what its manual refuses, and the package has advice for each refusal."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from effd0.ascend.atc import UNKNOWN, failure

from ..helpers import names_in
from . import atc
from .om import OmTensor, read_om
from .tools import tiny_onnx

Atc = Callable[..., tuple[int, str]]
GOOD = {
    "framework": "5",
    "model": "m.onnx",
    "output": "out",
    "input_format": "NCHW",
    "input_shape": "x.1:1,3,8,8",
    "log": "debug",
    "soc_version": "Ascend310P3",
}
AIPP = "aipp_op { aipp_mode: static\n input_format: RGB888_U8\n }"


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Atc:
    """Return ATC as a function of options that change `GOOD` (None: left out)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EFFD0_FAKE_ATC", raising=False)
    tiny_onnx(tmp_path / "m.onnx")
    (tmp_path / "aipp.cfg").write_text(AIPP)

    def run(**changes: str | None) -> tuple[int, str]:
        options = {**GOOD, **changes}
        words = [f"--{key}={value}" for key, value in options.items() if value is not None]
        code = atc.main(words)
        return code, capsys.readouterr().out

    return run


@pytest.mark.parametrize(
    ("mode", "precision"),
    [
        ({}, "fp16"),
        ({"precision_mode": "must_keep_origin_dtype"}, "fp32"),
        ({"precision_mode_v2": "mixed_float16"}, "fp16"),
    ],
    ids=lambda value: "-".join(value.values()) or "default" if isinstance(value, dict) else value,
)
@pytest.mark.parametrize(
    ("weight", "rounded"), [(0.1, 0.0999755859375), (1e9, 65504.0)], ids=["tenth", "huge"]
)
def test_float16_modes_round_weights(
    mode: dict[str, str], precision: str, weight: float, rounded: float, call: Atc, tmp_path: Path
) -> None:
    """The .om is whole and the folder littered; by default weights are float16, and finite."""
    tiny_onnx(tmp_path / "m.onnx", weight=weight)
    assert call(**mode) == (0, f"{atc.START}\n{atc.SUCCESS}\n")
    om = read_om(tmp_path / "out.om")
    assert om.inputs == (OmTensor("x.1", "float32", (1, 3, 8, 8)),)
    assert om.outputs == (OmTensor("Conv_0:0:y", "float32", (1, 4, 8, 8)),)
    assert (om.soc_version, om.gears, om.aipp) == ("Ascend310P3", (), None)
    assert {"fusion_result.json", "kernel_meta", "out.om"} <= set(names_in(tmp_path))
    assert om.precision == precision
    (tensor,) = onnx.load_from_string(om.onnx).graph.initializer
    wanted = rounded if precision == "fp16" else np.float32(weight)
    assert set(numpy_helper.to_array(tensor).ravel()) == {wanted}


def test_gears_leave_the_batch_free(call: Atc, tmp_path: Path) -> None:
    """The .om declares the largest gear, and its graph takes each."""
    tiny_onnx(tmp_path / "m.onnx", shape=("N", 3, 8, 8))
    assert call(input_shape="x.1:-1,3,8,8", dynamic_batch_size="1,4,8")[0] == 0
    om = read_om(tmp_path / "out.om")
    assert (om.gears, om.inputs[0].shape[0], om.outputs[0].shape[0]) == ((1, 4, 8), 8, 8)
    graph = onnx.load_from_string(om.onnx).graph
    values = (*graph.input, *graph.output)
    assert [value.type.tensor_type.shape.dim[0].dim_value for value in values] == [0, 0]


def test_types_of_inputs_and_outputs_are_asked_for(call: Atc, tmp_path: Path) -> None:
    """Half-precision tensors and AIPP's uint8 pixels are declared as such."""
    assert call(input_fp16_nodes="x.1", output_type="FP16")[0] == 0
    om = read_om(tmp_path / "out.om")
    assert (om.inputs[0].dtype, om.outputs[0].dtype) == ("float16", "float16")
    assert call(insert_op_conf="aipp.cfg")[0] == 0
    om = read_om(tmp_path / "out.om")
    assert om.inputs == (OmTensor("x.1", "uint8", (1, 8, 8, 3)),)
    assert om.aipp is not None
    assert om.aipp["var_reci_chn_2"] == 1.0


@pytest.mark.parametrize(
    ("changes", "code", "text"),
    [
        ({"soc_version": "Ascend310P9"}, "E10001", "--soc_version"),
        ({"precision_mode": "allow_fp32_to_bf16"}, "E10055", "bf16"),
        ({"precision_mode_v2": "mixed_float16", "modify_mixlist": "key.json"}, "E10032", "JSON"),
        ({"input_shape": "images:1,3,8,8"}, "E10016", "images"),
        ({"input_shape": "x.1:-1,3,8,8"}, "E10011", "is -1"),
        ({"input_shape": "x.1:1,3,9,8"}, "E19999", "9"),
        ({"dynamic_batch_size": "1,4", "input_shape": "x.1:-1,3,8,8"}, "E10012", "less than 1"),
        ({"insert_op_conf": "large.cfg"}, "E10052", "512"),
        ({"model": "opset18.onnx"}, "E19010", "ai.onnx::18::Conv"),
        ({"model": "loops.onnx"}, "E19010", "11::NonZero"),
    ],
    ids=lambda value: "-".join(map(str, value.values()))[:30] if isinstance(value, dict) else "",
)
def test_what_atc_refuses_has_its_code_and_our_advice(
    changes: dict[str, str | None], code: str, text: str, call: Atc, tmp_path: Path
) -> None:
    """The exit code is 255, nothing is written, and each code leads to a next step."""
    tiny_onnx(tmp_path / "opset18.onnx", opset=18)
    tiny_onnx(tmp_path / "loops.onnx", operators=["NonZero"])
    (tmp_path / "large.cfg").write_text(AIPP.replace("}", "src_image_size_w: 512 }"))
    wrong_key = {"blacklist": {"to-add": ["ReduceMeanD"]}}
    (tmp_path / "key.json").write_text(json.dumps(wrong_key))
    exit_code, said = call(**changes)
    assert exit_code == 255
    *_, failed, coded = said.splitlines()
    assert failed.startswith("ATC run failed, Please check the detail log")
    assert re.match(f"{code}: .*{text}", coded)
    assert not list(tmp_path.glob("*.om"))
    explained = str(failure(exit_code, said.splitlines()))
    assert explained.startswith(f"ATC failed: {code}: ")
    assert UNKNOWN not in explained
    # A misspelt option never passes for one that is left out.
    assert call(precision="fp16")[0] == 1
