"""A Chromium of the system, driven by Playwright, and pages of runs opened in it from disk."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

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
