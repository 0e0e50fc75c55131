"""effd0.runners.onnxruntime: several runs at a time, where only images a second count."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from effd0.errors import FeedError
from effd0.runners.base import StreamingRunner, infer_stream
from effd0.runners.onnxruntime import OrtRunner
from effd0.types import Tensors

from .onnx_models import parsed


def doubling(folder: Path, batch: str = "1") -> Path:
    """Write a model that doubles a (batch, 4) input; return its path."""
    path = folder / "double.onnx"
    graph = parsed(f"g (float[{batch},4] x) => (float[{batch},4] y) {{ y = Add(x, x) }}")
    onnx.save(graph, str(path))
    return path


def feeds(count: int, taken: list[int], rows: int = 1) -> Iterator[Tensors]:
    """Yield feeds filled with their numbers, and note each in *taken*."""
    for number in range(count):
        taken.append(number)
        yield {"x": np.full((rows, 4), number, np.float32)}


def opened(model: Path, threads: int | None) -> OrtRunner:
    """Return a runner on the CPU."""
    return OrtRunner(model, provider="CPUExecutionProvider", threads=threads)


@pytest.fixture
def at_a_time(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many runs were under way when each one began; they take long, the first the longest."""
    noted: list[int] = []
    running, lock, right = [0], threading.Lock(), OrtRunner._infer

    def slow(self: OrtRunner, session: Any, feed: Tensors) -> Tensors:
        with lock:
            running[0] += 1
            noted.append(running[0])
        time.sleep(0.05 if feed["x"][0, 0] == 0 else 0.01)
        outputs = right(self, session, feed)
        with lock:
            running[0] -= 1
        return outputs

    monkeypatch.setattr(OrtRunner, "_infer", slow)
    return noted


@pytest.mark.parametrize(
    ("threads", "batch", "rows", "most"),
    [
        pytest.param(1, "1", 1, 1, id="one-thread"),
        pytest.param(2, "1", 1, 2, id="two-threads"),
        pytest.param(9, "1", 1, 4, id="many-threads"),
        pytest.param(2, "2", 2, 1, id="batch=2"),
        pytest.param(2, "2", 1, 1, id="batch=2-fed-one"),
        pytest.param(2, "N", 1, 2, id="batch-free-fed-one"),
        pytest.param(2, "N", 2, 1, id="batch-free-fed-two"),
    ],
)
def test_outputs_come_in_order_from_as_many_runs_as_there_are_threads(
    threads: int, batch: str, rows: int, most: int, at_a_time: list[int], tmp_path: Path
) -> None:
    """Each feed gets its own outputs though the first takes longest; memory bounds the runs."""
    taken: list[int] = []
    with opened(doubling(tmp_path, batch), threads) as runner:
        assert isinstance(runner, StreamingRunner)
        for number, outputs in enumerate(infer_stream(runner, feeds(8, taken, rows))):
            assert outputs["y"].tolist() == [[2 * number] * 4] * rows
            assert len(taken) <= number + 1 + most
    assert taken == list(range(8))
    assert max(at_a_time) == most


def test_threads_that_are_not_given_are_the_processors(
    at_a_time: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What this process may use decides, not what the machine has."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {1, 5, 6}, raising=False)
    with opened(doubling(tmp_path), None) as runner:
        assert len(list(runner.infer_stream(feeds(8, [])))) == 8
    assert max(at_a_time) == 3


@pytest.mark.parametrize("threads", [1, 2], ids="threads={}".format)
def test_a_wrong_feed_is_refused_in_its_turn(threads: int, tmp_path: Path) -> None:
    """The feeds before it are answered, then its error comes out as it is."""

    def broken() -> Iterator[Tensors]:
        yield from feeds(2, [])
        yield {"x": np.zeros((1, 5), np.float32)}

    done: list[Tensors] = []
    with (
        opened(doubling(tmp_path), threads) as runner,
        pytest.raises(FeedError, match=r"x is float32 \(1, 5\), but the model takes"),
    ):
        done.extend(runner.infer_stream(broken()))
    assert len(done) == 2


def test_a_run_that_is_left_ends_its_threads(tmp_path: Path) -> None:
    """Who stops after the first outputs leaves no work going on behind."""
    with opened(doubling(tmp_path), 2) as runner:
        stream = infer_stream(runner, feeds(8, []))
        next(stream)
        stream.close()
        assert not [t.name for t in threading.enumerate() if t.name.startswith("effd0-ort")]
