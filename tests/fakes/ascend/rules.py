"""
The rules of the reference's section 7 by number, and which tests of the emulator are about each.

All apply to the emulator but for two halves: that outputs of a padded tail are not reported (30)
is the affair of who writes them, the emulator has the models that give it away; and pyACL lists no
directory whose order could be random (34).
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

RULES = {
    1: "positional only, argument classes",
    2: "return shapes",
    3: "no constants, no extras; profiles",
    4: "wrapped numbers",
    5: "return codes that nobody looks at",
    6: "values that came with a failure",
    7: "init and finalize in order",
    8: "everything given back at finalize",
    9: "no finalize in destructors, nothing after it",
    10: "a context for each thread",
    11: "null, destroyed and default contexts",
    12: "streams and models of another context",
    13: "reset_device last",
    14: "no fork",
    15: "allocation: sizes, limits, poison, guards",
    16: "free: null, unknown, inside, twice",
    17: "memcpy: ranges, kinds, spaces",
    18: "pointers to Python's objects",
    19: "arrays over freed memory",
    20: "memcpy_async: late, aligned, pinned",
    21: "the board's own run mode",
    22: "loading and unloading models",
    23: "what a description tells",
    24: "what execute checks",
    25: "empty output buffers",
    26: "life of datasets, buffers, descriptions",
    27: "dynamic batch",
    28: "order of pending work, and threads",
    29: "who holds the GIL",
    30: "slots of a batch",
    31: "numbers as a device rounds them",
    32: "messages of each thread",
    33: "virtual time",
    34: "random handles, addresses and orders",
}

Test = TypeVar("Test", bound=Callable[..., Any])


def rule(*numbers: int) -> Callable[[Test], Test]:
    """Say which rules a test is about; `tests_by_rule` reads it from the source."""
    unknown = set(numbers) - RULES.keys()
    if unknown:
        raise ValueError(f"there are no rules {unknown}")
    return lambda test: test


@cache
def tests_by_rule(folder: Path) -> Counter[int]:
    """Count the tests in *folder* that `rule` marks, by rule."""
    counts: Counter[int] = Counter()
    for path in sorted(folder.glob("test_emulator_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                for mark in node.decorator_list:
                    if isinstance(mark, ast.Call) and getattr(mark.func, "id", "") == "rule":
                        counts.update(ast.literal_eval(argument) for argument in mark.args)
    return counts
