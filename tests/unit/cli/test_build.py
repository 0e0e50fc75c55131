"""Tests for `effd0.cli.build`: what the commands print, leave behind and refuse."""

import re
import shlex
import subprocess
from pathlib import Path

import onnx
import pytest

from effd0.data import fixture as embedded
from effd0.export import verify
from effd0.export.to_onnx import ExportSettings
from effd0.export.verify import Built
from effd0.graph.rewrites import DEFAULT_EDITS, EDITS
from effd0.io import sha256
from effd0.spec import D0, ModelSpec
from effd0.tensors.diff import TensorDiff
from tests.emulator.om import read_om
from tests.emulator.tools import tiny_onnx, use_emulated_tools, use_tool
from tests.helpers import assert_one_error, effd0, names_in
from tests.helpers.onnx_models import head_model, need_own_export, pinned

CHIP = ("--soc-version", "Ascend310P3")


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        (["--batch-size", 8, "--opset", 13], ExportSettings(8, 13, "torchscript")),
        (["--dynamic-batch", "--exporter", "dynamo"], ExportSettings(None, None, "dynamo")),
    ],
    ids=["fixed", "free"],
)
def test_export_is_asked_as_the_options_say(
    options: list[object], settings: ExportSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The options reach the exporter, and each head's difference from torch is shown."""
    asked = []

    def quick(source: Path, out: Path, spec: ModelSpec, settings: ExportSettings) -> Built:
        asked.append((source, out, spec, settings))
        return Built(out, [TensorDiff("class_p3", 1.25e-5, 2.5e-7, (0,), 1.0, 1.0)])

    monkeypatch.setattr(verify, "export_onnx", quick)
    out = tmp_path / "d0.onnx"
    outcome = effd0("export", "--out", out, *options)
    assert outcome.code == 0
    assert asked == [(embedded.checkpoint(), out, D0, settings)]
    assert re.search(r"class_p3\W+1\.25e-05\W+2\.50e-07", outcome.out)
    assert f"wrote {out}" in outcome.out


@pytest.mark.slow
def test_simplify_and_modify_follow_each_other(
    onnx_model: Path, pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    """Each step is told with what it found and moved, and leaves a model of fewer nodes."""
    need_own_export(pytestconfig)
    one = pinned(onnx_model, tmp_path / "one.onnx", 1)
    simplified, modified = tmp_path / "sim.onnx", tmp_path / "m.onnx"
    first = effd0("simplify", "--model", one, "--out", simplified)
    second = effd0("modify", "--model", simplified, "--out", modified)
    assert [(one.code, one.errors) for one in (first, second)] == [(0, [])] * 2
    assert f"wrote {simplified}" in first.out
    assert "fold-pad: nothing to do" in second.out
    assert re.search(r"fuse-sums: 24 matches, heads moved by at most \d\.\d\de[-+]\d\d", second.out)
    nodes = [len(onnx.load(str(path)).graph.node) for path in (one, simplified, modified)]
    assert nodes[0] > nodes[1] > nodes[2] > 0


#: What an export says that it is of.
ORIGIN = {"arch": D0.arch, "checkpoint_sha256": "5" * 64}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Command -> the file that it made of a little model with a D0's heads."""
    folder = tmp_path_factory.mktemp("built")
    model = head_model(D0.head_shapes, D0.image_size, batch=1)
    onnx.helper.set_model_props(model, ORIGIN)
    onnx.save(model, str(folder / "export.onnx"))
    for command in ("simplify", "modify"):
        source, out = folder / "export.onnx", folder / f"{command}.onnx"
        assert effd0(command, "--model", source, "--out", out).code == 0
    return {path.stem: path for path in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("made_by", ["export", "simplify", "modify"])
@pytest.mark.parametrize("command", ["simplify", "modify", "compile"])
def test_every_command_takes_what_the_others_made(
    command: str,
    made_by: str,
    built: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its own output too; the file still says once what it is of."""
    monkeypatch.chdir(tmp_path)
    use_emulated_tools(monkeypatch)
    model = ("--model", built[made_by])
    if command == "compile":
        assert effd0(command, *model, "--output", "d0", *CHIP).code == 0
        content = onnx.load_from_string(read_om(tmp_path / "d0.om").onnx)
    else:
        outcome = effd0(command, *model, "--out", "d0.onnx")
        assert (outcome.code, outcome.errors) == (0, [])
        content = onnx.load("d0.onnx")
    told = [(entry.key, entry.value) for entry in content.metadata_props]
    assert len(told) == len(dict(told))
    assert dict(told).items() >= ORIGIN.items()


def test_modify_explains_its_edits() -> None:
    """--list needs no model: each edit is there with its purpose, and nothing is written."""
    outcome = effd0("modify", "--list")
    assert (outcome.code, outcome.err) == (0, "")
    rows = [line.split("│") for line in outcome.out.splitlines() if re.match(r"│ \w", line)]
    flags = {row[1].strip(): (row[4].strip(), row[5].strip()) for row in rows}
    assert {name: flags[name] for name in EDITS} == {
        name: ("yes" if edit.exact else "no", "yes" if name in DEFAULT_EDITS else "no")
        for name, edit in EDITS.items()
    }


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's working directory, which holds a model of batch 1 and one of free batch."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EFFD0_FAKE_ATC", raising=False)
    tiny_onnx(tmp_path / "m.onnx", shape=(1, 3, 512, 512))
    tiny_onnx(tmp_path / "free.onnx", shape=("N", 3, 512, 512))
    return tmp_path


def compile_(*arguments: object, model: str = "m.onnx", chip: tuple[str, ...] = CHIP) -> list[str]:
    """Return the words of a command line, for `effd0`."""
    return ["compile", "--model", model, "--output", "d0", *chip, *map(str, arguments)]


def test_a_dry_run_prints_the_command_alone(here: Path) -> None:
    """Stdout is one line that a shell takes; the file that it reads lies there, told once."""
    first, second = (effd0(*compile_("--dry-run")) for _ in range(2))
    assert (first.code, first.errors) == (0, [])
    assert first.out == (
        "atc --framework=5 --model=m.onnx --output=d0 --input_format=NCHW "
        "--input_shape=x.1:1,3,512,512 --log=debug --soc_version=Ascend310P3 "
        "--precision_mode=allow_mix_precision --modify_mixlist=ops_info.json\n"
    )
    assert first.err == "wrote ops_info.json, which the command reads\n"
    assert names_in(here) == ["free.onnx", "m.onnx", "ops_info.json"]
    assert (second.code, second.out, second.err) == (0, first.out, "")


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [[], ["--aipp", "--output-type", "FP16"], ["--precision-mode-v2", "origin", "--input-fp16"]],
    ids=["recipe", "aipp", "origin"],
)
@pytest.mark.usefixtures("here")
def test_the_printed_command_runs_as_it_stands(
    options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is copied into a shell makes the .om that `effd0 compile` makes."""
    use_emulated_tools(monkeypatch)
    printed = effd0(*compile_("--dry-run", *options)).out
    subprocess.run(["sh", "-c", printed], check=True, capture_output=True)  # noqa: S607
    by_hand = read_om(Path("d0.om"))
    assert_one_error("OutputError: --output makes d0.om, which is there", *compile_(*options))
    assert effd0(*compile_(*options, "--overwrite")).code == 0
    by_us = read_om(Path("d0.om"))
    for part in ("onnx", "inputs", "outputs", "aipp", "precision"):
        assert getattr(by_hand, part) == getattr(by_us, part), part


def test_a_compilation_shows_command_and_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chip is the host's; the gears reach the .om; its size and fingerprint are told."""
    use_emulated_tools(monkeypatch)
    words = compile_("--dynamic-batch-size", "1, 4,8", model="free.onnx", chip=())
    outcome = effd0(*words)
    assert (outcome.code, outcome.errors) == (0, [])
    command, wrote = outcome.out.splitlines()
    assert shlex.split(command)[0] == "atc"
    assert "--input_shape=x.1:-1,3,512,512 --dynamic_batch_size=1,4,8" in command
    assert re.fullmatch(
        rf"wrote d0\.om: 0\.0 MB, sha256 {sha256(here / 'd0.om')[:12]}, in \d+\.\d s", wrote
    )
    om = read_om(here / "d0.om")
    assert (om.gears, om.soc_version, om.precision) == ((1, 4, 8), "Ascend310P3", "fp16")
    assert names_in(here) == ["d0.om", "free.onnx", "m.onnx", "ops_info.json"]


def test_aipp_states_its_cost(here: Path) -> None:
    """The largest error is shown, in the unit of the network's input; so is a warning of ATC's."""
    tiny_onnx(here / "m.onnx", shape=(1, 3, 512, 512), operators=["Acosh"])
    outcome = effd0(*compile_("--aipp", "--precision-mode", "force_fp16", "--dry-run"))
    assert outcome.code == 0
    # Steps of float16 are 2e-3 between 2 and 4, and inputs reach 2.64.
    costs = re.search(r"at most (\S+), (\S+), (\S+) \(R, G, B\) from exact", outcome.err)
    assert costs is not None
    assert all(1e-4 < float(cost) < 2e-3 for cost in costs.groups())
    assert re.search(r"some versions of ATC refuse: Op_1 \(Acosh\)", outcome.err)
    assert names_in(here) == ["aipp_tf_efficientdet_d0.cfg", "free.onnx", "m.onnx"]


def test_a_failure_of_atc_is_one_error(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Translation, next step and ATC's own last lines are shown; no .om is left."""
    assert_one_error("is fixed to 1, but", *compile_("--dynamic-batch-size", "1,4", "--dry-run"))
    assert_one_error("write them as 1,4,8", *compile_("--dynamic-batch-size", "1,x"))
    assert names_in(here) == ["free.onnx", "m.onnx"]
    script = "echo 'E19010: No parser is registered for Op [[bold]Resize].'; exit 255"
    use_tool("atc", script, here / "bin", monkeypatch)
    wanted = r"AtcError: ATC failed: E19010: .*\[\[bold\]Resize\]\.\n.*--opset 11.*\nATC's last"
    assert_one_error(wanted, *compile_())
    assert names_in(here) == ["bin", "free.onnx", "m.onnx", "ops_info.json"]
