"""Tests for `effd0 compile`: what is printed, what is left behind, and errors in one line."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from effd0.io import sha256
from tests.emulator.om import read_om
from tests.emulator.tools import tiny_onnx, use_emulated_tools, use_tool
from tests.helpers import assert_one_error, effd0, names_in

CHIP = ("--soc-version", "Ascend310P3")


@pytest.fixture(autouse=True)
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
    """Stdout is one line that a shell takes; the file that it reads lies there, and is told."""
    outcome = effd0(*compile_("--dry-run"))
    assert (outcome.code, outcome.errors) == (0, [])
    assert outcome.out == (
        "atc --framework=5 --model=m.onnx --output=d0 --input_format=NCHW "
        "--input_shape=x.1:1,3,512,512 --log=debug --soc_version=Ascend310P3 "
        "--precision_mode=allow_mix_precision --modify_mixlist=ops_info.json\n"
    )
    assert outcome.err == "wrote ops_info.json, which the command reads\n"
    assert names_in(here) == ["free.onnx", "m.onnx", "ops_info.json"]


def test_a_second_dry_run_has_nothing_to_write() -> None:
    """The list is written once and used from then on."""
    first, second = (effd0(*compile_("--dry-run")) for _ in range(2))
    assert (second.code, second.out, second.err) == (0, first.out, "")


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [[], ["--aipp", "--output-type", "FP16"], ["--precision-mode-v2", "origin", "--input-fp16"]],
    ids=["recipe", "aipp", "origin"],
)
def test_the_printed_command_runs_as_it_stands(
    options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is copied into a shell makes the .om that `effd0 compile` makes."""
    use_emulated_tools(monkeypatch)
    printed = effd0(*compile_("--dry-run", *options)).out
    subprocess.run(["sh", "-c", printed], check=True, capture_output=True)  # noqa: S607
    by_hand = read_om(Path("d0.om"))
    Path("d0.om").unlink()
    assert effd0(*compile_(*options)).code == 0
    by_us = read_om(Path("d0.om"))
    assert (by_hand.onnx, by_hand.inputs, by_hand.outputs, by_hand.aipp, by_hand.precision) == (
        by_us.onnx, by_us.inputs, by_us.outputs, by_us.aipp, by_us.precision,
    )  # fmt: skip


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
    """The largest error is shown beside the command, in the unit of the network's input."""
    outcome = effd0(*compile_("--aipp", "--precision-mode", "force_fp16", "--dry-run"))
    assert outcome.code == 0
    # Steps of float16 are 2e-3 between 2 and 4, and inputs reach 2.64.
    costs = re.search(r"at most (\S+), (\S+), (\S+) \(R, G, B\) from exact", outcome.err)
    assert costs is not None
    assert all(1e-4 < float(cost) < 2e-3 for cost in costs.groups())
    assert names_in(here) == ["aipp_tf_efficientdet_d0.cfg", "free.onnx", "m.onnx"]


def test_what_only_some_versions_refuse_is_told(here: Path) -> None:
    """A warning is shown, and the command all the same."""
    tiny_onnx(here / "m.onnx", operators=["Acosh"])
    outcome = effd0(*compile_("--dry-run"))
    assert outcome.code == 0
    assert re.search(r"some versions of ATC refuse: Op_1 \(Acosh\)", outcome.err)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(["--dynamic-batch-size", "1,4"], "is fixed to 1, but", id="gears-on-fixed"),
        pytest.param(["--batch-size", 4], "export with --batch-size 4", id="other-batch"),
        pytest.param(["--modify-mixlist", "no.json"], "is no.json, which is not", id="no-list"),
    ],
)
def test_what_cannot_be_compiled_is_one_error(
    options: list[object], message: str, here: Path
) -> None:
    """Exit code 2 and one line on stderr; no file is written."""
    assert_one_error(message, *compile_(*options, "--dry-run"))
    assert names_in(here) == ["free.onnx", "m.onnx"]


def test_a_failure_of_atc_is_one_error(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Translation, next step and ATC's own last lines are shown, no traceback."""
    script = "echo 'E19010: No parser is registered for Op [[bold]Resize].'; exit 255"
    use_tool("atc", script, here / "bin", monkeypatch)
    wanted = r"AtcError: ATC failed: E19010: .*\[\[bold\]Resize\]\.\n.*--opset 11.*\nATC's last"
    assert_one_error(wanted, *compile_())
    assert names_in(here) == ["bin", "free.onnx", "m.onnx", "ops_info.json"]
