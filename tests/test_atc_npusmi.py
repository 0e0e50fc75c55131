"""Tests for `effd0.ascend.npu_smi`: tables as drivers print them, and the chip's name for ATC."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effd0.ascend import npu_smi as npusmi
from effd0.ascend.npu_smi import Npu, find_soc, parse_info, soc_version
from effd0.errors import AtcError

from .ascend_host import use_emulated_tools, use_tool

# As printed by drivers 22.0.2, 24.1 and 25.2; processes as 24.1 and 25.2 list them.
INFO_310P = """\
+-------------------------------------------------------------------------------------------+
| npu-smi 22.0.0                       Version: 22.0.2                                      |
+-------------------+-----------------+------------------------------------------------------+
| NPU     Name      | Health          | Power(W)     Temp(C)           Hugepages-Usage(page) |
| Chip    Device    | Bus-Id          | AICore(%)    Memory-Usage(MB)                        |
+===================+=================+======================================================+
| 0       310P3     | OK              | 15.8         42                0    / 0              |
| 0       0         | 0000:82:00.0    | 0            1074 / 21534                            |
+===================+=================+======================================================+
| 1       310P3     | OK              | 15.4         43                0    / 0              |
| 0       1         | 0000:89:00.0    | 0            1070 / 21534                            |
+===================+=================+======================================================+
"""
INFO_910B = """\
+------------------------------------------------------------------------------------------------+
| npu-smi 24.1.rc2                 Version: 24.1.rc2                                             |
+---------------------------+---------------+----------------------------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 0     910B2C              | OK            | 86.8        35                0    / 0             |
| 0                         | 0000:66:00.0  | 0           0    / 0          59356/ 65536         |
+===========================+===============+====================================================+
| 7     910B2C              | OK            | NA          -                 0    / 0             |
| 0                         | 0000:C2:00.0  | 0           0    / 0          3397 / 65536         |
+===========================+===============+====================================================+
+---------------------------+---------------+----------------------------------------------------+
| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |
+===========================+===============+====================================================+
| 0       0                 | 4036          | python3                  | 56017                   |
| 0       0                 | 4037          | python3                  | 64                      |
+===========================+===============+====================================================+
| No running processes found in NPU 7                                                            |
+===========================+===============+====================================================+
"""
INFO_910B4_1 = """\
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+---------------------------+---------------+----------------------------------------------------+
| 2144  910B4-1             | Warning       | NA          40                0    / 0             |
| 0                         | 0000:C1:00.0  | 0           0    / 0          2846 / 65536         |
+---------------------------+---------------+----------------------------------------------------+
"""
INFO_A3 = """\
+------------------------------------------------------------------------------------------------+
| npu-smi 25.2.0                   Version: 25.2.0                                               |
+---------------------------+---------------+----------------------------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip  Phy-ID              | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 0     Ascend910           | OK            | 169.6       46                0    / 0             |
| 0     0                   | 0000:9D:00.0  | 0           0    / 0          3128 / 65536         |
+------------------------------------------------------------------------------------------------+
| 0     Ascend910           | OK            | -           45                0    / 0             |
| 1     1                   | 0000:9F:00.0  | 0           0    / 0          2881 / 65536         |
+===========================+===============+====================================================+
+---------------------------+---------------+----------------------------------------------------+
| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |
+===========================+===============+====================================================+
| No running processes found in NPU 0                                                            |
+===========================+===============+====================================================+
"""
# A developer board: no bus, a health that is never OK, a name of digits only on the 310 card.
INFO_310B = """\
| NPU     Name                  | Health          | Power(W)     Temp(C)    Hugepages-Usage(page) |
| Chip    Device                | Bus-Id          | AICore(%)    Memory-Usage(MB)                 |
+===============================+=================+===============================================+
| 0       310B4                 | Alarm           | 0.0          54         15    / 15            |
| 0       0                     | NA              | 0            1685 / 15609                     |
+===============================+=================+===============================================+
"""
INFO_310 = """\
| NPU     Name      | Health          | Power(W)          Temp(C)            Hugepages-Usage(page) |
| Chip    Device    | Bus-Id          | AICore(%)         Memory-Usage(MB)                         |
+===================+=================+============================================================+
| 2       310       | OK              | 12.8              45                  0    / 970           |
| 0       0         | 0000:05:00.0    | 0                 2621 / 8192                              |
+-------------------+-----------------+------------------------------------------------------------+
| 2       310       | OK              | 12.8              44                  0    / 970           |
| 1       1         | 0000:06:00.0    | 0                 2621 / 8192                              |
+===================+=================+============================================================+
"""
# Columns wider than in any table above, with one more.
INFO_WIDE = """\
+--------------------------------------+---------------------+------------------------------------------------+----------+
| NPU            Name                  | Health              | Power(W)         Temp(C)   Hugepages-Usage(page)| Mode     |
| Chip           Phy-ID                | Bus-Id              | AICore(%)        HBM-Usage(MB)                  | State    |
+======================================+=====================+================================================+==========+
| 11             910B3                 | OK                  | 92.1             37        0      / 0          | -        |
| 0              11                    | 0000:01:00.0        | 0                3395   / 65536                | idle     |
+======================================+=====================+================================================+==========+
"""  # noqa: E501  # as wide as it is printed


@pytest.mark.parametrize(
    ("text", "chips"),
    [
        pytest.param(
            INFO_310P,
            [
                Npu(0, 0, "310P3", "OK", "0000:82:00.0"),
                Npu(1, 0, "310P3", "OK", "0000:89:00.0"),
            ],
            id="310P3",
        ),
        pytest.param(
            INFO_910B,
            [
                Npu(0, 0, "910B2C", "OK", "0000:66:00.0"),
                Npu(7, 0, "910B2C", "OK", "0000:C2:00.0"),
            ],
            id="910B2C-with-processes",
        ),
        pytest.param(
            INFO_910B4_1,
            [Npu(2144, 0, "910B4-1", "Warning", "0000:C1:00.0")],
            id="910B4-1-of-four-digits",
        ),
        pytest.param(
            INFO_A3,
            [
                Npu(0, 0, "Ascend910", "OK", "0000:9D:00.0"),
                Npu(0, 1, "Ascend910", "OK", "0000:9F:00.0"),
            ],
            id="A3-two-chips",
        ),
        pytest.param(INFO_310B, [Npu(0, 0, "310B4", "Alarm", "NA")], id="310B4-without-bus"),
        pytest.param(
            INFO_310,
            [Npu(2, 0, "310", "OK", "0000:05:00.0"), Npu(2, 1, "310", "OK", "0000:06:00.0")],
            id="310-of-digits",
        ),
        pytest.param(INFO_WIDE, [Npu(11, 0, "910B3", "OK", "0000:01:00.0")], id="wider"),
        pytest.param("", [], id="nothing"),
        pytest.param("dcmi model initialized failed, ret is -8005\n", [], id="no-table"),
    ],
)
def test_every_chip_of_a_table_is_read(text: str, chips: list[Npu]) -> None:
    """Each driver's table gives its chips with number, name and health; processes are none."""
    assert list(parse_info(text)) == chips


@given(
    st.lists(
        st.tuples(
            st.integers(0, 9999),
            st.integers(0, 3),
            st.sampled_from(["310", "310P3", "910B2C", "910B4-1", "Ascend910", "Ascend950PR"]),
            st.sampled_from(["OK", "Warning", "Alarm", "Critical", "UNKNOWN"]),
            st.sampled_from(["0000:82:00.0", "NA"]),
        ),
        max_size=9,
    ),
    st.booleans(),
    st.integers(0, 30),
    st.sampled_from(["+---+---+---+", "+===+===+===+", ""]),
)
def test_no_layout_hides_a_chip(
    rows: list[tuple[int, int, str, str, str]], device: bool, extra: int, separator: str
) -> None:
    """Whatever the width, the separators and the second number, chips come out as put in."""
    pad = " " * extra
    lines = [f"| NPU  Name {pad}| Health | Power(W) |", "| Chip | Bus-Id | AICore(%) |", separator]
    for index, (npu, chip, name, health, bus) in enumerate(rows):
        second = f" {pad}{index}" if device else pad
        lines += [f"| {npu} {pad}{name} | {health} | NA  - |", f"| {chip} {second} | {bus} | 0 |"]
        lines += [separator]
    assert list(parse_info("\n".join(lines))) == [Npu(*row) for row in rows]


def answers(folder: Path, monkeypatch: pytest.MonkeyPatch, **texts: str) -> None:
    """Let the emulated npu-smi give *texts*, by name of the query, and fail on all others."""
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)
    monkeypatch.setenv("EFFD0_FAKE_NPU_SMI", str(folder))
    use_emulated_tools(monkeypatch)


@pytest.mark.parametrize(
    ("text", "soc"),
    [
        pytest.param(INFO_310P, "Ascend310P3", id="310P3"),
        pytest.param(INFO_910B, "Ascend910B2C", id="910B2C"),
        pytest.param(INFO_910B4_1, "Ascend910B4-1", id="910B4-1"),
        pytest.param(INFO_310B, "Ascend310B4", id="310B4"),
        pytest.param(INFO_310, "Ascend310", id="310"),
    ],
)
def test_the_hosts_chip_names_itself(
    text: str, soc: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ATC's name is "Ascend" and the name in the table, when all chips are of one kind."""
    answers(tmp_path, monkeypatch, info=text)
    assert find_soc() == soc


BOARD = """\
        NPU ID                         : 0
        Software Version               : 25.2.0
        Chip Count                     : 2
        Chip Type                      : Ascend
        Chip Name                      : Ascend910
        NPU Name                       : 9391
        Board ID                       : 0xb0
"""


@pytest.mark.parametrize(
    "boards",
    [
        pytest.param({"board_0_0": BOARD, "board_0_1": BOARD}, id="A3-by-chip"),
        pytest.param({"board_0": BOARD}, id="950-by-npu"),
        pytest.param(
            {"board_0_0": "Chip Count : 2\n", "board_0_1": "", "board_0": BOARD}, id="chip-is-mute"
        ),
    ],
)
def test_an_ambiguous_chip_is_named_by_its_board(
    boards: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the table says Ascend910 only, chip name and NPU name of the board make the name."""
    answers(tmp_path, monkeypatch, info=INFO_A3, **boards)
    assert find_soc() == "Ascend910_9391"


def test_a_board_that_does_not_tell_leaves_the_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message shows the command to look with and the option to give."""
    answers(tmp_path, monkeypatch, info=INFO_A3)
    wanted = (
        r"calls the chip Ascend910, but .*'npu-smi info -t board -i 0'.*--soc-version Ascend910_"
    )
    with pytest.raises(AtcError, match=wanted):
        find_soc()


def test_chips_of_two_kinds_leave_the_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model runs on one kind of chip; which of them is not guessed."""
    answers(tmp_path, monkeypatch, info=INFO_310P + INFO_910B)
    with pytest.raises(AtcError, match=r"Ascend310P3, Ascend910B2C, but .* for one; choose: --soc"):
        find_soc()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        pytest.param(
            "exit 0", "lists no chip, but one is needed; say .* --soc-version", id="empty"
        ),
        pytest.param(
            "echo dcmi failed >&2; exit 3",
            r"npu-smi failed: dcmi failed \(exit 3\); say",
            id="fails",
        ),
        pytest.param("exec sleep 5", "npu-smi failed: .*timed out after 0.2 s.*; say", id="hangs"),
    ],
)
def test_a_tool_that_does_not_answer_says_what_to_do(
    script: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is wrong with npu-smi, the option that makes it unnecessary is shown."""
    use_tool("npu-smi", script, tmp_path / "bin", monkeypatch)
    monkeypatch.setattr(npusmi, "TIMEOUT_S", 0.2)
    with pytest.raises(AtcError, match=message):
        find_soc()


def test_a_host_without_npu_smi_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ATC runs on hosts without a chip, so the option is shown."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AtcError, match=r"npu-smi is not on the PATH, .*--soc-version Ascend310P3"):
        find_soc()


def test_a_plain_name_needs_no_question(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The board is asked only where the table does not tell: here nobody would answer."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert soc_version(Npu(3, 0, "910B4-1", "OK", "NA")) == "Ascend910B4-1"
