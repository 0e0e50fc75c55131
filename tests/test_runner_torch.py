"""Tests for `effd0.runners.torch`: precisions, devices, and what is refused."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from effd0.errors import MissingExtra, RunnerError
from effd0.runners import torch as module
from effd0.runners.torch import TorchRunner
from effd0.spec import ModelSpec
from effd0.tensor_diff import compare_tensors
from effd0.types import Tensor, Tensors

#: Relative L2 norm of the difference from fp32: more than the first for every head, less than
#: the second.  Measured 2026-11-23 on one embedded image: bf16 2.3e-3 to 1.4e-2, fp16 2.2e-4 to
#: 1.1e-3; the formats round by 3.9e-3 and 4.9e-4.
ROUNDING = {"bf16": (5e-4, 5e-2), "fp16": (5e-5, 5e-3)}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ROUNDING)
def test_half_precision_rounds_and_no_more(
    precision: str, checkpoint: Path, spec: ModelSpec, images: Tensor, torch_heads: Tensors
) -> None:
    """Every head is rounded, so the option took effect, and none by more than the format does."""
    at_least, at_most = ROUNDING[precision]
    with TorchRunner(checkpoint, spec, precision=precision) as runner:
        heads = runner.infer({spec.input_name: images[:1]})
        assert runner.description.endswith(f"cpu, {precision}")
    assert {head.dtype for head in heads.values()} == {np.dtype(np.float32)}
    diffs = compare_tensors({name: head[:1] for name, head in torch_heads.items()}, heads)
    for diff in diffs:
        assert at_least < diff.relative_l2 < at_most, str(diff)


@pytest.mark.parametrize("precision", ["int8", "FP32", ""], ids=["int8", "upper-case", "empty"])
def test_an_unknown_precision_is_refused(precision: str, spec: ModelSpec) -> None:
    """The message lists the precisions that exist."""
    with pytest.raises(RunnerError, match=f"--precision is '{precision}', but fp32, fp16, bf16"):
        TorchRunner(Path("d0.pth"), spec, precision=precision)


@pytest.mark.parametrize("device", ["gpu", "CPU", "cud:0", ""])
def test_an_unknown_device_is_refused(device: str, spec: ModelSpec, checkpoint: Path) -> None:
    """The message lists the kinds of devices that exist."""
    with (
        pytest.raises(RunnerError, match=rf"--device is '{device}', but cpu, cuda\[:N\] and npu"),
        TorchRunner(checkpoint, spec, device=device),
    ):
        pass


@pytest.mark.skipif(torch.cuda.is_available(), reason="this host has the CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_an_absent_cuda_device_is_refused(device: str, spec: ModelSpec, checkpoint: Path) -> None:
    """The CPU does not step in for a device that is not there."""
    with (
        pytest.raises(RunnerError, match=f"--device is {device}, but torch sees no cuda device"),
        TorchRunner(checkpoint, spec, device=device),
    ):
        pass


@pytest.mark.skipif(
    importlib.util.find_spec("torch_npu") is not None, reason="this host has torch_npu"
)
def test_an_npu_needs_torch_npu(spec: ModelSpec, checkpoint: Path) -> None:
    """The message says what is to be installed and sourced."""
    with (
        pytest.raises(RunnerError, match=r"--device is npu:0, but torch_npu .*source CANN's set_"),
        TorchRunner(checkpoint, spec, device="npu:0"),
    ):
        pass


def test_a_failure_while_running_is_the_runners(
    spec: ModelSpec, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What torch raises during a run becomes a RunnerError with device and batch."""

    def lost(_: object) -> None:
        """Fail as torch does without memory."""
        raise RuntimeError("out of memory")

    runner = TorchRunner(Path("d0.pth"), spec)
    monkeypatch.setattr(runner, "_model", lost)
    with pytest.raises(RunnerError, match=r"failed in PyTorch on cpu with a batch of 2: out of me"):
        runner.infer({spec.input_name: images[:2]})


def test_threads_are_set(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number asked for is the number that torch uses."""
    monkeypatch.setattr(module, "load_model", lambda *_: torch.nn.Identity())
    before = torch.get_num_threads()
    try:
        with TorchRunner(Path("d0.pth"), spec, threads=before + 1):
            assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_without_torch_the_extra_is_named(
    spec: ModelSpec, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The light install says which command adds the backend."""
    monkeypatch.setitem(sys.modules, "torch", None)
    with (
        pytest.raises(
            MissingExtra, match=r"torch is not installed, .*pip install 'effd0\[torch\]'"
        ),
        TorchRunner(checkpoint, spec),
    ):
        pass
