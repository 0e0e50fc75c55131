"""
Tests for `tests.fakes.ascend.atc`: the emulated ATC refuses what its manual refuses.

Each refusal is also read as `effd0.ascend.atc_log` reads it, so that no code is without advice.
"""

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

from .ascend_host import BIN, tiny_onnx
from .fakes.ascend import atc
from .fakes.ascend.om import OmTensor, read_om
from .helpers import names_in

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

    def run(**changes: str | None) -> tuple[int, str]:
        options = {**GOOD, **changes}
        words = [f"--{key}={value}" for key, value in options.items() if value is not None]
        code = atc.main(words)
        return code, capsys.readouterr().out

    return run


def test_a_model_is_compiled(call: Atc, tmp_path: Path) -> None:
    """Start and success are said, the .om is whole, and the working directory is littered."""
    tiny_onnx(tmp_path / "m.onnx")
    assert call() == (0, f"{atc.START}\n{atc.SUCCESS}\n")
    om = read_om(tmp_path / "out.om")
    assert om.inputs == (OmTensor("x.1", "float32", (1, 3, 8, 8)),)
    assert om.outputs == (OmTensor("Conv_0:0:y", "float32", (1, 4, 8, 8)),)
    assert (om.soc_version, om.gears, om.aipp) == ("Ascend310P3", (), None)
    assert names_in(tmp_path) == ["fusion_result.json", "kernel_meta", "m.onnx", "out.om"]


@pytest.mark.parametrize(
    ("mode", "precision"),
    [
        ({}, "fp16"),
        ({"precision_mode": "force_fp16"}, "fp16"),
        ({"precision_mode": "allow_mix_precision"}, "fp16"),
        ({"precision_mode": "allow_fp32_to_fp16"}, "fp16"),
        ({"precision_mode": "force_fp32"}, "fp32"),
        ({"precision_mode": "must_keep_origin_dtype"}, "fp32"),
        ({"precision_mode_v2": "fp16"}, "fp16"),
        ({"precision_mode_v2": "mixed_float16"}, "fp16"),
        ({"precision_mode_v2": "origin"}, "fp32"),
        ({"precision_mode_v2": "cube_fp16in_fp32out"}, "fp32"),
    ],
    ids=lambda value: "-".join(value.values()) or "default" if isinstance(value, dict) else value,
)
@pytest.mark.parametrize(
    ("weight", "rounded"), [(0.1, 0.0999755859375), (1e9, 65504.0)], ids=["tenth", "huge"]
)
def test_float16_modes_round_weights(
    mode: dict[str, str], precision: str, weight: float, rounded: float, call: Atc, tmp_path: Path
) -> None:
    """ATC's default is float16: weights become its nearest values, and stay finite."""
    tiny_onnx(tmp_path / "m.onnx", weight=weight)
    assert call(**mode)[0] == 0
    om = read_om(tmp_path / "out.om")
    assert om.precision == precision
    (tensor,) = onnx.load_from_string(om.onnx).graph.initializer
    wanted = rounded if precision == "fp16" else np.float32(weight)
    assert set(numpy_helper.to_array(tensor).ravel()) == {wanted}


def test_gears_leave_the_batch_free(call: Atc, tmp_path: Path) -> None:
    """The .om declares the largest gear, and its graph takes each."""
    tiny_onnx(tmp_path / "m.onnx", shape=("N", 3, 8, 8))
    assert call(input_shape="x.1:-1,3,8,8", dynamic_batch_size="1,4,8")[0] == 0
    om = read_om(tmp_path / "out.om")
    assert (om.gears, om.inputs[0].shape, om.outputs[0].shape) == (
        (1, 4, 8), (8, 3, 8, 8), (8, 4, 8, 8),
    )  # fmt: skip
    graph = onnx.load_from_string(om.onnx).graph
    sides = [value.type.tensor_type.shape.dim[0] for value in (*graph.input, *graph.output)]
    assert [side.HasField("dim_value") for side in sides] == [False, False]


def test_a_free_batch_is_fixed_by_the_shape(call: Atc, tmp_path: Path) -> None:
    """Without gears, the batch of --input_shape is the only one."""
    tiny_onnx(tmp_path / "m.onnx", shape=("N", 3, 8, 8))
    assert call(input_shape="x.1:7,3,8,8")[0] == 0
    om = read_om(tmp_path / "out.om")
    assert (om.gears, om.inputs[0].shape, om.outputs[0].shape) == ((), (7, 3, 8, 8), (7, 4, 8, 8))
    graph = onnx.load_from_string(om.onnx).graph
    sides = [value.type.tensor_type.shape.dim[0] for value in (*graph.input, *graph.output)]
    assert [side.dim_value for side in sides] == [7, 7]


def test_types_of_inputs_and_outputs_are_asked_for(call: Atc, tmp_path: Path) -> None:
    """Half-precision tensors and AIPP's uint8 pixels are declared as such."""
    tiny_onnx(tmp_path / "m.onnx")
    (tmp_path / "aipp.cfg").write_text(AIPP)
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
        pytest.param({"framework": None}, "E10007", "--framework is required", id="no-framework"),
        pytest.param({"framework": "0"}, "E10007", "must be 5", id="caffe"),
        pytest.param({"model": None}, "E10054", r"\[model\]", id="no-model-option"),
        pytest.param({"model": "no.onnx"}, "E13000", "no.onnx", id="no-model"),
        pytest.param({"model": "text.json"}, "E10041", "text.json", id="no-onnx"),
        pytest.param({"output": None}, "E10054", r"\[output\]", id="no-output"),
        pytest.param({"output": "no/out"}, "E13000", "no/out", id="no-folder"),
        pytest.param({"input_format": "NHWC"}, "E10001", "--input_format", id="format"),
        pytest.param({"log": "loud"}, "E10001", "loud for parameter --log", id="log"),
        pytest.param({"soc_version": "Ascend310P9"}, "E10001", "--soc_version", id="soc"),
        pytest.param({"soc_version": "310P3"}, "E10001", "--soc_version", id="soc-bare"),
        pytest.param({"soc_version": None}, "E10054", "soc_version", id="no-soc"),
        pytest.param({"precision_mode": "fp16"}, "E10001", "--precision_mode", id="mode"),
        pytest.param({"precision_mode_v2": "force_fp16"}, "E10001", "_v2", id="mode-v2"),
        pytest.param(
            {"precision_mode": "force_fp16", "precision_mode_v2": "fp16"},
            "E10047",
            "mutually exclusive",
            id="both-modes",
        ),
        pytest.param({"precision_mode": "allow_fp32_to_bf16"}, "E10055", "bf16", id="bf16"),
        pytest.param({"output_type": "INT4"}, "E10001", "--output_type", id="output-type"),
        pytest.param({"keep_dtype": "x.cfg"}, "E10055", "--keep_dtype", id="not-emulated"),
        pytest.param(
            {"precision_mode": "force_fp16", "modify_mixlist": "list.json"},
            "E10001",
            "mixed precision",
            id="list-unread",
        ),
        pytest.param({"modify_mixlist": "list.json"}, "E10001", "mixed", id="list-by-default"),
        pytest.param(
            {"precision_mode": "allow_mix_precision", "modify_mixlist": "no.json"},
            "E10410",
            "no.json does not exist",
            id="no-list",
        ),
        *(
            pytest.param(
                {"precision_mode_v2": "mixed_float16", "modify_mixlist": name},
                "E10032",
                f"Failed to parse JSON file {name}",
                id=f"list-{name[:-5]}",
            )
            for name in ("broken.json", "key.json", "type.json", "text.json")
        ),
        pytest.param({"input_shape": "1,3,8,8"}, "E10002", "name and value", id="no-name"),
        pytest.param({"input_shape": "x.1:1.5,3,8,8"}, "E10002", "x.1:1.5", id="fraction"),
        pytest.param({"input_shape": "images:1,3,8,8"}, "E10016", "images", id="input-name"),
        pytest.param({"input_shape": "x.1:1,3,8"}, "E10049", "count 3 .* count 4", id="sides"),
        pytest.param({"input_shape": "x.1:-1,3,8,8"}, "E10011", "is -1", id="free-side"),
        pytest.param({"input_shape": "x.1:1,3,9,8"}, "E19999", "9", id="shape"),
        pytest.param({"input_shape": None, "model": "free.onnx"}, "E10001", "maybe", id="free"),
        pytest.param({"dynamic_batch_size": "1,4"}, "E10012", "less than 1", id="no-free-batch"),
        pytest.param(
            {"dynamic_batch_size": "1,4", "input_shape": "x.1:-1,3,8,8"},
            "E10012",
            "less than 1",
            id="gears-on-fixed",
        ),
        pytest.param({"dynamic_batch_size": "4"}, "E10035", "has 1 profiles", id="one-gear"),
        pytest.param(
            {"dynamic_batch_size": ",".join(map(str, range(1, 102)))},
            "E10036",
            "has 101 profiles",
            id="gears-101",
        ),
        pytest.param({"dynamic_batch_size": "1,1"}, "E10039", "duplicate", id="gears-twice"),
        pytest.param({"dynamic_batch_size": "0,1"}, "E10001", "positive", id="gear-zero"),
        pytest.param({"input_fp16_nodes": "y"}, "E10016", "input_fp16_nodes", id="fp16-name"),
        pytest.param(
            {"input_fp16_nodes": "x.1", "insert_op_conf": "aipp.cfg"},
            "E10047",
            "mutually",
            id="fp16-and-aipp",
        ),
        pytest.param({"insert_op_conf": "no.cfg"}, "E10410", "no.cfg", id="no-aipp"),
        pytest.param({"insert_op_conf": "text.json"}, "E10052", "AIPP", id="aipp"),
        pytest.param({"insert_op_conf": "large.cfg"}, "E10052", "512", id="aipp-size"),
        pytest.param({"model": "opset18.onnx"}, "E19010", "ai.onnx::18::Conv", id="opset"),
        pytest.param({"model": "loops.onnx"}, "E19010", "11::NonZero", id="operator"),
    ],
)
def test_what_atc_refuses_has_its_code_and_our_advice(
    changes: dict[str, str | None], code: str, text: str, call: Atc, tmp_path: Path
) -> None:
    """The exit code is 255, nothing is written, and each code leads to a next step."""
    tiny_onnx(tmp_path / "m.onnx")
    tiny_onnx(tmp_path / "free.onnx", shape=("N", 3, 8, 8))
    tiny_onnx(tmp_path / "opset18.onnx", opset=18)
    tiny_onnx(tmp_path / "loops.onnx", operators=["NonZero"])
    (tmp_path / "aipp.cfg").write_text(AIPP)
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


@pytest.mark.parametrize(
    ("odd", "code", "succeeded", "left"),
    [
        pytest.param("no-success-line", 0, False, ["out.om"], id="no-success-line"),
        pytest.param("no-file", 0, True, [], id="no-file"),
        pytest.param("empty-file", 0, True, ["out.om"], id="empty-file"),
        pytest.param("exit-code", 1, True, ["out.om"], id="exit-code"),
        pytest.param("suffix-linux", 0, True, ["out_linux_aarch64.om"], id="suffix-linux"),
        pytest.param("kernel-missing", 255, False, [], id="kernel-missing"),
        pytest.param("noisy", 0, True, ["out.om"], id="noisy"),
    ],
)
def test_misbehaviours_are_as_they_are_called(
    odd: str,
    code: int,
    succeeded: bool,
    left: list[str],
    call: Atc,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each breaks what success is made of in one way: exit code, word or file."""
    tiny_onnx(tmp_path / "m.onnx")
    monkeypatch.setenv("EFFD0_FAKE_ATC", odd)
    exit_code, said = call()
    assert (exit_code, read_log(said.splitlines()).succeeded) == (code, succeeded)
    assert [path.name for path in tmp_path.glob("*.om")] == left


def test_a_misspelt_misbehaviour_is_no_good_behaviour(
    call: Atc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test that asks for a failure that is none would pass without one."""
    monkeypatch.setenv("EFFD0_FAKE_ATC", "no-files")
    with pytest.raises(ValueError, match="no-files"):
        call()


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
    held = onnx.load_from_string(om.onnx).graph.initializer
    given = onnx.load(str(onnx_model)).graph.initializer
    for got, wanted in zip(held, given, strict=True):
        array = numpy_helper.to_array(wanted)
        if array.dtype == np.float32:
            array = np.clip(array, -65504, 65504).astype(np.float16).astype(np.float32)
        assert np.array_equal(numpy_helper.to_array(got), array)


def test_an_unknown_option_is_refused(call: Atc) -> None:
    """A misspelt option never passes for one that is left out."""
    with pytest.raises(SystemExit) as stopped:
        call(precision="fp16")
    assert stopped.value.code == 1


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
