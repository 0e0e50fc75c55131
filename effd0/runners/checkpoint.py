"""A trained EfficientDet-D0 from a file."""

import pickle
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, listed, require
from ..io import LFS_MAGIC
from ..spec import SPECS, ModelSpec
from ..tolerances import UNTRAINED

#: Keys under which training tools wrap the weights, the best ones first.
WRAPPERS = ("state_dict_ema", "state_dict", "model_ema", "model")


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
    The state dict in *path*, as float32 tensors under effdet's names; no code in it is run.

    Takes .safetensors and torch files: a state dict, or one wrapped by a training tool
    (`WRAPPERS`), with or without the ``module.`` and ``model.`` that wrappers put before names.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; get one with 'effd0 fetch checkpoint'")
    with path.open("rb") as file:
        if file.read(len(LFS_MAGIC)) == LFS_MAGIC:
            raise CheckpointError(
                f"{path} is a Git LFS pointer, not the checkpoint; run 'git lfs pull'"
            )
    load: Any = partial(require("torch", extra="torch").load, map_location="cpu", weights_only=True)
    if path.suffix == ".safetensors":
        load = require("safetensors.torch", extra="torch").load_file
    try:
        with warnings.catch_warnings():
            # torch warns of unusual pickles; what matters of them is checked or raised here.
            warnings.simplefilter("ignore")
            content = load(path)
    except Exception as error:  # torch and safetensors raise many kinds for a broken file.
        said = next(iter(str(error).splitlines()), type(error).__name__).partition(". ")[0]
        what = "is not a readable checkpoint"
        if isinstance(error, pickle.UnpicklingError):
            what = (
                "is not a file of plain tensors, and nothing else is loaded, since it could "
                "run code; save model.state_dict() alone"
            )
        raise CheckpointError(f"{path} {what}: {said}") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}, but a state dict was wanted; "
            "save model.state_dict()"
        )
    content = next((content[k] for k in WRAPPERS if isinstance(content.get(k), Mapping)), content)
    named = {n: t for n, t in content.items() if isinstance(n, str) and hasattr(t, "dtype")}
    if not named:
        raise CheckpointError(
            f"{path} holds [{listed(sorted(map(repr, content)))}], but a state dict was wanted: "
            f"name -> tensor, or one under {', '.join(WRAPPERS)}"
        )
    for prefix in ("module.", "model."):
        if all(name.startswith(prefix) for name in named):
            named = {name.removeprefix(prefix): value for name, value in named.items()}
    return {n: t.float() if t.is_floating_point() else t for n, t in named.items()}


def check_weights(
    path: Path, weights: Mapping[str, Any], wanted: Mapping[str, Any], spec: ModelSpec
) -> None:
    """Raise `CheckpointError` naming what does not fit *wanted* or is not finite."""
    # Batch counters are statistics of training; files without them are complete.
    needed = [name for name in wanted if not name.endswith("num_batches_tracked")]
    lost = {
        "missing": [name for name in needed if name not in weights],
        "unexpected": [name for name in weights if name not in wanted],
    }
    problems = [f"{len(n)} keys are {word}: {listed(n)}" for word, n in lost.items() if n]
    reshaped = [
        f"{name} is {tuple(weights[name].shape)}, but {tuple(wanted[name].shape)} was wanted"
        for name in wanted
        if name in weights and weights[name].shape != wanted[name].shape
    ]
    problems += [listed(reshaped)] if reshaped else []
    if problems:
        others = ", ".join(arch for arch in SPECS if arch != spec.arch)
        raise CheckpointError(
            f"{path} is not a checkpoint of {spec.arch}: {'; '.join(problems)}; "
            f"check the file, or give --arch ({others})"
        )
    broken = [n for n, t in weights.items() if t.is_floating_point() and not t.isfinite().all()]
    if broken:
        raise CheckpointError(
            f"{path} holds NaN or infinity in {listed(broken)}, but every weight must be finite; "
            "the training diverged or the conversion overflowed"
        )


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
