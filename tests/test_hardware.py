"""PyTorch on an accelerator computes what it computes on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from effd0.arrays import Tensor, Tensors
from effd0.compare import compare_tensors
from effd0.runners import RunnerOptions, open_runner
from effd0.spec import ModelSpec

#: Relative L2 of a head.  Measured 2026-11-23 on the CPU: fp32 in two backends 4e-6, fp16 1.7e-3,
#: bf16 1.6e-2 against fp32.  Accelerators sum in other orders and have not been measured yet, so
#: ten times as much is allowed; TF32 in place of fp32 (about 1e-3) is not.
RELATIVE_L2 = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1}

DEVICES = [
    pytest.param("cuda", marks=pytest.mark.gpu, id="device=cuda"),
    pytest.param("npu", marks=pytest.mark.torch_npu, id="device=npu"),
]


@pytest.mark.parametrize("precision", RELATIVE_L2)
@pytest.mark.parametrize("device", DEVICES)
def test_torch_heads_do_not_depend_on_the_device(
    device: str,
    precision: str,
    checkpoint: Path,
    spec: ModelSpec,
    images: Tensor,
    torch_heads: Tensors,
) -> None:
    """An accelerator's heads are the CPU's, within what its precision explains."""
    options = RunnerOptions(device=device, precision=precision)
    with open_runner("torch", checkpoint, spec, options) as runner:
        heads = runner.infer({spec.input_name: images})
    for diff in compare_tensors(torch_heads, heads):
        assert diff.relative_l2 <= RELATIVE_L2[precision], str(diff)
