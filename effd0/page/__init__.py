"""The page: a run, and perhaps an older one beside it, as one HTML file that a release rests on."""

from __future__ import annotations

from .render import render_page, write_page

__all__ = ["render_page", "write_page"]
