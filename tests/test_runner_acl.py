"""Tests for `effd0.ascend.acl_runner`: what holds on every kind of host, on tiny models."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from effd0.ascend.acl_model import plain_names
from effd0.ascend.acl_runner import AclRunner
from effd0.errors import FeedError, RunnerError
from effd0.runners.base import infer_each
from effd0.types import Tensors

from .fakes.ascend.om import OmTensor, read_om, write_om
from .fakes.ascend.tiny import tiny_om
from .fakes.emulated import EmulatedRunner

Array = npt.NDArray[Any]

HOSTS = [
    pytest.param({}, id="current"),
    pytest.param({"cann": "old"}, id="old-cann"),
    pytest.param({"cann": "future"}, id="future-cann"),
    pytest.param({"run_mode": "device"}, id="on-the-device"),
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


def reference(model: Path, batch: Array, size: int = BATCH) -> list[Array]:
    """What ONNX Runtime makes of *batch*, padded to *size*, on the graph inside *model*."""
    padded = np.concatenate([batch, np.repeat(batch[:1], size - len(batch), axis=0)])
    session = onnxruntime.InferenceSession(read_om(model).onnx, providers=["CPUExecutionProvider"])
    (name,) = [value.name for value in session.get_inputs()]
    return [output[: len(batch)] for output in session.run(None, {name: padded})]


def assert_same(outputs: Tensors, wanted: Sequence[Array]) -> None:
    """The outputs are *wanted*, bit for bit, in whatever order they come: no two shapes agree."""
    by_shape = {output.shape: output for output in outputs.values()}
    assert sorted(by_shape) == sorted(tensor.shape for tensor in wanted)
    for tensor in wanted:
        assert by_shape[tensor.shape].tolist() == tensor.tolist()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of batch 3 whose outputs tell images and their places apart."""
    return tiny_om(tmp_path / "tiny.om", batch=BATCH)


@pytest.fixture
def geared(tmp_path: Path) -> Path:
    """A model that takes 1, 2 or 5 images."""
    return tiny_om(tmp_path / "geared.om", gears=(1, 2, 5))


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("rows", [1, 2, 3], ids="rows={}".format)
def test_outputs_are_those_of_the_graph(host: dict[str, Any], rows: int, model: Path) -> None:
    """Whatever the host, each image's outputs are its own, and those of padding do not come out."""
    with EmulatedRunner(model, **host) as runner:
        assert_same(runner.infer(feed(rows)), reference(model, images(rows)))


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("overlap", OVERLAP)
def test_a_stream_gives_what_single_runs_give(
    host: dict[str, Any], overlap: bool, model: Path
) -> None:
    """Ten batches of changing size come out in the order in which they went in."""
    sizes = [3, 3, 1, 2, 3, 3, 3, 3, 3, 1]
    feeds = (feed(rows, seed) for seed, rows in enumerate(sizes))
    with EmulatedRunner(model, overlap=overlap, **host) as runner:
        results = list(infer_each(runner, feeds))
    assert len(results) == len(sizes)
    for seed, (rows, outputs) in enumerate(zip(sizes, results, strict=True)):
        assert_same(outputs, reference(model, images(rows, seed)))


@pytest.mark.parametrize("host", [HOSTS[0], HOSTS[3]])
@pytest.mark.parametrize(("rows", "gear"), [(1, 1), (2, 2), (3, 5), (5, 5)], ids="{}".format)
def test_the_smallest_gear_that_holds_the_batch_is_run(
    host: dict[str, Any], rows: int, gear: int, geared: Path
) -> None:
    """A model with gears is padded to the next one, no further, in both ways of running."""
    with EmulatedRunner(geared, **host) as runner:
        wanted = reference(geared, images(rows), gear)
        assert_same(runner.infer(feed(rows)), wanted)
        for outputs in infer_each(runner, [feed(rows)] * 4):
            assert_same(outputs, wanted)
        asked = [c.args[-1] for c in runner.emulator.calls if c.name.endswith("dynamic_batch_size")]
        assert asked == [gear] * 5


def test_a_model_with_gears_declares_the_largest(geared: Path) -> None:
    """Five images is what can be fed at most."""
    with EmulatedRunner(geared) as runner:
        assert runner.inputs[0].shape == (5, 3, 8, 8)
        with pytest.raises(FeedError, match=r"\(6, 3, 8, 8\), but the model takes .* \(5, 3, 8"):
            runner.infer(feed(6))


@pytest.mark.parametrize("host", [HOSTS[0], HOSTS[3]])
def test_half_precision_in_and_out_is_declared_and_kept(
    host: dict[str, Any], tmp_path: Path
) -> None:
    """Bytes are read by the declared dtype: float16 outputs are not taken for float32."""
    model = tiny_om(tmp_path / "half.om", batch=BATCH, dtype="float16")
    half = images(2).astype(np.float16)
    with EmulatedRunner(model, **host) as runner:
        assert {info.dtype for info in (*runner.inputs, *runner.outputs)} == {np.dtype("float16")}
        outputs = runner.infer({"x.1": half})
    rounded = [t.astype(np.float16) for t in reference(model, half.astype(np.float32))]
    assert_same(outputs, rounded)


def test_outputs_keep_the_names_of_the_onnx_model(model: Path) -> None:
    """ATC's ``node:index:name`` is no name that anyone looks for."""
    with EmulatedRunner(model) as runner:
        assert not [info.name for info in runner.outputs if ":" in info.name]


@pytest.mark.parametrize(
    ("given", "names"),
    [
        pytest.param(["Conv_1:0:class_p3", "Conv_2:0:box_p3"], ["class_p3", "box_p3"], id="named"),
        pytest.param(["Conv_1:0", "Conv_2:0"], ["Conv_1:0", "Conv_2:0"], id="same-index"),
        pytest.param(["Split_1:0", "Split_1:1"], ["Split_1:0", "Split_1:1"], id="one-node"),
        pytest.param(["class_p3", "box_p3"], ["class_p3", "box_p3"], id="plain"),
    ],
)
def test_outputs_without_names_keep_what_tells_them_apart(
    given: list[str], names: list[str]
) -> None:
    """Where ATC wrote ``node:index`` alone, an index is taken for no name."""
    assert plain_names(given) == names


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
    assert_same(outputs, reference(path, planes))


@pytest.mark.parametrize("overlap", OVERLAP)
def test_memory_is_taken_once(overlap: bool, model: Path) -> None:
    """A hundred batches take as much device and host memory as one."""
    with EmulatedRunner(model, overlap=overlap) as runner:
        taken = []
        for count in (1, 100):
            for _ in infer_each(runner, (feed(1, seed) for seed in range(count))):
                pass
            taken.append([c.name for c in runner.emulator.calls if "malloc" in c.name])
    assert taken[0] == taken[1]


def test_only_the_outputs_of_real_images_are_copied_back(model: Path) -> None:
    """Of a batch of three with one image in it, a third of the bytes comes back."""
    with EmulatedRunner(model) as runner:
        sizes = []
        for rows in (1, 3):
            before = len(runner.emulator.calls)
            runner.infer(feed(rows))
            copies = [c for c in runner.emulator.calls[before:] if c.name == "rt.memcpy"]
            sizes.append(sum(c.args[3] for c in copies if c.args[4] == 2))
    assert sizes[1] == 3 * sizes[0]


def test_a_device_of_its_own_memory_copies_nothing(model: Path) -> None:
    """Where the program runs on the device itself, what it fills is what the model reads."""
    with EmulatedRunner(model, run_mode="device") as runner:
        runner.infer(feed(3))
        list(infer_each(runner, [feed(3)] * 4))
        names = {call.name for call in runner.emulator.calls}
    assert not [name for name in names if "memcpy" in name or "malloc_host" in name]


@pytest.mark.parametrize("overlap", OVERLAP)
def test_every_batch_is_timed_apart(overlap: bool, model: Path) -> None:
    """Upload, computing, download and the host's copies: one figure a batch, none negative."""
    with EmulatedRunner(model, overlap=overlap) as runner:
        list(infer_each(runner, [feed(2)] * 5))
        times = vars(runner.device_times).values()
    assert [len(figures) for figures in times] == [5, 5, 5, 5]
    assert min(min(figures) for figures in times) >= 0


def test_a_wrong_feed_in_a_stream_is_told_and_leaves_the_runner_whole(model: Path) -> None:
    """The batches before it are dropped, and the next run is as the first."""
    with EmulatedRunner(model) as runner:
        with pytest.raises(FeedError, match=r"x\.1 is float32 \(4, 3, 8, 8\), but"):
            list(infer_each(runner, [feed(3), feed(3), feed(4), feed(3)]))
        assert_same(runner.infer(feed(3)), reference(model, images(3)))
        assert len(list(infer_each(runner, [feed(3)] * 4))) == 4


def test_whoever_stops_early_leaves_the_runner_whole(model: Path) -> None:
    """Closing a stream waits for what is under way; then all is as before, time after time."""
    with EmulatedRunner(model) as runner:
        for _ in range(3):
            stream = infer_each(runner, (feed(3, seed) for seed in range(10)))
            next(stream)
            stream.close()
            assert_same(runner.infer(feed(3)), reference(model, images(3)))


def test_a_runner_closed_in_mid_stream_gives_all_back(model: Path) -> None:
    """Leaving the ``with`` block waits for the device; the stream then says that it is closed."""
    with EmulatedRunner(model) as runner:
        stream = infer_each(runner, (feed(3, seed) for seed in range(10)))
        next(stream)
    with pytest.raises(RunnerError, match="is not open"):
        next(stream)


@pytest.mark.parametrize("second", ["infer", "stream"])
def test_one_thing_at_a_time(second: str, model: Path) -> None:
    """The same model twice at once is undefined on hardware, so it is an error here."""
    with EmulatedRunner(model) as runner:
        stream = infer_each(runner, [feed(3)] * 5)
        next(stream)
        with pytest.raises(RunnerError, match=r"has batches under way, but .* close "):
            runner.infer(feed(3)) if second == "infer" else next(infer_each(runner, [feed(3)]))
        assert len(list(stream)) == 4


def test_any_thread_may_use_a_runner(model: Path) -> None:
    """Opened here, run in four threads at once, closed here: each gets its own images' outputs."""
    results: dict[int, list[Tensors]] = {}
    with EmulatedRunner(model) as runner:

        def work(number: int) -> None:
            results[number] = [runner.infer(feed(2, 100 * number + n)) for n in range(5)]

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(results) == 4
    for number, outputs in results.items():
        for n, output in enumerate(outputs):
            assert_same(output, reference(model, images(2, 100 * number + n)))


def test_closing_in_another_thread_gives_all_back(model: Path) -> None:
    """Contexts belong to threads, so the closing one is given the runner's."""
    runner = EmulatedRunner(model)
    runner.__enter__()
    thread = threading.Thread(target=runner.__exit__, args=(None, None, None))
    thread.start()
    thread.join()
    runner.emulator.assert_clean()


def test_two_devices_are_used_side_by_side(model: Path) -> None:
    """Runners share nothing but ACL itself: one on each of two devices, in turns."""
    with EmulatedRunner(model) as first, AclRunner(model, device=1) as second:
        for seed in range(3):
            for runner in (first, second):
                assert_same(runner.infer(feed(3, seed)), reference(model, images(3, seed)))
        assert "device 0" in first.description
        assert "device 1" in second.description


def test_two_runners_on_one_device_do_not_close_each_other(model: Path) -> None:
    """The device is reset when its last user leaves, not its first."""
    with EmulatedRunner(model) as first:
        with AclRunner(model) as second:
            second.infer(feed(3))
        assert_same(first.infer(feed(3)), reference(model, images(3)))


def test_the_description_names_version_chip_and_device(model: Path) -> None:
    """The report can say what computed."""
    with EmulatedRunner(model, soc="Ascend310B4") as runner:
        assert "ACL " in runner.description
        assert runner.description.endswith(", Ascend310B4, device 0")
