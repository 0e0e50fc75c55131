"""Tests for `effd0.ascend.acl_runner`: what cannot be opened, and who else uses ACL."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from effd0.ascend.acl_api import acl_session
from effd0.ascend.acl_runner import AclRunner
from effd0.errors import AclError, RunnerError
from effd0.runners.registry import RunnerOptions, open_runner
from effd0.spec import D0

from .fakes.acl import installed
from .fakes.ascend.tiny import tiny_om
from .test_runner_acl import feed


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of batch 3."""
    return tiny_om(tmp_path / "tiny.om", batch=3)


def cut_off(path: Path) -> None:
    """Leave half of the file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def other_text(path: Path) -> None:
    """Replace the model by a text."""
    path.write_text("version https://git-lfs.github.com/spec/v1\n")


@pytest.mark.parametrize("spoil", [cut_off, other_text], ids=["cut-off", "text"])
def test_a_file_that_is_no_model_is_told_with_what_to_do(spoil: Any, model: Path) -> None:
    """The path stands in the message, and the remedy; nothing stays open."""
    spoil(model)
    with installed() as emulator:
        with pytest.raises(AclError, match=r"load_from_file\('.*tiny\.om'\) .* compile the model"):
            AclRunner(model).__enter__()
        emulator.assert_clean()


def test_a_missing_model_never_reaches_acl(tmp_path: Path) -> None:
    """The message names the command that makes one."""
    with installed() as emulator:
        with pytest.raises(RunnerError, match=r"d0\.om does not exist; make it with 'effd0 comp"):
            AclRunner(tmp_path / "d0.om").__enter__()
        assert emulator.calls == []


@pytest.mark.parametrize(
    ("host", "device", "code", "message"),
    [
        pytest.param({}, 7, 107001, "no such device", id="no-such-device"),
        pytest.param({"stub_lib": True}, 0, 100039, "the stub library answered", id="stub-library"),
        pytest.param(
            {"memory_bytes": 6000}, 0, 207001, "memory ran out.*smaller --batch-size", id="memory"
        ),
    ],
)
def test_a_host_that_cannot_is_told(
    host: dict[str, Any], device: int, code: int, message: str, model: Path
) -> None:
    """ACL's code, its meaning and the remedy; what was taken before is given back."""
    with installed(**host) as emulator:
        with pytest.raises(AclError, match=message) as caught:
            AclRunner(model, device=device).__enter__()
        assert caught.value.code == code
        emulator.assert_clean()


def test_what_another_component_initialised_stays_initialised(model: Path) -> None:
    """A runner finalises and resets only what it initialised itself."""
    with installed(inits=1) as emulator:
        with AclRunner(model) as runner:
            runner.infer(feed(3))
        names = [call.name for call in emulator.calls]
        assert "finalize" not in names
        assert "rt.reset_device" not in names


def test_a_session_holds_acl_open_for_many_runners(model: Path) -> None:
    """On an old CANN, which cannot be initialised twice, runners follow each other in a session."""
    with installed(cann="old") as emulator:
        with acl_session():
            for _ in range(3):
                with AclRunner(model) as runner:
                    runner.infer(feed(3))
        names = [call.name for call in emulator.calls]
        assert (names.count("init"), names.count("finalize")) == (1, 1)
        emulator.assert_clean()


def test_without_a_session_each_runner_closes_acl(model: Path) -> None:
    """Nothing is left to a destructor or to the end of the process."""
    with installed() as emulator:
        for _ in range(2):
            with AclRunner(model) as runner:
                runner.infer(feed(3))
        names = [call.name for call in emulator.calls]
        assert (names.count("init"), names.count("finalize")) == (2, 2)
        emulator.assert_clean()


def open_in_child(model: Path, answer: Connection) -> None:
    """Try to open a runner; send what is told."""
    try:
        AclRunner(model).__enter__()
    except RunnerError as error:
        answer.send(str(error))


def test_a_forked_process_is_refused(model: Path) -> None:
    """ACL does not survive a fork; the message says which method of starting does."""
    here, there = multiprocessing.Pipe()
    with installed(), AclRunner(model):
        process = multiprocessing.get_context("fork").Process(
            target=open_in_child, args=(model, there)
        )
        process.start()
        assert here.poll(30)
        assert "start processes with the method 'spawn'" in here.recv()
        process.join()


def test_a_closed_runner_refuses(model: Path) -> None:
    """Outside its ``with`` block it holds nothing."""
    runner = AclRunner(model)
    with pytest.raises(RunnerError, match="is not open; use the runner in a 'with' block"):
        runner.infer(feed(1))


@pytest.mark.parametrize(
    "device", [pytest.param("cuda:0", id="cuda"), pytest.param("first", id="word")]
)
def test_a_device_that_is_no_npu_is_refused(device: str, model: Path) -> None:
    """The runner takes a number."""
    with pytest.raises(RunnerError, match="but --runner acl takes a number, such as 0"):
        open_runner("acl", model, D0, RunnerOptions(device=device))


@pytest.mark.parametrize(
    ("device", "number"),
    [
        pytest.param(None, 0, id="none"),
        pytest.param("3", 3, id="number"),
        pytest.param("npu:2", 2, id="npu"),
    ],
)
def test_a_device_is_a_number(device: str | None, number: int, model: Path) -> None:
    """Both ways of writing it are understood; without one it is the first."""
    runner = open_runner("acl", model, D0, RunnerOptions(device=device))
    assert isinstance(runner, AclRunner)
    assert runner.device == number
