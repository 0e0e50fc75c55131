"""Tests for `effd0.ascend.npu_smi`: tables as drivers print them, and the chip's name for ATC."""

from __future__ import annotations

from pathlib import Path

import pytest

from effd0.ascend import npu_smi
from effd0.ascend.npu_smi import Npu, find_soc, parse_info
from effd0.errors import AtcError

from ...emulator.tools import use_emulated_tools, use_tool

# As printed by drivers 22.0.2 (310P3, 310), 24.1 and 25.2.
INFO_310P = """\
| npu-smi 22.0.0                       Version: 22.0.2                                      |
+-------------------+-----------------+------------------------------------------------------+
| NPU     Name      | Health          | Power(W)     Temp(C)           Hugepages-Usage(page) |
| Chip    Device    | Bus-Id          | AICore(%)    Memory-Usage(MB)                        |
+===================+=================+======================================================+
| 0       310P3     | OK              | 15.8         42                0    / 0              |
| 0       0         | 0000:82:00.0    | 0            1074 / 21534                            |
+===================+=================+======================================================+
| 1       310P3     | Alarm           | 15.4         43                0    / 0              |
| 0       1         | NA              | 0            1070 / 21534                            |
+===================+=================+======================================================+
"""
INFO_910B = """\
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 7     910B2C              | OK            | NA          -                 0    / 0             |
| 0                         | 0000:C2:00.0  | 0           0    / 0          3397 / 65536         |
+===========================+===============+====================================================+
| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |
+===========================+===============+====================================================+
| 0       0                 | 4036          | python3                  | 56017                   |
| 0       0                 | 4037          | python3                  | 64                      |
+===========================+===============+====================================================+
| No running processes found in NPU 7                                                            |
+===========================+===============+====================================================+
"""
INFO_A3 = """\
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip  Phy-ID              | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 0     Ascend910           | OK            | 169.6       46                0    / 0             |
| 0     0                   | 0000:9D:00.0  | 0           0    / 0          3128 / 65536         |
+------------------------------------------------------------------------------------------------+
| 0     Ascend910           | OK            | -           45                0    / 0             |
| 1     1                   | 0000:9F:00.0  | 0           0    / 0          2881 / 65536         |
+===========================+===============+====================================================+
"""
#: A name of digits only, as the older card has it.
INFO_310 = """\
| 2       310       | OK              | 12.8              45                  0    / 970           |
| 1       1         | 0000:05:00.0    | 0                 2621 / 8192                              |
"""
CHIPS = {
    INFO_310P: [Npu(0, 0, "310P3", "OK"), Npu(1, 0, "310P3", "Alarm")],
    INFO_910B: [Npu(7, 0, "910B2C", "OK")],
    INFO_A3: [Npu(0, 0, "Ascend910", "OK"), Npu(0, 1, "Ascend910", "OK")],
    INFO_310: [Npu(2, 1, "310", "OK")],
    "dcmi model initialized failed, ret is -8005\n": [],
}


@pytest.mark.parametrize("text", CHIPS, ids=["310P3", "processes", "two-chips", "digits", "none"])
def test_every_chip_of_a_table_is_read(text: str) -> None:
    """Each driver's table gives its chips with number, name and health; processes are none."""
    assert list(parse_info(text)) == CHIPS[text]


BOARD = "  Chip Count : 2\n  Chip Name : Ascend910\n  NPU Name : 9391\n  Board ID : 0xb0\n"
MUTE = {"board_0_0": "Chip Count : 2\n", "board_0_1": ""}


@pytest.mark.parametrize(
    ("answers", "soc"),
    [
        ({"info": INFO_310P}, "Ascend310P3"),
        ({"info": INFO_310}, "Ascend310"),
        ({"info": INFO_A3, "board_0_0": BOARD, "board_0_1": BOARD}, "Ascend910_9391"),
        ({"info": INFO_A3, "board_0": BOARD}, "Ascend910_9391"),
        ({"info": INFO_A3, **MUTE, "board_0": BOARD}, "Ascend910_9391"),
        (
            {"info": INFO_A3},
            r"!the chip Ascend910, but .*'npu-smi info -t board -i 0'.*--soc-version Ascend910_",
        ),
        ({"info": INFO_310P + INFO_910B}, "!Ascend310P3, Ascend910B2C, but .* for one; choose: --"),
    ],
    ids=["plain", "digits", "by-chip", "by-npu", "chip-is-mute", "no-board", "two-kinds"],
)
def test_the_hosts_chip_names_itself(
    answers: dict[str, str], soc: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ATC's name is in the table or on the board; where neither tells, the user chooses."""
    for name, text in answers.items():
        (tmp_path / f"{name}.txt").write_text(text)
    monkeypatch.setenv("EFFD0_FAKE_NPU_SMI", str(tmp_path))
    use_emulated_tools(monkeypatch)
    if soc.startswith("!"):
        with pytest.raises(AtcError, match=soc[1:]):
            find_soc()
    else:
        assert find_soc() == soc


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 0", "lists no chip, but one is needed; say .* --soc-version"),
        ("echo dcmi failed >&2; exit 3", r"npu-smi failed: dcmi failed \(exit 3\); say"),
        ("exec sleep 5", "npu-smi failed: .*timed out after 0.2 s.*; say"),
        (None, "npu-smi is not on the PATH, .*--soc-version Ascend310P3"),
    ],
    ids=["empty", "fails", "hangs", "absent"],
)
def test_a_tool_that_does_not_answer_says_what_to_do(
    script: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is wrong with npu-smi, the option that makes it unnecessary is shown."""
    monkeypatch.setattr(npu_smi, "TIMEOUT_S", 0.2)
    if script is None:
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        use_tool("npu-smi", script, tmp_path / "bin", monkeypatch)
    with pytest.raises(AtcError, match=message):
        find_soc()
