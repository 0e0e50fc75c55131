"""
A Chromium of the system, driven by Playwright, and pages of runs opened in it from disk.

``python -m tests.unit.report.chromium RUN.json docs/report.png`` draws the documentation's picture.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image

from effd0.report.view import write_page
from effd0.results.run import read_run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

#: In a container without user namespaces Chromium has no sandbox; what it opens is ours.
ARGUMENTS = ("--no-sandbox", "--disable-gpu")


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Yield a headless Chromium; playwright brings none of its own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=list(ARGUMENTS)
        )
        yield browser
        browser.close()


@contextlib.contextmanager
def opened(
    browser: Browser,
    page: Path,
    *,
    width: int = 1400,
    theme: Literal["dark", "light"] = "light",
    **context: Any,
) -> Iterator[tuple[Page, list[str]]]:
    """Yield *page* in a window of *width* and the list of what went wrong in it, which grows."""
    with browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=theme, **context
    ) as window:
        tab = window.new_page()
        wrong: list[str] = []
        tab.on("console", lambda message: wrong.append(f"console: {message.text}"))
        tab.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        tab.on(
            "request",
            lambda request: (
                wrong.append(f"request: {request.url}")
                if not request.url.startswith(("file:", "data:"))
                else None
            ),
        )
        tab.goto(page.as_uri())
        yield tab, wrong


def write_picture(run: Path, path: Path) -> None:
    """Draw the head of the page of *run*, down to the first tables, in few colours."""
    width, height, colors = 1280, 1060, 128
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        page = Path(folder) / "page.html"
        write_page(page, read_run(run))
        with opened(browser, page, width=width) as (tab, _):
            clip: Any = {"x": 0, "y": 0, "width": width, "height": height}
            tab.screenshot(path=path, full_page=True, clip=clip)
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(colors)
    small.save(path, optimize=True)


if __name__ == "__main__":
    write_picture(*map(Path, sys.argv[1:]))
