"""Options that several commands, or a command and pytest, take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..io import check_writable
from ..spec import D0, SPECS
from ..types import option
from .command import REQUIRED

#: What a threshold is given in.
PERCENT: dict[str, Any] = {"metavar": "PERCENT", "min": 0, "max": 100}
POINTS: dict[str, Any] = PERCENT | {"metavar": "POINTS"}
ARCH = option(f"Architecture: {', '.join(SPECS)}.", "NAME", D0.arch)
BATCH_SIZE = option("Images per batch.", shown="the model's, or 1")
ONNX_FILE = option("ONNX file to read.", default=REQUIRED)
ONNX_OUT = option("ONNX file to write.", default=REQUIRED)
ACCURACY_REPORT = option("'effd0 evaluate --json' of the same model; its mAP is shown.")


def min_map(shown: str) -> Any:
    """The threshold of mAP; *shown* says what it is by default."""
    text = "Threshold: exit 1 below this mAP, in percent; 33.4 for D0 on COCO val2017."
    return option(text, shown=shown, **PERCENT)


@dataclass(frozen=True)
class ReportOptions:
    """Files that a command writes about itself."""

    json: Path | None = option("Write the figures as JSON.")
    report_json: Path | None = option("Run file, for 'effd0 merge', 'compare', 'report'.")

    def check(self) -> None:
        """Raise `OutputError` now for a file that could not be written later."""
        for path in (self.json, self.report_json):
            if path is not None:
                check_writable(path)
