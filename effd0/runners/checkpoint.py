"""A trained EfficientDet-D0 from a file."""

import argparse
import hashlib
import pickle
import re
import warnings
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path, PosixPath
from typing import Any

import numpy as np

from ..errors import CheckpointError, OptionError, listed, require
from ..io import CHECKPOINT, check_kind, flattened, is_safetensors
from ..progress import say_once
from ..spec import SPECS, ModelSpec
from ..tolerances import UNTRAINED

#: A weight of effdet's network, and what wrappers have put before its name.
_NETWORK = re.compile(r"(|.*?[./])(?:backbone|fpn|class_net|box_net)\.[^/]+")
#: The name of a moving average, which is what was validated.
_AVERAGED = re.compile(r"(?<![a-z])(ema|swa|avg|averaged?)(?![a-z])", re.IGNORECASE)
FETCH_ONE = "get one with 'effd0 fetch checkpoint'"


def load_model(path: Path, spec: ModelSpec, named: str | None = None) -> Any:
    """
    The network of *spec* with the weights of *path*, a ``torch.nn.Module`` in evaluation mode.

    Of several sets of weights it is the one *named*; see `read_weights`.

    Raises `CheckpointError` for a file that is no checkpoint of *spec* or is untrained.
    """
    torch = require("torch", extra="torch")
    model = build_model(spec)
    weights = read_weights(path, named)
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


def read_weights(path: Path, named: str | None = None) -> dict[str, Any]:
    """
    The state dict in *path*, as float32 tensors under effdet's names; no code in it is run.

    Takes safetensors and torch files.  What trainers and wrappers put around a state dict and
    before its names is taken away, whatever it is called.  Of several sets of weights the one
    *named* is taken; without a name the moving average, else the first.  What was taken away and
    which set was taken is said.  Raises `CheckpointError`, and `OptionError` for another name.
    """
    sets, tensors = _sets(path)
    label = named or next(iter(sets))
    if label not in sets:
        raise OptionError(
            f"--weights is {label}, but {path} holds {listed(sets)}; give one of these"
        )
    start = sets.pop(label)
    if start or sets:
        others = f", not those of {listed(sets)}, which --weights takes" if sets else ""
        say_once(f"{path}: the weights of {label} were taken{others}")
    inner = tuple(other for other in sets.values() if other.startswith(start))
    mine = [n for n in tensors if n.startswith(start) and not n.startswith(inner)]
    weights = {n[len(start) :]: tensors[n] for n in mine if "/" not in n[len(start) :]}
    dense = "torch.strided"
    odd = [n for n, t in weights.items() if t.is_quantized or t.is_meta or str(t.layout) != dense]
    if odd:
        raise CheckpointError(
            f"{path} holds quantized, sparse or empty (meta) tensors in {listed(odd)}, but dense "
            "ones were wanted; save the state dict of the model in floating point"
        )
    return {n: t.float() if t.is_floating_point() else t for n, t in weights.items()}


def weight_sets(path: Path) -> list[str]:
    """Names of the sets of weights in *path*, the default first; raise `CheckpointError`."""
    return [*_sets(path)[0]]


def weights_digest(weights: Mapping[str, Any]) -> str:
    """SHA-256, in hexadecimal, of the tensors *weights* by name: the same in every kind of file."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        if not name.endswith("num_batches_tracked"):  # which a whole file may lack
            array = weights[name].numpy(force=True)
            digest.update(f"{name} {array.dtype} {array.shape} ".encode() + array.tobytes())
    return digest.hexdigest()


def _sets(path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """The sets of weights in *path*, what each one's names begin with, and all tensors by name."""
    check_kind(path, CHECKPOINT, CheckpointError, FETCH_ONE)
    torch = require("torch", extra="torch")
    load: Any = partial(torch.load, map_location="cpu", weights_only=True)
    if is_safetensors(path) or path.suffix == ".safetensors":
        load = require("safetensors.torch", extra="torch").load_file
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_plain_kinds()):
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
    tensors = {
        place.replace("_orig_mod.", ""): value
        for place, value in flattened(content, "/")
        if isinstance(value, torch.Tensor)
    }
    sizes = Counter(match[1] for match in map(_NETWORK.fullmatch, tensors) if match)
    most = max(sizes.values(), default=0)
    # What holds a few of the names is no set of weights.
    sets = {start.rstrip("./") or ".": start for start in sizes if 2 * sizes[start] > most}
    if not sets:
        raise CheckpointError(
            f"{path} holds [{listed(sorted(map(repr, content)))}], but a state dict of an "
            f"EfficientDet was wanted, with names such as class_net.predict.conv_pw.weight"
        )
    whole = [label for label, start in sets.items() if sizes[start] == most]
    first = next(filter(_AVERAGED.search, whole), whole[0])
    return {first: sets[first], **sets}, tensors


def _plain_kinds() -> list[Any]:
    """What trainers save beside weights: arguments, paths, numpy's numbers; none runs code."""
    kinds = [argparse.Namespace, PosixPath, np.dtype]
    kinds += {type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["Float"]}
    number: Any = np.float64().__reduce__()[0]
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):  # of numpy 1 and 2
        scalar: Any = partial(number)
        scalar.__module__, scalar.__name__, scalar.__qualname__ = module, "scalar", "scalar"
        kinds.append(scalar)
    return kinds


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
    reshaped += [
        f"{name} is {weights[name].dtype}, but {tensor.dtype} was wanted"
        for name, tensor in wanted.items()
        if name in weights and weights[name].is_floating_point() != tensor.is_floating_point()
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
