"""Tests for `effd0.ascend.atc`: the command, as it is shown and as it would be typed."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from effd0.ascend.atc import MIXLIST, AtcCommand, atc_command, write_generated
from effd0.ascend.atc_options import AtcOptions
from effd0.errors import AtcError, GraphError
from effd0.spec import D0, SPECS

from .ascend_host import tiny_onnx, use_emulated_tools
from .helpers import names_in

#: The ATC command of the recipe's guide.
RECIPE = r"""
atc --framework=5 \
    --model=d0_bs${bs}_m.onnx \
    --output=d0_bs${bs} \
    --input_format=NCHW \
    --input_shape="x.1:${bs},3,512,512" \
    --log=debug \
    --soc_version=Ascend${chip_name} \
    --precision_mode=allow_mix_precision \
    --modify_mixlist=ops_info.json
"""
P3 = AtcOptions(soc_version="Ascend310P3")
SMALL = replace(D0, image_size=8)


def recipe(**values: str) -> list[str]:
    """Return the words of the recipe's command with its variables set."""
    joined = RECIPE.replace("\\\n", " ")  # as a shell joins continued lines
    return shlex.split(re.sub(r"\$\{(\w+)\}", lambda match: values[match[1]], joined))


def meaning(words: list[str]) -> dict[str, str]:
    """Return option -> value of a command's *words*."""
    pairs = dict(word.removeprefix("--").split("=", 1) for word in words[1:])
    assert len(pairs) == len(words) - 1
    return {"": words[0], **pairs}


@pytest.mark.parametrize("batch", [1, 16], ids="batch={}".format)
def test_the_command_is_the_recipes(
    batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the recipe's files and chip, each option has the recipe's value, in its order."""
    monkeypatch.chdir(tmp_path)
    model = tiny_onnx(Path(f"d0_bs{batch}_m.onnx"), shape=(batch, 3, 512, 512))
    command = atc_command(model, Path(f"d0_bs{batch}"), D0, P3)
    wanted = recipe(bs=str(batch), chip_name="310P3")
    assert meaning(shlex.split(str(command))) == meaning(wanted)
    assert command.argv() == wanted


def test_the_list_is_the_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the output lies the recipe's ops_info.json: ReduceMeanD is not to be reduced."""
    monkeypatch.chdir(tmp_path)
    tiny_onnx(Path("m.onnx"))
    written = write_generated(atc_command(Path("m.onnx"), Path("d0"), D0, P3))
    assert written == [Path("ops_info.json")]
    wanted = {"black-list": {"to-add": ["ReduceMeanD"]}}
    assert json.loads(Path("ops_info.json").read_text()) == wanted


def command_for(folder: Path, *shape: int | str, **options: Any) -> AtcCommand:
    """Return the command for a tiny model of *shape* and *options* on a 310P3."""
    model = tiny_onnx(folder / "m.onnx", shape=shape or (1, 3, 8, 8))
    asked = AtcOptions(**{"soc_version": "Ascend310P3", **options})
    return atc_command(model, folder / "out.om", SMALL, asked)


@pytest.mark.parametrize(
    ("shape", "options", "changes"),
    [
        pytest.param((), {"log": "error"}, {"log": "error"}, id="log"),
        pytest.param(
            ("N", 3, 8, 8),
            {"gears": (1, 4, 8)},
            {"input_shape": "x.1:-1,3,8,8", "dynamic_batch_size": "1,4,8"},
            id="gears",
        ),
        pytest.param(("N", 3, 8, 8), {"batch_size": 7}, {"input_shape": "x.1:7,3,8,8"}, id="batch"),
        pytest.param(
            (),
            {"precision_mode": "force_fp16"},
            {"precision_mode": "force_fp16", "modify_mixlist": None},
            id="not-mixed",
        ),
        pytest.param(
            (),
            {"precision_mode_v2": "mixed_float16"},
            {"precision_mode": None, "precision_mode_v2": "mixed_float16"},
            id="mixed-v2",
        ),
        pytest.param(
            (),
            {"precision_mode_v2": "origin"},
            {"precision_mode": None, "precision_mode_v2": "origin", "modify_mixlist": None},
            id="origin-v2",
        ),
        pytest.param(
            (), {"modify_mixlist": Path(__file__)}, {"modify_mixlist": __file__}, id="own-list"
        ),
        pytest.param(
            (), {"insert_op_conf": Path(__file__)}, {"insert_op_conf": __file__}, id="own-aipp"
        ),
        pytest.param((), {"output_type": "FP16"}, {"output_type": "FP16"}, id="fp16-outputs"),
        pytest.param((), {"input_fp16": True}, {"input_fp16_nodes": "x.1"}, id="fp16-input"),
        pytest.param(
            (), {"soc_version": "Ascend910_9391"}, {"soc_version": "Ascend910_9391"}, id="chip"
        ),
    ],
)
def test_an_option_changes_its_own_words_only(
    shape: tuple[int | str, ...],
    options: dict[str, Any],
    changes: dict[str, str | None],
    tmp_path: Path,
) -> None:
    """Each option sets what it names (None: takes it away); all else stays the recipe's."""
    wanted: dict[str, str | None] = {**meaning(command_for(tmp_path).argv()), **changes}
    got = meaning(command_for(tmp_path, *shape, **options).argv())
    assert got == {key: value for key, value in wanted.items() if value is not None}


def test_aipp_is_a_file_beside_the_output(tmp_path: Path) -> None:
    """The generated AIPP file is one of the command's, named after the architecture."""
    command = command_for(tmp_path, aipp=True)
    path = tmp_path / "aipp_tf_efficientdet_d0.cfg"
    assert meaning(command.argv())["insert_op_conf"] == str(path)
    assert path in write_generated(command)
    assert "var_reci_chn_2: 0.0174" in path.read_text()


def test_aipp_wants_the_networks_own_input(tmp_path: Path) -> None:
    """Our AIPP file is for RGB of the architecture's size; for another, one's own is asked."""
    with pytest.raises(AtcError, match=r"is \(1, 3, 6, 8\), but --aipp .* \(N, 3, 8, 8\); give"):
        command_for(tmp_path, 1, 3, 6, 8, aipp=True)


def test_the_chip_is_the_hosts_where_none_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --soc-version npu-smi is asked."""
    use_emulated_tools(monkeypatch)
    command = atc_command(tiny_onnx(tmp_path / "m.onnx"), tmp_path / "d0", D0, AtcOptions())
    assert command.soc_version == "Ascend310P3"


@pytest.mark.parametrize(
    ("given", "om"),
    [("d0_bs1", "d0_bs1.om"), ("d0_bs1.om", "d0_bs1.om"), ("d0.v1", "d0.v1.om")],
    ids=["bare", "with-suffix", "other-dot"],
)
def test_the_suffix_is_atcs(given: str, om: str, tmp_path: Path) -> None:
    """ATC adds .om, so the command never holds it, and a name's other dots are its own."""
    model = tiny_onnx(tmp_path / "m.onnx")
    command = atc_command(model, tmp_path / given, D0, P3)
    assert command.om == tmp_path / om
    assert f"--output={tmp_path / om}" == f"--output={command.output}.om"


def test_the_command_can_be_copied(tmp_path: Path) -> None:
    """A shell reads back each word as it is, whatever the names of the files hold."""
    folder = tmp_path / "it's a $HOME"
    folder.mkdir()
    command = command_for(folder)
    assert shlex.split(str(command)) == command.argv()
    assert f"--model={folder}/m.onnx" in command.argv()


@pytest.mark.parametrize(
    ("content", "taken"),
    [
        pytest.param(MIXLIST, True, id="same"),
        pytest.param(MIXLIST.replace("{", "{\n ").replace("\n", "\r\n"), True, id="spaced"),
        pytest.param('{"white-list": {"to-add": ["ReduceMeanD"]}}', False, id="other"),
    ],
)
def test_a_list_that_is_there_is_never_replaced(content: str, taken: bool, tmp_path: Path) -> None:
    """The same list is used as it is; another one may be wanted, so the user decides."""
    path = tmp_path / "ops_info.json"
    path.write_text(content)
    command = command_for(tmp_path)
    if taken:
        assert write_generated(command) == []
    else:
        wanted = r"ops_info.json holds something else .*--modify-mixlist .*ops_info.json, or move"
        with pytest.raises(AtcError, match=wanted):
            write_generated(command)
    assert path.read_bytes() == content.encode()


def test_a_folder_of_the_lists_name_is_told(tmp_path: Path) -> None:
    """Whatever is in the way of the list, the user decides."""
    (tmp_path / "ops_info.json").mkdir()
    with pytest.raises(AtcError, match=r"ops_info\.json holds something else"):
        write_generated(command_for(tmp_path))


def test_models_that_atc_refuses_never_reach_it(tmp_path: Path) -> None:
    """Each fault is listed with its remedy, all of them at once, and nothing is written."""
    model = tiny_onnx(tmp_path / "m.onnx", opset=18, shape=(1, 3, "H", 8))
    with pytest.raises(AtcError, match=r"does not take .*m\.onnx as it is") as error:
        atc_command(model, tmp_path / "d0", D0, P3)
    _, *faults = str(error.value).splitlines()
    assert len(faults) == 2
    assert any("is 18, but" in fault and "export" in fault for fault in faults)
    assert any("x.1" in fault and "free" in fault for fault in faults)
    assert names_in(tmp_path) == ["m.onnx"]


def test_what_only_some_versions_refuse_is_a_warning(tmp_path: Path) -> None:
    """An operator that is not known to be taken is told, and ATC may try."""
    model = tiny_onnx(tmp_path / "m.onnx", operators=["Acosh"])
    (warning,) = atc_command(model, tmp_path / "d0", D0, P3).warnings
    assert "Acosh" in warning


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    """What cannot be read as ONNX is not handed to ATC."""
    (tmp_path / "m.onnx").write_text("no model")
    with pytest.raises(GraphError, match=r"m\.onnx is not an ONNX"):
        atc_command(tmp_path / "m.onnx", tmp_path / "d0", SPECS["efficientdet_d0"], P3)
