"""Tests for `effd0.ascend.acl_runner` on emulated hosts, with tiny models."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from effd0.ascend.acl_api import acl_session
from effd0.ascend.acl_runner import AclRunner
from effd0.errors import AclError, FeedError, RunnerError
from effd0.runners.base import DeviceTimes
from effd0.runners.registry import RunnerOptions, open_runner
from effd0.spec import D0
from effd0.types import Tensors

from ...emulator.acl import installed
from ...emulator.host import Times
from ...emulator.om import OmTensor, read_om, reference_outputs, tiny_om, write_om
from ...emulator.tools import EmulatedRunner

Array = npt.NDArray[Any]

HOST = pytest.param({}, id="current")
BOARD = pytest.param({"run_mode": "device"}, id="on-the-device")
HOSTS = [
    HOST,
    BOARD,
    pytest.param({"cann": "old"}, id="old-cann"),
    pytest.param({"output_order": "reversed"}, id="outputs-reversed"),
    pytest.param({"output_names": "bare-index"}, id="outputs-without-names"),
]
OVERLAP = [pytest.param(True, id="overlapped"), pytest.param(False, id="step-by-step")]
BATCH = 3


def images(rows: int, seed: int = 0) -> Array:
    """Images of which no two are alike."""
    return np.random.default_rng(seed).standard_normal((rows, 3, 8, 8)).astype(np.float32)


def feed(rows: int, seed: int = 0) -> dict[str, Array]:
    """The feed of `images`."""
    return {"x.1": images(rows, seed)}


def assert_same(outputs: Tensors, model: Path, batch: Array, size: int = BATCH) -> None:
    """*outputs* are those of the graph inside *model* for *batch*, padded to *size*, exactly."""
    padded = np.concatenate([batch, np.repeat(batch[:1], size - len(batch), axis=0)])
    wanted = [output[: len(batch)] for output in reference_outputs(model, padded)]
    by_shape = {output.shape: output for output in outputs.values()}  # no two shapes agree
    assert sorted(by_shape) == sorted(tensor.shape for tensor in wanted)
    for tensor in wanted:
        found = by_shape[tensor.shape]
        assert found.tolist() == tensor.astype(found.dtype).tolist()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of batch 3 whose outputs tell images and their places apart."""
    return tiny_om(tmp_path / "tiny.om", batch=BATCH)


@pytest.fixture
def geared(tmp_path: Path) -> Path:
    """A model that takes 1, 2 or 5 images."""
    return tiny_om(tmp_path / "geared.om", gears=(1, 2, 5))


# Outputs


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("overlap", OVERLAP)
def test_outputs_are_those_of_the_graph(host: dict[str, Any], overlap: bool, model: Path) -> None:
    """On every host, one by one or in a stream, each image's outputs are its own, in order."""
    sizes = [3, 3, 1, 2, 3, 3, 3, 3, 3, 1]
    feeds = (feed(rows, seed) for seed, rows in enumerate(sizes))
    with EmulatedRunner(model, overlap=overlap, **host) as runner:
        results = list(runner.infer_stream(feeds))
        assert_same(runner.infer(feed(2)), model, images(2))
        if "output_names" not in host:
            assert {info.name for info in runner.outputs} == {"mark", "field", "slot"}
    for seed, (rows, outputs) in enumerate(zip(sizes, results, strict=True)):
        assert_same(outputs, model, images(rows, seed))


@pytest.mark.parametrize("host", [HOST, BOARD])
@pytest.mark.parametrize(("rows", "gear"), [(1, 1), (2, 2), (3, 5), (5, 5)], ids="{}".format)
def test_the_smallest_sufficient_gear_is_run(
    host: dict[str, Any], rows: int, gear: int, geared: Path
) -> None:
    """A model with gears is padded to the next one, no further, and takes no more than the last."""
    with EmulatedRunner(geared, **host) as runner:
        for outputs in (runner.infer(feed(rows)), *runner.infer_stream([feed(rows)] * 4)):
            assert_same(outputs, geared, images(rows), gear)
        asked = [c.args[-1] for c in runner.emulator.calls if c.name.endswith("dynamic_batch_size")]
        assert asked == [gear] * 5
        with pytest.raises(FeedError, match=r"\(6, 3, 8, 8\), but the model takes .* \(5, 3, 8"):
            runner.infer(feed(6))


@pytest.mark.parametrize("host", [HOST, BOARD])
def test_float16_tensors_are_read_as_declared(host: dict[str, Any], tmp_path: Path) -> None:
    """Outputs of float16 are not taken for float32, and hold what the graph gives, rounded."""
    model = tiny_om(tmp_path / "half.om", batch=BATCH, dtype="float16")
    half = images(2).astype(np.float16)
    with EmulatedRunner(model, **host) as runner:
        assert {info.dtype for info in (*runner.inputs, *runner.outputs)} == {np.dtype("float16")}
        assert_same(runner.infer({"x.1": half}), model, half.astype(np.float32))


def test_a_model_with_aipp_takes_pixels(tmp_path: Path) -> None:
    """Declared are the bytes that it takes, rows by columns by RGB, not the planes behind AIPP."""
    path = tiny_om(tmp_path / "aipp.om", batch=BATCH)
    image = OmTensor("x.1", "uint8", (BATCH, 8, 8, 3))
    aipp = {f"var_reci_chn_{channel}": 0.5 for channel in range(3)}
    write_om(replace(read_om(path), inputs=(image,), aipp=aipp), path)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    with EmulatedRunner(path) as runner:
        assert [str(info) for info in runner.inputs] == ["uint8 (3, 8, 8, 3)"]
        outputs = runner.infer({"x.1": pixels})
    planes = (pixels.transpose(0, 3, 1, 2) * 0.5).astype(np.float32)  # exact in float16
    assert_same(outputs, path, planes)


# Memory and time


@pytest.mark.parametrize("overlap", OVERLAP)
def test_memory_is_taken_once_and_every_batch_is_timed(overlap: bool, model: Path) -> None:
    """A hundred batches take the memory of one, and leave a hundred figures for each step."""
    with EmulatedRunner(model, overlap=overlap) as runner:
        taken = []
        for count in (1, 100):
            runner.device_times = DeviceTimes()
            for _ in runner.infer_stream(feed(1, seed) for seed in range(count)):
                pass
            times = vars(runner.device_times).values()
            assert [len(figures) for figures in times] == [count] * 4
            assert min(min(figures) for figures in times) >= 0
            taken.append([c.name for c in runner.emulator.calls if "malloc" in c.name])
    assert taken[0] == taken[1]


def test_only_what_is_needed_is_copied(model: Path) -> None:
    """Of a third of a batch a third comes back; on the device itself nothing is copied."""
    with EmulatedRunner(model) as runner:
        for rows in (1, 3):
            runner.infer(feed(rows))
        copies = [c.args for c in runner.emulator.calls if c.name == "rt.memcpy" and c.args[4] == 2]
        assert sum(c[3] for c in copies[3:]) == 3 * sum(c[3] for c in copies[:3])
    with EmulatedRunner(model, run_mode="device") as runner:
        list(runner.infer_stream([feed(3)] * 4))
        names = {call.name for call in runner.emulator.calls}
    assert not [name for name in names if "memcpy" in name or "malloc_host" in name]


STEPS = [
    pytest.param((10.0, 4.0, 6.0), id="upload-longest"),
    pytest.param((4.0, 10.0, 6.0), id="compute-longest"),
    pytest.param((4.0, 6.0, 10.0), id="download-longest"),
    pytest.param((10.0, 10.0, 10.0), id="all-alike"),
    pytest.param((1.0, 10.0, 0.1), id="transfers-short"),
]
BATCHES = 100


def took(
    model: Path, steps: tuple[float, float, float], *, overlap: bool, stopped: int = 0
) -> float:
    """Virtual ms of `BATCHES` batches whose *steps* take so long, after *stopped* streams."""
    upload, compute, download = steps
    om = read_om(model)
    sizes = [4 * sum(np.prod(t.shape) for t in side) for side in (om.inputs, om.outputs)]
    times = Times(
        h2d_gbps=sizes[0] / (upload * 1e6), d2h_gbps=sizes[1] / (download * 1e6), compute_ms=compute
    )
    with EmulatedRunner(model, overlap=overlap, times=times) as runner:
        for _ in range(stopped):
            stream = runner.infer_stream([feed(BATCH)] * BATCHES)
            next(stream)
            stream.close()
        runner.device_times = DeviceTimes()
        start = runner.emulator.now
        assert sum(1 for _ in runner.infer_stream([feed(BATCH)] * BATCHES)) == BATCHES
        if overlap:
            measured = vars(runner.device_times)
            means = [np.mean(measured[f"{step}_ms"]) for step in ("h2d", "compute", "d2h")]
            # The device's own events: exact on this clock but for the rounding of their sums.
            assert means == pytest.approx(steps, rel=1e-3)
        return runner.emulator.now - start


@pytest.mark.parametrize("steps", STEPS)
def test_in_the_long_run_only_the_longest_step_costs_time(
    steps: tuple[float, float, float], model: Path
) -> None:
    """A hundred batches take at most 1.1 times as long as their longest step; else the sum."""
    assert took(model, steps, overlap=True, stopped=2) <= 1.1 * BATCHES * max(steps)
    if steps == (4.0, 10.0, 6.0):
        assert took(model, steps, overlap=False) == pytest.approx(BATCHES * 20.0, rel=0.01)


# Use


@pytest.mark.parametrize("how", ["wrong-feed", "closed-stream"])
def test_a_stream_that_ends_early_leaves_the_runner_usable(how: str, model: Path) -> None:
    """The batches under way are waited for and dropped, and the next run is as the first."""
    with EmulatedRunner(model) as runner:
        for _ in range(2):
            if how == "wrong-feed":
                with pytest.raises(FeedError, match=r"x\.1 is float32 \(4, 3, 8, 8\), but"):
                    list(runner.infer_stream([feed(3), feed(3), feed(4), feed(3)]))
            else:
                stream = runner.infer_stream(feed(3, seed) for seed in range(10))
                next(stream)
                stream.close()
            assert_same(runner.infer(feed(3)), model, images(3))
        assert len(list(runner.infer_stream([feed(3)] * 4))) == 4


def test_a_runner_is_used_inside_its_block(model: Path) -> None:
    """Leaving the block waits for the device; whatever is asked then says that it is closed."""
    with EmulatedRunner(model) as runner:
        stream = runner.infer_stream(feed(3, seed) for seed in range(10))
        next(stream)
    with pytest.raises(RunnerError, match="is not open; use the runner in a 'with' block"):
        next(stream)
    with pytest.raises(RunnerError, match="is not open"):
        runner.infer(feed(1))


@pytest.mark.parametrize("second", ["infer", "stream"])
def test_one_thing_at_a_time(second: str, model: Path) -> None:
    """The same model twice at once is undefined on hardware, so it is an error here."""
    with EmulatedRunner(model) as runner:
        stream = runner.infer_stream([feed(3)] * 5)
        next(stream)
        with pytest.raises(RunnerError, match=r"has batches under way, but .* close "):
            runner.infer(feed(3)) if second == "infer" else next(runner.infer_stream([feed(3)]))
        assert len(list(stream)) == 4


def in_threads(*works: Callable[[], object]) -> None:
    """Do each of *works* in a thread of its own, at once."""
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_any_thread_may_use_a_runner(model: Path) -> None:
    """Opened here, run in four threads at once, closed in a fifth: outputs are not mixed up."""
    results: dict[int, list[Tensors]] = {}
    runner = EmulatedRunner(model)
    runner.__enter__()

    def work(number: int) -> None:
        results[number] = [runner.infer(feed(2, 100 * number + n)) for n in range(5)]

    in_threads(*(lambda number=number: work(number) for number in range(4)))
    in_threads(lambda: runner.__exit__(None, None, None))
    runner.emulator.assert_clean()
    for number in range(4):
        for n, output in enumerate(results[number]):
            assert_same(output, model, images(2, 100 * number + n))


def test_runners_live_side_by_side(model: Path) -> None:
    """Two on one device and one on another: the device is reset when its last user leaves."""
    with EmulatedRunner(model, soc="Ascend310B4") as first:
        with AclRunner(model) as second, AclRunner(model, device="1") as third:
            for seed, runner in enumerate((first, second, third, first)):
                assert_same(runner.infer(feed(3, seed)), model, images(3, seed))
            assert first.description.startswith("emulated ACL 1.8.0, Ascend310B4, device 0")
            assert third.description.endswith("device 1")
        assert_same(first.infer(feed(3)), model, images(3))


@pytest.mark.parametrize(
    ("host", "session", "calls"),
    [({"cann": "old"}, True, (1, 1, 2)), ({}, False, (2, 2, 2)), ({"inits": 1}, False, (2, 0, 0))],
    ids=["old-cann-in-a-session", "each-its-own", "initialised-by-another"],
)
def test_acl_is_initialised_and_finalised_by_its_owner(
    host: dict[str, Any], session: bool, calls: tuple[int, int, int], model: Path
) -> None:
    """Two runners in turn share a session, or have one each, or leave another component's alone."""

    def run() -> None:
        for _ in range(2):
            with AclRunner(model) as runner:
                runner.infer(feed(3))

    with installed(**host) as emulator:
        if session:
            with acl_session():
                run()
        else:
            run()
        names = [call.name for call in emulator.calls]
        assert tuple(map(names.count, ("init", "finalize", "rt.reset_device"))) == calls
        # What another component has initialised it has to reset.
        assert emulator.leaks() == (["device 0 that is not reset"] if "inits" in host else [])
        assert not emulator.violations


# Errors


@pytest.mark.parametrize(
    ("host", "device", "content", "code", "message"),
    [
        ({}, 7, None, 107001, "no such device"),
        ({"stub_lib": True}, 0, None, 100039, "stub library answered"),
        ({"memory_bytes": 6000}, 0, None, 207001, "ran out.*smaller --batch-size"),
        ({}, 0, b"version https://git-lfs", 100012, r"'.*tiny\.om'\) .* compile the"),
        ({}, 0, b"IMOD half", 100012, r"compile the model"),
    ],
    ids=["no-such-device", "stub", "memory", "text", "cut-off"],
)
def test_a_model_that_cannot_be_opened_is_an_error(
    host: dict[str, Any], device: int, content: bytes | None, code: int, message: str, model: Path
) -> None:
    """ACL's code, its meaning and the remedy; what was taken before is given back."""
    if content is not None:
        model.write_bytes(content)
    with installed(**host) as emulator:
        with pytest.raises(AclError, match=message) as caught:
            AclRunner(model, device=str(device)).__enter__()
        assert caught.value.code == code
        emulator.assert_clean()


def test_a_missing_model_never_reaches_acl(tmp_path: Path) -> None:
    """The message names the command that makes one."""
    with installed() as emulator:
        with pytest.raises(RunnerError, match=r"d0\.om does not exist; make it with 'effd0 comp"):
            AclRunner(tmp_path / "d0.om").__enter__()
        assert emulator.calls == []


def open_in_child(model: Path, answer: Connection) -> None:
    """Try to open a runner; send the error."""
    try:
        AclRunner(model).__enter__()
    except RunnerError as error:
        answer.send(str(error))


def test_a_forked_process_is_refused(model: Path) -> None:
    """ACL does not survive a fork; the message says which method of starting does."""
    here, there = multiprocessing.Pipe()
    with installed(), AclRunner(model):
        context = multiprocessing.get_context("fork")
        process = context.Process(target=open_in_child, args=(model, there))
        process.start()
        assert here.poll(30)
        assert "start processes with the method 'spawn'" in here.recv()
        process.join()


@pytest.mark.parametrize(
    ("device", "number"),
    [(None, 0), ("3", 3), ("npu:2", 2), ("cuda:0", None), ("first", None)],
    ids=["none", "number", "npu", "cuda", "word"],
)
def test_a_device_is_a_number(device: str | None, number: int | None, model: Path) -> None:
    """Both ways of writing it are understood; without one it is the first; others are refused."""
    if number is None:
        with pytest.raises(RunnerError, match="but --runner acl takes a number, such as 0"):
            open_runner("acl", model, D0, RunnerOptions(device=device))
    else:
        runner = open_runner("acl", model, D0, RunnerOptions(device=device))
        assert isinstance(runner, AclRunner)
        assert runner.device == number


# The fault sweep


def step_by_step(model: Path) -> None:
    """Open, run two batches, close."""
    with AclRunner(model, overlap=False) as runner:
        for rows in (2, 1):
            runner.infer(feed(rows))


def overlapped(model: Path) -> None:
    """Open, stream five batches, close."""
    with AclRunner(model) as runner:
        assert len(list(runner.infer_stream([feed(2)] * 5))) == 5


def stopped_early(model: Path) -> None:
    """Open, stop a stream after its first result, close."""
    with AclRunner(model) as runner:
        stream = runner.infer_stream([feed(2)] * 5)
        next(stream)
        stream.close()


SHAPES: dict[str, dict[str, Any]] = {"fixed": {"batch": 2}, "gears": {"gears": (1, 2)}}
LOST = [
    pytest.param(False, id="one-call"),
    pytest.param(True, id="device-lost", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("lost", LOST)
@pytest.mark.parametrize(
    ("run", "shape", "host"),
    [
        pytest.param(step_by_step, "fixed", {}, id="step-by-step"),
        *(
            pytest.param(run, shape, host, id=f"{run.__name__}-{name}", marks=pytest.mark.slow)
            for run in (overlapped, stopped_early)
            for name, shape, host in (
                ("host", "fixed", {}),
                ("board-gears", "gears", {"run_mode": "device"}),
                ("old-cann-gears", "gears", {"cann": "old"}),
            )
        ),
    ],
)
def test_whichever_call_fails_is_the_error_and_all_is_given_back(
    run: Callable[[Path], None], shape: str, host: dict[str, Any], lost: bool, tmp_path: Path
) -> None:
    """For every k: the k-th call's own code comes out, nothing leaks, no failed thing is used."""
    model = tiny_om(tmp_path / "tiny.om", **SHAPES[shape])
    with installed(**host) as emulator:
        run(model)
        emulator.assert_clean()
        fallible = emulator.faults.count
    assert fallible > 40, "a run that makes fewer calls sweeps nothing"
    for k in range(1, fallible + 1):
        with installed(**host) as emulator:
            (emulator.fail_from if lost else emulator.fail_call)(k)
            with pytest.raises(AclError, match=r"^acl\.") as caught:
                run(model)
            name, code = emulator.faults.hits[0]
            # A bare handle comes without a code.
            bare = name.endswith(("create_desc", "create_dataset", "create_data_buffer"))
            assert (caught.value.call, caught.value.code) == (f"acl.{name}", 0 if bare else code)
            if lost:
                assert not emulator.violations, emulator.violations
            else:
                emulator.assert_clean()
