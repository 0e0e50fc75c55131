"""A trained EfficientDet from a file."""

import argparse
import hashlib
import io
import json
import pickle
import re
import warnings
import zipfile
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
#: The weights of the last layer of the class heads, separable or not.
_CLASS_HEAD = re.compile(r"class_net\.predict\.conv(?:_pw)?\.weight$")
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
        config.num_classes, config.image_size = spec.num_classes, spec.image_size
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
        others = ", ".join(_fitting(weights)) or "one of effdet's"
        raise CheckpointError(
            f"{path} is not a checkpoint of {spec.arch} with {spec.num_classes} classes: "
            f"{'; '.join(problems)}; check the file, or give --arch ({others}) or --num-classes"
        )
    broken = [n for n, t in weights.items() if t.is_floating_point() and not t.isfinite().all()]
    if broken:
        raise CheckpointError(
            f"{path} holds NaN or infinity in {listed(broken)}, but every weight must be finite; "
            "the training diverged or the conversion overflowed"
        )


def _fitting(weights: Mapping[str, Any]) -> list[str]:
    """The architectures whose feature pyramids and heads are built as *weights* say."""
    effdet = require("effdet", extra="torch")
    first = "class_net.conv_rep.0.conv"
    separable = f"{first}_pw.weight" in weights
    first += "_pw" if separable else ""
    counts = [
        len({m[1] for m in map(re.compile(of).match, weights) if m})
        for of in (r"fpn\.cell\.(\d+)\.", r"class_net\.conv_rep\.(\d+)\.")
    ]
    told = [separable, f"{first}.bias" in weights, "class_net.bn_rep.0.0.weight" in weights]
    found = [len(weights.get(f"{first}.weight", ())), *counts, *told]
    names = ("fpn_channels", "fpn_cell_repeats", "box_class_repeats",
             "separable_conv", "redundant_bias", "head_bn_level_first")  # fmt: skip
    configs = {arch: effdet.get_efficientdet_config(arch) for arch in SPECS}
    return [arch for arch, of in configs.items() if found == [of[name] for name in names]]


class _Unread(dict[Any, Any]):
    """Any object of a pickle but a tensor: made of whatever it is made of, and empty."""

    def __new__(cls, *_: Any, **__: Any) -> "_Unread":
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def __setstate__(self, _: Any) -> None:
        pass

    append = extend = __call__ = __setstate__


class _Shapes(pickle.Unpickler):
    """Reads the pickle of a torch file: shapes in place of tensors; runs no code of the file."""

    def find_class(self, _: str, name: str) -> Any:
        """What makes the object of this *name*: a shape of a tensor, a dict, or nothing."""
        if name == "OrderedDict":
            return dict
        if name in ("_rebuild_tensor_v2", "_rebuild_parameter"):
            place = 2 if name == "_rebuild_tensor_v2" else 0
            return lambda *given: given[place]
        return _Unread

    def persistent_load(self, _: Any) -> None:
        """Leave out the values of a tensor."""


def class_count(path: Path, spec: ModelSpec) -> int | None:
    """
    How many classes the weights in *path* have, read without torch; None where that is not clear.

    That is so for files of torch before 1.6, and where sets of weights differ.
    """
    shapes: Any = {}
    try:
        if is_safetensors(path):
            with path.open("rb") as file:
                header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            shapes = {name: one.get("shape") for name, one in header.items()}
        else:
            with zipfile.ZipFile(path) as archive:
                (name,) = (n for n in archive.namelist() if n.endswith("data.pkl"))
                shapes = _Shapes(io.BytesIO(archive.read(name))).load()
    except Exception:  # whoever loads the weights says what is wrong with them
        return None
    heads = {shape[0] for place, shape in flattened(shapes, "/") if _CLASS_HEAD.search(place)}
    counts = [divmod(size, spec.anchors_per_cell) for size in heads]
    return counts[0][0] if len(counts) == 1 and counts[0][1] == 0 else None


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
