"""Tests for `effd0.runners.checkpoint`: the same weights, however a file holds them; or none."""

from __future__ import annotations

import argparse
import io
import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import effdet
import numpy as np
import pytest
import safetensors.torch
import torch

from effd0.errors import CheckpointError, OptionError
from effd0.runners.checkpoint import (
    blank_layers,
    build_model,
    check_weights,
    load_model,
    read_weights,
    weight_sets,
    weights_digest,
)
from effd0.spec import SPECS, ModelSpec

State = dict[str, torch.Tensor]
Content = Mapping[str, Any]


@pytest.fixture(scope="module")
def weights(checkpoint: Path) -> State:
    """The weights under test, float32 under effdet's names."""
    return read_weights(checkpoint)


@pytest.fixture(scope="module")
def wanted(spec: ModelSpec) -> State:
    """The names and shapes of the architecture under test."""
    state: State = build_model(spec).state_dict()
    return state


def prefixed(prefix: str) -> Callable[[State], State]:
    """Return a wrapper that puts *prefix* before every name, as a training tool's module does."""
    return lambda state: {f"{prefix}{name}": value for name, value in state.items()}


def quantized() -> torch.Tensor:
    """Return a tensor of integers with a scale, of which torch warns that it is to go."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(1), 0.1, 0, torch.qint8)


def saved(content: object) -> bytes:
    """Return *content* as torch writes it."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def assert_same(loaded: State, weights: State) -> None:
    """Both hold the same names with the same float32 values, bit for bit."""
    assert loaded.keys() == weights.keys()
    assert {t.dtype for t in loaded.values() if t.is_floating_point()} == {torch.float32}
    assert [name for name in weights if not torch.equal(loaded[name], weights[name])] == []
    assert weights_digest(loaded) == weights_digest(weights)


#: What a bench of effdet and a moving average hold beside the network's weights.
BESIDE = {"anchors.boxes": torch.ones(9, 4), "n_averaged": torch.tensor(3)}
#: What timm's CheckpointSaver writes beside the weights.
TRAINING = {
    "epoch": np.int64(3),
    "args": argparse.Namespace(model="d0", lr=np.float32(0.1), output=Path("out")),
    "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]},
    "metric": np.float64(34.5),
}


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda state: state, id="state-dict"),
        *[
            pytest.param(lambda state, key=key: TRAINING | {key: state}, id=key)
            for key in ("state_dict", "model", "model_state_dict", "net", "weights", "my_own_name")
        ],
        *[
            pytest.param(lambda state, put=put: BESIDE | prefixed(put)(state), id=put)
            for put in ("module.", "model.", "module.model.", "model.model.", "_orig_mod.module.",
                        "module._orig_mod.model.", "_orig_mod.model._orig_mod.")
        ],
        pytest.param(
            lambda state: {"a": {"state_dict": BESIDE | prefixed("module.")(state)}},
            id="wrapped-and-prefixed",
        ),
        pytest.param(
            lambda state: {
                n.replace("backbone.", "backbone._orig_mod."): t for n, t in state.items()
            },
            id="compiled-backbone",
        ),
        pytest.param(
            lambda state: {"optimizer": {n: {"m": t} for n, t in state.items()}, "model": state},
            id="optimizer-by-name",
        ),
        pytest.param(
            lambda state: {
                "model": state,
                "ema": {n: t + 1 for n, t in state.items() if "running" not in n},
            },
            id="average-of-parameters-alone",
        ),
    ],
)  # fmt: skip
def test_every_form_holds_the_same_weights(
    wrap: Callable[[State], Content], weights: State, tmp_path: Path
) -> None:
    """What training tools put around a state dict, beside it and before its names is taken away."""
    torch.save(wrap(weights), tmp_path / "d0.pth")
    assert_same(read_weights(tmp_path / "d0.pth"), weights)


@pytest.mark.parametrize("bench", ["DetBenchPredict", "DetBenchTrain"])
def test_a_bench_holds_the_weights_of_its_model(
    bench: str, weights: State, spec: ModelSpec, tmp_path: Path
) -> None:
    """A checkpoint of effdet's bench, as Lightning saves it, is one of the model in it."""
    model = build_model(spec)
    model.load_state_dict(weights)
    state = getattr(effdet, bench)(model).state_dict()
    torch.save({"state_dict": prefixed("model.")(state)}, tmp_path / "d0.ckpt")
    assert_same(read_weights(tmp_path / "d0.ckpt"), weights)


def test_numbers_that_numpy_1_wrote_are_read(tmp_path: Path) -> None:
    """The module of numpy's scalars was renamed in numpy 2; a file may name either."""
    buffer, path = (
        io.BytesIO(saved({"class_net.w": torch.ones(1), "m": np.float64(1)})),
        tmp_path / "d0.pth",
    )
    with zipfile.ZipFile(buffer) as new, zipfile.ZipFile(path, "w") as old:
        for name in new.namelist():
            old.writestr(
                name, new.read(name).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            )
    assert read_weights(path).keys() == {"class_net.w"}


@pytest.mark.parametrize("name", ["d0.safetensors", "d0.pth"])
def test_safetensors_hold_the_same_weights(name: str, weights: State, tmp_path: Path) -> None:
    """The format is known by its content, whatever the file is called."""
    path = tmp_path / name
    safetensors.torch.save_file({n: t.contiguous() for n, t in weights.items()}, path)
    assert_same(read_weights(path), weights)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_precisions_become_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    """A weight is the float32 of what the file holds; counters stay whole numbers."""
    state = {"fpn.weight": torch.tensor([0.5, -3.0, 1024.0]), "fpn.bn.num": torch.tensor(7)}
    stored = {n: t.to(dtype) if t.is_floating_point() else t for n, t in state.items()}
    torch.save(stored, tmp_path / "half.pth")
    loaded = read_weights(tmp_path / "half.pth")
    assert_same(loaded, state)
    assert loaded["fpn.bn.num"].dtype == torch.int64


LAST, AVERAGED = {"fpn.w": torch.tensor([1.0])}, {"fpn.w": torch.tensor([2.0])}
#: Files of two sets of weights: the last, and their moving average.
BOTH = {
    "timm": ("state_dict", "state_dict_ema", {"state_dict": LAST, "state_dict_ema": AVERAGED}),
    "plain": ("model", "ema", {"model": LAST, "ema": AVERAGED}),
    "one-dict": ("net", "model_ema", prefixed("net.")(LAST) | prefixed("model_ema.")(AVERAGED)),
    "nested": (".", "ema", prefixed("ema.")(AVERAGED) | LAST),
}


@pytest.mark.parametrize(("last", "averaged", "content"), BOTH.values(), ids=BOTH)
def test_of_two_sets_one_is_taken_by_its_name(
    last: str, averaged: str, content: Content, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The moving average, which was validated, is the default; the other one can be asked for."""
    path = tmp_path / "both.pth"
    torch.save(content, path)
    assert_same(read_weights(path), AVERAGED)
    said = f"the weights of {averaged} were taken, not those of {last}, which --weights takes"
    assert said in capsys.readouterr().err
    assert_same(read_weights(path, averaged), AVERAGED)
    assert_same(read_weights(path, last), LAST)
    assert weight_sets(path) == [averaged, last]
    with pytest.raises(OptionError, match=r"--weights is best, but .* holds .*; give one of"):
        read_weights(path, "best")


@pytest.mark.parametrize(
    ("other", "same"),
    [
        pytest.param({"b": torch.zeros(2), "a": torch.ones(2)}, True, id="another-order"),
        pytest.param({"a": torch.ones(2), "b": torch.zeros(2),
                      "c.num_batches_tracked": torch.tensor(3)}, True, id="batch-counter"),
        pytest.param({"a": torch.zeros(2), "b": torch.ones(2)}, False, id="names-exchanged"),
        pytest.param({"a": torch.ones(2), "b": torch.zeros(1, 2)}, False, id="another-shape"),
        pytest.param({"a": torch.ones(2), "b": torch.tensor([0, 1e-45])}, False, id="one-bit"),
    ],
)  # fmt: skip
def test_a_digest_is_of_tensors_by_name(other: State, *, same: bool) -> None:
    """One bit of a value, a name and a shape count; the order and batch counters do not."""
    state = {"a": torch.ones(2), "b": torch.zeros(2)}
    assert (weights_digest(other) == weights_digest(state)) == same


def test_batch_counters_may_be_absent(
    weights: State, wanted: State, spec: ModelSpec, tmp_path: Path
) -> None:
    """num_batches_tracked is a statistic of training, which inference never reads."""
    lean = {n: t for n, t in weights.items() if not n.endswith("num_batches_tracked")}
    assert lean.keys() < wanted.keys()
    check_weights(tmp_path / "lean.pth", lean, wanted, spec)


def test_a_loaded_model_holds_the_weights(
    checkpoint: Path, weights: State, spec: ModelSpec
) -> None:
    """Every weight of the file is in the network, which is ready to evaluate."""
    model = load_model(checkpoint, spec)
    assert not model.training
    state = model.state_dict()
    assert [name for name in weights if not torch.equal(state[name], weights[name])] == []


def test_layers_that_training_left_blank_are_named() -> None:
    """Both statistics of a norm, or all weights of a convolution, as they were before training."""
    norm, alike, lone = torch.nn.BatchNorm2d(4), torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(1, 1, 1)
    net = torch.nn.Sequential(norm, alike, lone)
    assert blank_layers(net) == {"0": "its running mean is 0 and its variance 1"}
    norm.state_dict()["running_var"].fill_(2)
    assert blank_layers(net) == {}
    alike.state_dict()["weight"].fill_(0.25)
    lone.state_dict()["weight"].fill_(0)
    assert blank_layers(net) == {"1": "all its weights are 0.25"}


# Files that are no checkpoint, and weights that are none.


class Trap:
    """An object whose unpickling would make a file."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.sprung,))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d0.pth", None, "does not exist; .*'effd0 fetch checkpoint'"),
        ("d0.pth", b"not weights\n", "is not a file of plain tensors"),
        ("d0.pth", b"", "is not a readable checkpoint"),
        ("d0.pth", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        ("d0.pth", b"<!DOCTYPE html>", "is a web page, but a checkpoint was wanted"),
        ("d0.pth", b"\x1f\x8b\x08\x00", "is compressed by gzip, .* gunzip"),
        ("d0.pth", b"\x08\x07\x12\x07pytorch", "is an ONNX model, .* give it by --model"),
        ("d0.json", b'{"metadata": {}}', "is JSON, .* the file that holds the weights"),
        ("", b"", "is a folder, but a checkpoint was wanted"),
        ("d0.pth", saved({"fpn.w": torch.ones(9)})[:-100], "is not a readable checkp"),
        ("d0.safetensors", b"not weights\n", "is not a readable checkpoint"),
        ("d0.pth", saved([torch.ones(1)]), "holds a list, but a state dict was"),
        ("d0.pth", saved({}), r"holds \[\], but a state dict of an"),
        ("d0.pth", saved({"epoch": 3}), r"holds \['epoch'\], but a state dict"),
        ("d0.pth", saved({"conv.w": torch.ones(1)}), r"holds \['conv.w'\], but a state dict of an"),
        ("d0.pth", saved({"fpn.w": torch.ones(1, device="meta")}), "holds quantized, sparse or"),
        ("d0.pth", saved({"fpn.w": torch.ones(1).to_sparse()}), r"holds .* in fpn.w, but dense"),
        (
            "d0.pth",
            saved({"fpn.w": quantized()}),
            "holds quantized, sparse or empty",
        ),
    ],
    ids=[
        "missing", "text", "empty", "lfs-pointer", "page", "gzip", "onnx", "index", "folder",
        "cut-off", "safetensors", "list", "empty-dict", "no-tensor", "other-network", "meta",
        "sparse", "quantized",
    ],
)  # fmt: skip
def test_a_file_without_weights_is_refused(
    name: str, content: bytes | None, message: str, tmp_path: Path
) -> None:
    """The message says what the file holds and what was wanted."""
    if content is not None and name:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{name} {message}"):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("save", [torch.save, None], ids=["torch-file", "bare-pickle"])
def test_code_in_a_file_is_not_run(save: Callable[..., None] | None, tmp_path: Path) -> None:
    """A file that would run code on loading is refused, and its code has not run."""
    path, sprung = tmp_path / "d0.pth", tmp_path / "sprung"
    content = {"w": torch.ones(1), "trap": Trap(sprung)}
    if save is None:
        path.write_bytes(pickle.dumps({"trap": Trap(sprung)}))
    else:
        save(content, path)
    with pytest.raises(CheckpointError, match=r"nothing else is loaded, since it could run code"):
        read_weights(path)
    assert not sprung.exists()


def holding(value: float) -> Callable[[State, str], State]:
    """Return a change that puts *value* into a weight."""
    return lambda state, name: state | {name: torch.full_like(state[name], value)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state, name: {n: t for n, t in state.items() if n != name},
            "is not a checkpoint of {arch} with 90 classes: 1 keys are missing: {first}; check the",
        ),
        (
            lambda state, _: state | {"stranger.weight": torch.ones(1)},
            "1 keys are unexpected: stranger.weight; check the file, or give --arch",
        ),
        (
            lambda state, name: state | {name: torch.cat([state[name], state[name][:1]])},
            r"{first} is (33, 3, 3, 3), but (32, 3, 3, 3) was wanted",
        ),
        (
            lambda state, name: state | {name: state[name].to(torch.int8)},
            "{first} is torch.int8, but torch.float32 was wanted",
        ),
        (holding(float("nan")), "holds NaN or infinity in {first}, but every weight must be"),
        (holding(float("-inf")), "holds NaN or infinity in {first}"),
    ],
    ids=["missing", "unexpected", "shape", "int8", "nan", "minus-inf"],
)
def test_weights_that_do_not_fit_are_named(
    change: Callable[[State, str], State],
    message: str,
    wanted: State,
    spec: ModelSpec,
    tmp_path: Path,
) -> None:
    """One wrong weight among hundreds is found and called by its name."""
    first = next(iter(wanted))
    with pytest.raises(CheckpointError) as caught:
        check_weights(tmp_path / "d0.pth", change(wanted, first), wanted, spec)
    assert message.format(arch=spec.arch, first=first) in str(caught.value)


def test_the_weights_of_another_architecture_are_refused(checkpoint: Path, spec: ModelSpec) -> None:
    """Architectures with other weights are told apart, and the message offers the right --arch."""
    other = SPECS["efficientdet_d0" if "tf_" in spec.arch else "tf_efficientdet_d0"]
    message = rf"is not a checkpoint of {other.arch} with 90 classes: .*--arch \(.*{spec.arch}"
    with pytest.raises(CheckpointError, match=message):
        load_model(checkpoint, other)


def test_a_fresh_network_is_refused(wanted: State, spec: ModelSpec, tmp_path: Path) -> None:
    """Freshly initialised weights fit in every way, but any comparison would pass on them."""
    torch.save(wanted, tmp_path / "fresh.pth")
    with pytest.raises(CheckpointError, match=r"fresh\.pth is untrained: its class logits vary"):
        load_model(tmp_path / "fresh.pth", spec)
