"""docs/architecture.md is what the package is."""

from __future__ import annotations

import re

import pytest

from tests.meta.rooms_picture import HALL, PICTURE, ROOT, drawn, imports

PAGE = (ROOT / "docs" / "architecture.md").read_text()


def test_the_picture_is_that_of_the_imports() -> None:
    """After a room imports another one, ``python -m tests.meta.rooms_picture`` draws it again."""
    assert PICTURE.read_text() == drawn()


def test_every_room_is_described() -> None:
    """The table of the page has a row for each room."""
    rows = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.M))
    assert rows == imports().keys() - {HALL}


@pytest.mark.parametrize(
    "file", sorted(set(re.findall(r"`((?:\w+/)+\w+\.(?:py|toml|md))`", PAGE))), ids=str
)
def test_a_file_that_the_page_names_is_there(file: str) -> None:
    """A newcomer who follows the image finds each file."""
    assert (ROOT / "effd0" / file).exists() or (ROOT / file).exists()
