"""The emulated ATC refuses what its manual refuses, and the package has advice for each refusal."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from effd0.ascend.atc_log import UNKNOWN, explain, read_log
from effd0.spec import ModelSpec

from ..helpers import names_in
from . import atc
from .om import OmTensor, read_om
from .tools import BIN, tiny_onnx

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
        ({"precision_mode": "force_fp16"}, "fp16"),
        ({"precision_mode": "allow_mix_precision"}, "fp16"),
        ({"precision_mode": "must_keep_origin_dtype"}, "fp32"),
        ({"precision_mode_v2": "mixed_float16"}, "fp16"),
        ({"precision_mode_v2": "origin"}, "fp32"),
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


@pytest.mark.parametrize(
    ("options", "gears", "batch", "sides"),
    [
        ({"input_shape": "x.1:-1,3,8,8", "dynamic_batch_size": "1,4,8"}, (1, 4, 8), 8, [0, 0]),
        ({"input_shape": "x.1:7,3,8,8"}, (), 7, [7, 7]),
    ],
    ids=["gears", "fixed"],
)
def test_a_free_batch_is_set_by_gears_or_shape(
    options: dict[str, str],
    gears: tuple[int, ...],
    batch: int,
    sides: list[int],
    call: Atc,
    tmp_path: Path,
) -> None:
    """The .om declares the largest gear, and its graph takes each; else the one batch."""
    tiny_onnx(tmp_path / "m.onnx", shape=("N", 3, 8, 8))
    assert call(**options)[0] == 0
    om = read_om(tmp_path / "out.om")
    assert (om.gears, om.inputs[0].shape[0], om.outputs[0].shape[0]) == (gears, batch, batch)
    graph = onnx.load_from_string(om.onnx).graph
    values = (*graph.input, *graph.output)
    assert [value.type.tensor_type.shape.dim[0].dim_value for value in values] == sides


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


V1, V2 = {"precision_mode": "allow_mix_precision"}, {"precision_mode_v2": "mixed_float16"}
HUNDRED_AND_ONE = ",".join(map(str, range(1, 102)))


@pytest.mark.parametrize(
    ("changes", "code", "text"),
    [
        ({"framework": None}, "E10007", "--framework is required"),
        ({"framework": "0"}, "E10007", "must be 5"),
        ({"model": None}, "E10054", r"\[model\]"),
        ({"model": "no.onnx"}, "E13000", "no.onnx"),
        ({"model": "text.json"}, "E10041", "text.json"),
        ({"output": None}, "E10054", r"\[output\]"),
        ({"output": "no/out"}, "E13000", "no/out"),
        ({"input_format": "NHWC"}, "E10001", "--input_format"),
        ({"log": "loud"}, "E10001", "loud for parameter --log"),
        ({"soc_version": "Ascend310P9"}, "E10001", "--soc_version"),
        ({"soc_version": None}, "E10054", "soc_version"),
        ({"precision_mode": "fp16"}, "E10001", "--precision_mode"),
        ({"precision_mode_v2": "force_fp16"}, "E10001", "_v2"),
        ({**V1, **V2}, "E10047", "mutually exclusive"),
        ({"precision_mode": "allow_fp32_to_bf16"}, "E10055", "bf16"),
        ({"output_type": "INT4"}, "E10001", "--output_type"),
        ({"precision_mode": "force_fp16", "modify_mixlist": "list.json"}, "E10001", "mixed prec"),
        ({"modify_mixlist": "list.json"}, "E10001", "mixed"),
        ({**V1, "modify_mixlist": "no.json"}, "E10410", "no.json does not exist"),
        ({**V2, "modify_mixlist": "broken.json"}, "E10032", "JSON file broken"),
        ({**V2, "modify_mixlist": "key.json"}, "E10032", "JSON file key"),
        ({**V2, "modify_mixlist": "type.json"}, "E10032", "JSON file type"),
        ({**V2, "modify_mixlist": "text.json"}, "E10032", "JSON file text"),
        ({"input_shape": "1,3,8,8"}, "E10002", "name and value"),
        ({"input_shape": "x.1:1.5,3,8,8"}, "E10002", "x.1:1.5"),
        ({"input_shape": "images:1,3,8,8"}, "E10016", "images"),
        ({"input_shape": "x.1:1,3,8"}, "E10049", "count 3 .* count 4"),
        ({"input_shape": "x.1:-1,3,8,8"}, "E10011", "is -1"),
        ({"input_shape": "x.1:1,3,9,8"}, "E19999", "9"),
        ({"input_shape": None, "model": "free.onnx"}, "E10001", "maybe"),
        ({"dynamic_batch_size": "1,4"}, "E10012", "less than 1"),
        ({"dynamic_batch_size": "1,4", "input_shape": "x.1:-1,3,8,8"}, "E10012", "less than 1"),
        ({"dynamic_batch_size": "4"}, "E10035", "has 1 profiles"),
        ({"dynamic_batch_size": HUNDRED_AND_ONE}, "E10036", "has 101 profiles"),
        ({"dynamic_batch_size": "1,1"}, "E10039", "duplicate"),
        ({"dynamic_batch_size": "0,1"}, "E10001", "positive"),
        ({"input_fp16_nodes": "y"}, "E10016", "input_fp16_nodes"),
        ({"input_fp16_nodes": "x.1", "insert_op_conf": "aipp.cfg"}, "E10047", "mutually"),
        ({"insert_op_conf": "no.cfg"}, "E10410", "no.cfg"),
        ({"insert_op_conf": "text.json"}, "E10052", "AIPP"),
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
    tiny_onnx(tmp_path / "free.onnx", shape=("N", 3, 8, 8))
    tiny_onnx(tmp_path / "opset18.onnx", opset=18)
    tiny_onnx(tmp_path / "loops.onnx", operators=["NonZero"])
    (tmp_path / "large.cfg").write_text(AIPP.replace("}", "src_image_size_w: 512 }"))
    for name, content in (
        ("list", {"black-list": {"to-add": ["ReduceMeanD"]}}),
        ("key", {"blacklist": {"to-add": ["ReduceMeanD"]}}),
        ("type", {"black-list": {"to-add": ["onnx::ReduceMean"]}}),
        ("text", ["no list"]),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "broken.json").write_text("{")
    exit_code, said = call(**changes)
    assert exit_code == 255
    *_, failed, coded = said.splitlines()
    assert failed.startswith("ATC run failed, Please check the detail log")
    assert re.match(f"{code}: .*{text}", coded)
    assert not list(tmp_path.glob("*.om"))
    explained = explain(exit_code, read_log(said.splitlines()))
    assert explained.startswith(f"ATC failed: {code}: ")
    assert UNKNOWN not in explained


def test_a_missing_kernel_is_found_behind_a_long_log(
    call: Atc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A misbehaviour does what it is called; one that is misspelt would pass for none."""
    monkeypatch.setenv("EFFD0_FAKE_ATC", "kernel-missing")
    exit_code, said = call()
    text = explain(exit_code, read_log(said.splitlines()))
    assert re.search(r"EZ9999.*\nCANN holds no kernel", text)
    monkeypatch.setenv("EFFD0_FAKE_ATC", "no-kernel")
    with pytest.raises(ValueError, match="no-kernel"):
        call()
    # A misspelt option never passes for one that is left out.
    monkeypatch.delenv("EFFD0_FAKE_ATC")
    assert call(precision="fp16")[0] == 1


@pytest.mark.slow
@pytest.mark.parametrize("shape", [{"batch": 4}, {"gears": "1,4"}], ids=["batch", "gears"])
def test_the_whole_network_is_compiled(
    shape: dict[str, Any], onnx_model: Path, spec: ModelSpec, call: Atc, tmp_path: Path
) -> None:
    """Even unsimplified, D0 keeps its ten heads, and its weights are those of float16."""
    changes = {
        "model": str(onnx_model),
        "input_shape": f"{spec.input_name}:{shape.get('batch', -1)},3,512,512",
        "dynamic_batch_size": shape.get("gears"),
    }
    assert call(**changes)[0] == 0
    om = read_om(tmp_path / "out.om")
    heads = {tensor.name.rpartition(":")[2]: tensor.shape for tensor in om.outputs}
    assert heads == {name: (4, *sides) for name, sides in spec.head_shapes.items()}
    assert list(heads) == list(spec.output_names)
    kept = onnx.load_from_string(om.onnx).graph.initializer
    given = onnx.load(str(onnx_model)).graph.initializer
    for got, wanted in zip(kept, given, strict=True):
        array = numpy_helper.to_array(wanted)
        if array.dtype == np.float32:
            array = np.clip(array, -65504, 65504).astype(np.float16).astype(np.float32)
        assert np.array_equal(numpy_helper.to_array(got), array)


def test_the_executable_is_the_emulator(tmp_path: Path) -> None:
    """What lies on the PATH takes a command as it is typed, spaced values too."""
    tiny_onnx(tmp_path / "m.onnx")
    words = [word for key, value in GOOD.items() for word in (f"--{key}", value)]
    environment = {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    outcome = subprocess.run(
        [BIN / "atc", *words],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert read_om(tmp_path / "out.om").command[0] == "atc"
