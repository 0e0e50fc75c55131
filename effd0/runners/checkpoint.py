"""A trained EfficientDet-D0 from a file."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, require
from ..io import LFS_MAGIC
from ..spec import SPECS, ModelSpec
from ..tolerances import UNTRAINED

#: Keys under which training tools wrap the weights, the best ones first.
WRAPPERS = ("state_dict_ema", "state_dict", "model_ema", "model")
SHOWN = 5


def load_model(path: Path, spec: ModelSpec) -> Any:
    """
    The network of *spec* with the weights of *path*, a ``torch.nn.Module`` in evaluation mode.

    Raises `CheckpointError` for a file that is no checkpoint of *spec* or is untrained.
    """
    torch = require("torch", extra="torch")
    model = build_model(spec)
    weights = read_weights(path)
    check_weights(path, weights, model.state_dict(), spec)
    model.load_state_dict(weights, strict=False)  # strictness, with better words, is above
    model.eval()
    noise = torch.randn(1, *spec.input_shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        classes, _ = model(noise)
    spread = min(float(head.std()) for head in classes)
    if not spread >= UNTRAINED.limit:
        raise CheckpointError(
            f"{path} is untrained: its class logits vary by {spread:.2g} over an image, but those "
            f"of a trained model by more than {UNTRAINED.limit}; every comparison would pass on it"
        )
    return model


def build_model(spec: ModelSpec) -> Any:
    """The untrained network of *spec*, a ``torch.nn.Module``."""
    with warnings.catch_warnings():
        # effdet still calls torch.jit.script at import; nothing a user could act on.
        warnings.simplefilter("ignore")
        effdet = require("effdet", extra="torch")
        config = effdet.get_efficientdet_config(spec.arch)
        return effdet.EfficientDet(config, pretrained_backbone=False)


def read_weights(path: Path) -> dict[str, Any]:
    """
    The state dict in *path*, as float32 tensors under effdet's names.

    Takes .safetensors and torch files: a state dict, or one wrapped by a training tool
    (`WRAPPERS`), with or without the ``module.`` and ``model.`` that wrappers put before names.
    """
    content = _read_file(path)
    for key in WRAPPERS:
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    tensors = {
        name: value
        for name, value in content.items()
        if isinstance(name, str) and hasattr(value, "dtype")
    }
    if not tensors:
        raise CheckpointError(
            f"{path} holds {sorted(map(str, content))[:SHOWN]}, but a state dict was wanted: "
            f"name -> tensor, or one under {', '.join(WRAPPERS)}"
        )
    for prefix in ("module.", "model."):
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return {n: t.float() if t.is_floating_point() else t for n, t in tensors.items()}


def _read_file(path: Path) -> Mapping[str, Any]:
    """The content of a checkpoint file, read without running any code in it."""
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; get one with 'effd0 fetch checkpoint'")
    with path.open("rb") as file:
        if file.read(len(LFS_MAGIC)) == LFS_MAGIC:
            raise CheckpointError(
                f"{path} is a Git LFS pointer, not the checkpoint; run 'git lfs pull'"
            )
    torch = require("torch", extra="torch")
    try:
        if path.suffix == ".safetensors":
            loaded: Any = require("safetensors.torch", extra="torch").load_file(path)
        else:
            with warnings.catch_warnings():
                # torch warns of unusual pickles; what matters of them is checked or raised here.
                warnings.simplefilter("ignore")
                loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is not a file of plain tensors, and nothing else is loaded, since it could "
            f"run code; save model.state_dict() alone: {_first_line(error)}"
        ) from error
    except Exception as error:  # torch and safetensors raise many kinds for a broken file.
        raise CheckpointError(
            f"{path} is not a readable checkpoint: {_first_line(error)}"
        ) from error
    if not isinstance(loaded, Mapping):
        raise CheckpointError(
            f"{path} holds a {type(loaded).__name__}, but a state dict was wanted; "
            "save model.state_dict()"
        )
    return loaded


def _first_line(error: Exception) -> str:
    """The first sentence of a long message; the error's kind where it has none."""
    first = next(iter(str(error).splitlines()), type(error).__name__)
    return first.partition(". ")[0]


def check_weights(
    path: Path, weights: Mapping[str, Any], wanted: Mapping[str, Any], spec: ModelSpec
) -> None:
    """Raise `CheckpointError` naming what does not fit *wanted* or is not finite."""
    # Batch counters are statistics of training; files without them are complete.
    counters = {name for name in wanted if name.endswith("num_batches_tracked")}
    lost = {
        "missing": [name for name in wanted if name not in weights and name not in counters],
        "unexpected": [name for name in weights if name not in wanted],
    }
    problems = [f"{len(n)} keys are {word}: {_listed(n)}" for word, n in lost.items() if n]
    problems += [
        f"{name} is {tuple(weights[name].shape)}, but {tuple(wanted[name].shape)} was wanted"
        for name in wanted
        if name in weights and weights[name].shape != wanted[name].shape
    ][:SHOWN]
    if problems:
        others = ", ".join(arch for arch in SPECS if arch != spec.arch)
        raise CheckpointError(
            f"{path} is not a checkpoint of {spec.arch}: {'; '.join(problems)}; "
            f"check the file, or give --arch ({others})"
        )
    broken = [n for n, t in weights.items() if t.is_floating_point() and not t.isfinite().all()]
    if broken:
        raise CheckpointError(
            f"{path} holds NaN or infinity in {_listed(broken)}, but every weight must be finite; "
            "the training diverged or the conversion overflowed"
        )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (" ..." if len(names) > SHOWN else "")


def blank_layers(model: Any) -> dict[str, str]:
    """
    The layers of *model* that training never touched or that a conversion lost, and why so.

    A batch norm whose running mean is 0 and variance 1, a convolution whose weights are all alike.
    """
    torch = require("torch", extra="torch")
    blank = {}
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            if not layer.running_mean.any() and bool((layer.running_var == 1).all()):
                blank[name] = "its running mean is 0 and its variance 1"
        elif isinstance(layer, torch.nn.Conv2d) and layer.weight.numel() > 1:
            low, high = (float(end) for end in layer.weight.detach().aminmax())
            if low == high:
                blank[name] = f"all its weights are {low:g}"
    return blank
