"""
The picture of the page in the documentation: the head of a broken run's page.

Run as ``python -m tests.page_picture docs/report.png``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image

from effd0.page import write_page

from . import run_samples
from .browser import chromium, opened

WIDTH, HEIGHT = 1280, 1060
#: Enough for the page's few hues, and a third of the size.
COLORS = 128


def write_picture(path: Path) -> None:
    """Draw the page of `faulty_run` as Chromium shows it, down to the first tables."""
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        page = Path(folder) / "page.html"
        write_page(page, run_samples.faulty_run(pictures=4))
        with opened(browser, page, width=WIDTH) as (tab, _):
            tab.screenshot(
                path=path,
                full_page=True,
                clip={"x": 0, "y": 0, "width": WIDTH, "height": HEIGHT},
            )
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(COLORS)
    small.save(path, optimize=True)


if __name__ == "__main__":
    write_picture(Path(sys.argv[1]))
