"""Faults of weight files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from effd0.runners.checkpoint import build_model, read_weights

from .fault import Fault, Good, Plant, Planted
from .run import base_options

State = dict[str, Any]


def _planted(good: Good, path: Path) -> Planted:
    return Planted((*base_options(good, checkpoint=path), "--runner=torch"))


def _state(change: Callable[[State], object]) -> Plant:
    def plant(good: Good, folder: Path) -> Planted:
        state = dict(read_weights(good.checkpoint))
        change(state)
        torch.save(state, folder / "d0.pth")
        return _planted(good, folder / "d0.pth")

    return plant


def _untrained(good: Good, folder: Path) -> Planted:
    torch.manual_seed(0)
    torch.save(build_model(good.spec).state_dict(), folder / "d0.pth")
    return _planted(good, folder / "d0.pth")


def _cut(good: Good, folder: Path) -> Planted:
    content = good.checkpoint.read_bytes()
    (folder / "d0.pth").write_bytes(content[: len(content) // 2])
    return _planted(good, folder / "d0.pth")


def _pointer(good: Good, folder: Path) -> Planted:
    (folder / "d0.pth").write_text("version https://git-lfs.github.com/spec/v1\n")
    return _planted(good, folder / "d0.pth")


def _no_statistics(state: State) -> None:
    for name, value in state.items():
        if name.endswith("running_mean"):
            state[name] = torch.zeros_like(value)
        if name.endswith("running_var"):
            state[name] = torch.ones_like(value)


def _fewer_classes(state: State) -> None:
    for name in list(state):
        if name.startswith("class_net.predict") and len(state[name]) == 810:
            state[name] = state[name][: 9 * 80]


def _nan(state: State) -> None:
    name = next(name for name in state if name.endswith("conv_pw.weight"))
    state[name] = state[name].clone()
    state[name].view(-1)[0] = float("nan")


def _overflowed(state: State) -> None:
    """A conversion to float16 of what float16 cannot hold."""
    name = next(name for name in state if name.endswith("running_var"))
    state[name] = (state[name] * 1e9).half().float()


def _blank_layer(state: State) -> None:
    name = next(name for name in state if name.endswith("conv_pwl.weight"))
    state[name] = torch.zeros_like(state[name])


def _lost(state: State) -> None:
    for name in [name for name in state if name.startswith("fpn.cell.2")]:
        del state[name]


def _weak(state: State) -> None:
    """Weights that are a little off everywhere, as of too few steps of training."""
    generator = torch.Generator().manual_seed(0)
    for name, value in state.items():
        if name.endswith("weight") and value.ndim == 4:
            noise = torch.randn(value.shape, generator=generator)
            state[name] = value + 0.15 * value.std() * noise


CHECKPOINT_FAULTS = (
    Fault("untrained", "checkpoint", "peers 3.4", "", _untrained),
    Fault("checkpoint-cut-off", "checkpoint", "an interrupted download", "", _cut),
    Fault("checkpoint-lfs-pointer", "checkpoint", "peers F15", "", _pointer),
    Fault("keys-missing", "checkpoint", "peers 3.4", "", _state(_lost)),
    Fault("eighty-classes", "checkpoint", "peers F46", "", _state(_fewer_classes)),
    Fault("nan-weight", "checkpoint", "a training that diverged", "", _state(_nan)),
    Fault("weight-overflowed", "checkpoint", "peers F34", "", _state(_overflowed)),
    Fault("batch-norm-statistics-lost", "checkpoint", "an average of weights without buffers",
          "statistics of batch norms lost", _state(_no_statistics)),
    Fault("layer-blank", "checkpoint", "a key mapped to nothing", "", _state(_blank_layer)),
    Fault("undertrained", "gate", "peers 2: 33.4 where 34.2 was published", "", _state(_weak)),
)  # fmt: skip
