"""
The chips of this host, as ``npu-smi info`` lists them, and ATC's names for them.

The table differs by driver: the Device column is missing, memory is written with and without
spaces, power is ``NA`` or ``-``, an NPU holds one chip or two, and processes follow in a table
of their own.  What all have in common is read: a row of number and name over a row of chip.
"""

import re
import shutil
import subprocess
from dataclasses import dataclass

from ..errors import AtcError

TIMEOUT_S = 30  # a driver that hangs does not come back
_PROCESSES = re.compile(r"\|\s*Process")
#: A row of number, name and health over a row of chip; between them there may be separators.
_CHIP = re.compile(
    r"^\s*\|\s*(\d+)\s+(\S+)\s*\|\s*(.*?)\s*\|.*\n(?:[^|\n]*\n)*\s*\|\s*(\d+)(?:\s+\d+)?\s*\|", re.M
)
_ADVICE = "say which chip the model is for: --soc-version Ascend310P3"


@dataclass(frozen=True)
class Npu:
    """One chip: its NPU's number, its own, and the name and health that npu-smi gives."""

    npu: int
    chip: int
    name: str
    health: str

    @property
    def short_name(self) -> str:
        """ATC's name of the chip, or what several such names begin with (A3, 950)."""
        return self.name if self.name.startswith("Ascend") else f"Ascend{self.name}"


def parse_info(text: str) -> tuple[Npu, ...]:
    """Read the chips out of what ``npu-smi info`` printed, in its order."""
    chips = _PROCESSES.split(text)[0]  # the rows of processes look alike
    return tuple(
        Npu(int(npu), int(chip), name, health) for npu, name, health, chip in _CHIP.findall(chips)
    )


def installed() -> tuple[Npu, ...]:
    """The chips of this host; raise `AtcError` where npu-smi is missing or fails."""
    return parse_info(_npu_smi("info"))


def find_soc() -> str:
    """ATC's name for the chips of this host; raise `AtcError` unless there is exactly one."""
    names = sorted({soc_version(chip) for chip in installed()})
    if not names:
        raise AtcError(f"npu-smi lists no chip, but one is needed; {_ADVICE}")
    if len(names) > 1:
        raise AtcError(
            f"npu-smi lists {', '.join(names)}, but a model is compiled for one; "
            f"choose: --soc-version {names[0]}"
        )
    return names[0]


def soc_version(chip: Npu) -> str:
    """
    ATC's name for *chip*: "Ascend" and its name.

    Where the name begins so already (A3, 950) it stands for several, and npu-smi is asked for
    the board.  Raises `AtcError` where that does not tell.
    """
    if chip.name != chip.short_name:
        return chip.short_name
    query = ("info", "-t", "board", "-i", str(chip.npu))
    # A3 answers for one chip, 950 for the whole NPU only.
    for arguments in ((*query, "-c", str(chip.chip)), query):
        try:
            pairs = (line.partition(":") for line in _npu_smi(*arguments).splitlines())
        except AtcError:
            continue
        board = {key.strip(): value.strip() for key, _, value in pairs if value.strip()}
        if {"Chip Name", "NPU Name"} <= board.keys():
            return f"{board['Chip Name']}_{board['NPU Name']}"
    raise AtcError(
        f"npu-smi calls the chip {chip.name}, but ATC knows several of that name; look for "
        f"Chip Name and NPU Name in 'npu-smi {' '.join(query)}' and "
        "give both: --soc-version Ascend910_9391"
    )


def _npu_smi(*arguments: str) -> str:
    tool = shutil.which("npu-smi")
    if tool is None:
        raise AtcError(f"npu-smi is not on the PATH, but it names the chip; {_ADVICE}")
    try:
        answer = subprocess.run(
            [tool, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AtcError(f"npu-smi failed: {error}; {_ADVICE}") from error
    if answer.returncode != 0:
        reason = answer.stderr.strip() or answer.stdout.strip()
        raise AtcError(f"npu-smi failed: {reason} (exit {answer.returncode}); {_ADVICE}")
    return answer.stdout
