"""docs/architecture.md is what the package is; ``python -m tests.meta.test_rooms`` draws it."""

import re
from pathlib import Path

import pytest

# import-linter, which CI checks the rooms with, brings it.
grimp = pytest.importorskip("grimp", reason="needs grimp: pip install import-linter")

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architecture.md"
HALL = "hall"
#: The picture in the page.
PICTURE = re.compile(r"(?<=```mermaid\n).*?(?=```)", re.DOTALL)


def imports() -> dict[str, set[str]]:
    """Room -> the rooms that its modules import; modules directly in the package are the hall."""
    graph = grimp.build_graph("effd0", cache_dir=None)
    packages = {path.parent.name for path in (ROOT / "effd0").glob("*/__init__.py")}
    found: dict[str, set[str]] = {name: set() for name in (*packages, HALL)}
    for module in graph.modules - {"effd0", "effd0.__main__"}:
        modules = (module, *graph.find_modules_directly_imported_by(module))
        seconds = [f"{one}..".split(".")[1] for one in modules]
        room, *others = (name if name in packages else HALL for name in seconds)
        found[room] |= {*others} - {room}
    return found


def drawn() -> str:
    """The rooms as a Mermaid graph; an arrow that follows from two others is left out."""
    found = imports()

    def below(room: str) -> set[str]:
        return found[room].union(*map(below, found[room]))

    lines = ["graph TD"]
    for room in sorted(found):
        implied = set().union(*map(below, found[room]))
        # "graph" is a word of Mermaid's: an id differs from what is shown.
        lines += [f"    {room}_[{room}] --> {one}_[{one}]" for one in sorted(found[room] - implied)]
    return "\n".join(lines) + "\n"


def test_the_picture_is_that_of_the_imports() -> None:
    """After a room imports another one, ``python -m tests.meta.test_rooms`` draws it again."""
    picture = PICTURE.search(PAGE.read_text())
    assert picture is not None
    assert picture[0] == drawn()


def test_every_room_is_described() -> None:
    """The table of the page has a row for each room."""
    rows = set(re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.M))
    assert rows == imports().keys() - {HALL}


if __name__ == "__main__":
    PAGE.write_text(PICTURE.sub(drawn(), PAGE.read_text()))
