"""
docs/rooms.svg, drawn from the imports: ``python -m tests.meta.rooms_picture``.

A room stands above the rooms that it imports; an arrow that follows from two others is left out.
"""

from __future__ import annotations

import itertools
from html import escape
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs" / "rooms.svg"
HALL = "hall"
WIDTH, HEIGHT, ROW, GAP = 118, 40, 84, 90


def imports() -> dict[str, set[str]]:
    """Room -> the rooms that its modules import; modules directly in the package are the hall."""
    graph = grimp.build_graph("effd0", cache_dir=None)
    packages = {path.parent.name for path in (ROOT / "effd0").glob("*/__init__.py")}

    def room(module: str) -> str:
        parts = module.split(".")
        return parts[1] if len(parts) > 1 and parts[1] in packages else HALL

    found: dict[str, set[str]] = {name: set() for name in (*packages, HALL)}
    for module in graph.modules:
        if module in ("effd0", "effd0.__main__"):
            continue
        for other in graph.find_modules_directly_imported_by(module):
            if room(other) != room(module):
                found[room(module)].add(room(other))
    return found


def rows(found: dict[str, set[str]]) -> list[list[str]]:
    """The rooms by rising distance from what imports nothing, each row in the order of names."""
    height: dict[str, int] = {}
    while len(height) < len(found):
        free = [name for name in found if name not in height and found[name] <= height.keys()]
        assert free, f"rooms import each other: {sorted(found.keys() - height.keys())}"
        for name in free:
            height[name] = 1 + max((height[other] for other in found[name]), default=-1)
    levels = range(max(height.values()) + 1)
    return [sorted(name for name in found if height[name] == level) for level in levels]


def drawn() -> str:
    """The picture as SVG."""
    found = imports()
    below: dict[str, set[str]] = {}
    levels = rows(found)
    for name in itertools.chain.from_iterable(levels):
        below[name] = found[name].union(*(below[other] for other in found[name]))
    widest = max(map(len, levels)) * (WIDTH + GAP)
    place = {
        name: (
            (widest - len(level) * (WIDTH + GAP)) / 2 + n * (WIDTH + GAP) + GAP / 2,
            (len(levels) - 1 - y) * ROW + GAP,
        )
        for y, level in enumerate(levels)
        for n, name in enumerate(level)
    }
    lines, boxes = [], []
    for name, (x, y) in place.items():
        boxes.append(
            f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="6"/>'
            f'<text x="{x + WIDTH / 2:g}" y="{y + HEIGHT / 2 + 5:g}">{escape(name)}</text>'
        )
        for other in sorted(found[name]):
            if any(other in below[between] for between in found[name] - {other}):
                continue
            x1, y1, (x2, y2) = x + WIDTH / 2, y + HEIGHT, place[other]
            x2, middle = x2 + WIDTH / 2, (y1 + y2) / 2
            lines.append(
                f'<path d="M{x1:g} {y1:g} C{x1:g} {middle:g} {x2:g} {middle:g} {x2:g} {y2 - 7:g}"/>'
            )
    size = f'width="{widest:g}" height="{len(levels) * ROW:g}"'
    arrow = '<marker id="a" markerWidth="8" markerHeight="8" refX="5" refY="4" orient="auto">'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">',
            f'<defs>{arrow}<path d="M0 0L8 4L0 8z" fill="#57606a"/></marker></defs>',
            f'<rect {size} fill="#ffffff"/>',
            '<g fill="none" stroke="#57606a" stroke-width="1.2" marker-end="url(#a)">',
            *lines,
            "</g>",
            '<g fill="#ddf4ff" stroke="#0969da" text-anchor="middle" font-size="15">',
            *(box.replace("<text ", '<text fill="#1f2328" stroke="none" ') for box in boxes),
            "</g>",
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    PICTURE.write_text(drawn())
