"""Names for the kinds of arrays that pass between stages, and how an option is declared."""

from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

#: One image, (height, width, 3) uint8 RGB.
Pixels: TypeAlias = npt.NDArray[np.uint8]
#: Network input, (3, size, size) or (N, 3, size, size) float32.
Tensor: TypeAlias = npt.NDArray[np.float32]
#: Corners of N boxes, (N, 4) float32; the name of the variable says in which order.
Boxes: TypeAlias = npt.NDArray[np.float32]
#: Logits, scores, regressions: float32 of any shape.
Floats: TypeAlias = npt.NDArray[np.float32]
#: Numbers that are counted with, float64 of any shape.
Fractions: TypeAlias = npt.NDArray[np.float64]
#: Whole numbers, such as indices, class ids and counts.
Indices: TypeAlias = npt.NDArray[np.int64]
#: Yes or no, bool of any shape.
Flags: TypeAlias = npt.NDArray[np.bool_]
#: Named tensors, as a runner takes and gives them.
Tensors: TypeAlias = Mapping[str, npt.NDArray[Any]]
#: Titles under which the help shows options; what has none is of one command alone.
TESTED, GATE, OUTPUT, BACKEND, SCALE = PANELS = (
    "What is tested", "Gate (thresholds)", "Output", "Backend", "Scale",
)  # fmt: skip


def option(text: str, metavar: str | None = None, default: Any = None, **more: Any) -> Any:
    """
    Declare a field of a dataclass, or a parameter of a command, as an option of the command line.

    *text* says what it does; *more* are fields of `effd0.cli.command.Option`.  The attribute
    ``panel`` of a dataclass is that of its options which name none.
    """
    return field(default=default, metadata={"help": text, "metavar": metavar, **more})


def check_choices(holder: Any, kind: type[Exception]) -> None:
    """Raise an error of *kind* for an option of the dataclass *holder* that is no choice of it."""
    for one in fields(holder):
        value, choices = getattr(holder, one.name), one.metadata.get("choices")
        if choices and value not in (None, *choices):
            flag, known = f"--{one.name.replace('_', '-')}", ", ".join(choices)
            raise kind(f"{flag} is {value!r}, but {known} exist; choose one")


#: Of every command that writes; each module that writes a folder takes it by itself.
OVERWRITE = option("Replace the output that is there.", default=False, panel=OUTPUT)
