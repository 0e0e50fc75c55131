"""Tests for `effd0.runners.checkpoint`: the same weights, however a file holds them; or none."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from effd0.errors import CheckpointError
from effd0.runners.checkpoint import (
    WRAPPERS,
    blank_layers,
    build_model,
    check_weights,
    load_model,
    read_weights,
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


def prefixed(prefix: str) -> Callable[[State], Content]:
    """Return a wrapper that puts *prefix* before every name, as a training tool's module does."""
    return lambda state: {f"{prefix}{name}": value for name, value in state.items()}


def assert_same(loaded: State, weights: State) -> None:
    """Both hold the same names with the same float32 values, bit for bit."""
    assert loaded.keys() == weights.keys()
    assert {t.dtype for t in loaded.values() if t.is_floating_point()} == {torch.float32}
    assert [name for name in weights if not torch.equal(loaded[name], weights[name])] == []


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda state: state, id="state-dict"),
        *[
            pytest.param(lambda state, key=key: {"epoch": 3, key: state}, id=key)
            for key in WRAPPERS
        ],
        pytest.param(prefixed("module."), id="module-prefix"),
        pytest.param(prefixed("model."), id="model-prefix"),
        pytest.param(prefixed("module.model."), id="both-prefixes"),
        pytest.param(
            lambda state: {"state_dict": prefixed("module.")(state)}, id="wrapped-and-prefixed"
        ),
    ],
)
def test_every_form_holds_the_same_weights(
    wrap: Callable[[State], Content], weights: State, tmp_path: Path
) -> None:
    """What training tools put around a state dict and before its names is taken away."""
    torch.save(wrap(weights), tmp_path / "d0.pth")
    assert_same(read_weights(tmp_path / "d0.pth"), weights)


def test_safetensors_hold_the_same_weights(weights: State, tmp_path: Path) -> None:
    """The suffix .safetensors picks that format."""
    path = tmp_path / "d0.safetensors"
    safetensors.torch.save_file({n: t.contiguous() for n, t in weights.items()}, path)
    assert_same(read_weights(path), weights)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_precisions_become_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    """A weight is the float32 of what the file holds; counters stay whole numbers."""
    state = {"conv.weight": torch.tensor([0.5, -3.0, 1024.0]), "bn.num": torch.tensor(7)}
    stored = {n: t.to(dtype) if t.is_floating_point() else t for n, t in state.items()}
    torch.save(stored, tmp_path / "half.pth")
    loaded = read_weights(tmp_path / "half.pth")
    assert_same(loaded, state)
    assert loaded["bn.num"].dtype == torch.int64


def test_the_averaged_weights_win(tmp_path: Path) -> None:
    """Where a file holds both, the moving average is what was validated."""
    last, averaged = {"w": torch.tensor([1.0])}, {"w": torch.tensor([2.0])}
    torch.save({"state_dict": last, "state_dict_ema": averaged}, tmp_path / "both.pth")
    assert read_weights(tmp_path / "both.pth")["w"].item() == 2.0


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


def saved(content: object) -> bytes:
    """Return *content* as torch writes it."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d0.pth", None, "does not exist; .*'effd0 fetch checkpoint'"),
        ("d0.pth", b"not weights\n", "is not a file of plain tensors"),
        ("d0.pth", b"", "is not a readable checkpoint"),
        ("d0.pth", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        ("d0.pth", saved({"w": torch.ones(9)})[:-100], "is not a readable checkp"),
        ("d0.safetensors", b"not weights\n", "is not a readable checkpoint"),
        ("d0.pth", saved([torch.ones(1)]), "holds a list, but a state dict was"),
        ("d0.pth", saved({}), r"holds \[\], but a state dict was"),
        ("d0.pth", saved({"epoch": 3}), r"holds \['epoch'\], but a state dict"),
    ],
    ids=[
        "missing", "text", "empty", "lfs-pointer", "cut-off", "safetensors", "list", "empty-dict",
        "no-tensor",
    ],
)  # fmt: skip
def test_a_file_without_weights_is_refused(
    name: str, content: bytes | None, message: str, tmp_path: Path
) -> None:
    """The message says what the file holds and what was wanted."""
    if content is not None:
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
            "is not a checkpoint of {arch}: 1 keys are missing: {first}; check the",
        ),
        (
            lambda state, _: state | {"stranger.weight": torch.ones(1)},
            "1 keys are unexpected: stranger.weight; check the file, or give --arch",
        ),
        (
            lambda state, name: state | {name: torch.cat([state[name], state[name][:1]])},
            r"{first} is (33, 3, 3, 3), but (32, 3, 3, 3) was wanted",
        ),
        (holding(float("nan")), "holds NaN or infinity in {first}, but every weight must be"),
        (holding(float("-inf")), "holds NaN or infinity in {first}"),
    ],
    ids=["missing", "unexpected", "shape", "nan", "minus-inf"],
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
    """Architectures with other weights are told apart, and the message offers --arch."""
    other = next(s for s in SPECS.values() if ("tf_" in s.arch) != ("tf_" in spec.arch))
    with pytest.raises(CheckpointError, match=rf"is not a checkpoint of {other.arch}: .*--arch"):
        load_model(checkpoint, other)


def test_a_fresh_network_is_refused(wanted: State, spec: ModelSpec, tmp_path: Path) -> None:
    """Freshly initialised weights fit in every way, but any comparison would pass on them."""
    torch.save(wanted, tmp_path / "fresh.pth")
    with pytest.raises(CheckpointError, match=r"fresh\.pth is untrained: its class logits vary"):
        load_model(tmp_path / "fresh.pth", spec)
