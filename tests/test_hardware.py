"""PyTorch on an accelerator computes what it computes on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from effd0.arrays import Tensor, Tensors
from effd0.compare import compare_tensors
from effd0.runners import RunnerOptions, open_runner
from effd0.spec import ModelSpec
from effd0.tolerances import DEVICES

KINDS = [
    pytest.param("cuda", marks=pytest.mark.gpu, id="device=cuda"),
    pytest.param("npu", marks=pytest.mark.torch_npu, id="device=npu"),
]


@pytest.mark.parametrize("precision", DEVICES)
@pytest.mark.parametrize("device", KINDS)
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
        assert diff.relative_l2 <= DEVICES[precision].limit, str(diff)
