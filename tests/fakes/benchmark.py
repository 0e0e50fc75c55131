"""pytest-benchmark's fixture, which takes no time."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from effd0.bench.rows import Row


class FakeBenchmark:
    """pytest-benchmark's fixture as far as it is used; every call takes 10 ms."""

    def __init__(self, *, disabled: bool = False) -> None:
        self.disabled, self.fullname = disabled, "bench.py::bench"
        self.has_error = False
        self.extra_info: dict[str, Any] = {}
        self.stats = SimpleNamespace(stats=SimpleNamespace(data=[]))

    def pedantic(
        self,
        call: Callable[[], Any],
        setup: Callable[[], None] = lambda: None,
        rounds: int = 1,
        iterations: int = 1,
    ) -> Any:
        """Call as pytest-benchmark does: the setup before each round."""
        assert iterations == 1
        for _ in range(rounds):
            setup()
            result = call()
            self.stats.stats.data.append(0.01)
        return result

    @property
    def row(self) -> Row:
        """The row that was left."""
        return Row.from_json({"fullname": self.fullname, "extra_info": self.extra_info})
