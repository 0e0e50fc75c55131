"""Faults of weight files, and those that nothing but the mAP shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from effd0.runners.checkpoint import build_model, read_weights

from .run import Fault, Good, Plant, Planted, base_options, detections_of

State = dict[str, Any]


def _weights(write: Callable[[Good, Path], object]) -> Plant:
    """The checkpoint that *write* puts at the path it is given."""

    def plant(good: Good, folder: Path) -> Planted:
        path = folder / "d0.pth"
        write(good, path)
        return Planted((*base_options(good, checkpoint=path), "--runner=torch"))

    return plant


def _state(change: Callable[[State], object]) -> Plant:
    """The weights as *change* leaves them."""

    def write(good: Good, path: Path) -> None:
        state = dict(read_weights(good.checkpoint))
        change(state)
        torch.save(state, path)

    return _weights(write)


def _each(end: str, change: Callable[[Any], Any], *, first: bool = False) -> Plant:
    """All tensors whose names end in *end*, or the first, as *change* makes them."""

    def changed(state: State) -> None:
        names = [name for name in state if name.endswith(end)]
        for name in names[:1] if first else names:
            state[name] = change(state[name].clone())

    return _state(changed)


def _untrained(good: Good, path: Path) -> None:
    torch.manual_seed(0)
    torch.save(build_model(good.spec).state_dict(), path)


def _no_statistics(state: State) -> None:
    for name, value in state.items():
        if name.endswith(("running_mean", "running_var")):
            state[name] = torch.full_like(value, float(name.endswith("var")))


def _fewer_classes(good: Good, folder: Path) -> Planted:
    """A class in nine, at least one, is not in the weights, and their number is given."""
    state, path = dict(read_weights(good.checkpoint)), folder / "d0.pth"
    count = good.spec.num_classes
    for name in ("class_net.predict.conv_pw.weight", "class_net.predict.conv_pw.bias"):
        state[name] = state[name][: good.spec.anchors_per_cell * (count - (count // 9 or 1))]
    torch.save(state, path)
    options = base_options(good, checkpoint=path)
    return Planted((*options, f"--num-classes={count}", "--runner=torch"))


def _nan(weight: Any) -> Any:
    weight.view(-1)[0] = float("nan")
    return weight


def _lost(state: State) -> None:
    for name in [name for name in state if name.startswith("fpn.cell.2")]:
        del state[name]


def noisy(state: State, share: float, seed: int) -> State:
    """The weights of convolutions a little off everywhere, by a *share* of their spread."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: value + share * value.std() * torch.randn(value.shape, generator=generator)
        if name.endswith("weight") and value.ndim == 4
        else value
        for name, value in state.items()
    }


def _arch(name: str) -> Plant:
    """The weights in another architecture."""
    return lambda good, _: Planted((*base_options(good), f"--arch={name}", "--runner=torch"))


def _model(*options: str) -> Plant:
    return lambda good, _: Planted(
        (*base_options(good), f"--model={good.model}", "--runner=ort", *options)
    )


def _too_high(good: Good, _: Path) -> Planted:
    """A model that is all it claims to be, and not good enough."""
    options = (*base_options(good)[:-1], f"--min-map={good.points + 0.5}")
    return Planted(
        (*options, f"--model={good.model}", "--runner=ort"),
        found=lambda: detections_of(good.model, good.dataset, good.spec),
    )


FAULTS = (
    Fault("untrained", "checkpoint", "peers 3.4", "", _weights(_untrained)),
    Fault("checkpoint-cut-off", "checkpoint", "an interrupted download", "", _weights(
        lambda good, path: path.write_bytes(
            good.checkpoint.read_bytes()[: good.checkpoint.stat().st_size // 2]))),
    Fault("checkpoint-lfs-pointer", "checkpoint", "peers F15", "", _weights(
        lambda _, path: path.write_text("version https://git-lfs.github.com/spec/v1\n"))),
    Fault("keys-missing", "checkpoint", "peers 3.4", "", _state(_lost)),
    Fault("eighty-classes", "checkpoint", "peers F46", "", _fewer_classes),
    Fault("nan-weight", "checkpoint", "a training that diverged", "",
          _each("conv_pw.weight", _nan, first=True)),
    # A conversion to float16 of what float16 cannot represent.
    Fault("weight-overflowed", "checkpoint", "peers F34", "",
          _each("running_var", lambda value: (value * 1e9).half().float(), first=True)),
    Fault("batch-norm-statistics-lost", "checkpoint", "an average of weights without buffers",
          "statistics of batch norms lost", _state(_no_statistics)),
    Fault("layer-blank", "checkpoint", "a key mapped to nothing", "",
          _each("conv_pwl.weight", torch.zeros_like, first=True)),
    Fault("undertrained", "gate", "peers 2: 33.4 where 34.2 was published", "",
          _state(lambda state: state.update(noisy(state, 0.15, 0)))),
    Fault("architectures-mixed-up", "checkpoint", "effdet's two D0s", "", _arch("efficientdet_d0")),
    Fault("advprop-mixed-up", "gate", "effdet's *_ap weights", "tf_efficientdet_d0",
          _arch("tf_efficientdet_d0_ap")),
    Fault("part-of-the-images", "gate", "peers F16", "",
          _model("--image-limit=6", "--require=coco")),
    Fault("below-the-floor", "gate", "peers 2", "", _too_high),
)  # fmt: skip
