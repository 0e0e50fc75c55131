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


def trained() -> torch.nn.Sequential:
    """A net of three kinds of layers, none of which is as it began."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(1, 1, 1)
    )
    norm = net[1]
    assert isinstance(norm, torch.nn.BatchNorm2d)
    assert norm.running_mean is not None
    norm.running_mean[2] = 0.1
    return net


def _set(**values: float) -> Callable[[torch.nn.Module], None]:
    """Return what fills tensors of a layer, by name."""

    def change(layer: torch.nn.Module) -> None:
        for name, value in values.items():
            layer.state_dict()[name].fill_(value)

    return change


@pytest.mark.parametrize(
    ("layer", "change", "blank"),
    [
        pytest.param(1, _set(running_mean=0), "its running mean is 0", id="norm-as-it-began"),
        pytest.param(1, _set(running_var=2), None, id="norm-with-mean-and-variance"),
        pytest.param(0, _set(weight=0.25), "all its weights are 0.25", id="weights-alike"),
        pytest.param(2, _set(weight=0), None, id="one-weight-alone"),
    ],
)
def test_layers_that_training_left_blank_are_named(
    layer: int, change: Callable[[torch.nn.Module], None], blank: str | None
) -> None:
    """Both statistics of a norm, or all weights of a convolution, as they were before training."""
    net = trained()
    assert blank_layers(net) == {}
    change(net[layer])
    found = blank_layers(net)
    assert list(found) == ([] if blank is None else [str(layer)])
    assert all(what.startswith(str(blank)) for what in found.values())


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
        pytest.param("d0.pth", None, "does not exist; .*'effd0 fetch checkpoint'", id="missing"),
        pytest.param("d0.pth", b"not weights\n", "is not a file of plain tensors", id="text"),
        pytest.param("d0.pth", b"", "is not a readable checkpoint", id="empty"),
        pytest.param(
            "d0.pth",
            b"version https://git-lfs.github.com/spec/v1\n",
            "is a Git LFS pointer",
            id="lfs-pointer",
        ),
        pytest.param(
            "d0.pth", saved({"w": torch.ones(9)})[:-100], "is not a readable checkp", id="cut-off"
        ),
        pytest.param(
            "d0.safetensors", b"not weights\n", "is not a readable checkpoint", id="safetensors"
        ),
        pytest.param(
            "d0.pth", saved([torch.ones(1)]), "holds a list, but a state dict was", id="list"
        ),
        pytest.param("d0.pth", saved({}), r"holds \[\], but a state dict was", id="empty-dict"),
        pytest.param(
            "d0.pth", saved({"epoch": 3}), r"holds \['epoch'\], but a state dict", id="no-tensor"
        ),
    ],
)
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


def without_first(state: State) -> State:
    """Leave out the first weight."""
    return dict(list(state.items())[1:])


def with_stranger(state: State) -> State:
    """Add a weight that the network has not."""
    return state | {"stranger.weight": torch.ones(1)}


def reshaped(state: State) -> State:
    """Give the first weight one output channel more."""
    name, first = next(iter(state.items()))
    return state | {name: torch.cat([first, first[:1]])}


def holding(value: float) -> Callable[[State], State]:
    """Return a change that puts *value* into the first weight."""

    def change(state: State) -> State:
        name, first = next(iter(state.items()))
        broken = first.clone()
        broken.view(-1)[0] = value
        return state | {name: broken}

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_first, "is not a checkpoint of {arch}: 1 keys are missing: {first}; check the"),
        (with_stranger, "1 keys are unexpected: stranger.weight; check the file, or give --arch"),
        (reshaped, r"{first} is (33, 3, 3, 3), but (32, 3, 3, 3) was wanted"),
        (holding(float("nan")), "holds NaN or infinity in {first}, but every weight must be"),
        (holding(float("-inf")), "holds NaN or infinity in {first}"),
    ],
    ids=["missing", "unexpected", "shape", "nan", "minus-inf"],
)
def test_weights_that_do_not_fit_are_named(
    change: Callable[[State], State], message: str, wanted: State, spec: ModelSpec, tmp_path: Path
) -> None:
    """One wrong weight among hundreds is found and called by its name."""
    with pytest.raises(CheckpointError) as caught:
        check_weights(tmp_path / "d0.pth", change(wanted), wanted, spec)
    assert message.format(arch=spec.arch, first=next(iter(wanted))) in str(caught.value)


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
