"""PyTorch: precisions, devices, and what is refused."""

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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(
            {"precision": "int8"}, "--precision is 'int8', but fp32, fp16, bf16", id="precision"
        ),
        pytest.param(
            {"device": "gpu"}, r"--device is 'gpu', but cpu, cuda\[:N\] and npu", id="device"
        ),
        pytest.param(
            {"device": "cuda:1"},
            "--device is cuda:1, but torch sees no cuda device",
            id="absent-cuda",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="this host has CUDA"),
        ),
        pytest.param(
            {"device": "npu:0"},
            r"--device is npu:0, but torch_npu .*source CANN's set_",
            id="npu-without-torch-npu",
            marks=pytest.mark.skipif(
                importlib.util.find_spec("torch_npu") is not None, reason="this host has torch_npu"
            ),
        ),
    ],
)
def test_what_is_not_there_is_refused(
    options: dict[str, str], message: str, spec: ModelSpec, checkpoint: Path
) -> None:
    """The message lists what exists; the CPU does not step in for a device that is absent."""
    with (
        pytest.raises(RunnerError, match=message),
        TorchRunner(checkpoint, spec, **options),  # type: ignore[arg-type]  # any option
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
