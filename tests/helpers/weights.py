"""Weights of any architecture whose heads vary as trained ones do, made without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from effd0.data.fixture import sample_inputs
from effd0.runners.checkpoint import build_model
from effd0.spec import ModelSpec

#: Scenes that weights are settled on.
SETTLED_ON = 4
#: Mean and deviation of the class logits and of the box codes over all levels.  The bundled D0's
#: on these scenes, measured 2026-12-01: -11.5 and 2.77, -0.05 and 0.18.
SPREADS = ((-11.5, 2.8), (-0.05, 0.18))


def settled(spec: ModelSpec, scenes: int = SETTLED_ON) -> Any:
    """
    The network of *spec* with weights that were drawn, and settled on the first bundled *scenes*.

    effdet's own first weights stay, but what it sets to 1 and 0 is drawn: factors of norms and of
    weighted sums from 0.5 to 1.5, offsets of norms around 1 by 0.5.  (Around 0, where swish bends,
    what differs a little from the scenes grew with each layer, to 1,500 times as much in a D1.)
    Each norm takes the means and variances that it sees, the latter at least half of their mean, so
    that no channel is blown up, and the last layers are scaled to `SPREADS`.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(spec).eval()
        norms: list[Any] = []
        for layer in model.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.weight.data.uniform_(0.5, 1.5)
                layer.bias.data.normal_(1, 0.5)
                layer.train()
                layer.momentum = 1.0
                norms.append(layer)
            elif getattr(layer, "edge_weights", None) is not None:
                layer.edge_weights.data.uniform_(0.5, 1.5)
    images = torch.from_numpy(sample_inputs(scenes, spec))
    nets = model.class_net, model.box_net
    with torch.no_grad():
        model(images)
        for norm in norms:
            norm.running_var.clamp_(min=float(norm.running_var.mean()) / 2)
        for net, heads, (mean, deviation) in zip(nets, model.eval()(images), SPREADS, strict=True):
            values = torch.cat([head.flatten() for head in heads])
            factor = deviation / values.std()
            convolutions: Any = (m for m in net.predict.modules() if isinstance(m, torch.nn.Conv2d))
            *_, last = convolutions
            last.weight.mul_(factor)
            last.bias.mul_(factor).add_(mean - factor * values.mean())
    return model


def write_settled(spec: ModelSpec, out: Path) -> Path:
    """Write the weights of `settled` as the checkpoint *out*; return it."""
    torch.save(settled(spec).state_dict(), out)
    return out
